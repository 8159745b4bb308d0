/* `sinklab bench`: training speed of named presets, where a step's time goes, and the matrix product beside
 * that of a BLAS library. Timings are medians over steps after a warm-up. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"
#include "base/threads.h"
#include "cli/args.h"
#include "cli/bench_eval.h"
#include "cli/bench_gemm.h"
#include "cli/bench_profile.h"
#include "cli/verbs.h"
#include "model/model.h"
#include "probe/measures.h"
#include "simd/kernels.h"
#include "train/optim.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

typedef struct {
    const char *name, *help;
    int64_t layers, dim, heads, ffn, vocab, seq, batch, experts;
} preset;

static const preset presets[] = {
    {"bench-1m", "4 layers, d 128, 4 heads, ffn 352, vocabulary 256, window 256, batch 32", 4, 128, 4, 352, 256, 256,
     32, 0},
    {"bench-10m", "6 layers, d 384, 6 heads, ffn 1024, vocabulary 256, window 256, batch 16", 6, 384, 6, 1024, 256, 256,
     16, 0},
    {"bench-100m", "12 layers, d 768, 12 heads, ffn 2048, vocabulary 8192, window 512, batch 8", 12, 768, 12, 2048,
     8192, 512, 8, 0},
    {"bench-moe",
     "bench-10m with 8 experts of width 512 in place of each feed-forward, 2 a token: as many active parameters", 6,
     384, 6, 1024, 256, 256, 16, 8},
    {NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0}};

typedef struct {
    const preset *preset;
    sl_config config;
    sl_model *model;
    sl_optim *optim;
    int32_t *in, *target;
    double *step_s;           /* of each timed step; and as many for sorting them */
    double norm_s, update_s;  /* gradient norm, optimizer: sums over timed steps */
    double loss;
    int64_t steps;
} bench;

enum { WARMUP = 2 };

static bool bf16(const bench *b) { return sl_model_precision(&b->config) == SL_PRECISION_BF16; }
static int64_t tokens(const bench *b) { return b->config.train_batch * b->config.model_seq; }

static void apply_preset(const preset *p, sl_config *c) {
    c->model_layers = p->layers;
    c->model_dim = p->dim;
    c->model_heads = p->heads;
    c->model_ffn = p->ffn;
    c->model_seq = p->seq;
    c->train_batch = p->batch;
    c->model_experts = p->experts;
}

static int open_bench(bench *b) {
    const sl_config *c = &b->config;
    if (!(b->model = sl_model_create(c, (int32_t)b->preset->vocab, c->train_batch, c->model_seq, SL_MODEL_TRAINING)))
        return -1;
    sl_model_init(b->model, (uint64_t)c->seed);
    if (!(b->optim = sl_optim_create(b->model)))
        return -1;
    b->in = malloc((size_t)tokens(b) * sizeof *b->in);
    b->target = malloc((size_t)tokens(b) * sizeof *b->target);
    b->step_s = malloc(2 * (size_t)b->steps * sizeof *b->step_s);
    if (!b->in || !b->target || !b->step_s)
        return sl_fail("out of memory for a batch");
    sl_rng r = sl_rng_make((uint64_t)c->seed, SL_STREAM_TEST, 0);
    for (int64_t i = 0; i < tokens(b); i++) {
        b->in[i] = (int32_t)sl_rng_below(&r, (uint64_t)b->preset->vocab);
        b->target[i] = (int32_t)sl_rng_below(&r, (uint64_t)b->preset->vocab);
    }
    return 0;
}

static void close_bench(bench *b) {
    free(b->in), free(b->target), free(b->step_s);
    sl_optim_free(b->optim);
    sl_model_free(b->model);
}

static int time_steps(bench *b, bool profile) {
    for (int64_t i = -WARMUP; i < b->steps; i++) {
        sl_step_result r;
        if (i == 0)
            sl_model_profile(b->model, profile);
        double start = sl_now();
        if (sl_train_step(b->optim, b->in, b->target, 1, i + WARMUP, NULL, NULL, &r))
            return -1;
        b->loss = r.loss;
        if (i < 0)
            continue;
        b->step_s[i] = sl_now() - start;
        b->norm_s += r.norm_seconds;
        b->update_s += r.update_seconds;
    }
    return 0;
}

static sl_bench_profile profile_of(const bench *b) {
    double params = (double)sl_model_params(b->model)->params * sizeof(float), per = 1.0 / (double)b->steps;
    sl_bench_profile p = sl_bench_profile_take(b->model, b->steps);
    sl_bench_profile_add(&p, "gradient norm", "", b->norm_s * per, 0, params);
    sl_bench_profile_add(&p, sl_choices_optim[b->config.train_optimizer].name, "", b->update_s * per, 0, 8 * params);
    return p;
}

/* ---- one preset */

static int64_t peak_rss(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (int64_t)u.ru_maxrss * 1024;
}

/* Of the device that the model is on; 0 on the CPU. */
static int64_t device_bytes(const bench *b) {
    const sl_device *d = sl_model_device(b->model);
    return d ? (int64_t)d->bytes(sl_model_device_run(b->model)) : 0;
}

/* What another program needs to know to time the same model. */
static json_t *shape_json(const sl_config *c, int64_t vocab) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I}", "layers", (json_int_t)c->model_layers, "dim",
                     (json_int_t)c->model_dim, "heads", (json_int_t)c->model_heads, "ffn", (json_int_t)c->model_ffn,
                     "vocab", (json_int_t)vocab, "seq", (json_int_t)c->model_seq, "batch", (json_int_t)c->train_batch,
                     "norm", sl_choices_norm[c->model_norm].name, "rank", (json_int_t)c->norm_rank);
}

static json_t *run_preset(const preset *p, const sl_args *args, int64_t steps, bool profile, bool json) {
    bench b = {.preset = p, .steps = steps};
    json_t *o = NULL;
    sl_config_defaults(&b.config);
    apply_preset(p, &b.config);
    if (sl_args_override(args, &b.config) || sl_config_check(&b.config) ||
        sl_threads_start((int)b.config.threads, (enum sl_pin)b.config.pin))
        return NULL;
    if (open_bench(&b) == 0 && time_steps(&b, profile) == 0) {
        double seconds = sl_median(steps, b.step_s, b.step_s + steps), rate = (double)tokens(&b) / seconds;
        double gflops = rate * sl_model_flops_per_token(b.model) / 1e9,
               peak = sl_model_peak_gflops(&b.config), share = gflops / peak;
        const char *tier = sl_model_place(&b.config);
        o = json_pack("{s:s, s:f, s:f, s:f, s:I, s:I, s:i, s:s, s:f, s:I, s:f, s:s, s:o*}", "preset", p->name,
                      "tokens_per_s", rate, "gflops", gflops, "share_of_peak", share, "peak_rss_bytes",
                      (json_int_t)peak_rss(), "params", (json_int_t)sl_model_params(b.model)->params, "threads",
                      sl_threads(), "tier", tier, "ms_per_step", 1e3 * seconds, "steps", (json_int_t)steps, "loss",
                      b.loss, "precision", bf16(&b) ? "bf16" : "fp32", "shape", shape_json(&b.config, p->vocab));
        if (!o)
            sl_fail("%s: a timing is not a number", p->name);
        else if (device_bytes(&b))
            json_object_set_new(o, "device_bytes", json_integer((json_int_t)device_bytes(&b)));
        sl_bench_profile where = profile_of(&b);
        if (o && profile && json)
            json_object_set_new(o, "profile", sl_bench_profile_json(&where));
        if (o && !json) {
            printf(
                "%-11s %9.0f tokens/s %8.1f GFLOP/s (%.0f%% of the measured peak)  %7.1f ms/step  %.0f MiB  %s, %s, "
                "%d threads\n",
                p->name, rate, gflops, 100 * share, 1e3 * seconds,
                (double)(device_bytes(&b) ? device_bytes(&b) : peak_rss()) / (1 << 20), tier,
                bf16(&b) ? "bf16" : "fp32", sl_threads());
            if (profile)
                sl_bench_profile_print(&where, "step", peak, sl_model_bandwidth(&b.config));
        }
    }
    close_bench(&b);
    return o;
}

static const preset *find_preset(const char *name) {
    for (const preset *p = presets; p->name; p++)
        if (strcmp(p->name, name) == 0)
            return p;
    char quoted[SL_QUOTE_CHARS];
    sl_fail_usage("unknown preset %s; there are bench-1m, bench-10m, bench-100m, bench-moe, gemm, kernel and eval",
                  sl_quote(quoted, name));
    return NULL;
}

static bool is_gemm(const char *name) { return strcmp(name, "gemm") == 0; }
static bool is_kernel(const char *name) { return strcmp(name, "kernel") == 0; }
static bool is_eval(const char *name) { return strcmp(name, "eval") == 0; }

static json_t *run_eval(const sl_args *args, int64_t steps, bool profile, bool json) {
    sl_config c;
    const preset *p = find_preset("bench-10m");
    sl_config_defaults(&c);
    apply_preset(p, &c);
    return sl_bench_eval(args, &c, p->vocab, steps, profile, json);
}

static int run_all(const sl_args *args, int64_t steps, bool profile, bool json) {
    static const char *const standard[] = {"bench-10m"};
    int n = args->positionals ? args->positionals : 1;
    const char *const *names = args->positionals ? args->positional : standard;
    for (int i = 0; i < n; i++) /* before any of them takes its time */
        if (!is_gemm(names[i]) && !is_kernel(names[i]) && !is_eval(names[i]) && !find_preset(names[i]))
            return -1;
    json_t *results = json_array();
    for (int i = 0; i < n; i++) {
        json_t *o = is_gemm(names[i])     ? sl_bench_gemm(args, json)
                    : is_kernel(names[i]) ? sl_bench_kernel(args, json)
                    : is_eval(names[i])   ? run_eval(args, steps, profile, json)
                                          : run_preset(find_preset(names[i]), args, steps, profile, json);
        if (!o) {
            json_decref(results);
            return -1;
        }
        json_array_append_new(results, o);
    }
    if (json) {
        json_dumpf(n == 1 ? json_array_get(results, 0) : results, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
    }
    json_decref(results);
    return 0;
}

int sl_verb_bench(int argc, char **argv) {
    static const char *const words[] = {"bench-1m", "bench-10m", "bench-100m", "bench-moe",
                                        "gemm",     "kernel",    "eval",       NULL};
    int64_t steps = 8;
    bool profile = false, json = false;
    const sl_flag flags[] = {
        SL_FLAG_INT("steps", "N", &steps, 1, 100000, "timed steps, after two of warm-up; default 8"),
        SL_FLAG_BOOL("profile", &profile, "where the time goes, per kind of operation"),
        SL_FLAG_BOOL("json", &json,
                     "tokens_per_s, gflops, share_of_peak, peak_rss_bytes (on a GPU device_bytes too), shape, ...; an "
                     "array if several"),
        SL_FLAG_END};
    const sl_verb_spec spec = {
        .verb = "bench",
        .operands = "[PRESET ...] [key=value ...]",
        .about =
            "Measures training speed on random tokens, one full step (forward, backward, clipping, optimizer), median "
            "over steps. Presets: bench-1m (4 layers, d 128, window 256, batch 32), bench-10m (6 layers, d 384, "
            "window 256, batch 16; the default), bench-moe (the same with 8 experts, 2 a token, and as many active "
            "parameters), bench-100m (12 layers, d 768, vocabulary 8192, window 512, batch 8); gemm: the matrix "
            "products of bench-10m, beside a BLAS library where one is found; kernel: the kernel that products of "
            "this precision are made of, each thread with operands of its own in its L2 cache, which is as fast as a "
            "step's products could be (precision=, threads= and isa= count; median and best over 25 times 20 ms); "
            "eval: a forward pass of bench-10m in fp32, in bf16, and with 8-bit weights and activations on the int8 "
            "unit (`sinklab quantize --real`). Kernels one by one: the test runner's `kern bench`.",
        .flags = flags,
        .max_positionals = -1,
        .words = words,
        .overrides = true,
        .examples = "sinklab bench bench-10m --profile threads=2\nsinklab bench bench-10m model.norm=gated_norm\n"
                    "sinklab bench gemm --json\nsinklab bench kernel threads=2 precision=bf16\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    return run_all(&args, steps, profile, json);
}
