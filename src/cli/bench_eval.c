#include "cli/bench_eval.h"

#include "base/clock.h"
#include "base/cpu.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/threads.h"
#include "cli/bench_profile.h"
#include "model/model.h"
#include "ops/quant/quantise.h"
#include "probe/measures.h"
#include "quant/weights.h"

#include <stdlib.h>

enum { FP32, BF16, INT8, MODELS };
static const char *const names[MODELS] = {"fp32", "bf16", "int8"}, *const scheme = "w8a8-channel-token";

typedef struct {
    sl_model *model[MODELS];
    double *seconds[MODELS];
    int32_t *in, *target;
    int64_t tokens, steps;
} bench;

static sl_model *open_plain(const sl_config *c, int64_t vocab, int precision) {
    sl_config own = *c;
    own.precision = precision;
    sl_model *m = sl_model_create(&own, (int32_t)vocab, c->train_batch, c->model_seq, 0);
    if (m)
        sl_model_init(m, (uint64_t)c->seed);
    return m;
}

static sl_model *open_int8(const sl_config *c, int64_t vocab) {
    sl_quant_options o = {.scheme = sl_scheme_find(scheme), .smooth = -1, .real = true};
    sl_model *m = sl_model_create_quantised(c, (int32_t)vocab, c->train_batch, c->model_seq, &o);
    if (!m)
        return NULL;
    sl_model_init(m, (uint64_t)c->seed);
    sl_quant_weights *w = sl_quant_weights_new(sl_model_params(m), &o);
    bool ok = w && sl_quant_weights_round(w, sl_model_kernels(m), sl_model_params(m)) == 0 &&
              sl_quant_weights_apply(w, m) == 0;
    sl_quant_weights_free(w);
    if (ok)
        return m;
    sl_model_free(m);
    return NULL;
}

static int open_all(bench *b, const sl_config *c, int64_t vocab) {
    bool bf16 = sl_model_precision(c) == SL_PRECISION_BF16;
    b->tokens = c->train_batch * c->model_seq;
    b->in = malloc((size_t)b->tokens * sizeof *b->in);
    b->target = malloc((size_t)b->tokens * sizeof *b->target);
    for (int i = 0; i < MODELS; i++)
        b->seconds[i] = malloc(2 * (size_t)b->steps * sizeof(double)); /* the second half is for sorting them */
    if (!b->in || !b->target || !b->seconds[FP32] || !b->seconds[BF16] || !b->seconds[INT8])
        return sl_fail("out of memory for a batch");
    sl_rng r = sl_rng_make((uint64_t)c->seed, SL_STREAM_TEST, 0);
    for (int64_t i = 0; i < b->tokens; i++) {
        b->in[i] = (int32_t)sl_rng_below(&r, (uint64_t)vocab);
        b->target[i] = (int32_t)sl_rng_below(&r, (uint64_t)vocab);
    }
    if (!(b->model[FP32] = open_plain(c, vocab, SL_PRECISION_FP32)) || !(b->model[INT8] = open_int8(c, vocab)))
        return -1;
    return bf16 && !(b->model[BF16] = open_plain(c, vocab, SL_PRECISION_BF16)) ? -1 : 0;
}

static void close_all(bench *b) {
    for (int i = 0; i < MODELS; i++)
        sl_model_free(b->model[i]), free(b->seconds[i]);
    free(b->in), free(b->target);
}

static int time_passes(bench *b, bool profile) {
    for (int64_t step = -1; step < b->steps; step++)
        for (int i = 0; i < MODELS; i++) {
            if (step == 0 && b->model[i])
                sl_model_profile(b->model[i], profile);
            double loss, start = sl_now();
            if (b->model[i] && sl_model_forward(b->model[i], b->in, b->target, &loss, NULL) < 0)
                return -1;
            if (step >= 0)
                b->seconds[i][step] = sl_now() - start;
        }
    return 0;
}

static json_t *report(bench *b, const sl_config *c, bool profile, bool json) {
    double rate[MODELS];
    json_t *list = json_array();
    for (int i = 0; i < MODELS; i++) {
        const double *seconds = b->seconds[i];
        rate[i] = b->model[i] ? (double)b->tokens / sl_median(b->steps, seconds, b->seconds[i] + b->steps) : 0;
    }
    int base = b->model[BF16] ? BF16 : FP32;
    for (int i = 0; i < MODELS; i++) {
        if (!b->model[i])
            continue;
        sl_bench_profile p = sl_bench_profile_take(b->model[i], b->steps);
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s?, s:f, s:f, s:s, s:f, s:o*}", "bench", "eval", "precision",
                                        names[i], "scheme", i == INT8 ? scheme : NULL, "tokens_per_s", rate[i], "ms",
                                        1e3 * (double)b->tokens / rate[i], "against", names[base], "ratio",
                                        rate[i] / rate[base], "profile", profile ? sl_bench_profile_json(&p) : NULL));
        if (!json)
            printf("eval %-5s %9.0f tokens/s %7.2f times %s   %s, %d threads\n", names[i], rate[i],
                   rate[i] / rate[base], names[base], sl_kernels_select((enum sl_isa)c->isa)->tier, sl_threads());
        if (!json && profile)
            sl_bench_profile_print(&p, "pass", sl_measured_peak_gflops(i != FP32), sl_measure_bandwidth(0.2));
    }
    return list;
}

json_t *sl_bench_eval(const sl_args *args, sl_config *c, int64_t vocab, int64_t steps, bool profile, bool json) {
    bench b = {.steps = steps};
    json_t *list = NULL;
    if (sl_args_override(args, c) || sl_config_check(c) || sl_threads_start((int)c->threads, (enum sl_pin)c->pin))
        return NULL;
    if (open_all(&b, c, vocab) == 0 && time_passes(&b, profile) == 0)
        list = report(&b, c, profile, json);
    close_all(&b);
    return list;
}
