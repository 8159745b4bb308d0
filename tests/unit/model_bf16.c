/* bf16 against fp32, which the golden values and the complex step have checked. An operand is rounded to 8 bits: a
 * relative error of at most u = 2^-9, in independent directions. A loss or gradient passes at most roundings() of them
 * in a row, so its tensor errs by about u sqrt(roundings()) relative to its norm. It counts, for each block forward and
 * back: norm, gate, qkv, rope, p, o, gate-up, h and three weights, each for both directions, and 4 for the head. Norms
 * behind attention and feed-forward read what these give, rounded: 2 more for both directions. Anchors: their input,
 * weights and outputs, and the mixture of each block. Queries over depth, of each half: the state, two weights and the
 * query, for both directions.
 * A score s that errs by u |s| changes its probability by that factor: the softmax multiplies relative errors by up to
 * 1 + max |s|, which is read from the taps. A feed-forward's function act multiplies them by its condition, the norm of
 * x act'(x) over that of act(x), taken over N(0, 1): 2 for a square. MARGIN: the larger errors of single tensors over
 * the average. */
#include "base/err.h"
#include "base/threads.h"
#include "model/model.h"
#include "ref/ops.h"
#include "ref/variants.h"
#include "simd/kernels.h"
#include "suite.h"
#include "gradients.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MARGIN = 3 };

static double roundings(const sl_config *c) {
    bool sandwich = c->model_norm_place == SL_PLACE_SANDWICH, anchors = c->model_anchors != SL_ANCHORS_NONE;
    bool states = c->model_residual != SL_RESIDUAL_PLAIN && c->residual_form == SL_DEPTH_STATES;
    int64_t block = 11 + (sandwich ? 2 : 0) + (anchors ? 1 : 0) + (states ? 8 : 0);
    return (double)(2 * block * c->model_layers + 4 + (anchors ? 2 * 3 : 0));
}

/* Rounding must not change which experts a row is sent to, since a loss jumps there. So token t's embedding is much
 * larger in channel t % experts, each expert's router looks at its own channel and less so at those after it, and
 * what the blocks add is small: every choice is clear by far more than the rounding. */
static void make_routing_clear(const ref_variant *v, sl_params *p) {
    int64_t d = v->config.model_dim, experts = v->config.model_experts;
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        float *w = p->w + t->offset;
        if (strstr(t->name, "o_proj") || strstr(t->name, "down_proj"))
            for (int64_t k = 0; k < t->size; k++)
                w[k] *= 0.02f;
        if (strstr(t->name, "embed_tokens"))
            for (int64_t k = 0; k < t->shape[0]; k++)
                w[k * d + k % experts] += 4;
        if (strstr(t->name, "mlp.gate.weight"))
            for (int64_t e = 0; e < experts; e++)
                for (int64_t k = 0; k < experts; k++)
                    w[e * d + k] = 1.5f - 3 * (float)((e - k + experts) % experts) / (float)experts;
    }
}

static sl_model *run(const ref_variant *v, int precision, int threads, const int32_t *in, const int32_t *target,
                     double *loss) {
    sl_config c = v->config;
    c.precision = precision;
    sl_threads_set(threads);
    sl_model *m = sl_model_create(&c, v->vocab, v->batch, v->seq, SL_MODEL_TRAINING | SL_MODEL_TAPS);
    ck_assert_msg(m != NULL, "%s: %s", v->name, sl_error());
    ref_randomise(sl_model_params(m), 5);
    if (c.model_experts)
        make_routing_clear(v, sl_model_params(m));
    *loss = forward_backward(m, in, target, 1);
    return m;
}

/* The largest attention score of a pass, in nats. */
static double largest_score(sl_model *m, const ref_variant *v, const int32_t *in) {
    const sl_config *c = sl_model_config(m);
    int64_t hd = sl_config_head_dim(c), group = c->model_heads / sl_config_kv_heads(c);
    double most = 0;
    sl_threads_set(1);
    ck_assert(sl_model_forward(m, in, NULL, NULL, NULL) == 0);
    for (int layer = 0; layer < c->model_layers; layer++) {
        sl_qkv_tap t = sl_model_qkv(m, layer);
        for (int64_t i = 0; i < v->batch * v->seq; i++)
            for (int64_t j = i - i % v->seq; j <= i; j++)
                for (int64_t h = 0; h < c->model_heads; h++) {
                    double s = 0;
                    for (int64_t e = 0; e < hd; e++)
                        s += (double)t.q[i * t.ld + h * hd + e] * t.k[j * t.ld + h / group * hd + e];
                    most = fmax(most, fabs(s) * t.scale);
                }
    }
    return most;
}

static double condition(int kind) {
    double change = 0, size = 0;
    if (kind == SL_FFN_NONE)
        return 1;
    for (int i = -400; i <= 400; i++) {
        double x = 0.01 * i, step = 1e-100, weight = exp(-x * x / 2);
        ref_c z = x + step * I, y;
        ref_ffn(kind, 1, &z, NULL, &y);
        change += weight * pow(x * cimag(y) / step, 2), size += weight * pow(creal(y), 2);
    }
    return fmax(1, sqrt(change / size));
}

/* ||a - b|| of one tensor's gradients, relative to ||b|| or, where its sums cancel, to the tensor's share (by size)
 * of the whole gradient, whichever is larger. */
static double distance(const sl_params *a, const sl_params *b, int t, double whole) {
    double d = 0, n = 0, share = whole * (double)a->tensor[t].size / (double)a->params;
    for (int64_t i = 0; i < a->tensor[t].size; i++) {
        double x = a->g[a->tensor[t].offset + i], y = b->g[b->tensor[t].offset + i];
        d += (x - y) * (x - y), n += y * y;
    }
    return sqrt(d / fmax(n, share));
}

static double sum_of_squares(const sl_params *p) {
    double n = 0;
    for (int64_t i = 0; i < p->floats; i++)
        n += (double)p->g[i] * p->g[i];
    return n;
}

/* Both must have sent the same rows to the same experts, or their gradients cannot be compared. */
static void check_routing(const ref_variant *v, sl_model *a, sl_model *b) {
    sl_expert_load x, y;
    sl_model_end_step(a, false);
    sl_model_end_step(b, false);
    for (int i = 0; sl_model_expert_load(a, i, &x); i++) {
        ck_assert(sl_model_expert_load(b, i, &y));
        ck_assert_msg(memcmp(x.count, y.count, (size_t)x.experts * sizeof *x.count) == 0 && x.dropped == y.dropped,
                      "%s: another choice of experts in mixture %d", v->name, i);
    }
}

static double check_variant(const ref_variant *v) {
    int64_t rows = v->batch * v->seq;
    int32_t *in = malloc((size_t)rows * sizeof *in), *target = malloc((size_t)rows * sizeof *target);
    double want, loss, again, worst = 0;
    ref_random_tokens(rows, v->vocab, 11, in);
    ref_random_tokens(rows, v->vocab, 12, target);
    sl_model *ref = run(v, SL_PRECISION_FP32, 1, in, target, &want);
    sl_model *m = run(v, SL_PRECISION_BF16, 1, in, target, &loss),
             *m3 = run(v, SL_PRECISION_BF16, 3, in, target, &again);
    const double bound = MARGIN * condition(v->config.model_ffn_kind) * (1 + largest_score(ref, v, in)) *
                         ldexp(1, -9) * sqrt(roundings(&v->config));
    sl_params *p = sl_model_params(m), *q = sl_model_params(ref), *p3 = sl_model_params(m3);
    check_routing(v, ref, m);
    ck_assert_msg(fabs(loss - want) <= bound * fmax(1, want), "%s: loss %g, fp32 %g", v->name, loss, want);
    ck_assert_msg(loss == again && memcmp(p->g, p3->g, (size_t)p->floats * sizeof(float)) == 0,
                  "%s: 1 and 3 threads differ", v->name);
    /* A ReLU whose input is within rounding of 0 opens or shuts, a value near the threshold of clipping crosses it:
     * gradients jump, and no bound on smooth functions holds. */
    bool kinks = v->config.norm_inner == SL_GATE_INNER_RELU || v->config.model_ffn_kind == SL_FFN_relu ||
                 sl_config_clip(&v->config) > 0;
    for (int t = 0; t < p->count && !kinks; t++) {
        double d = distance(p, q, t, sum_of_squares(q));
        ck_assert_msg(d <= bound, "%s: gradient of %s is off by %.3g of its norm, bound %.3g", v->name,
                      p->tensor[t].name, d, bound);
        worst = fmax(worst, d / bound);
    }
    sl_model_free(ref), sl_model_free(m), sl_model_free(m3);
    free(in), free(target);
    return worst;
}

START_TEST(gradients_near_fp32) {
    ref_variant v;
    int mixtures = 0;
    double worst = 0;
    if (sl_kernels_select(SL_ISA_AUTO)->bf16_unit == 0) {
        printf("skipped: no bf16 unit on this machine\n");
        return;
    }
    for (int i = 0; ref_variant_tiny(i, &v); i += 3)
        worst = fmax(worst, check_variant(&v));
    for (int i = 0; ref_variant_middle(i, &v); i++)
        worst = fmax(worst, check_variant(&v));
    for (int i = 0; ref_variant_elsewhere(i, &v); i++)
        worst = fmax(worst, check_variant(&v));
    for (int i = 0; ref_variant_across(i, &v); i++)
        worst = fmax(worst, check_variant(&v));
    for (int i = 0; ref_variant_moe(i, &v); i++)
        if (v.config.model_experts < v.config.model_dim) {
            worst = fmax(worst, check_variant(&v));
            mixtures++;
        }
    ck_assert_int_ge(mixtures, 11);
    printf("worst gradient error: %.2f of the bound\n", worst);
}
END_TEST

/* bf16 asked for where no unit is allowed: computed in fp32, to fp32's bits. */
START_TEST(without_a_unit) {
    ref_variant v;
    double a, b;
    ck_assert(ref_variant_tiny(1, &v));
    v.config.isa = SL_ISA_SCALAR;
    int64_t rows = v.batch * v.seq;
    int32_t *in = calloc((size_t)rows, sizeof *in);
    sl_model_free(run(&v, SL_PRECISION_BF16, 1, in, in, &a));
    sl_model_free(run(&v, SL_PRECISION_FP32, 1, in, in, &b));
    ck_assert(a == b);
    free(in);
}
END_TEST

int main(void) {
    Suite *s = suite_create("model_bf16");
    TCase *t = tcase_create("model");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, gradients_near_fp32);
    tcase_add_test(t, without_a_unit);
    suite_add_tcase(s, t);
    return run_suite(s);
}
