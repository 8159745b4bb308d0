/* The measures of probe/detail.h, but for sink dimensions (sink_dims.c) and anchors (probe_anchors.c), on planted cases
 * whose figures are known, on random ones against plain loops in double, and on whole models. */
#include "base/err.h"
#include "base/threads.h"
#include "measure.h"
#include "probe/detail.h"
#include "probe/probe.h"
#include "ref/variants.h"
#include "suite.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- contribution: 4 query heads on 2 key/value heads, width 10 */

enum { H = 4, KV = 2, HD = 6, WIDTH = H * HD, LD = (H + 2 * KV) * HD, DIM = 10, SEQ = 13, WIN = 3 };

typedef struct {
    sl_contribution_rows c;
    float *qkv, *core, *out_in, *w;
    double p0[WIN * SEQ * H];
} attention_case;

/* Attention in double; core rounded to float as the engine's is. */
static void fill_core(attention_case *f) {
    for (int row = 0; row < WIN * SEQ; row++)
        for (int h = 0; h < H; h++) {
            int window = row / SEQ, t = row % SEQ, kv = h / (H / KV);
            double p[SEQ], sum = 0, top = -INFINITY, out[HD] = {0};
            for (int s = 0; s <= t; s++) {
                double score = 0;
                for (int i = 0; i < HD; i++)
                    score += (double)f->qkv[row * LD + h * HD + i] *
                             f->qkv[(window * SEQ + s) * LD + (H + kv) * HD + i];
                p[s] = .5 * score;
                top = fmax(top, p[s]);
            }
            for (int s = 0; s <= t; s++)
                sum += p[s] = exp(p[s] - top);
            f->p0[row * H + h] = p[0] / sum;
            for (int s = 0; s <= t; s++)
                for (int i = 0; i < HD; i++)
                    out[i] += p[s] / sum * f->qkv[(window * SEQ + s) * LD + (H + KV + kv) * HD + i];
            for (int i = 0; i < HD; i++)
                f->core[row * WIDTH + h * HD + i] = (float)out[i];
        }
}

static void attention_case_new(attention_case *f, float *qkv) {
    *f = (attention_case){.qkv = qkv, .core = floats(WIN * SEQ * WIDTH), .w = random_floats(DIM * WIDTH, 3)};
    f->out_in = f->core;
    f->c.rows = (sl_attention_rows){.q = qkv, .k = qkv + H * HD, .v = qkv + (H + KV) * HD, .ld = LD, .scale = .5f,
                                    .windows = WIN, .seq = SEQ, .heads = H, .kv_heads = KV, .head_dim = HD};
    fill_core(f);
}

static void attention_case_free(attention_case *f) {
    if (f->out_in != f->core)
        sl_free(f->out_in);
    sl_free(f->qkv), sl_free(f->core), sl_free(f->w);
}

static sl_contribution contribution_of(attention_case *f, sl_share head[H]) {
    f->c.core = f->core, f->c.out_in = f->out_in, f->c.w_out = f->w, f->c.dim = DIM;
    sl_contribution s = {.head = head};
    memset(head, 0, H * sizeof *head);
    double *parts = doubles(sl_contribution_parts(&f->c));
    float *scratch = floats(sl_threads() * sl_contribution_thread_floats(&f->c));
    sl_contribution_add(&s, kernels(), &f->c, parts, scratch);
    sl_free(parts);
    sl_free(scratch);
    return s;
}

/* |W x| of the elements gate * x in double. */
static double projected(const attention_case *f, const double *x) {
    double square = 0;
    for (int r = 0; r < DIM; r++) {
        double y = 0;
        for (int i = 0; i < WIDTH; i++)
            y += (double)f->w[r * WIDTH + i] * x[i];
        square += y * y;
    }
    return sqrt(square);
}

/* Tolerance: scores |s| < 40 in float are off by (HD + 1)*eps*40, probabilities by twice that relative, W x (WIDTH
 * terms that may cancel to a tenth of their size) by 10*WIDTH*eps. */
static void check_contribution(attention_case *f) {
    double tolerance = (2 * (HD + 1) * 40 + 10 * WIDTH) * (double)FLT_EPSILON;
    sl_share head[H], want[H] = {{0}}, out = {0};
    sl_contribution s = contribution_of(f, head);
    for (int row = 0; row < WIN * SEQ; row++) {
        double part[WIDTH], whole[WIDTH];
        const float *v0 = f->qkv + row / SEQ * SEQ * LD + (H + KV) * HD;
        if (row % SEQ == 0)
            continue;
        for (int h = 0; h < H; h++) {
            double pp = 0, ww = 0;
            for (int i = 0; i < HD; i++) {
                int at = row * WIDTH + h * HD + i;
                double gate = f->out_in == f->core ? 1 : (double)f->out_in[at] / f->core[at];
                double x = f->p0[row * H + h] * v0[h / (H / KV) * HD + i];
                pp += x * x, ww += (double)f->core[at] * f->core[at];
                part[h * HD + i] = gate * x, whole[h * HD + i] = f->out_in[at];
            }
            want[h].part += sqrt(pp), want[h].whole += sqrt(ww);
        }
        out.part += projected(f, part), out.whole += projected(f, whole);
    }
    for (int h = 0; h < H; h++)
        ck_close(sl_share_of(head[h]), sl_share_of(want[h]), tolerance);
    ck_close(sl_share_of(s.projected), sl_share_of(out), tolerance);
}

START_TEST(contribution_agrees_with_plain_loops) {
    attention_case f;
    attention_case_new(&f, random_floats(WIN * SEQ * LD, 2));
    check_contribution(&f);
    float *gate = random_floats(WIN * SEQ * WIDTH, 4);
    f.out_in = floats(WIN * SEQ * WIDTH);
    for (int i = 0; i < WIN * SEQ * WIDTH; i++)
        f.out_in[i] = f.core[i] / (1 + expf(gate[i]));
    check_contribution(&f);
    sl_free(gate);
    attention_case_free(&f);
}
END_TEST

/* Heads 0 and 1 see token 0 alone (score 800): share 1. The others see all alike; their token 0 has no value: share
 * 0. */
START_TEST(planted_sink_token) {
    attention_case f;
    float *qkv = random_floats(WIN * SEQ * LD, 5);
    for (int row = 0; row < WIN * SEQ; row++) {
        float *q = qkv + row * LD, *k = q + H * HD, *v = q + (H + KV) * HD;
        memset(q, 0, WIDTH * sizeof *q);
        memset(k, 0, HD * KV * sizeof *k);
        q[0] = q[HD] = 40;
        k[0] = row % SEQ ? 0 : 40;
        for (int i = 0; row % SEQ == 0 && i < HD; i++)
            v[HD + i] = 0;
    }
    attention_case_new(&f, qkv);
    sl_share head[H];
    sl_contribution s = contribution_of(&f, head);
    ck_close(sl_share_of(head[0]), 1, 4 * (double)FLT_EPSILON);
    ck_close(sl_share_of(head[1]), 1, 4 * (double)FLT_EPSILON);
    ck_assert_double_eq(sl_share_of(head[2]), 0);
    ck_assert_double_eq(sl_share_of(head[3]), 0);
    ck_assert_double_gt(sl_share_of(s.projected), 0);
    attention_case_free(&f);
}
END_TEST

/* ---- outliers */

typedef struct {
    sl_outliers sums;
    double *window;
    uint64_t *bins;
} outlier_case;

static outlier_case outliers_new(int64_t dim, int64_t windows) {
    return (outlier_case){
        .sums = {.dim = dim, .sum_sq = doubles(dim), .bins = sl_alloc(SL_OUTLIER_BINS * sizeof(uint64_t), "test")},
        .window = doubles(3 * windows),
        .bins = sl_alloc((size_t)sl_threads() * SL_OUTLIER_BINS * sizeof(uint64_t), "test")};
}

static sl_outlier_figures outliers_take(outlier_case *o, const sl_outlier_rows *x) {
    double *scratch = doubles(2 * x->dim);
    sl_outliers_add(&o->sums, x, o->window, o->bins);
    sl_outlier_figures f = sl_outliers_measure(&o->sums, scratch);
    sl_free(scratch);
    return f;
}

static void outliers_free(outlier_case *o) {
    sl_free(o->sums.sum_sq), sl_free(o->sums.bins), sl_free(o->window), sl_free(o->bins);
}

/* 10 channels of +-1, channel 7 of +-20, token 0 of the second window has one 500; rows lie 12 apart. */
START_TEST(planted_outliers) {
    enum { N = 10, STEP = 12, ROWS = 2 * 8 };
    float x[ROWS * STEP];
    for (int t = 0; t < ROWS; t++)
        for (int c = 0; c < STEP; c++)
            x[t * STEP + c] = c >= N ? NAN : (t % 2 ? 1.f : -1.f) * (c == 7 ? 20 : 1);
    outlier_case o = outliers_new(N, 2);
    sl_outlier_rows rows = {x, 2, 8, N, STEP};
    sl_outlier_figures f = outliers_take(&o, &rows);
    ck_assert_double_eq(f.max, 20);
    ck_assert_double_eq(f.max_no_token0, 20);
    ck_close(f.max_over_median, 20, 1.0 / 128);
    ck_assert_double_eq(f.channel_max_over_median, 20);
    ck_assert_int_eq(f.channel, 7);
    ck_close(f.channels_over_6, .1, DBL_EPSILON);
    double second = (9 + 400) / 10.0, fourth = (9 + 160000) / 10.0; /* of a window's values, mean 0 */
    ck_close(f.kurtosis, fourth / (second * second), 1e-14);
    ck_close(f.kurtosis_h, fourth / (second * second), 1e-14);
    outliers_free(&o);
    x[8 * STEP + 1] = 500;
    o = outliers_new(N, 2);
    f = outliers_take(&o, &rows);
    ck_assert_double_eq(f.max, 500);
    ck_assert_double_eq(f.max_no_token0, 20);
    x[3 * STEP] = NAN;
    ck_assert_double_nan(outliers_take(&o, &rows).max);
    ck_assert_double_nan(outliers_take(&o, &rows).max_over_median);
    outliers_free(&o);
}
END_TEST

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

START_TEST(random_outliers_agree_with_plain_loops) {
    enum { N = 133, ROWS = 3 * 11 };
    float *x = random_floats(ROWS * N, 6);
    static double magnitude[ROWS * N];
    double kurtosis = 0;
    for (int i = 0; i < ROWS * N; i++)
        magnitude[i] = fabs((double)x[i]);
    for (int w = 0; w < 3; w++) {
        double mean = 0, second = 0, fourth = 0, n = 11 * N;
        for (int i = 0; i < 11 * N; i++)
            mean += x[w * 11 * N + i] / n;
        for (int i = 0; i < 11 * N; i++) {
            second += pow(x[w * 11 * N + i] - mean, 2) / n;
            fourth += pow(x[w * 11 * N + i] - mean, 4) / n;
        }
        kurtosis += fourth / second / second / 3;
    }
    qsort(magnitude, ROWS * N, sizeof *magnitude, ascending);
    outlier_case o = outliers_new(N, 3);
    sl_outlier_figures f = outliers_take(&o, &(sl_outlier_rows){x, 3, 11, N, N});
    ck_assert_double_eq(f.max, magnitude[ROWS * N - 1]);
    ck_close(f.max_over_median, f.max / magnitude[ROWS * N / 2], 1.0 / 128);
    ck_close(f.kurtosis, kurtosis, 1e-12);
    outliers_free(&o);
    sl_free(x);
}
END_TEST

/* ---- gates */

/* Token 0 would break both. */
START_TEST(gate_falls_with_activation) {
    enum { N = 40, ROWS = 2 * 6 };
    float y[ROWS * N], gate[ROWS * N];
    double channel[2 * N] = {0};
    sl_gate_sums parts[2];
    sl_gate_score g = {.dim = N, .channel_y = channel, .channel_gate = channel + N};
    for (int i = 0; i < ROWS * N; i++) {
        bool first = i / N % 6 == 0;
        y[i] = first ? 1000 : (float)(i % N + 1) / 16 * (i % 3 ? 1 : -1);
        gate[i] = first ? 1 : 1 - fabsf(y[i]) / 4; /* exact */
    }
    ck_assert_int_eq(sl_gate_score_parts(N), 2);
    sl_gate_score_add(&g, 2, 6, y, gate, parts);
    ck_close(sl_gate_score_elements(&g), -1, 1e-12);
    ck_close(sl_gate_score_channels(&g), -1, 1e-12);
    ck_assert_double_eq(g.sums.n, 10 * N);
    ck_assert_double_eq(sl_gate_bin_edge(8), 1);
    ck_assert_double_eq(sl_gate_bin_edge(9), 2);
    ck_assert_double_eq(g.sums.bin_count[8], 10 * 16); /* 16/16 .. 31/16 */
    ck_close(g.sums.bin_gate[8] / g.sums.bin_count[8], 1 - 23.5 / 64, 1e-14);
    ck_assert_double_eq(g.sums.bin_count[15], 0);
}
END_TEST

START_TEST(a_constant_gate_has_no_correlation) {
    enum { N = 3 };
    float *y = random_floats(8 * N, 7), gate[8 * N];
    double channel[2 * N] = {0};
    sl_gate_sums parts[1];
    sl_gate_score g = {.dim = N, .channel_y = channel, .channel_gate = channel + N};
    for (int i = 0; i < 8 * N; i++)
        gate[i] = .3f;
    sl_gate_score_add(&g, 1, 8, y, gate, parts);
    ck_assert_double_nan(sl_gate_score_elements(&g));
    ck_assert_double_nan(sl_gate_score_channels(&g));
    sl_free(y);
}
END_TEST

/* ---- singular directions */

/* M = 7 a b^T + 3 c d^T with unit a, c orthogonal, b, d orthogonal. The iteration ends when sigma moves by 1e-12: the
 * angle's square, so the angle is some 1e-6 (times the root of 1/(1 - (3/7)^4)). */
START_TEST(planted_singular_direction) {
    enum { R = 37, C = 50 };
    float w[R * C], a[R] = {0};
    double u[R], scratch[2 * R + C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) {
            double first = (r == 3 ? .6 : r == 20 ? -.8 : 0) * (c == 49 ? 1 : 0);
            double second = (r == 3 ? .8 : r == 20 ? .6 : 0) * (c == 1 ? 1 : 0);
            w[r * C + c] = (float)(7 * first + 3 * second);
        }
    a[3] = .6f, a[20] = -.8f;
    sl_matrix m = {w, R, C};
    sl_linear map = sl_linear_matrix(&m);
    sl_singular s = sl_leading_singular(&map, u, scratch);
    ck_assert(s.converged);
    ck_close(s.sigma, 7, (double)FLT_EPSILON);
    ck_close(s.second, 3, 2 * (double)FLT_EPSILON);
    ck_close(sl_alignment(R, u, a), 1, 1e-6);
    a[3] = .8f, a[20] = .6f;
    ck_assert_double_le(sl_alignment(R, u, a), 1e-5);
    memset(w, 0, sizeof w);
    s = sl_leading_singular(&map, u, scratch);
    ck_assert_double_eq(s.sigma, 0);
    ck_assert_double_nan(sl_alignment(R, u, a));
}
END_TEST

enum { D = 24, ROWS = 4 * 200 };

typedef struct {
    sl_block_map map;
    double *memory;
} block_case;

static block_case block_fit(const float *h, const float *next) {
    block_case b = {.memory = doubles(2 * D * D + D)};
    b.map = (sl_block_map){.dim = D, .gram = b.memory, .cross = b.memory + D * D, .solved = b.memory + 2 * D * D};
    sl_block_map_add(&b.map, 4, ROWS / 4, h, next);
    return b;
}

/* next = h + 9 e_5 (h_2 - h_3)/sqrt(2), but for token 0, which has 1e4 somewhere else. */
static void plant_block(const float *h, float *next) {
    for (int t = 0; t < ROWS; t++)
        for (int c = 0; c < D; c++) {
            double x = h[t * D + c];
            if (c == 5)
                x += 9 * ((double)h[t * D + 2] - h[t * D + 3]) / sqrt(2);
            next[t * D + c] = t % (ROWS / 4) ? (float)x : c == 11 ? 1e4f : 0;
        }
}

/* The fit of B is exact but for the ridge, 1e-3 of the mean eigenvalue: B is scaled by g/(g + 1e-3) per direction of
 * the tokens' covariance, whose eigenvalues g (mean 1) lie in (1 -+ sqrt(24/796))^2 = .68 .. 1.38: sigma within
 * 1.5e-3 (the identity beside B only helps). The leading left vector of I + 9 e5 b^T, b orthogonal to e5: in the
 * plane of e5 and b it has M = [1 9; 0 1]: sigma = (9 + sqrt(85))/2, u = (sigma, 1)/norm up to order. */
START_TEST(a_planted_block_is_recovered) {
    float *h = random_floats(ROWS * D, 8), *next = floats(ROWS * D), u_want[D] = {0};
    double u[D], scratch[3 * D], sigma = (9 + sqrt(85)) / 2;
    plant_block(h, next);
    block_case b = block_fit(h, next);
    ck_assert(sl_block_map_solve(&b.map));
    sl_linear map = sl_linear_block(&b.map);
    sl_singular s = sl_leading_singular(&map, u, scratch);
    ck_close(s.sigma, sigma, 2e-3);
    u_want[5] = (float)sigma, u_want[2] = (float)sqrt(.5), u_want[3] = -u_want[2];
    ck_close(sl_alignment(D, u, u_want), 1, 1e-5);
    sl_free(b.memory), sl_free(h), sl_free(next);
}
END_TEST

/* <M x, y> = <x, M^T y> for all maps, and the chain of a map with itself is its square. */
START_TEST(transposed_maps_are_transposed) {
    float *h = random_floats(ROWS * D, 9), *next = random_floats(ROWS * D, 10);
    block_case b = block_fit(h, next);
    ck_assert(sl_block_map_solve(&b.map));
    sl_block_map two[2] = {b.map, b.map};
    double scratch[D], x[D], y[D], mx[D], my[D], mmx[D];
    sl_block_chain chain = {two, 2, scratch};
    sl_linear maps[2] = {sl_linear_block(&b.map), sl_linear_chain(&chain)};
    for (int i = 0; i < D; i++)
        x[i] = h[i], y[i] = next[i];
    for (int k = 0; k < 2; k++) {
        double left = 0, right = 0;
        maps[k].apply(maps[k].map, x, mx);
        maps[k].transposed(maps[k].map, y, my);
        for (int i = 0; i < D; i++)
            left += mx[i] * y[i], right += x[i] * my[i];
        ck_assert_double_le(fabs(left - right), 1e-12 * (fabs(left) + D));
    }
    maps[0].apply(maps[0].map, x, mx);
    maps[0].apply(maps[0].map, mx, mmx);
    maps[1].apply(maps[1].map, x, mx);
    for (int i = 0; i < D; i++)
        ck_assert_double_eq(mx[i], mmx[i]);
    sl_free(b.memory), sl_free(h), sl_free(next);
}
END_TEST

START_TEST(a_block_without_tokens_is_not_solved) {
    float *zero = floats(ROWS * D);
    block_case b = block_fit(zero, zero);
    ck_assert(!sl_block_map_solve(&b.map));
    sl_free(b.memory);
    zero[3 * D] = NAN;
    b = block_fit(zero, zero);
    ck_assert(!sl_block_map_solve(&b.map));
    sl_free(b.memory), sl_free(zero);
}
END_TEST

/* ---- whole models */

/* Two outputs of each matrix that adds to the stream stand out, as trained ones have it: of random matrices the
 * singular values lie close, and the iterations for them would take most of these tests' time. */
static void separate(sl_params *p) {
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = p->tensor + i;
        if (!strstr(t->name, "down_proj") && !strstr(t->name, "o_proj"))
            continue;
        for (int64_t k = 0; k < 2 * t->shape[1]; k++)
            p->w[t->offset + k] *= k < t->shape[1] ? 16 : 4;
    }
}

/* The measures of a model of this variant as text; training: one that has no such taps. */
static char *model_text(const ref_variant *v, int threads, bool training, int passes) {
    int64_t rows = v->batch * v->seq;
    int32_t *in = calloc((size_t)rows, sizeof *in);
    sl_sink_dims *sinks = calloc((size_t)v->config.model_layers + 1, sizeof *sinks);
    sl_threads_set(threads);
    sl_model *m =
        sl_model_create(&v->config, v->vocab, v->batch, v->seq, (training ? SL_MODEL_TRAINING : 0) | SL_MODEL_TAPS);
    ck_assert_msg(m != NULL, "%s: %s", v->name, sl_error());
    ref_randomise(sl_model_params(m), 3);
    separate(sl_model_params(m));
    for (int64_t i = 0; i <= v->config.model_layers; i++)
        sinks[i] = (sl_sink_dims){2, {1, 3}, {6, 7}};
    sl_detail *d = sl_detail_create(m, (1u << SL_MEASURES) - 1, passes * v->batch, sinks);
    ck_assert_msg(d != NULL, "%s: %s", v->name, sl_error());
    ck_assert_int_eq(sl_detail_add(d, m), -1); /* before a pass */
    for (int i = 0; i < passes; i++) {
        ref_random_tokens(rows, v->vocab, 11 + (uint64_t)i, in);
        ck_assert_int_eq(sl_model_forward(m, in, NULL, NULL, NULL), 0);
        ck_assert_msg(sl_detail_add(d, m) == 0, "%s", sl_error());
    }
    json_t *o = sl_detail_result(d);
    ck_assert_msg(o != NULL, "%s", sl_error());
    char *text = json_dumps(o, JSON_REAL_PRECISION(17));
    json_decref(o);
    sl_detail_free(d);
    sl_model_free(m);
    free(in), free(sinks);
    sl_threads_set(2);
    return text;
}

START_TEST(threads_do_not_change_a_bit) {
    ref_variant v;
    for (int i = 1; ref_variant_middle(i, &v); i++) {
        char *one = model_text(&v, 1, false, 2), *three = model_text(&v, 3, false, 2);
        ck_assert_str_eq(one, three);
        free(one), free(three);
    }
}
END_TEST

static const json_t *value_at(const json_t *o, const char *measure, size_t layer, const char *key, const char *inner) {
    const json_t *x = json_object_get(json_array_get(json_object_get(o, measure), layer), key);
    return inner ? json_object_get(x, inner) : x;
}

/* Every figure that a model of this kind has is there; what it has not is null. */
static void check_model(const ref_variant *v) {
    char *text = model_text(v, 2, false, 1);
    json_t *o = json_loads(text, 0, NULL);
    size_t layers = (size_t)v->config.model_layers;
    bool ffn = sl_config_has_ffn(&v->config);
    for (size_t i = 0; i < layers; i++) {
        ck_assert(json_is_real(value_at(o, "contribution", i, "projected", NULL)));
        ck_assert_uint_eq(json_array_size(value_at(o, "contribution", i, "head", NULL)),
                          (size_t)v->config.model_heads);
        ck_assert_msg(json_is_real(value_at(o, "norms", i, "attn", "out")), "%s", v->name);
        bool two_norms = ffn && v->config.model_block != SL_BLOCK_PARALLEL_SHARED;
        ck_assert(json_is_real(value_at(o, "norms", i, "ffn", "in")) == two_norms);
        ck_assert_uint_eq(json_array_size(value_at(o, "dynamics", i, "dims", NULL)), 2);
        bool plain = v->config.model_residual == SL_RESIDUAL_PLAIN;
        ck_assert(json_is_real(value_at(o, "singular", i, "block", "cos_state")) == plain);
        ck_assert(json_is_object(value_at(o, "singular", i, "token", NULL)) == plain);
        ck_assert(json_is_real(value_at(o, "depth", i, "attn", "entropy")) == !plain);
        ck_assert(json_is_object(value_at(o, "depth", i, "ffn", "in")) == (!plain && ffn));
        bool down = ffn && v->config.model_experts == 0;
        ck_assert(json_is_real(value_at(o, "singular", i, "down", "sigma")) == down);
        ck_assert(json_is_real(value_at(o, "outliers", i, "attention_output", "kurtosis")));
        ck_assert(json_is_real(value_at(o, "outliers", i, "down_input", "kurtosis")) == down);
        bool gated = strncmp(sl_choices_norm[v->config.model_norm].name, "gated_", 6) == 0;
        ck_assert(json_is_real(value_at(o, "gates", i, "attn", "elements")) == gated);
    }
    ck_assert_uint_eq(json_array_size(json_object_get(o, "contribution")), layers);
    ck_assert_uint_eq(json_array_size(json_object_get(o, "norms")), layers + 1);
    ck_assert(json_is_real(value_at(o, "norms", layers, "attn", "out")));
    ck_assert(json_is_real(value_at(o, "outliers", layers, "norm_attn", "max")));
    ck_assert(json_is_null(value_at(o, "outliers", layers, "q", NULL)));
    json_decref(o);
    free(text);
}

START_TEST(models_of_all_kinds_have_their_figures) {
    ref_variant v;
    for (int i = 0; ref_variant_tiny(i, &v); i += 3)
        check_model(&v);
    for (int i = 0; ref_variant_elsewhere(i, &v); i++)
        check_model(&v);
    for (int i = 0; ref_variant_across(i, &v); i++)
        check_model(&v);
    for (int i = 1; ref_variant_middle(i, &v); i++) {
        check_model(&v);
        v.config.precision = SL_PRECISION_BF16;
        check_model(&v);
    }
}
END_TEST

/* A training model keeps nothing for the measures: what needs it is null, and the rest is as in inference. */
START_TEST(a_training_model_has_what_its_own_taps_give) {
    ref_variant v;
    ref_variant_middle(1, &v);
    char *text = model_text(&v, 2, true, 1);
    json_t *o = json_loads(text, 0, NULL);
    ck_assert(json_is_null(value_at(o, "contribution", 0, "projected", NULL)));
    ck_assert(json_is_null(value_at(o, "norms", 0, "attn", NULL)));
    ck_assert(json_is_real(value_at(o, "singular", 0, "block", "sigma")));
    json_decref(o);
    free(text);
}
END_TEST

static Suite *suite(void) {
    Suite *s = suite_create("probe_detail");
    TCase *t = tcase_create("measures");
    tcase_add_test(t, contribution_agrees_with_plain_loops);
    tcase_add_test(t, planted_sink_token);
    tcase_add_test(t, planted_outliers);
    tcase_add_test(t, random_outliers_agree_with_plain_loops);
    tcase_add_test(t, gate_falls_with_activation);
    tcase_add_test(t, a_constant_gate_has_no_correlation);
    tcase_add_test(t, planted_singular_direction);
    tcase_add_test(t, a_planted_block_is_recovered);
    tcase_add_test(t, transposed_maps_are_transposed);
    tcase_add_test(t, a_block_without_tokens_is_not_solved);
    suite_add_tcase(s, t);
    t = tcase_create("whole models");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, threads_do_not_change_a_bit);
    tcase_add_test(t, models_of_all_kinds_have_their_figures);
    tcase_add_test(t, a_training_model_has_what_its_own_taps_give);
    suite_add_tcase(s, t);
    return s;
}

int main(void) {
    sl_threads_set(2);
    return run_suite(suite());
}
