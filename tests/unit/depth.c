/* Attention over depth: what holds exactly where queries are 0, as they start, and the figures of its probe. Formulas
 * and gradients are held by grad_model and golden. */
#include "base/err.h"
#include "base/threads.h"
#include "model/model.h"
#include "probe/detail.h"
#include "probe/probe.h"
#include "ref/variants.h"
#include "suite.h"
#include "gradients.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A model of the variant as it starts, after a pass. */
static sl_model *passed(const ref_variant *v, unsigned flags, int32_t *in) {
    ref_random_tokens(v->batch * v->seq, v->vocab, 3, in);
    sl_model *m = sl_model_create(&v->config, v->vocab, v->batch, v->seq, flags);
    ck_assert_msg(m != NULL, "%s: %s", v->name, sl_error());
    ck_assert_int_eq(sl_model_init(m, 1), 0);
    ck_assert_int_eq(sl_model_forward(m, in, NULL, NULL, NULL), 0);
    return m;
}

static const float *source(const sl_depth_tap *t, int64_t row, int64_t i, int64_t dim) {
    return i < t->banked ? t->bank + row * t->ld + i * dim : t->apart[i - t->banked] + row * dim;
}

/* Weights are 1/n to the bit, and the mixture is the mean within the rounding of n products and additions. */
static void is_mean(const ref_variant *v, const sl_depth_tap *t) {
    int64_t dim = v->config.model_dim, n = t->sources;
    for (int64_t i = 0; i < v->batch * v->seq * n; i++)
        ck_assert_msg(t->weight[i] == 1.0f / (float)n, "%s: weight %g of %lld sources", v->name, (double)t->weight[i],
                      (long long)n);
    for (int64_t i = 0; i < v->batch * v->seq * dim; i++) {
        double mean = 0, size = 0;
        for (int64_t k = 0; k < n; k++) {
            double x = source(t, i / dim, k, dim)[i % dim];
            mean += x / (double)n, size += fabs(x) / (double)n;
        }
        ck_assert_msg(fabs(t->mixture[i] - mean) <= 0x1p-24 * (double)(n + 2) * size, "%s: %.9g, mean %.9g", v->name,
                      (double)t->mixture[i], mean);
    }
}

START_TEST(zero_queries_give_the_mean) {
    ref_variant v;
    int mixtures = 0;
    for (int i = 0; ref_variant_across(i, &v); i++) {
        int32_t *in = calloc((size_t)(v.batch * v.seq), sizeof *in);
        if (v.config.residual_softmax == SL_DEPTH_SOFTMAX && v.config.model_residual == SL_RESIDUAL_ATTNRES &&
            v.config.residual_form == SL_DEPTH_OUTPUTS) {
            sl_model *m = passed(&v, SL_MODEL_TAPS, in);
            for (int layer = 0; layer <= v.config.model_layers; layer++)
                for (int which = 0; which < 2; which++) {
                    sl_depth_tap t = sl_model_depth(m, layer, which);
                    ck_assert_int_eq(t.sources, sl_model_depth_sources(m, layer, which));
                    if (t.sources)
                        is_mean(&v, &t), mixtures++;
                }
            sl_model_free(m);
        }
        free(in);
    }
    ck_assert_int_ge(mixtures, 5 * 7);
}
END_TEST

/* Sources of the k-th mixture, k halves behind the embedding: whole blocks, and one that is not whole yet. */
START_TEST(sources_are_whole_blocks_and_a_part) {
    static const int64_t blocks[] = {1, 2, 3, 4, 6, 100};
    ref_variant v;
    ck_assert(ref_variant_across(0, &v));
    int64_t layers = v.config.model_layers;
    for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++) {
        int32_t in[10];
        v.config.residual_block = blocks[b];
        sl_model *m = passed(&v, SL_MODEL_TAPS, in);
        for (int64_t k = 0; k <= 2 * layers; k++) {
            int64_t want = 1 + (k + blocks[b] - 1) / blocks[b];
            ck_assert_int_eq(sl_model_depth_sources(m, (int)(k / 2), (int)(k % 2)), want);
        }
        ck_assert_int_eq(sl_model_depth_sources(m, (int)layers, 1), 0);
        sl_model_free(m);
    }
}
END_TEST

/* The first half reads the embedding itself, and no query can change that. */
START_TEST(one_source_is_passed_on) {
    ref_variant v;
    ck_assert(ref_variant_across(0, &v));
    int32_t in[10], target[10];
    sl_model *m = passed(&v, SL_MODEL_TAPS, in);
    sl_depth_tap t = sl_model_depth(m, 0, 0);
    ck_assert_int_eq(t.sources, 1);
    for (int64_t r = 0; r < v.batch * v.seq; r++)
        ck_assert_mem_eq(t.mixture + r * v.config.model_dim, t.bank + r * t.ld,
                         (size_t)v.config.model_dim * sizeof(float));
    sl_model_free(m);
    m = sl_model_create(&v.config, v.vocab, v.batch, v.seq, SL_MODEL_TRAINING);
    ck_assert_ptr_nonnull(m);
    ref_randomise(sl_model_params(m), 7);
    ref_random_tokens(v.batch * v.seq, v.vocab, 4, target);
    forward_backward(m, in, target, 1);
    const sl_params *p = sl_model_params(m);
    const char *const first[] = {"model.layers.0.attn_residual.query", "model.layers.0.attn_residual.norm.weight"};
    for (int i = 0; i < 2; i++) {
        const sl_tensor *x = &p->tensor[sl_params_find(p, first[i])];
        for (int64_t j = 0; j < x->size; j++)
            ck_assert(p->g[x->offset + j] == 0);
    }
    const sl_tensor *next = &p->tensor[sl_params_find(p, "model.layers.0.mlp_residual.query")];
    ck_assert(p->g[next->offset] != 0);
    sl_model_free(m);
}
END_TEST

/* Two windows of three tokens, two sources of width 2; weights of tokens 1 and 2 by hand. */
START_TEST(figures_of_weights) {
    const float weight[] = {1, 0, .75f, .25f, .25f, .75f, .5f, .5f, .75f, .25f, .25f, .75f};
    const float bank[] = {3, 4, 3, 4, 3, 4, 3, 4, 3, 4, 3, 4}, partial[] = {0, 10, 0, 10, 0, 10, 0, 10, 0, 10, 0, 10};
    double sums[4][2] = {{0}};
    sl_depth_sums s = {.sources = 2, .weight = sums[0], .square = sums[1], .norm = sums[2], .weight0 = sums[3]};
    sl_depth_add(&s, sl_kernels_select(SL_ISA_AUTO), &(sl_depth_rows){2, 3, 2, 1, weight, bank, {partial}, 2});
    ck_assert_int_eq(s.tokens, 4);
    ck_assert_int_eq(s.windows, 2);
    ck_assert(s.weight[0] == 2 && s.weight[1] == 2 && s.weight0[0] == 1.5 && s.weight0[1] == .5);
    ck_assert(s.norm[0] == 10 && s.norm[1] == 20); /* |v| 5 and 10 */
    ck_assert(s.top == 3 && s.null == 0);
    ck_assert(fabs(s.entropy - 4 * -(.75 * log(.75) + .25 * log(.25))) < 1e-12);
    ck_assert(sl_depth_constant_share(&s) == .25 * 2 / ((.5625 + .0625) / 2 * 2));
}
END_TEST

/* psi of a layer by plain loops in double over the queries and keys of a pass: of token 0, and of the others. */
static void plain_evidence(const ref_variant *v, const sl_model *m, int layer, double psi[2]) {
    sl_qkv_tap t = sl_model_qkv(m, layer);
    int64_t heads = v->config.model_heads, group = heads / sl_config_kv_heads(&v->config),
            hd = sl_config_head_dim(&v->config), window = sl_config_window(&v->config, layer);
    psi[0] = psi[1] = 0;
    for (int64_t r = 0; r < v->batch * v->seq; r++)
        for (int64_t h = 0; h < heads; h++) {
            double sum = 1;
            for (int64_t j = r - r % v->seq; j <= r; j++) {
                double score = 0, cap = v->config.attention_softcap;
                for (int64_t e = 0; e < hd; e++)
                    score += (double)t.q[r * t.ld + h * hd + e] * (double)t.k[j * t.ld + h / group * hd + e];
                score *= t.scale;
                sum += window && r - j >= window ? 0 : exp(cap > 0 ? cap * tanh(score / cap) : score);
            }
            psi[r % v->seq > 0] += 1 / sum / (double)(heads * v->batch * (r % v->seq > 0 ? v->seq - 1 : 1));
        }
}

START_TEST(null_evidence_by_plain_loops) {
    ref_variant v;
    int layers = 0;
    for (int i = 0; ref_variant_across(i, &v); i++) {
        int32_t *in = calloc((size_t)(v.batch * v.seq), sizeof *in);
        sl_sink_dims *sinks = calloc((size_t)v.config.model_layers + 1, sizeof *sinks);
        sl_model *m = passed(&v, SL_MODEL_TAPS, in);
        ref_randomise(sl_model_params(m), 7);
        ck_assert_int_eq(sl_model_params_written(m), 0);
        ck_assert_int_eq(sl_model_forward(m, in, NULL, NULL, NULL), 0);
        sl_detail *d = sl_detail_create(m, 1u << SL_MEASURE_DEPTH, v.batch, sinks);
        ck_assert(d && sl_detail_add(d, m) == 0);
        json_t *o = sl_detail_result(d);
        for (int64_t k = 0; k <= v.config.model_layers; k++) {
            json_t *x = json_array_get(json_object_get(o, "depth"), (size_t)k);
            json_t *got = json_object_get(x, "null_evidence");
            bool leaves = k < v.config.model_layers && v.config.model_attention == SL_ATTENTION_softmax1;
            ck_assert(json_is_object(got) == leaves);
            ck_assert(json_is_string(json_object_get(json_object_get(x, "why"), "null_evidence")) == !leaves);
            if (!leaves)
                continue;
            double psi[2];
            plain_evidence(&v, m, (int)k, psi);
            for (int w = 0; w < 2; w++) { /* of sums of at most seq weights, each within some eps of its own */
                double x0 = json_real_value(json_object_get(got, w ? "others" : "token0"));
                ck_assert_msg(fabs(x0 - psi[w]) <= 0x1p-20, "%s, layer %d: %.9g, want %.9g", v.name, (int)k, x0,
                              psi[w]);
            }
            layers++;
        }
        json_decref(o);
        sl_detail_free(d);
        sl_model_free(m);
        free(in), free(sinks);
    }
    ck_assert_int_ge(layers, 2 * 8 * 3);
}
END_TEST

/* A c of -100 couples by less than a float can add to a score: the logits of attnres, to the bit. */
START_TEST(without_coupling_oasis_is_attnres) {
    ref_variant v;
    int pairs = 0;
    for (int i = 0; ref_variant_across(i, &v); i++) {
        int64_t rows = v.batch * v.seq, values = rows * v.vocab;
        int32_t *in = calloc((size_t)rows, sizeof *in);
        float *logits[2];
        if (v.config.model_residual == SL_RESIDUAL_OASIS) {
            for (int k = 0; k < 2; k++) {
                v.config.model_residual = k ? SL_RESIDUAL_ATTNRES : SL_RESIDUAL_OASIS;
                v.config.residual_coupling = -100;
                logits[k] = calloc((size_t)values, sizeof *logits[k]);
                sl_model *m = passed(&v, 0, in);
                ck_assert_int_eq(sl_model_logits(m, in, logits[k]), 0);
                sl_model_free(m);
            }
            ck_assert_msg(memcmp(logits[0], logits[1], (size_t)values * sizeof(float)) == 0, "%s", v.name);
            free(logits[0]), free(logits[1]);
            pairs++;
        }
        free(in);
    }
    ck_assert_int_ge(pairs, 8);
}
END_TEST

/* Scores of states are at most 50: with a recency of 100 the older source of two apart is as near as the newest. */
START_TEST(scores_of_states_are_clamped) {
    ref_variant v;
    ck_assert(ref_variant_across(0, &v));
    v.config.residual_form = SL_DEPTH_STATES;
    v.config.residual_recency = 100;
    int32_t in[10], target[10];
    sl_model *m = passed(&v, SL_MODEL_TAPS, in);
    for (int layer = 0; layer < v.config.model_layers; layer++)
        for (int which = 0; which < 2; which++) {
            sl_depth_tap t = sl_model_depth(m, layer, which);
            ck_assert_int_eq(t.sources, layer + 2 + which);
            for (int64_t r = 0; r < v.batch * v.seq; r++)
                for (int64_t i = 0; i < t.sources; i++) {
                    double score = fmin(100.0 * (double)i / (double)(t.sources - 1), 50), sum = 0;
                    for (int64_t k = 0; k < t.sources; k++)
                        sum += exp(fmin(100.0 * (double)k / (double)(t.sources - 1), 50));
                    double a = (double)t.weight[r * t.sources + i];
                    ck_assert_msg(fabs(a - exp(score) / sum) < 1e-2, "weight %g of source %lld of %lld", a,
                                  (long long)i, (long long)t.sources);
                }
        }
    ck_assert_int_eq(sl_model_depth_sources(m, (int)v.config.model_layers, 0), 0);
    sl_model_free(m);
    m = sl_model_create(&v.config, v.vocab, v.batch, v.seq, SL_MODEL_TRAINING);
    ck_assert_ptr_nonnull(m);
    ck_assert_int_eq(sl_model_init(m, 1), 0);
    ref_random_tokens(v.batch * v.seq, v.vocab, 4, target);
    forward_backward(m, in, target, 1);
    const sl_params *p = sl_model_params(m); /* two sources, of scores near 0 and above 50 */
    ck_assert(p->g[p->tensor[sl_params_find(p, "model.layers.0.attn_residual.recency")].offset] == 0);
    sl_model_free(m);
}
END_TEST

/* With a softmax1 of zero logits n sources weigh 1/(n + 1), and the probe says what is left. */
START_TEST(softmax1_leaves_a_share) {
    ref_variant v;
    ck_assert(ref_variant_across(0, &v));
    v.config.residual_softmax = SL_DEPTH_SOFTMAX1;
    int32_t in[10];
    sl_sink_dims *sinks = calloc((size_t)v.config.model_layers + 1, sizeof *sinks);
    sl_model *m = passed(&v, SL_MODEL_TAPS, in);
    sl_detail *d = sl_detail_create(m, 1u << SL_MEASURE_DEPTH, v.batch, sinks);
    ck_assert(d && sl_detail_add(d, m) == 0);
    json_t *o = sl_detail_result(d), *layers = json_object_get(o, "depth");
    ck_assert_uint_eq(json_array_size(layers), (size_t)v.config.model_layers + 1);
    for (size_t k = 0; k <= 2 * (size_t)v.config.model_layers; k++) {
        json_t *x = json_object_get(json_array_get(layers, k / 2), k % 2 ? "ffn" : "attn");
        ck_assert_uint_eq(json_array_size(json_object_get(x, "weight")), k + 1);
        double n = (double)k + 1, null = json_real_value(json_object_get(x, "null"));
        ck_assert_msg(fabs(null - 1 / (n + 1)) < 1e-6, "null %g of %g sources", null, n);
        ck_assert(fabs(json_real_value(json_object_get(x, "constant_share")) - 1) < 1e-6);
        ck_assert(json_is_real(json_object_get(json_object_get(x, "last"), "max")));
    }
    json_decref(o);
    sl_detail_free(d);
    sl_model_free(m);
    free(sinks);
}
END_TEST

int main(void) {
    Suite *s = suite_create("depth");
    TCase *tc = tcase_create("depth");
    tcase_set_timeout(tc, 0);
    tcase_add_test(tc, zero_queries_give_the_mean);
    tcase_add_test(tc, sources_are_whole_blocks_and_a_part);
    tcase_add_test(tc, one_source_is_passed_on);
    tcase_add_test(tc, figures_of_weights);
    tcase_add_test(tc, scores_of_states_are_clamped);
    tcase_add_test(tc, null_evidence_by_plain_loops);
    tcase_add_test(tc, softmax1_leaves_a_share);
    tcase_add_test(tc, without_coupling_oasis_is_attnres);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
