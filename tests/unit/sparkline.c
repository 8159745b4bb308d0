/* base/sparkline: series of any length, their curves, short numbers. */
#include "base/sparkline.h"
#include "suite.h"

#include <math.h>
#include <string.h>

static sl_series s;
static char line[SL_SPARKLINE_CHARS];

static const char *curve(int n, const double *x, int width, bool utf8) {
    s = (sl_series){.per = 0};
    for (int i = 0; i < n; i++)
        sl_series_add(&s, x[i]);
    return sl_sparkline(line, &s, width, utf8);
}
#define CURVE(width, utf8, ...)                                                                                        \
    curve((int)(sizeof(double[]){__VA_ARGS__} / sizeof(double)), (const double[]){__VA_ARGS__}, width, utf8)

START_TEST(curves) {
    ck_assert_str_eq(CURVE(8, false, 8, 9, 10, 11, 12, 13, 14, 15), "_.-:=+*#");
    ck_assert_str_eq(CURVE(8, true, 8, 9, 10, 11, 12, 13, 14, 15), "▁▂▃▄▅▆▇█");
    ck_assert_str_eq(CURVE(8, true, 15, 8), "█▁");                   /* never wider than the series */
    ck_assert_str_eq(CURVE(2, false, 8, 8, 15, 15), "_#");           /* means of halves */
    ck_assert_str_eq(CURVE(8, false, 1, 10, 100), "_=#");            /* logarithmic */
    ck_assert_str_eq(CURVE(8, false, 0, 50, 100), "_=#");            /* 0 has no logarithm */
    ck_assert_str_eq(CURVE(8, false, -1.7e308, 0, 1.7e308), "_=#");  /* the range itself is no double */
    ck_assert_str_eq(CURVE(8, false, 3, 3, 3), "___");
    ck_assert_str_eq(CURVE(8, false, 1, NAN, INFINITY, 2), "_#");
    ck_assert_str_eq(CURVE(0, false, 1, 2), "");
    ck_assert_str_eq(CURVE(8, false, NAN), "");
    ck_assert_int_eq(s.per, 0);
}
END_TEST

/* A series ten thousand times as long as its room keeps its shape: a straight line stays one. */
START_TEST(long_series) {
    enum { N = 10000 * SL_SERIES_POINTS + 77 };
    s = (sl_series){.per = 0};
    for (int i = 0; i < N; i++)
        sl_series_add(&s, i);
    ck_assert_double_eq(s.last, N - 1);
    ck_assert_int_ge(s.points, SL_SERIES_POINTS / 2);
    ck_assert_int_le(s.points, SL_SERIES_POINTS);
    ck_assert_int_eq(s.points * s.per + s.pending, N);
    for (int i = 0; i < s.points; i++) /* each the mean of its part of the line */
        ck_assert_double_eq_tol(s.point[i], (double)(i * s.per) + (double)(s.per - 1) / 2, 1e-6 * N);
    for (int width = 1; width <= 2 * SL_SPARKLINE_WIDTH; width++) {
        size_t n = strlen(sl_sparkline(line, &s, width, false));
        ck_assert_uint_eq(n, width < SL_SPARKLINE_WIDTH ? (size_t)width : SL_SPARKLINE_WIDTH);
        ck_assert_uint_eq(strlen(sl_sparkline(line, &s, width, true)), 3 * n);
    }
}
END_TEST

START_TEST(short_numbers) {
    static const struct {
        double x;
        const char *text;
    } t[] = {{0, "0"},         {3.21449, "3.214"}, {1234.4, "1234"},  {9999, "9999"},  {10000, "10k"},
             {-56789, "-56.79k"}, {1.5e6, "1.5M"},    {2.25e9, "2.25G"}, {3e12, "3T"},    {1e300, "1.00e+300"},
             {NAN, "-"},       {INFINITY, "-"},    {1e-300, "1e-300"}, {1e16, "1.00e+16"}};
    char text[SL_SHORT_CHARS];
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        ck_assert_str_eq(sl_format_short(text, t[i].x), t[i].text);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("sparkline");
    TCase *t = tcase_create("sparkline");
    tcase_add_test(t, curves);
    tcase_add_test(t, long_series);
    tcase_add_test(t, short_numbers);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
