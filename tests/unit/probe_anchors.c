/* The measure of anchors (probe/anchors.c): external ones against plain loops from the parameters in double, and both
 * parts of a logit against the whole. */
#include "base/err.h"
#include "base/threads.h"
#include "measure.h"
#include "probe/detail.h"
#include "probe/probe.h"
#include "ref/variants.h"
#include "suite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const json_t *value_at(const json_t *o, const char *measure, size_t layer, const char *key, const char *inner) {
    const json_t *x = json_object_get(json_array_get(json_object_get(o, measure), layer), key);
    return inner ? json_object_get(x, inner) : x;
}

static const float *tensor_of(const sl_model *m, const char *name) {
    const sl_params *p = sl_model_params((sl_model *)m);
    int i = sl_params_find(p, name);
    ck_assert_msg(i >= 0, "no %s", name);
    return p->w + p->tensor[i].offset;
}

/* Key row `head` of W x. */
static void key_of(const float *w, const float *x, int64_t head, int64_t hd, int64_t dim, double *key) {
    for (int64_t j = 0; j < hd; j++) {
        key[j] = 0;
        for (int64_t k = 0; k < dim; k++)
            key[j] += (double)w[(head * hd + j) * dim + k] * (double)x[k];
    }
}

/* y = g y / rms, of both by the mean square of their sum (only: of y alone). */
static void norm_keys(int64_t n, const float *g, double eps, bool only, double *y, double *other) {
    double square = eps;
    for (int64_t j = 0; j < n; j++)
        square += pow(y[j] + (only ? 0 : other[j]), 2) / (double)n;
    for (int64_t j = 0; j < n; j++) {
        y[j] *= (double)g[j] / sqrt(square);
        if (!only)
            other[j] *= (double)g[j] / sqrt(square);
    }
}

/* Mean logits with token 0's key that come through the anchor and the layer's own, of headwise coefficients. */
static void plain_logits(const sl_model *m, const ref_variant *v, const int32_t *in, int layer, double logit[2]) {
    int64_t dim = v->config.model_dim, hd = sl_config_head_dim(&v->config), kv = sl_config_kv_heads(&v->config),
            heads = v->config.model_heads, n = 0;
    char name[4][96];
    snprintf(name[0], 96, "model.layers.%d.self_attn.k_proj.weight", layer);
    snprintf(name[1], 96, "model.layers.%d.self_attn.anchor_coef", layer);
    snprintf(name[2], 96, "model.layers.%d.self_attn.own_coef", layer);
    snprintf(name[3], 96, "model.layers.%d.self_attn.k_norm.weight", layer);
    sl_qkv_tap t = sl_model_qkv(m, layer);
    double part[2][64];
    logit[0] = logit[1] = 0;
    for (int64_t w = 0; w < v->batch; w++)
        for (int64_t h = 0; h < heads; h++) {
            int64_t at = h / (heads / kv), row0 = w * v->seq;
            key_of(tensor_of(m, "model.anchors.k_proj.weight"), tensor_of(m, "model.embed_tokens.weight") +
                                                                    in[row0] * dim, at, hd, dim, part[0]);
            key_of(tensor_of(m, name[0]), sl_model_norm_output(m, layer, 0) + row0 * dim, at, hd, dim, part[1]);
            norm_keys(hd, tensor_of(m, "model.anchors.k_norm.weight"), v->config.norm_eps, true, part[0], NULL);
            for (int64_t j = 0; j < hd; j++) {
                part[0][j] *= (double)tensor_of(m, name[1])[heads + at];
                part[1][j] *= (double)tensor_of(m, name[2])[heads + at];
            }
            if (v->config.model_qk_norm)
                norm_keys(hd, tensor_of(m, name[3]), v->config.norm_eps, false, part[0], part[1]);
            for (int64_t r = row0 + 1; r < row0 + v->seq; r++, n++)
                for (int i = 0; i < 2; i++)
                    for (int64_t j = 0; j < hd; j++)
                        logit[i] += t.scale * (double)t.q[r * t.ld + h * hd + j] * part[i][j];
        }
    logit[0] /= (double)n, logit[1] /= (double)n;
}

static json_t *anchors_of(const ref_variant *v, sl_model *m, const int32_t *in) {
    sl_sink_dims *sinks = calloc((size_t)v->config.model_layers + 1, sizeof *sinks);
    ck_assert_int_eq(sl_model_forward(m, in, NULL, NULL, NULL), 0);
    sl_detail *d = sl_detail_create(m, 1u << SL_MEASURE_ANCHORS, v->batch, sinks);
    ck_assert(d && sl_detail_add(d, m) == 0);
    json_t *o = sl_detail_result(d);
    sl_detail_free(d);
    free(sinks);
    return o;
}

START_TEST(anchors_agree_with_plain_loops) {
    int layers = 0;
    ref_variant v;
    for (int i = 0; ref_variant_across(i, &v); i++) {
        bool plain = strncmp(v.name, "anchors: external, headwise, qk_norm, gqa", 41) == 0;
        int32_t *in = calloc((size_t)(v.batch * v.seq), sizeof *in);
        ref_random_tokens(v.batch * v.seq, v.vocab, 3, in);
        for (int norm = 0; plain && norm < 2; norm++) {
            v.config.model_qk_norm = norm;
            sl_model *m = sl_model_create(&v.config, v.vocab, v.batch, v.seq, SL_MODEL_TAPS);
            ck_assert_msg(m != NULL, "%s", sl_error());
            ref_randomise(sl_model_params(m), 7);
            json_t *o = anchors_of(&v, m, in);
            for (int layer = 0; layer < v.config.model_layers; layer++, layers++) {
                double want[2];
                plain_logits(m, &v, in, layer, want);
                const char *const parts[] = {"anchor", "own"};
                for (int k = 0; k < 2; k++) {
                    double got = json_real_value(value_at(o, "anchors", (size_t)layer, "sink_logit", parts[k]));
                    ck_assert_msg(fabs(got - want[k]) <= 1e-5 * (fabs(want[0]) + fabs(want[1]) + 1),
                                  "%s, layer %d: %s %.9g, want %.9g", v.name, layer, parts[k], got, want[k]);
                    char name[96];
                    snprintf(name, sizeof name, "model.layers.%d.self_attn.%s_coef", layer, parts[k]);
                    double v_mean = 0;
                    int64_t kv = sl_config_kv_heads(&v.config), first = v.config.model_heads + kv;
                    for (int64_t h = first; h < first + kv; h++)
                        v_mean += fabs((double)tensor_of(m, name)[h]) / (double)kv;
                    ck_assert(fabs(json_real_value(value_at(o, "anchors", (size_t)layer, parts[k], "v")) - v_mean) <
                              1e-6 * v_mean);
                }
            }
            json_decref(o);
            sl_model_free(m);
        }
        free(in);
    }
    ck_assert_int_eq(layers, 2 * 2 * 3);
}
END_TEST

/* Both parts are the whole logit, whatever the coefficients; without a mixture there is a reason in their place. */
START_TEST(anchors_and_own_are_the_logit) {
    int layers = 0;
    ref_variant v;
    for (int i = 0; ref_variant_across(i, &v); i++) {
        int32_t *in = calloc((size_t)(v.batch * v.seq), sizeof *in);
        ref_random_tokens(v.batch * v.seq, v.vocab, 3, in);
        sl_model *m = sl_model_create(&v.config, v.vocab, v.batch, v.seq, SL_MODEL_TAPS);
        ck_assert_msg(m != NULL, "%s", sl_error());
        ref_randomise(sl_model_params(m), 7);
        json_t *o = anchors_of(&v, m, in);
        for (int layer = 0; layer < v.config.model_layers; layer++) {
            bool mixes = v.config.model_anchors == SL_ANCHORS_EXTERNAL ||
                         (v.config.model_anchors == SL_ANCHORS_INTERNAL && layer > 0);
            ck_assert(json_is_object(value_at(o, "anchors", (size_t)layer, "anchor", NULL)) == mixes);
            ck_assert(json_is_string(value_at(o, "anchors", (size_t)layer, "why", "anchor")) == !mixes);
            bool gate = v.config.attention_gate == SL_ATTENTION_GATE_ELEMENTWISE;
            ck_assert(json_is_real(value_at(o, "anchors", (size_t)layer, "own", "gate")) == (mixes && gate));
            if (!mixes)
                continue;
            sl_attention_rows a = sl_probe_attention_rows(m, layer);
            int64_t last = a.window > 0 && a.window < a.seq ? a.window : a.seq, n = 0;
            double want = 0, size = 0;
            for (int64_t w = 0; w < a.windows; w++)
                for (int64_t h = 0; h < a.heads; h++)
                    for (int64_t t = 1; t < last; t++, n++)
                        for (int64_t j = 0; j < a.head_dim; j++) {
                            double x = (double)a.scale * (double)a.q[(w * a.seq + t) * a.ld + h * a.head_dim + j] *
                                       (double)a.k[w * a.seq * a.ld + h / (a.heads / a.kv_heads) * a.head_dim + j];
                            want += x, size += fabs(x);
                        }
            double got = json_real_value(value_at(o, "anchors", (size_t)layer, "sink_logit", "all"));
            ck_assert_msg(fabs(got - want / (double)n) <= 1e-9 * size / (double)n, "%s, layer %d: %.12g, want %.12g",
                          v.name, layer, got, want / (double)n);
            layers++;
        }
        json_decref(o);
        sl_model_free(m);
        free(in);
    }
    ck_assert_int_ge(layers, 2 * 20);
}
END_TEST

static Suite *suite(void) {
    Suite *s = suite_create("probe_anchors");
    TCase *t = tcase_create("anchors");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, anchors_agree_with_plain_loops);
    tcase_add_test(t, anchors_and_own_are_the_logit);
    suite_add_tcase(s, t);
    return s;
}

int main(void) {
    sl_threads_set(2);
    return run_suite(suite());
}
