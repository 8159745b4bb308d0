/* The probe on whole models of every kind: its result against plain loops in double over the same taps, and
 * what must hold exactly: any number of threads, after a reset, of a training and an inference model. */
#include "base/err.h"
#include "base/threads.h"
#include "probe/probe.h"
#include "probe/top_tokens.h"
#include "ref/model.h"
#include "ref/ops.h"
#include "ref/variants.h"
#include "suite.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ref_variant v;
    int64_t rows, dim;
    int32_t *in, *target;
    sl_model *m;
    sl_probe *p;
} fixture;

static sl_model *create(const ref_variant *v, bool training) {
    sl_model *m =
        sl_model_create(&v->config, v->vocab, v->batch, v->seq, (training ? SL_MODEL_TRAINING : 0) | SL_MODEL_TAPS);
    ck_assert_msg(m != NULL, "%s: %s", v->name, sl_error());
    ref_randomise(sl_model_params(m), 3);
    return m;
}

static void setup(fixture *f, bool training) {
    f->rows = f->v.batch * f->v.seq;
    f->dim = f->v.config.model_dim;
    f->in = calloc((size_t)f->rows, sizeof *f->in);
    f->target = calloc((size_t)f->rows, sizeof *f->target);
    ref_random_tokens(f->rows, f->v.vocab, 11, f->in);
    ref_random_tokens(f->rows, f->v.vocab, 12, f->target);
    f->m = create(&f->v, training);
    f->p = sl_probe_create(f->m);
    ck_assert_msg(f->p != NULL, "%s", sl_error());
}

static void teardown(fixture *f) {
    sl_probe_free(f->p);
    sl_model_free(f->m);
    free(f->in);
    free(f->target);
}

static void add(fixture *f) {
    ck_assert_int_eq(sl_model_forward(f->m, f->in, f->target, NULL, NULL), 0);
    ck_assert_msg(sl_probe_add(f->p, f->m) == 0, "%s", sl_error());
}

/* Norm of row r of a layer, in double. */
static double row_norm(const fixture *f, int64_t layer, int64_t r) {
    const float *h = sl_model_residual(f->m, (int)layer) + r * f->dim;
    double sum = 0;
    for (int64_t i = 0; i < f->dim; i++)
        sum += (double)h[i] * h[i];
    return sqrt(sum);
}

/* A list of a layer after the pass was added twice: rows with their tokens, none but of its kind, the largest first,
 * no row outside larger than the last one. */
static void check_top_list(const fixture *f, const sl_top_tokens *t, int64_t layer, int kind) {
    const sl_top_list *l = sl_top_tokens_list(t, layer, kind);
    int64_t of_kind = 2 * (kind == SL_TOP_FIRST ? f->v.batch : f->rows - f->v.batch), larger = 0;
    ck_assert_int_eq(l->count, of_kind < SL_TOP_TOKENS ? of_kind : SL_TOP_TOKENS);
    for (int i = 0; i < l->count; i++) {
        const sl_top_token *row = &l->row[i];
        int64_t r = row->window % f->v.batch * f->v.seq + row->position;
        ck_assert(row->norm == row_norm(f, layer, r) && row->token == f->in[r]);
        ck_assert((row->position == 0) == (kind == SL_TOP_FIRST));
        ck_assert(i == 0 || row->norm <= l->row[i - 1].norm);
    }
    for (int64_t r = 0; r < f->rows; r++)
        if ((r % f->v.seq == 0) == (kind == SL_TOP_FIRST))
            larger += 2 * (row_norm(f, layer, r) > l->row[l->count - 1].norm);
    ck_assert_int_lt(larger, l->count);
}

START_TEST(top_tokens) {
    fixture f = {0};
    ck_assert(ref_variant_tiny(1, &f.v));
    setup(&f, false);
    sl_top_tokens *t = sl_top_tokens_create(f.m);
    ck_assert_msg(t != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_top_tokens_add(t, f.m, f.in), -1); /* no pass yet */
    ck_assert_int_eq(sl_model_forward(f.m, f.in, f.target, NULL, NULL), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_msg(sl_top_tokens_add(t, f.m, f.in) == 0, "%s", sl_error());
    double largest = 0;
    int64_t at = -1;
    for (int64_t i = 0; i <= f.v.config.model_layers; i++) {
        double sum = 0;
        for (int kind = 0; kind < 2; kind++)
            check_top_list(&f, t, i, kind);
        for (int64_t r = 0; r < f.rows; r++) {
            sum += r % f.v.seq ? row_norm(&f, i, r) : 0;
            if (row_norm(&f, i, r) > largest)
                largest = row_norm(&f, i, r), at = i;
        }
        sum /= (double)(f.rows - f.v.batch);
        ck_assert_double_eq_tol(sl_top_tokens_mean(t, i), sum, 1e-12 * sum);
    }
    ck_assert_int_eq(sl_top_tokens_layer(t), at);
    sl_top_tokens_free(t);
    teardown(&f);
}
END_TEST

static double figure(const json_t *o, const char *key) {
    const json_t *x = json_object_get(o, key);
    ck_assert_msg(x != NULL, "%s is missing", key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

static void expect(const fixture *f, const json_t *o, const char *key, double want, double rel) {
    double got = figure(o, key);
    ck_assert_msg(isnan(want) ? isnan(got) : fabs(got - want) <= rel * fabs(want),
                  "%s: %s is %.9g, not %.9g", f->v.name, key, got, want);
}

/* ---- the same figures by plain loops */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct {
    double max, max_no_token0, m2, m2_share, kurtosis_h, kurtosis_h_no_token0, ratio;
    int m2_dim;
} plain_layer;

static double unevenness(int64_t n, const double *square) {
    double second = 0, fourth = 0;
    for (int64_t j = 0; j < n; j++) {
        second += square[j] / (double)n;
        fourth += square[j] * square[j] / (double)n;
    }
    return fourth / (second * second);
}

/* Share of the tokens but each window's first in which no |h_j| exceeds that of `dim`, nor equals it below `dim`. */
static double plain_share(const fixture *f, const float *h, int64_t dim) {
    double led = 0;
    for (int64_t t = 0; t < f->rows; t++) {
        const float *row = h + t * f->dim;
        bool first = t % f->v.seq == 0;
        for (int64_t j = 0; j < f->dim; j++)
            first = first || (j < dim ? fabsf(row[j]) >= fabsf(row[dim]) : fabsf(row[j]) > fabsf(row[dim]));
        led += !first;
    }
    return led / (double)(f->rows - f->v.batch);
}

static plain_layer plain_residual(const fixture *f, const float *h, double *all) {
    double mean[128], sorted[128], square[128], later[128], norm0 = 0, others = 0;
    plain_layer r = {0};
    memset(mean, 0, sizeof mean);
    memset(square, 0, sizeof square);
    memset(later, 0, sizeof later);
    for (int64_t t = 0; t < f->rows; t++) {
        double norm = 0;
        bool first = t % f->v.seq == 0;
        for (int64_t j = 0; j < f->dim; j++) {
            double x = fabs((double)h[t * f->dim + j]);
            all[j] += x / (double)f->rows;
            mean[j] += first ? 0 : x / (double)(f->rows - f->v.batch);
            square[j] += x * x / (double)f->rows;
            later[j] += first ? 0 : x * x / (double)f->rows;
            norm += x * x;
            r.max = fmax(r.max, x);
            if (!first)
                r.max_no_token0 = fmax(r.max_no_token0, x);
        }
        *(first ? &norm0 : &others) += sqrt(norm);
    }
    memcpy(sorted, mean, sizeof sorted);
    qsort(sorted, (size_t)f->dim, sizeof *sorted, ascending);
    r.m2 = sorted[f->dim - 1] / ((sorted[f->dim / 2] + sorted[(f->dim - 1) / 2]) / 2);
    for (int j = 0; j < f->dim; j++)
        r.m2_dim = mean[j] > mean[r.m2_dim] ? j : r.m2_dim;
    r.m2_share = plain_share(f, h, r.m2_dim);
    r.kurtosis_h = unevenness(f->dim, square);
    r.kurtosis_h_no_token0 = unevenness(f->dim, later);
    r.ratio = norm0 / (others / (double)(f->v.seq - 1));
    return r;
}

/* The streams between halves: where a norm before the feed-forward reads it, they are that tap; null in parallel blocks
 * and without a feed-forward. */
static void check_mid(const fixture *f, const json_t *o) {
    const sl_config *c = &f->v.config;
    double max = NAN, m2 = NAN, kurtosis = NAN, all[128] = {0};
    float *tap = malloc((size_t)(f->rows * f->dim) * sizeof *tap);
    bool before = c->model_norm_place == SL_PLACE_PRE || c->model_norm_place == SL_PLACE_SANDWICH;
    for (int i = 0; i < c->model_layers; i++) {
        const json_t *got = json_array_get(json_object_get(o, "layers"), (size_t)i);
        const float *h = sl_model_mid(f->m, i);
        ck_assert_int_eq(h != NULL, c->model_block == SL_BLOCK_SEQUENTIAL && sl_config_has_ffn(c));
        plain_layer l = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, 0};
        if (h) {
            l = plain_residual(f, h, all);
            if (before && sl_model_tap(f->m, i, SL_TAP_FFN_NORM_IN, tap))
                ck_assert_mem_eq(h, tap, (size_t)(f->rows * f->dim) * sizeof *tap);
            expect(f, got, "m2_dim_mid", l.m2_dim, 0);
        }
        expect(f, got, "max_mid", l.max, 0);
        expect(f, got, "max_no_token0_mid", l.max_no_token0, 0);
        expect(f, got, "m2_mid", l.m2, 1e-12);
        expect(f, got, "m2_share_mid", l.m2_share, 1e-12);
        expect(f, got, "kurtosis_h_mid", l.kurtosis_h, 1e-12);
        expect(f, got, "kurtosis_h_no_token0_mid", l.kurtosis_h_no_token0, 1e-12);
        max = fmax(max, l.max);
        m2 = fmax(m2, l.m2);
        kurtosis = fmax(kurtosis, l.kurtosis_h);
    }
    free(tap);
    expect(f, o, "max_mid", max, 0);
    expect(f, o, "m2_mid", m2, 1e-12);
    expect(f, o, "kurtosis_h_mid", kurtosis, 1e-12);
}

static void check_residual(const fixture *f, const json_t *o) {
    double all[128] = {0}, max = 0, without = 0, kurtosis = 0, later = 0, ratio = 0, m2 = 0, share = 0, sum = 0;
    int layers = (int)f->v.config.model_layers, where = 0;
    for (int i = 0; i <= layers; i++) {
        plain_layer l = plain_residual(f, sl_model_residual(f->m, i), all);
        const json_t *got = json_array_get(json_object_get(o, "layers"), (size_t)i);
        expect(f, got, "max", l.max, 0);
        expect(f, got, "m2", l.m2, 1e-12);
        expect(f, got, "m2_dim", l.m2_dim, 0);
        expect(f, got, "m2_share", l.m2_share, 1e-12);
        expect(f, got, "token0_norm_ratio", l.ratio, 1e-12);
        max = fmax(max, l.max);
        without = fmax(without, l.max_no_token0);
        kurtosis = fmax(kurtosis, l.kurtosis_h);
        later = fmax(later, l.kurtosis_h_no_token0);
        expect(f, got, "kurtosis_h_no_token0", l.kurtosis_h_no_token0, 1e-12);
        ratio = fmax(ratio, l.ratio);
        where = l.m2 > m2 ? i : where;
        share = l.m2 > m2 ? l.m2_share : share;
        m2 = fmax(m2, l.m2);
    }
    for (int64_t j = 0; j < f->dim; j++)
        sum += all[j];
    qsort(all, (size_t)f->dim, sizeof *all, ascending);
    expect(f, o, "max", max, 0);
    expect(f, o, "max_no_token0", without, 0);
    expect(f, o, "m2", m2, 1e-12); /* sums of a few thousand positive doubles */
    expect(f, o, "m2_layer", where, 0);
    expect(f, o, "m2_share", share, 1e-12);
    expect(f, o, "kurtosis_h", kurtosis, 1e-12);
    expect(f, o, "kurtosis_h_no_token0", later, 1e-12);
    expect(f, o, "token0_norm_ratio", ratio, 1e-12);
    expect(f, o, "top1_permille", 1000 * all[f->dim - 1] / sum, 1e-12);
}

static double dot(int64_t n, const float *x, const float *y) {
    double s = 0;
    for (int64_t i = 0; i < n; i++)
        s += (double)x[i] * y[i];
    return s;
}

/* Sums over queries 1.. of one head of one window. */
static void plain_head(const fixture *f, const sl_qkv_tap *t, const ref_attend *a, int64_t window, int64_t head,
                       double *att0, double *entropy) {
    const sl_config *c = &f->v.config;
    int64_t hd = sl_config_head_dim(c), kv = head / (c->model_heads / sl_config_kv_heads(c));
    const float *q = t->q + window * f->v.seq * t->ld + head * hd;
    const float *k = t->k + window * f->v.seq * t->ld + kv * hd;
    ref_c p[256], extra = 0;
    bool has_extra = a->sinks || a->key || strcmp(a->kind, "softmax1") == 0;
    for (int64_t i = 1; i < f->v.seq; i++) {
        int64_t first = a->window && i >= a->window ? i - a->window + 1 : 0, n = i - first + 1;
        for (int64_t j = first; j <= i; j++)
            p[j - first] = t->scale * dot(hd, q + i * t->ld, k + j * t->ld);
        ref_softcap(n, a->softcap, p);
        if (a->sinks)
            extra = a->sinks[head];
        if (a->key) {
            extra = 0;
            for (int64_t e = 0; e < hd; e++)
                extra += t->scale * q[i * t->ld + e] * a->key[kv * hd + e];
        }
        ref_attention_weights(a, n, has_extra ? &extra : NULL, p);
        *att0 += first == 0 ? creal(p[0]) : 0;
        for (int64_t j = 0; j < n; j++)
            *entropy -= creal(p[j]) > 0 ? creal(p[j]) * log(creal(p[j])) : 0;
    }
}

static double plain_value_ratio(const fixture *f, const sl_qkv_tap *t, int64_t kv) {
    int64_t hd = sl_config_head_dim(&f->v.config);
    double first = 0, others = 0;
    for (int64_t i = 0; i < f->rows; i++) {
        const float *v = t->v + i * t->ld + kv * hd;
        *(i % f->v.seq ? &others : &first) += sqrt(dot(hd, v, v));
    }
    return first / (others / (double)(f->v.seq - 1));
}

/* Tolerance: scores of up to |s| = 30 are off by about (head_dim + 1)*eps*|s| < 15*30*eps, probabilities by
 * twice that relative, plus seq*eps of the row sums. */
static void check_attention(const fixture *f, const json_t *o) {
    const sl_config *c = &f->v.config;
    double tolerance = (2 * 15 * 30 + (double)f->v.seq) * (double)FLT_EPSILON;
    double queries = (double)(f->v.batch * (f->v.seq - 1)), sums[4] = {0}, sinks = 0;
    double heads = (double)(c->model_layers * c->model_heads);
    double kv_heads = (double)(c->model_layers * sl_config_kv_heads(c));
    const sl_params *params = sl_model_params(f->m);
    ref_c *weights = ref_from_float(params->floats, params->w);
    ref_model ref = {.config = c, .table = params, .w = weights, .vocab = f->v.vocab, .batch = f->v.batch,
                     .seq = f->v.seq};
    for (int i = 0; i < c->model_layers; i++) {
        sl_qkv_tap tap = sl_model_qkv(f->m, i);
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d.self_attn.", i);
        ref_attend how = ref_model_attend(&ref, prefix);
        for (int64_t h = 0; h < c->model_heads; h++) {
            double att0 = 0, entropy = 0;
            for (int64_t w = 0; w < f->v.batch; w++)
                plain_head(f, &tap, &how, w, h, &att0, &entropy);
            sums[0] += att0 / queries / heads;
            sums[1] += entropy / queries / heads;
            sinks += att0 / queries > .3;
        }
        for (int64_t h = 0; h < sl_config_kv_heads(c); h++)
            sums[2] += plain_value_ratio(f, &tap, h) / kv_heads;
    }
    free(weights);
    expect(f, o, "att0", sums[0], tolerance);
    expect(f, o, "attention_entropy", sums[1], 2 * tolerance);
    expect(f, o, "value_norm_ratio", sums[2], 1e-12);
    expect(f, o, "sink_rate", sinks / heads, 0);
}

static void check_norms(const fixture *f, const json_t *o) {
    const sl_config *c = &f->v.config;
    int norms = sl_config_has_ffn(c) && c->model_block != SL_BLOCK_PARALLEL_SHARED ? 2 : 1;
    int64_t sink = json_integer_value(json_object_get(o, "m2_dim"));
    double least = INFINITY, at_sink = 0, sum = 0, square = 0, gates = 0;
    float *gate = calloc((size_t)(f->rows * f->dim), sizeof *gate);
    for (int i = 0; i <= c->model_layers; i++)
        for (int n = 0; n < (i < c->model_layers ? norms : 1); n++) {
            const float *w = sl_model_norm_weight(f->m, i, n);
            for (int64_t j = 0; w && i < c->model_layers && j < f->dim; j++) {
                least = fmin(least, fabs((double)w[j]));
                at_sink += j == sink ? fabs((double)w[j]) / (double)(norms * c->model_layers) : 0;
            }
            if (!sl_model_norm_gate(f->m, i, n, gate))
                continue;
            for (int64_t j = 0; j < f->rows * f->dim; j++) {
                sum += gate[j];
                square += (double)gate[j] * gate[j];
            }
            gates += (double)(f->rows * f->dim);
        }
    double mean = gates > 0 ? sum / gates : NAN;
    free(gate);
    expect(f, o, "lambda_min", least, 0);
    expect(f, o, "lambda_at_sink", at_sink, 1e-12);
    expect(f, o, "gate_mean", mean, 1e-12);
    expect(f, o, "gate_std", sqrt(square / gates - mean * mean), 1e-9); /* a difference of near values */
    ck_assert_int_eq(gates > 0, strncmp(sl_choices_norm[c->model_norm].name, "gated_", 6) == 0);
}

static void check_variant(fixture *f) {
    setup(f, false);
    add(f);
    json_t *o = sl_probe_result(f->p, f->m, true);
    ck_assert_ptr_nonnull(o);
    expect(f, o, "tokens", (double)f->rows, 0);
    check_residual(f, o);
    check_mid(f, o);
    check_attention(f, o);
    check_norms(f, o);
    json_decref(o);
    teardown(f);
}

START_TEST(figures_agree_with_plain_loops) {
    fixture f;
    for (int i = 0; ref_variant_tiny(i, &f.v); i += 3) /* 3 and the 16 options of a norm are coprime */
        check_variant(&f);
    for (int i = 1; ref_variant_middle(i, &f.v); i += 3)
        check_variant(&f);
    for (int i = 0; ref_variant_elsewhere(i, &f.v); i++)
        check_variant(&f);
    for (int i = 0; ref_variant_across(i, &f.v); i++)
        check_variant(&f);
}
END_TEST

START_TEST(parallel_halves_have_nothing_between_them) {
    fixture f;
    ref_variant_tiny(0, &f.v);
    f.v.config.model_block = SL_BLOCK_PARALLEL;
    check_variant(&f);
}
END_TEST

START_TEST(a_model_without_feed_forward_has_one_norm_a_block) {
    fixture f;
    ref_variant_tiny(0, &f.v);
    f.v.config.model_ffn = 0;
    check_variant(&f);
}
END_TEST

/* ---- exact equalities */

static char *result_text(fixture *f) {
    json_t *o = sl_probe_result(f->p, f->m, true);
    char *text = json_dumps(o, JSON_REAL_PRECISION(17));
    json_decref(o);
    ck_assert_ptr_nonnull(text);
    return text;
}

/* The last middle variant whose final norm is gated too. */
static void middle(ref_variant *v) {
    ref_variant next;
    for (int i = 1; ref_variant_middle(i, &next); i++)
        if (next.config.norm_gate_final)
            *v = next;
}

static char *run(int threads, bool training) {
    fixture f;
    middle(&f.v);
    sl_threads_set(threads);
    setup(&f, training);
    add(&f);
    char *text = result_text(&f);
    teardown(&f);
    return text;
}

START_TEST(threads_do_not_change_a_bit) {
    char *one = run(1, false);
    for (int threads = 2; threads <= 3; threads++) {
        char *more = run(threads, false);
        ck_assert_str_eq(one, more);
        free(more);
    }
    free(one);
}
END_TEST

START_TEST(training_and_inference_models_have_the_same_taps) {
    char *a = run(2, false), *b = run(2, true);
    ck_assert_str_eq(a, b);
    free(a);
    free(b);
}
END_TEST

START_TEST(reset_forgets_and_other_windows_add_up) {
    fixture f;
    middle(&f.v);
    setup(&f, false);
    add(&f);
    char *once = result_text(&f);
    ref_random_tokens(f.rows, f.v.vocab, 77, f.in);
    add(&f);
    json_t *o = sl_probe_result(f.p, f.m, false);
    expect(&f, o, "tokens", (double)(2 * f.rows), 0);
    json_decref(o);
    char *both = result_text(&f);
    ck_assert_str_ne(once, both);
    sl_probe_reset(f.p);
    ref_random_tokens(f.rows, f.v.vocab, 11, f.in);
    add(&f);
    char *again = result_text(&f);
    ck_assert_str_eq(once, again);
    free(once);
    free(both);
    free(again);
    teardown(&f);
}
END_TEST

START_TEST(profile_has_channels_and_weights) {
    fixture f;
    middle(&f.v);
    setup(&f, false);
    add(&f);
    json_t *brief = sl_probe_result(f.p, f.m, false), *o = sl_probe_result(f.p, f.m, true);
    json_t *layers = json_object_get(o, "layers");
    size_t last = (size_t)f.v.config.model_layers;
    ck_assert_uint_eq(json_array_size(layers), last + 1);
    for (size_t i = 0; i <= last; i++) {
        json_t *l = json_array_get(layers, i);
        ck_assert_int_eq(json_integer_value(json_object_get(l, "layer")), (json_int_t)i);
        ck_assert_uint_eq(json_array_size(json_object_get(l, "channel_mean_abs")), (size_t)f.dim);
        const char *key = i < last ? "norm_weight_ffn" : "norm_weight_final";
        ck_assert_uint_eq(json_array_size(json_object_get(l, key)), (size_t)f.dim);
        ck_assert_uint_eq(json_array_size(json_object_get(l, "att0")),
                          i < last ? (size_t)f.v.config.model_heads : 0);
        json_t *small = json_array_get(json_object_get(brief, "layers"), i);
        ck_assert_ptr_null(json_object_get(small, "channel_mean_abs"));
        ck_assert_ptr_null(json_object_get(small, key));
    }
    json_decref(brief);
    json_decref(o);
    teardown(&f);
}
END_TEST

static double at(const json_t *a, size_t i) { return json_number_value(json_array_get(a, i)); }

/* The entry of a channel in a list of sink dimensions, whose strengths (at `last`) must reach the bound; NULL: none. */
static const json_t *sink(const json_t *dims, double channel, size_t last) {
    const json_t *entry, *found = NULL;
    size_t i;
    json_array_foreach(dims, i, entry) {
        ck_assert_double_ge(at(entry, last), SL_SINK_STRENGTH);
        ck_assert(i == 0 || at(entry, 0) > at(json_array_get(dims, i - 1), 0));
        found = at(entry, 0) == channel ? entry : found;
    }
    return found;
}

/* Embeddings carry channel 7 far above the others through all layers: it is a sink dimension of each, its strength that
 * layer's M2. */
START_TEST(a_planted_sink_dimension_is_found) {
    fixture f;
    middle(&f.v);
    setup(&f, false);
    sl_params *p = sl_model_params(f.m);
    float *embed = p->w + p->tensor[sl_params_find(p, "model.embed_tokens.weight")].offset;
    for (int64_t v = 0; v < f.v.vocab; v++)
        embed[v * f.dim + 7] = 400;
    add(&f);
    json_t *o = sl_probe_result(f.p, f.m, false), *layers = json_object_get(o, "layers");
    double most = 0;
    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *l = json_array_get(layers, i), *entry = sink(json_object_get(l, "sink_dims"), 7, 1);
        ck_assert_double_eq(figure(l, "m2_dim"), 7);
        ck_assert_ptr_nonnull(entry);
        ck_assert_double_eq(at(entry, 1), figure(l, "m2"));
        most = fmax(most, figure(l, "m2"));
    }
    const json_t *entry = sink(json_object_get(o, "sink_dims"), 7, 2);
    ck_assert_ptr_nonnull(entry);
    ck_assert_double_eq(at(entry, 1), (double)json_array_size(layers));
    ck_assert_double_eq(at(entry, 2), most);
    json_decref(o);
    teardown(&f);
}
END_TEST

START_TEST(value_norms_per_head) {
    fixture f;
    middle(&f.v);
    setup(&f, false);
    add(&f);
    json_t *o = sl_probe_result(f.p, f.m, false);
    for (int i = 0; i < f.v.config.model_layers; i++) {
        sl_qkv_tap tap = sl_model_qkv(f.m, i);
        const json_t *ratios = json_object_get(json_array_get(json_object_get(o, "layers"), (size_t)i),
                                               "value_norm_ratios");
        ck_assert_int_eq((int64_t)json_array_size(ratios), sl_config_kv_heads(&f.v.config));
        for (int64_t h = 0; h < sl_config_kv_heads(&f.v.config); h++) {
            double want = plain_value_ratio(&f, &tap, h);
            ck_assert_double_le(fabs(at(ratios, (size_t)h) - want), 1e-12 * want);
        }
    }
    json_decref(o);
    teardown(&f);
}
END_TEST

/* Before anything is added every figure is null, none is an invented number. */
START_TEST(nothing_added_is_null) {
    fixture f;
    middle(&f.v);
    setup(&f, false);
    json_t *o = sl_probe_result(f.p, f.m, true);
    static const char *const keys[] = {"max", "max_no_token0", "m2", "m2_layer", "m2_dim", "top1_permille",
                                       "kurtosis_h", "att0", "sink_rate", "attention_entropy", "gate_std",
                                       "value_norm_ratio", "token0_norm_ratio", "gate_mean"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        ck_assert_msg(json_is_null(json_object_get(o, keys[i])), "%s", keys[i]);
    expect(&f, o, "tokens", 0, 0);
    json_decref(o);
    teardown(&f);
}
END_TEST

static Suite *suite(void) {
    Suite *s = suite_create("probe_model");
    TCase *t = tcase_create("whole models");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, top_tokens);
    tcase_add_test(t, figures_agree_with_plain_loops);
    tcase_add_test(t, parallel_halves_have_nothing_between_them);
    tcase_add_test(t, a_model_without_feed_forward_has_one_norm_a_block);
    tcase_add_test(t, threads_do_not_change_a_bit);
    tcase_add_test(t, training_and_inference_models_have_the_same_taps);
    tcase_add_test(t, reset_forgets_and_other_windows_add_up);
    tcase_add_test(t, profile_has_channels_and_weights);
    tcase_add_test(t, a_planted_sink_dimension_is_found);
    tcase_add_test(t, value_norms_per_head);
    tcase_add_test(t, nothing_added_is_null);
    suite_add_tcase(s, t);
    return s;
}

int main(void) {
    sl_threads_set(2);
    return run_suite(suite());
}
