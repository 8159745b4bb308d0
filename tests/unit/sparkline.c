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
    } t[] = {{0, "0"},           {3.21449, "3.214"}, {1234.4, "1234"},   {9999.4, "9999"},   {9999.6, "10k"},
             {10000, "10k"},     {-56789, "-56.79k"}, {1.5e6, "1.5M"},    {2.25e9, "2.25G"},  {3e12, "3T"},
             {1e16, "1.0e+16"},  {1e300, "1e+300"},  {NAN, "-"},         {INFINITY, "-"},    {0.55556, "0.5556"},
             {0.05556, "0.0556"}, {0.0123, "0.0123"}, {0.00123, "1.2e-03"}, {-0.00123, "-1e-03"}, {1e-300, "1e-300"}};
    char text[SL_SHORT_CHARS];
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        ck_assert_str_eq(sl_format_short(text, t[i].x), t[i].text);
    for (double x = 1e-308; x < 1e308; x *= 1.7) {
        ck_assert_uint_le(strlen(sl_format_short(text, x)), 7);
        ck_assert_uint_le(strlen(sl_format_short(text, -x)), 7);
        if (x > 1e-290 && x < 9.9e15) { /* it is the number, to its digits */
            char *letter;
            double got = strtod(text, &letter);
            for (const char *l = "kMGT"; *letter && *l != *letter; l++)
                got *= 1000;
            got *= *letter ? 1000 : 1;
            ck_assert_double_eq_tol(got, -x, (x < .01 ? .5 : x < .1 ? .005 : .0005) * x);
        }
    }
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
