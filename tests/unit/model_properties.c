/* What must hold exactly of any model: no position sees a later one or another window, results do
 * not depend on the number of threads or on how a forward pass is run, and an untrained model knows
 * nothing. */
#include "base/err.h"
#include "base/threads.h"
#include "model/model.h"
#include "ref/tolerance.h"
#include "ref/variants.h"
#include "suite.h"
#include "gradients.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ref_variant v;
    int64_t rows;
    int32_t *in, *target;
    sl_model *m;
} fixture;

static sl_model *create(const fixture *f) {
    sl_model *m = sl_model_create(&f->v.config, f->v.vocab, f->v.batch, f->v.seq, SL_MODEL_TRAINING);
    ck_assert_msg(m != NULL, "%s: %s", f->v.name, sl_error());
    ref_randomise(sl_model_params(m), 3);
    return m;
}

static void setup(fixture *f) {
    f->rows = f->v.batch * f->v.seq;
    f->in = calloc((size_t)f->rows, sizeof *f->in);
    f->target = calloc((size_t)f->rows, sizeof *f->target);
    ref_random_tokens(f->rows, f->v.vocab, 11, f->in);
    ref_random_tokens(f->rows, f->v.vocab, 12, f->target);
    f->m = create(f);
}

static void teardown(fixture *f) {
    free(f->in);
    free(f->target);
    sl_model_free(f->m);
}

/* fn for each variant with options from elsewhere, with experts, tiny ones that differ in more than one option from the
 * last, and every third middle one. */
static void for_each_model(void (*fn)(fixture *)) {
    fixture f;
    for (int i = 0; ref_variant_elsewhere(i, &f.v); i++) {
        setup(&f);
        fn(&f);
        teardown(&f);
    }
    for (int i = 0; ref_variant_across(i, &f.v); i++) {
        setup(&f);
        fn(&f);
        teardown(&f);
    }
    for (int i = 0; ref_variant_moe(i, &f.v); i++) {
        setup(&f);
        fn(&f);
        teardown(&f);
    }
    for (int i = 0; ref_variant_tiny(i, &f.v); i += 5) {
        setup(&f);
        fn(&f);
        teardown(&f);
    }
    for (int i = 0; ref_variant_middle(i, &f.v); i += 3) {
        setup(&f);
        fn(&f);
        teardown(&f);
    }
}

/* Another token at `at` must change the loss there, and no bit of an earlier loss or of another
 * window. */
static void change_token(fixture *f, int64_t at, const float *before, float *after) {
    int32_t old = f->in[at];
    f->in[at] = (old + 1) % f->v.vocab;
    ck_assert_int_eq(sl_model_forward(f->m, f->in, f->target, NULL, after), 0);
    f->in[at] = old;
    int64_t end = (at / f->v.seq + 1) * f->v.seq;
    ck_assert_msg(memcmp(before, after, (size_t)at * sizeof *after) == 0,
                  "%s: token %lld changes an earlier loss", f->v.name, (long long)at);
    ck_assert_msg(memcmp(before + end, after + end, (size_t)(f->rows - end) * sizeof *after) == 0,
                  "%s: token %lld changes the next window", f->v.name, (long long)at);
    ck_assert_msg(before[at] != after[at], "%s: token %lld does not count", f->v.name,
                  (long long)at);
}

static void causal_forward(fixture *f) {
    float *before = calloc((size_t)f->rows, sizeof *before);
    float *after = calloc((size_t)f->rows, sizeof *after);
    ck_assert_int_eq(sl_model_forward(f->m, f->in, f->target, NULL, before), 0);
    int64_t seq = f->v.seq, step = seq < 16 ? 1 : 9;
    for (int64_t at = 1; at < seq; at += step)
        change_token(f, at, before, after);
    change_token(f, seq - 1, before, after);
    change_token(f, seq, before, after);
    free(before);
    free(after);
}

START_TEST(test_causal_forward) { for_each_model(causal_forward); }
END_TEST

/* With losses up to position `last` of window 0 only, the gradient of an embedding that occurs
 * later (or in another window) is exactly zero, that of one at or before it is not. Needs a token
 * of its own for each place. */
static void causal_backward(fixture *f) {
    const sl_params *p = sl_model_params(f->m);
    const sl_tensor *t = p->tensor + sl_params_find(p, "model.embed_tokens.weight");
    const sl_config *c = &f->v.config;
    bool routers = c->model_experts && (c->model_balance == SL_BALANCE_AUX || c->model_router_z_loss > 0);
    if (c->model_tie_embeddings || routers || f->v.vocab < f->rows) /* a router's loss is that of every row */
        return;
    int64_t last = f->v.seq / 2;
    for (int64_t i = 0; i < f->rows; i++) {
        f->in[i] = (int32_t)i;
        if (i > last)
            f->target[i] = -1;
    }
    memset(p->g, 0, (size_t)p->floats * sizeof *p->g);
    forward_backward(f->m, f->in, f->target, 1);
    for (int64_t i = 0; i < f->rows; i++) {
        const float *g = p->g + t->offset + i * t->shape[1];
        int64_t nonzero = 0;
        for (int64_t j = 0; j < t->shape[1]; j++)
            nonzero += g[j] != 0;
        ck_assert_msg((nonzero > 0) == (i <= last),
                      "%s: gradient of the token at %lld has %lld non-zeros", f->v.name,
                      (long long)i, (long long)nonzero);
    }
}

START_TEST(test_causal_backward) { for_each_model(causal_backward); }
END_TEST

static void threads_equal(fixture *f) {
    float *loss[4], *grad[4];
    double mean[4];
    const sl_params *p = sl_model_params(f->m);
    size_t loss_bytes = (size_t)f->rows * sizeof(float),
           grad_bytes = (size_t)p->floats * sizeof(float);
    for (int threads = 1; threads <= 3; threads++) {
        ck_assert_int_eq(sl_threads_set(threads), threads);
        sl_model *m = create(f);
        loss[threads] = malloc(loss_bytes);
        grad[threads] = malloc(grad_bytes);
        ck_assert_int_eq(sl_model_forward(m, f->in, f->target, NULL, loss[threads]), 0);
        mean[threads] = forward_backward(m, f->in, f->target, 1);
        memcpy(grad[threads], sl_model_params(m)->g, grad_bytes);
        sl_model_free(m);
    }
    for (int threads = 2; threads <= 3; threads++) {
        ck_assert_msg(memcmp(&mean[1], &mean[threads], sizeof *mean) == 0,
                      "%s: loss with %d threads", f->v.name, threads);
        ck_assert_msg(memcmp(loss[1], loss[threads], loss_bytes) == 0,
                      "%s: token losses with %d threads", f->v.name, threads);
        ck_assert_msg(memcmp(grad[1], grad[threads], grad_bytes) == 0,
                      "%s: gradients with %d threads", f->v.name, threads);
    }
    for (int threads = 1; threads <= 3; threads++) {
        free(loss[threads]);
        free(grad[threads]);
    }
    sl_threads_set(2);
}

START_TEST(test_threads_equal) { for_each_model(threads_equal); }
END_TEST

/* A model for inference shares memory between its activations; it must give the bits of the
 * training one, and the same bits again. */
static void inference_equal(fixture *f) {
    int64_t values = f->rows * f->v.vocab;
    float *want = malloc((size_t)values * sizeof *want),
          *got = malloc((size_t)values * sizeof *got);
    sl_model_logits(f->m, f->in, want);
    for (int taps = 0; taps < 2; taps++) {
        sl_model *m = sl_model_create(&f->v.config, f->v.vocab, f->v.batch, f->v.seq, (taps ? SL_MODEL_TAPS : 0));
        ck_assert_msg(m != NULL, "%s: %s", f->v.name, sl_error());
        ref_randomise(sl_model_params(m), 3);
        double mean, trained;
        ck_assert_int_eq(sl_model_forward(m, f->in, f->target, &mean, NULL), 0);
        ck_assert_int_eq(sl_model_forward(f->m, f->in, f->target, &trained, NULL), 0);
        ck_assert_msg(mean == trained, "%s: loss", f->v.name);
        sl_model_logits(m, f->in, got);
        ck_assert_msg(memcmp(want, got, (size_t)values * sizeof *got) == 0, "%s: logits",
                      f->v.name);
        sl_model_free(m);
    }
    free(want);
    free(got);
}

START_TEST(test_inference_equal) { for_each_model(inference_equal); }
END_TEST

/* Position by position over a cache, those before `first` at once: other sums, so equal within rounding. */
static void decoding_from(fixture *f, int64_t first) {
    int64_t vocab = f->v.vocab, batch = f->v.batch, seq = f->v.seq;
    int32_t *prompt = malloc((size_t)(batch * (first + 1)) * sizeof *prompt);
    float *all = malloc((size_t)(f->rows * vocab) * sizeof *all);
    float *step = malloc((size_t)(batch * vocab) * sizeof *step);
    double *want = malloc((size_t)vocab * sizeof *want);
    int32_t *token = malloc((size_t)batch * sizeof *token);
    double tolerance = REF_FORWARD * ref_relative_error(&f->v.config, f->v.vocab, f->rows);
    sl_model_logits(f->m, f->in, all);
    sl_model *m = sl_model_create_decoder(&f->v.config, f->v.vocab, batch, seq);
    ck_assert_msg(m != NULL, "%s: %s", f->v.name, sl_error());
    ref_randomise(sl_model_params(m), 3);
    for (int64_t i = 0; i < batch * first; i++)
        prompt[i] = f->in[i / first * seq + i % first];
    ck_assert(first == 0 || sl_model_prompt(m, prompt, first) == 0);
    for (int64_t t = first; t < seq; t++) {
        for (int64_t b = 0; b < batch; b++)
            token[b] = f->in[b * seq + t];
        ck_assert_int_eq(sl_model_decode(m, token, t, step), 0);
        for (int64_t b = 0; b < batch; b++) {
            for (int64_t j = 0; j < vocab; j++)
                want[j] = all[(b * seq + t) * vocab + j];
            double ratio = ref_ratio(vocab, step + b * vocab, want, tolerance);
            ck_assert_msg(
                ratio <= 1,
                "%s: decoding position %lld of window %lld behind %lld at once: error is %.3g times the tolerance",
                f->v.name, (long long)t, (long long)b, (long long)first, ratio);
        }
    }
    sl_model_free(m);
    free(prompt);
    free(all);
    free(step);
    free(want);
    free(token);
}

static void decoding(fixture *f) {
    decoding_from(f, 0);
    decoding_from(f, (f->v.seq + 1) / 2);
}

START_TEST(test_decoding) { for_each_model(decoding); }
END_TEST

/* At the start a logit is a product of a normed vector (length sqrt(dim), or shorter behind a
 * half-open gate) and an independent row of the head: N(0, s^2) with s = init_std sqrt(dim). So a
 * token's loss is ln V + s^2/2 within a few s, and the mean over n targets within a few s/sqrt(n).
 * A tied head also raises the logit of the input token itself, by at most init_std dim, which adds
 * at most e^(that)/V to the normaliser. */
static void untrained(fixture *f) {
    const sl_config *c = &f->v.config;
    for (int64_t i = 0; i < f->rows; i++)
        if (f->target[i] == f->in[i])
            f->target[i] = (f->in[i] + 1) % f->v.vocab;
    float *loss = calloc((size_t)f->rows, sizeof *loss);
    sl_model_init(f->m, 5);
    double mean, sum = 0;
    ck_assert_int_eq(sl_model_forward(f->m, f->in, f->target, &mean, loss), 0);
    double s = c->model_init_std * sqrt((double)c->model_dim), flat = log(f->v.vocab);
    double own = c->model_tie_embeddings
                     ? exp(1.5 * c->model_init_std * (double)c->model_dim) / f->v.vocab
                     : 0;
    double tolerance = s * s + own + 5 * s / sqrt((double)f->rows);
    ck_assert_msg(fabs(mean - flat) <= tolerance, "%s: loss at init %.5f, want %.5f within %.5f",
                  f->v.name, mean, flat, tolerance);
    for (int64_t i = 0; i < f->rows; i++) {
        sum += loss[i];
        ck_assert_msg(fabs(loss[i] - flat) <= s * s + own + 6 * s,
                      "%s: token loss at init %.5f, want %.5f", f->v.name, loss[i], flat);
    }
    ck_assert_msg(fabs(sum / (double)f->rows - mean) <= 1e-6 * flat, "%s: mean of token losses",
                  f->v.name);
    free(loss);
}

START_TEST(test_untrained) { for_each_model(untrained); }
END_TEST

static void starts_at(sl_model *m, const char *name, double value) {
    const sl_params *p = sl_model_params(m);
    int t = sl_params_find(p, name);
    ck_assert_msg(t >= 0, "no tensor %s", name);
    for (int64_t j = 0; j < p->tensor[t].size; j++)
        ck_assert_msg(p->w[p->tensor[t].offset + j] == (float)value, "%s starts at %g, not %g", name,
                      (double)p->w[p->tensor[t].offset + j], value);
}

START_TEST(test_starts_of_norms) {
    static const char *const keys[] = {"model.norm=derf",
                                       "model.norm_opts.alpha_attn=0.8",
                                       "model.norm_opts.alpha_ffn=0.3",
                                       "model.norm_opts.alpha_final=0.2",
                                       "model.norm_opts.preaffine=true",
                                       "model.embed_scale=true",
                                       "model.dim=36",
                                       "model.layers=1"};
    sl_config c;
    for (int zero_centred = 0; zero_centred < 2; zero_centred++) {
        sl_config_defaults(&c);
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            ck_assert_int_eq(sl_config_override(&c, keys[i]), 0);
        c.norm_zero_centred = zero_centred;
        sl_model *m = sl_model_create(&c, 19, 1, 4, 0);
        ck_assert_msg(m != NULL, "%s", sl_error());
        sl_model_init(m, 1);
        starts_at(m, "model.layers.0.input_layernorm.alpha", 0.8);
        starts_at(m, "model.layers.0.post_attention_layernorm.alpha", 0.3);
        starts_at(m, "model.norm.alpha", 0.2);
        starts_at(m, "model.norm.shift", 0);
        starts_at(m, "model.norm.bias", 0);
        starts_at(m, "model.norm.pre_affine", 1);
        starts_at(m, "model.norm.weight", zero_centred ? 0 : 1);
        starts_at(m, "model.embed_scale", 6);
        const float *gain = sl_model_norm_weight(m, 0, 1); /* what probes see: the gain */
        ck_assert(gain && gain[0] == 1 && gain[35] == 1);
        sl_model_free(m);
    }
}
END_TEST

/* A gate that starts as the identity leaves the base norm's output as it is, to the bit. */
static void gate_starts_open(int outer, int granularity) {
    enum { VOCAB = 19, BATCH = 2, SEQ = 7 };
    float logits[2][BATCH * SEQ * VOCAB];
    int32_t in[BATCH * SEQ];
    sl_config c;
    sl_config_defaults(&c);
    c.model_layers = 2, c.model_dim = 24, c.model_heads = 2, c.model_ffn = 20, c.norm_rank = 3;
    c.precision = SL_PRECISION_FP32;
    c.norm_outer = outer, c.norm_granularity = granularity, c.norm_init = SL_GATE_IDENTITY, c.norm_gate_final = true;
    ref_random_tokens(BATCH * SEQ, VOCAB, 1, in);
    for (int gated = 0; gated < 2; gated++) {
        ck_assert_int_eq(sl_config_override(&c, gated ? "model.norm=gated_norm" : "model.norm=rmsnorm"), 0);
        sl_model *m = sl_model_create(&c, VOCAB, BATCH, SEQ, 0);
        ck_assert_msg(m != NULL, "%s", sl_error());
        sl_model_init(m, 1);
        ck_assert_int_eq(sl_model_logits(m, in, logits[gated]), 0);
        sl_model_free(m);
    }
    ck_assert_mem_eq(logits[0], logits[1], sizeof logits[0]);
}

START_TEST(test_gate_starts_open) {
    for (int outer = SL_GATE_SIGMOID; outer <= SL_GATE_LINEAR; outer++)
        for (int granularity = SL_GATE_ELEMENTWISE; granularity <= SL_GATE_TENSORWISE; granularity++)
            gate_starts_open(outer, granularity);
}
END_TEST

/* RMSNorm of pre_affine * x does not change when pre_affine grows by a factor (eps apart), so the gradient of
 * pre_affine stands at right angles to it: |<p, dp>| is rounding, and eps / mean square (1e-6 here) of the terms. */
START_TEST(test_preaffine_is_scale_free) {
    fixture f = {0};
    ck_assert(ref_variant_middle(1, &f.v));
    f.v.config.norm_preaffine = true;
    f.v.config.norm_eps = 1e-7;
    setup(&f);
    sl_params *p = sl_model_params(f.m);
    memset(p->g, 0, (size_t)p->floats * sizeof *p->g);
    forward_backward(f.m, f.in, f.target, 1);
    int found = 0;
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = p->tensor + i;
        double product = 0, size = 0;
        if (!strstr(t->name, "pre_affine"))
            continue;
        for (int64_t j = t->offset; j < t->offset + t->size; j++) {
            product += (double)p->w[j] * p->g[j];
            size += fabs((double)p->w[j] * p->g[j]);
        }
        found++;
        ck_assert_msg(size > 0 && fabs(product) <= 1e-4 * size, "%s: %.3g of %.3g", t->name, product, size);
    }
    ck_assert_int_eq(found, 5);
    teardown(&f);
}
END_TEST

int main(void) {
    Suite *s = suite_create("model_properties");
    TCase *tc = tcase_create("model_properties");
    tcase_set_timeout(tc, 0);
    tcase_add_test(tc, test_causal_forward);
    tcase_add_test(tc, test_causal_backward);
    tcase_add_test(tc, test_threads_equal);
    tcase_add_test(tc, test_inference_equal);
    tcase_add_test(tc, test_decoding);
    tcase_add_test(tc, test_untrained);
    tcase_add_test(tc, test_starts_of_norms);
    tcase_add_test(tc, test_gate_starts_open);
    tcase_add_test(tc, test_preaffine_is_scale_free);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
