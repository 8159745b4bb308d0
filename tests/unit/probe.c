/* Probe measures on constructed activations whose figures are known, and on random ones against plain
 * loops in double. */
#include "base/threads.h"
#include "measure.h"
#include "probe/measures.h"
#include "suite.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- profiles of channels */

START_TEST(m2_is_largest_over_median) {
    double x[5] = {1, 10, 3, 2, 4}, even[4] = {1, 2, 4, 9}, scratch[5];
    int64_t dim;
    ck_assert_double_eq(sl_m2(5, x, scratch, &dim), 10.0 / 3);
    ck_assert_int_eq(dim, 1);
    ck_assert_double_eq(sl_m2(4, even, scratch, &dim), 3); /* 9 over (2+4)/2 */
    ck_assert_int_eq(dim, 3);
    ck_assert_double_eq(sl_m2(1, x, scratch, &dim), 1);
    ck_assert_int_eq(dim, 0);
}
END_TEST

START_TEST(m2_of_equals_takes_the_lowest_channel) {
    double x[6] = {1, 7, 1, 7, 1, 1}, scratch[6];
    int64_t dim;
    ck_assert_double_eq(sl_m2(6, x, scratch, &dim), 7);
    ck_assert_int_eq(dim, 1);
}
END_TEST

START_TEST(m2_without_a_median_is_nan) {
    double zero[3] = {0, 0, 5}, broken[3] = {1, NAN, 2}, scratch[3];
    int64_t dim;
    ck_assert_double_nan(sl_m2(3, zero, scratch, &dim));
    ck_assert_int_eq(dim, -1);
    ck_assert_double_nan(sl_m2(3, broken, scratch, &dim));
    ck_assert_int_eq(dim, -1);
    ck_assert_double_nan(sl_m2(0, zero, scratch, &dim));
}
END_TEST

START_TEST(top1_takes_a_thousandth_of_the_channels_rounded_up) {
    double x[2001], scratch[2001];
    for (int j = 0; j < 2001; j++)
        x[j] = 1;
    ck_assert_double_eq(sl_top1_permille(1000, x, scratch), 1);
    ck_assert_double_eq(sl_top1_permille(10, x, scratch), 100);
    ck_close(sl_top1_permille(2001, x, scratch), 3000.0 / 2001, 4 * DBL_EPSILON);
    x[17] = 1001; /* 1001 of 2000 */
    ck_assert_double_eq(sl_top1_permille(1000, x, scratch), 500.5);
    x[3] = NAN;
    ck_assert_double_nan(sl_top1_permille(10, x, scratch));
}
END_TEST

START_TEST(kurtosis_runs_from_1_to_the_number_of_channels) {
    double flat[7] = {3, 3, 3, 3, 3, 3, 3}, spike[7] = {0, 0, 0, 5, 0, 0, 0};
    ck_assert_double_eq(sl_kurtosis_h(7, flat), 1);
    ck_assert_double_eq(sl_kurtosis_h(7, spike), 7);
    double two[4] = {1, 1, 0, 0}; /* half of the channels carry all */
    ck_assert_double_eq(sl_kurtosis_h(4, two), 2);
}
END_TEST

/* ---- residual stream */

typedef struct {
    sl_residual sums;
    double *memory, *norms;
    int32_t *leaders;
    float *max;
} residual_fixture;

static residual_fixture residual_new(int64_t dim, int64_t seq, int64_t windows) {
    residual_fixture f = {.memory = doubles(5 * dim), .norms = doubles(2 * windows),
                          .leaders = calloc((size_t)(windows * seq), sizeof *f.leaders), .max = floats(2 * dim)};
    f.sums = (sl_residual){.dim = dim, .seq = seq, .sum_abs0 = f.memory, .sum_sq0 = f.memory + dim,
                           .sum_abs = f.memory + 2 * dim, .sum_sq = f.memory + 3 * dim,
                           .led = f.memory + 4 * dim, .max0 = f.max, .max = f.max + dim};
    return f;
}

static void residual_free(residual_fixture *f) {
    sl_free(f->memory);
    sl_free(f->norms);
    free(f->leaders);
    sl_free(f->max);
}

/* windows x seq rows of dim: value everywhere. */
static float *constant_rows(int64_t windows, int64_t seq, int64_t dim, float value) {
    float *h = floats(windows * seq * dim);
    for (int64_t i = 0; i < windows * seq * dim; i++)
        h[i] = value;
    return h;
}

static sl_residual_figures measure(const sl_residual *r) {
    double *scratch = doubles(2 * r->dim);
    sl_residual_figures f = sl_residual_measure(r, scratch);
    sl_free(scratch);
    return f;
}

enum { W = 3, T = 7, D = 131 }; /* odd, and D is not a multiple of a vector or of a block of channels */

/* Channel 5 makes M2 by two tokens of a window alone, of which the second has an equal in a lower channel. */
START_TEST(a_few_tokens_make_m2_but_not_its_share) {
    float *h = constant_rows(W, T, D, 1);
    for (int64_t w = 0; w < W; w++) {
        float *row = h + w * T * D;
        row[5] = 500; /* token 0 does not count */
        row[2 * D + 5] = 90;
        row[3 * D + 5] = row[3 * D + 4] = -50;
    }
    residual_fixture r = residual_new(D, T, W);
    sl_residual_add(&r.sums, kernels(), W, h, r.norms, r.leaders);
    sl_residual_figures f = measure(&r.sums);
    ck_assert_int_eq(f.m2_dim, 5);
    ck_close(f.m2, (90 + 50 + T - 3) / (double)(T - 1), 2 * T * W * DBL_EPSILON);
    ck_assert_double_eq(f.m2_share, 1.0 / (T - 1));
    residual_free(&r);
    sl_free(h);
}
END_TEST

START_TEST(one_large_channel_is_a_residual_sink) {
    float *h = constant_rows(W, T, D, 1);
    for (int64_t t = 0; t < W * T; t++)
        h[t * D + 129] = t % 2 ? 12 : -12;
    residual_fixture r = residual_new(D, T, W);
    sl_residual_add(&r.sums, kernels(), W, h, r.norms, r.leaders);
    sl_residual_figures f = measure(&r.sums);
    ck_assert_double_eq(f.max, 12);
    ck_assert_double_eq(f.max_no_token0, 12);
    ck_assert_double_eq(f.m2, 12);
    ck_assert_int_eq(f.m2_dim, 129);
    ck_assert_double_eq(f.m2_share, 1);
    ck_close(f.top1_permille, 1000 * 12.0 / (D - 1 + 12), 4 * DBL_EPSILON);
    double second = (D - 1 + 144) / (double)D, fourth = (D - 1 + 144.0 * 144) / D;
    ck_close(f.kurtosis_h, fourth / (second * second), 8 * DBL_EPSILON);
    ck_close(f.token0_norm_ratio, 1, 2 * T * W * DBL_EPSILON);
    residual_free(&r);
    sl_free(h);
}
END_TEST

START_TEST(a_spike_of_token_0_raises_max_but_not_m2) {
    float *h = constant_rows(W, T, D, 2);
    for (int64_t w = 0; w < W; w++)
        h[w * T * D + 5] = -500;
    residual_fixture r = residual_new(D, T, W);
    sl_residual_add(&r.sums, kernels(), W, h, r.norms, r.leaders);
    sl_residual_figures f = measure(&r.sums);
    ck_assert_double_eq(f.max, 500);
    ck_assert_double_eq(f.max_no_token0, 2);
    ck_assert_double_eq(f.m2, 1);
    ck_assert_int_eq(f.m2_dim, 0);
    ck_assert_double_gt(f.kurtosis_h, 1);
    ck_assert_double_eq(f.kurtosis_h_no_token0, 1);
    double spiked = sqrt((D - 1) * 4.0 + 250000), plain = sqrt(D * 4.0);
    ck_close(f.token0_norm_ratio, spiked / plain, 2 * T * W * DBL_EPSILON);
    double all = (500.0 + (T - 1) * 2) / T; /* mean |h| of the channel with token 0 */
    ck_close(f.top1_permille, 1000 * all / (all + (D - 1) * 2), 4 * D * DBL_EPSILON);
    residual_free(&r);
    sl_free(h);
}
END_TEST

/* Sums of n doubles in any order differ by at most n*DBL_EPSILON relative when all terms are positive;
 * products and squares of floats are exact in double. */
START_TEST(random_residual_agrees_with_plain_loops) {
    float *h = random_floats(W * T * D, 1);
    residual_fixture r = residual_new(D, T, W);
    sl_residual_add(&r.sums, kernels(), 1, h, r.norms, r.leaders); /* in two calls */
    sl_residual_add(&r.sums, kernels(), W - 1, h + T * D, r.norms, r.leaders);
    double mean[D], with0[D], norm0 = 0, others = 0;
    sl_residual_mean_abs(&r.sums, false, mean);
    sl_residual_mean_abs(&r.sums, true, with0);
    for (int64_t j = 0; j < D; j++) {
        double sum = 0, first = 0, sq = 0, largest = 0;
        for (int64_t t = 0; t < W * T; t++) {
            double x = fabs((double)h[t * D + j]);
            *(t % T ? &sum : &first) += x;
            sq += x * x;
            if (t % T)
                largest = fmax(largest, x);
        }
        ck_close(mean[j], sum / (W * (T - 1)), W * T * DBL_EPSILON);
        ck_close(with0[j], (sum + first) / (W * T), W * T * DBL_EPSILON);
        ck_close(r.sums.sum_sq0[j] + r.sums.sum_sq[j], sq, W * T * DBL_EPSILON);
        ck_assert_double_eq(r.sums.max[j], largest);
    }
    for (int64_t t = 0; t < W * T; t++) {
        double sq = 0;
        for (int64_t j = 0; j < D; j++)
            sq += (double)h[t * D + j] * h[t * D + j];
        *(t % T ? &others : &norm0) += sqrt(sq);
    }
    ck_close(measure(&r.sums).token0_norm_ratio, norm0 / (others / (T - 1)),
             2 * (D + W * T) * DBL_EPSILON);
    residual_free(&r);
    sl_free(h);
}
END_TEST

START_TEST(one_token_windows_and_nan_are_told_apart_from_figures) {
    float *h = constant_rows(2, 1, 3, 4);
    residual_fixture r = residual_new(3, 1, 2);
    ck_assert_double_nan(measure(&r.sums).max); /* nothing added */
    sl_residual_add(&r.sums, kernels(), 2, h, r.norms, r.leaders);
    sl_residual_figures f = measure(&r.sums);
    ck_assert_double_eq(f.max, 4);
    ck_assert_double_eq(f.kurtosis_h, 1);
    ck_assert_double_nan(f.max_no_token0);
    ck_assert_double_nan(f.m2);
    ck_assert_double_nan(f.m2_share);
    ck_assert_int_eq(f.m2_dim, -1);
    residual_free(&r);
    sl_free(h);

    h = constant_rows(1, 4, 9, 1);
    h[9 * 2 + 8] = NAN;
    r = residual_new(9, 4, 1);
    sl_residual_add(&r.sums, kernels(), 1, h, r.norms, r.leaders);
    f = measure(&r.sums);
    ck_assert_double_nan(f.max);
    ck_assert_double_nan(f.m2);
    ck_assert_double_nan(f.kurtosis_h);
    residual_free(&r);
    sl_free(h);
}
END_TEST

/* ---- attention: 4 query heads on 2 key/value heads */

enum { H = 4, KV = 2, HD = 6, LD = (H + 2 * KV) * HD + 3 };

typedef struct {
    sl_attention_rows rows;
    sl_attention sums;
    float *qkv, *scratch;
    double *memory, *parts;
} attention_fixture;

static attention_fixture attention_new(int64_t windows, int64_t seq, float *qkv) {
    attention_fixture f = {.qkv = qkv, .memory = doubles(2 * H + 2 * KV)};
    f.rows = (sl_attention_rows){.q = qkv, .k = qkv + H * HD, .v = qkv + (H + KV) * HD, .ld = LD,
                                 .scale = .5f, .windows = windows, .seq = seq, .heads = H,
                                 .kv_heads = KV, .head_dim = HD};
    f.sums = (sl_attention){.att0 = f.memory, .entropy = f.memory + H, .v0 = f.memory + 2 * H,
                            .v_others = f.memory + 2 * H + KV};
    f.parts = doubles(sl_attention_parts(&f.rows));
    f.scratch = floats(sl_threads() * sl_attention_thread_floats(seq));
    return f;
}

static void attention_free(attention_fixture *f) {
    sl_free(f->qkv);
    sl_free(f->memory);
    sl_free(f->parts);
    sl_free(f->scratch);
}

static void attention_add(attention_fixture *f) {
    sl_attention_add(&f->sums, kernels(), &f->rows, f->parts, f->scratch);
}

/* Scores 0: p = 1/n, whose float is within eps of it relative; lse = log n within a few ulp; the dot
 * product of n terms of one sign adds at most n*eps. */
START_TEST(uniform_attention) {
    enum { SEQ = 37 };
    attention_fixture a = attention_new(2, SEQ, floats(2 * SEQ * LD));
    attention_add(&a);
    double att0 = 0, entropy = 0;
    for (int q = 1; q < SEQ; q++) {
        att0 += 1.0 / (q + 1) / (SEQ - 1);
        entropy += log(q + 1) / (SEQ - 1);
    }
    for (int h = 0; h < H; h++) {
        ck_close(sl_attention_att0(&a.sums, h), att0, 4 * (double)FLT_EPSILON);
        ck_close(sl_attention_entropy(&a.sums, h), entropy, (SEQ + 8) * (double)FLT_EPSILON);
    }
    attention_free(&a);
}
END_TEST

/* Key 0 of key/value head 0 scores .5*40*40 = 800 with queries of heads 0 and 1: exp(-800) is 0. */
START_TEST(heads_that_attend_to_token_0_only) {
    enum { SEQ = 16 };
    attention_fixture a = attention_new(1, SEQ, floats(SEQ * LD));
    for (int t = 0; t < SEQ; t++)
        for (int h = 0; h < 2; h++)
            a.qkv[t * LD + h * HD] = 40;
    a.qkv[H * HD] = 40;
    attention_add(&a);
    double att0[H];
    for (int h = 0; h < H; h++)
        att0[h] = sl_attention_att0(&a.sums, h);
    ck_assert_double_eq(att0[0], 1);
    ck_assert_double_eq(att0[1], 1);
    ck_assert_double_eq(sl_attention_entropy(&a.sums, 1), 0);
    ck_assert_double_lt(att0[2], .3); /* uniform: (H_16 - 1)/15 = .16 */
    ck_assert_double_eq(att0[2], att0[3]);
    ck_assert_double_eq(sl_sink_rate(H, att0), .5);
    attention_free(&a);
}
END_TEST

/* Marked queries attend to token 0 only, the others evenly; query 0 never counts. */
START_TEST(marked_queries_apart) {
    enum { SEQ = 8, ROWS = 2 * SEQ };
    static const uint8_t mark[ROWS] = {1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0};
    double marked[H] = {0}, unmarked[H] = {0}, even = 0;
    attention_fixture a = attention_new(2, SEQ, floats(ROWS * LD));
    ck_assert_double_nan(sl_attention_att0_of(&a.sums, 0, true));
    a.rows.mark = mark;
    a.sums.att0_marked = marked;
    a.sums.att0_unmarked = unmarked;
    for (int t = 0; t < ROWS; t++) {
        a.qkv[t * LD] = mark[t] ? 40 : 0;
        a.qkv[t * LD + H * HD] = t % SEQ ? 0 : 40;
        even += t % SEQ && !mark[t] ? 1.0 / (t % SEQ + 1) / 11 : 0;
    }
    attention_add(&a);
    ck_assert(a.sums.marked == 3 && a.sums.unmarked == 11);
    ck_assert_double_eq(sl_attention_att0_of(&a.sums, 0, true), 1);
    ck_close(sl_attention_att0_of(&a.sums, 0, false), even, 4 * (double)FLT_EPSILON);
    ck_close((3 + 11 * even) / 14, sl_attention_att0(&a.sums, 0), 4 * (double)FLT_EPSILON);
    attention_free(&a);
}
END_TEST

START_TEST(sink_rate_is_strictly_above_three_tenths) {
    double x[4] = {.3, .30001, .9, 0}, broken[2] = {.9, NAN};
    ck_assert_double_eq(sl_sink_rate(4, x), .5);
    ck_assert_double_nan(sl_sink_rate(2, broken));
}
END_TEST

START_TEST(value_norms_of_token_0) {
    enum { SEQ = 5 };
    attention_fixture a = attention_new(2, SEQ, floats(2 * SEQ * LD));
    for (int t = 0; t < 2 * SEQ; t++) {
        float *v = a.qkv + t * LD + (H + KV) * HD;
        v[0] = t % SEQ ? 3 : .3f;
        v[1] = t % SEQ ? 4 : .4f; /* norms 5 and .5 */
        v[HD + 5] = -2;           /* the same for all tokens in head 1 */
    }
    attention_add(&a);
    ck_close(sl_attention_value_ratio(&a.sums, 0), .1, 2 * (double)FLT_EPSILON); /* .3f, .4f */
    ck_close(sl_attention_value_ratio(&a.sums, 1), 1, 8 * DBL_EPSILON);
    attention_free(&a);
}
END_TEST

/* Plain softmax in double. */
static void plain_head(const attention_fixture *f, int64_t window, int64_t head, double *att0,
                       double *entropy) {
    const sl_attention_rows *a = &f->rows;
    double p[64];
    for (int64_t q = 1; q < a->seq; q++) {
        double sum = 0;
        for (int64_t t = 0; t <= q; t++) {
            double s = 0;
            for (int64_t i = 0; i < HD; i++)
                s += (double)a->q[(window * a->seq + q) * LD + head * HD + i] *
                     a->k[(window * a->seq + t) * LD + head / (H / KV) * HD + i];
            p[t] = exp(a->scale * s);
            sum += p[t];
        }
        *att0 += p[0] / sum;
        for (int64_t t = 0; t <= q; t++)
            *entropy -= p[t] / sum * log(p[t] / sum);
    }
}

/* A score (|s| < 32 here) is off by at most (HD + 1)*eps*sum|q k| < 8*eps*32, so a probability by twice that
 * relative plus the softmax's own (SEQ + 8)*eps; the entropy's terms by that, and its logs absolutely. */
START_TEST(random_attention_agrees_with_plain_softmax) {
    enum { SEQ = 33, WIN = 3 };
    attention_fixture a = attention_new(WIN, SEQ, random_floats(WIN * SEQ * LD, 2));
    double tolerance = (2 * 8 * 32 + SEQ + 8) * (double)FLT_EPSILON;
    attention_add(&a);
    for (int64_t h = 0; h < H; h++) {
        double att0 = 0, entropy = 0;
        for (int64_t w = 0; w < WIN; w++)
            plain_head(&a, w, h, &att0, &entropy);
        ck_close(sl_attention_att0(&a.sums, h), att0 / (WIN * (SEQ - 1)), tolerance);
        ck_close(sl_attention_entropy(&a.sums, h), entropy / (WIN * (SEQ - 1)), 2 * tolerance);
    }
    attention_free(&a);
}
END_TEST

/* ---- norms and gates */

START_TEST(lambda_min_is_the_smallest_magnitude) {
    float w[5] = {1, -.25f, 3, -7, .5f};
    ck_assert_double_eq(sl_lambda_min(5, w), .25);
    w[4] = -0.0f;
    ck_assert_double_eq(sl_lambda_min(5, w), 0);
    w[0] = NAN;
    ck_assert_double_nan(sl_lambda_min(5, w));
}
END_TEST

START_TEST(gate_mean_and_spread) {
    enum { ROWS = 10 };
    double memory[4 * D] = {0};
    sl_gate a = {.dim = D, .sum = memory, .sum_sq = memory + D};
    sl_gate b = {.dim = D, .sum = memory + 2 * D, .sum_sq = memory + 3 * D};
    const sl_gate *both[2] = {&a, &b};
    ck_assert_double_nan(sl_gate_measure(2, both).mean);
    float *half = constant_rows(1, ROWS, D, .5f), *mixed = constant_rows(1, ROWS, D, .25f);
    sl_gate_add(&a, ROWS, half);
    sl_gate_figures f = sl_gate_measure(2, both); /* b has nothing yet */
    ck_assert_double_eq(f.mean, .5);
    ck_assert_double_eq(f.std, 0);
    ck_assert_double_eq(f.channel_min, .5);
    ck_assert_double_eq(f.channel_max, .5);
    for (int t = 0; t < ROWS; t++) /* channel 130: half of the rows 1, half 0 */
        mixed[t * D + 130] = t % 2;
    sl_gate_add(&b, ROWS, mixed);
    f = sl_gate_measure(2, both);
    double mean = (.5 * D + .25 * (D - 1) + .5) / (2 * D);
    double square = (.25 * D + .0625 * (D - 1) + .5) / (2 * D);
    ck_close(f.mean, mean, 2 * D * DBL_EPSILON);
    ck_close(f.std, sqrt(square - mean * mean), 16 * D * DBL_EPSILON);
    ck_assert_double_eq(f.channel_min, .25);
    ck_assert_double_eq(f.channel_max, .5);
    sl_free(half);
    sl_free(mixed);
}
END_TEST

/* ---- the same bits for any number of threads */

static void all_sums(double *out, int64_t *count) {
    enum { SEQ = 19, WIN = 5 };
    float *h = random_floats(WIN * SEQ * 300, 3);
    residual_fixture r = residual_new(300, SEQ, WIN);
    attention_fixture a = attention_new(WIN, SEQ, random_floats(WIN * SEQ * LD, 4));
    double *gates = doubles(2 * 300);
    sl_gate g = {.dim = 300, .sum = gates, .sum_sq = gates + 300};
    sl_residual_add(&r.sums, kernels(), WIN, h, r.norms, r.leaders);
    attention_add(&a);
    sl_gate_add(&g, WIN * SEQ, h);
    int64_t n = 0;
    memcpy(out, r.memory, 5 * 300 * sizeof *out);
    n += 5 * 300;
    out[n++] = r.sums.norm0;
    out[n++] = r.sums.norm_others;
    memcpy(out + n, a.memory, (2 * H + 2 * KV) * sizeof *out);
    n += 2 * H + 2 * KV;
    memcpy(out + n, gates, 2 * 300 * sizeof *out);
    *count = n + 2 * 300;
    residual_free(&r);
    attention_free(&a);
    sl_free(gates);
    sl_free(h);
}

START_TEST(threads_do_not_change_a_bit) {
    static double one[2300], more[2300];
    int64_t n, m;
    sl_threads_set(1);
    all_sums(one, &n);
    for (int threads = 2; threads <= 3; threads++) {
        memset(more, 0, sizeof more);
        sl_threads_set(threads);
        all_sums(more, &m);
        ck_assert_int_eq(n, m);
        ck_assert_msg(memcmp(one, more, (size_t)n * sizeof *one) == 0, "%d threads differ", threads);
    }
    sl_threads_set(2);
}
END_TEST

static Suite *suite(void) {
    Suite *s = suite_create("probe");
    TCase *t = tcase_create("measures");
    tcase_add_test(t, m2_is_largest_over_median);
    tcase_add_test(t, m2_of_equals_takes_the_lowest_channel);
    tcase_add_test(t, m2_without_a_median_is_nan);
    tcase_add_test(t, top1_takes_a_thousandth_of_the_channels_rounded_up);
    tcase_add_test(t, kurtosis_runs_from_1_to_the_number_of_channels);
    tcase_add_test(t, one_large_channel_is_a_residual_sink);
    tcase_add_test(t, a_few_tokens_make_m2_but_not_its_share);
    tcase_add_test(t, a_spike_of_token_0_raises_max_but_not_m2);
    tcase_add_test(t, random_residual_agrees_with_plain_loops);
    tcase_add_test(t, one_token_windows_and_nan_are_told_apart_from_figures);
    tcase_add_test(t, uniform_attention);
    tcase_add_test(t, heads_that_attend_to_token_0_only);
    tcase_add_test(t, marked_queries_apart);
    tcase_add_test(t, sink_rate_is_strictly_above_three_tenths);
    tcase_add_test(t, value_norms_of_token_0);
    tcase_add_test(t, random_attention_agrees_with_plain_softmax);
    tcase_add_test(t, lambda_min_is_the_smallest_magnitude);
    tcase_add_test(t, gate_mean_and_spread);
    tcase_add_test(t, threads_do_not_change_a_bit);
    suite_add_tcase(s, t);
    return s;
}

int main(void) {
    sl_threads_set(2);
    return run_suite(suite());
}
