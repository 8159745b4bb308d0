/* Sink dimensions of probe/detail.h: which they are, their share, and whether they are static: on planted cases, and on
 * random ones against plain loops in double. */
#include "measure.h"
#include "probe/detail.h"
#include "suite.h"

START_TEST(sink_dims_reach_five_times_the_median) {
    double x[9] = {1, 5, 1, 4.99, 1, 20, 1, 1, 1}, scratch[9], zero[3] = {0, 0, 9}, broken[3] = {1, NAN, 9};
    sl_sink_dims s = sl_find_sink_dims(9, x, scratch);
    ck_assert_int_eq(s.count, 2);
    ck_assert_int_eq(s.dim[0], 1);
    ck_assert_double_eq(s.strength[0], 5);
    ck_assert_int_eq(s.dim[1], 5);
    ck_assert_double_eq(s.strength[1], 20);
    ck_assert_int_eq(sl_find_sink_dims(3, zero, scratch).count, 0);
    ck_assert_int_eq(sl_find_sink_dims(3, broken, scratch).count, 0);
}
END_TEST

START_TEST(the_strongest_sink_dims_are_kept_in_order) {
    enum { N = 64 };
    double x[N], scratch[N];
    for (int j = 0; j < N; j++)
        x[j] = j < 20 ? 10 + (j * 7) % 20 : 1; /* 10..29 in some order: the weakest four are 10..13 */
    sl_sink_dims s = sl_find_sink_dims(N, x, scratch);
    ck_assert_int_eq(s.count, SL_SINK_DIMS);
    for (int i = 0; i < s.count; i++) {
        ck_assert(i == 0 || s.dim[i] > s.dim[i - 1]);
        ck_assert_double_eq(s.strength[i], x[s.dim[i]]);
        ck_assert_double_ge(s.strength[i], 14);
    }
}
END_TEST

/* 3-4-5: the sink has 3 of a norm of 5; token 0 does not count. */
START_TEST(share_of_sink_dims) {
    float x[2 * 3 * 4];
    for (int t = 0; t < 6; t++)
        for (int j = 0; j < 4; j++)
            x[t * 4 + j] = t % 3 == 0 ? 100 : j == 2 ? -3 : j == 1 ? 4 : 0;
    sl_sink_dims s = {1, {2}, {9}}, none = {0};
    sl_share share = {0}, nothing = {0};
    sl_share_add(&share, kernels(), 2, 3, 4, x, &s);
    ck_assert_double_eq(sl_share_of(share), 3.0 / 5);
    sl_share_add(&nothing, kernels(), 2, 3, 4, x, &none);
    ck_assert_double_eq(sl_share_of(nothing), 0);
}
END_TEST

/* ---- dynamics */

enum { W = 5, T = 9 };

static sl_dynamics dynamics_of(float (*value)(int w, int t)) {
    float x[W * T];
    double scratch[W * T + W + T];
    for (int w = 0; w < W; w++)
        for (int t = 0; t < T; t++)
            x[w * T + t] = t ? value(w, t) : 1e6f;
    return sl_dynamics_measure(W, T, x, scratch);
}

static float constant(int w, int t) { return (void)w, (void)t, -.3f; }
static float of_position(int w, int t) { return (void)w, (float)(t % 4); }
static float of_window(int w, int t) { return (void)t, 2.0f * (float)w - 4; }
static float alternating(int w, int t) { return w % 2 ? (float)t : -(float)t; }

START_TEST(static_and_dynamic_channels) {
    sl_dynamics d = dynamics_of(constant);
    ck_close(d.mean, -.3f, 1e-15);
    ck_close(d.constant_share, 1, 1e-14);
    ck_assert_double_eq(d.same_sign, 1);
    ck_assert_double_nan(d.across_sequences);
    ck_assert_double_nan(d.across_positions);
    ck_close(d.agreement, 1, 1e-13);
    d = dynamics_of(of_position);
    ck_close(d.across_sequences, 1, 1e-13);
    ck_assert_double_nan(d.across_positions); /* every window has the same value there */
    d = dynamics_of(of_window);
    ck_close(d.across_positions, 1, 1e-13);
    ck_assert_double_nan(d.across_sequences);
    ck_assert_double_eq(d.mean, 0);
    ck_assert_double_eq(d.constant_share, 0);
    ck_assert_double_eq(d.same_sign, .4); /* -4 -2 0 2 4 */
    /* Lines +,-,+,-,+: 3 + 1 of the 10 pairs agree, 6 are opposite. */
    ck_close(dynamics_of(alternating).across_sequences, -.2, 1e-13);
    ck_close(dynamics_of(alternating).agreement, -.2, 1e-13);
    ck_close(d.agreement, -1. / 3, 1e-13); /* -4 -2 2 4: 2 of 6 pairs agree; the window of zeros has no cosine */
}
END_TEST

static double correlation(int64_t n, const float *x, const float *y, int64_t step) {
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (int64_t i = 0; i < n; i++)
        mx += x[i * step] / (double)n, my += y[i * step] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double a = x[i * step] - mx, b = y[i * step] - my;
        xx += a * a, yy += b * b, xy += a * b;
    }
    return xy / sqrt(xx * yy);
}

static double cosine(int64_t n, const float *x, const float *y) {
    double xx = 0, yy = 0, xy = 0;
    for (int64_t i = 0; i < n; i++)
        xx += (double)x[i] * x[i], yy += (double)y[i] * y[i], xy += (double)x[i] * y[i];
    return xy / sqrt(xx * yy);
}

START_TEST(mean_correlations_agree_with_all_pairs) {
    float *x = random_floats(W * T, 1);
    double scratch[W * T + W + T], sequences = 0, positions = 0, cosines = 0;
    for (int a = 0; a < W; a++)
        for (int b = a + 1; b < W; b++)
            sequences += correlation(T - 1, x + a * T + 1, x + b * T + 1, 1) / (W * (W - 1) / 2);
    for (int a = 0; a < W; a++)
        for (int b = a + 1; b < W; b++)
            cosines += cosine(T - 1, x + a * T + 1, x + b * T + 1) / (W * (W - 1) / 2);
    for (int a = 1; a < T; a++)
        for (int b = a + 1; b < T; b++)
            positions += correlation(W, x + a, x + b, T) / ((T - 1) * (T - 2) / 2);
    sl_dynamics d = sl_dynamics_measure(W, T, x, scratch);
    ck_close(d.across_sequences, sequences, 1e-12);
    ck_close(d.across_positions, positions, 1e-12);
    ck_close(d.agreement, cosines, 1e-12);
    sl_free(x);
}
END_TEST

static Suite *suite(void) {
    Suite *s = suite_create("sink_dims");
    TCase *t = tcase_create("sink dimensions");
    tcase_add_test(t, sink_dims_reach_five_times_the_median);
    tcase_add_test(t, the_strongest_sink_dims_are_kept_in_order);
    tcase_add_test(t, share_of_sink_dims);
    tcase_add_test(t, static_and_dynamic_channels);
    tcase_add_test(t, mean_correlations_agree_with_all_pairs);
    suite_add_tcase(s, t);
    return s;
}

int main(void) { return run_suite(suite()); }
