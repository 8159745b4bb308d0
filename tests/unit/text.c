/* base/text: numbers, quoting, spelling, wrapping. */
#include "base/text.h"
#include "suite.h"

#include <float.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

START_TEST(whole_numbers) {
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0},
                {"-0", 0},
                {"+7", 7},
                {"010", 10},
                {"1e3", 1000},
                {"2.50e1", 25},
                {"4.", 4},
                {"9223372036854775807", INT64_MAX},
                {"-9223372036854775808", INT64_MIN},
                {"9007199254740993", 9007199254740993},
                {"9007199254740992.0", 9007199254740992}};
    static const char *const bad[] = {
        "",       "-",   "1_000", "0x10", "1.5", "1e-3",
        "1e400",  "nan", "inf",   " 1",   "1 ",  "9223372036854775808",
        "9.1e15", "1e",  "e3",    ".",    "--1", "1e3.5"};
    int64_t v;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(sl_parse_int(good[i].text, &v), "%s", good[i].text);
        ck_assert_int_eq(v, good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!sl_parse_int(bad[i], &v), "%s", bad[i]);
}
END_TEST

START_TEST(real_numbers) {
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0}, {"1e-3", 1e-3}, {".5", 0.5}, {"5.", 5}, {"-2.5E+2", -250}, {"1e-400", 0}};
    static const char *const bad[] = {"",      "nan", ".inf", "-inf", "1e999",
                                      "0x1p3", "1_0", "1,5",  "1e",   ".e1"};
    double v;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(sl_parse_real(good[i].text, &v), "%s", good[i].text);
        ck_assert_double_eq(v, good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!sl_parse_real(bad[i], &v), "%s", bad[i]);
}
END_TEST

START_TEST(reals_read_back) {
    static const double values[] = {0,
                                    -0.0,
                                    1,
                                    10000,
                                    0.1,
                                    1.0 / 3,
                                    1e-6,
                                    1e9,
                                    123456,
                                    0.30000000000000004,
                                    DBL_MAX,
                                    DBL_MIN,
                                    4.9406564584124654e-324,
                                    -9007199254740991};
    char buf[SL_REAL_CHARS];
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        double back = -1;
        ck_assert(sl_parse_real(sl_format_real(buf, values[i]), &back));
        ck_assert_mem_eq(&back, &values[i], sizeof back);
    }
    ck_assert_str_eq(sl_format_real(buf, 0.1), "0.1");
    ck_assert_str_eq(sl_format_real(buf, 10000), "10000");
    ck_assert_str_eq(sl_format_real(buf, 1e-6), "1e-06");
}
END_TEST

/* Needs a locale with a decimal comma; without one there is nothing to disturb. */
START_TEST(locale_does_not_matter) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "nl_NL.UTF-8"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (setlocale(LC_NUMERIC, names[i]))
            break;
    char buf[SL_REAL_CHARS];
    double v = 0;
    ck_assert(sl_parse_real("1.5", &v) && v == 1.5);
    ck_assert_str_eq(sl_format_real(buf, 1.5), "1.5");
    setlocale(LC_NUMERIC, "C");
}
END_TEST

START_TEST(quoting) {
    char buf[SL_QUOTE_CHARS], longer[300];
    ck_assert_str_eq(sl_quote(buf, "a\nb\x1b"), "\"a\\x0ab\\x1b\"");
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    sl_quote(buf, longer);
    ck_assert_uint_lt(strlen(buf), SL_QUOTE_CHARS);
    ck_assert_str_eq(buf + strlen(buf) - 4, "...\"");
    memset(longer, '\n', sizeof longer - 1); /* the longest form of each character */
    ck_assert_uint_lt(strlen(sl_quote(buf, longer)), SL_QUOTE_CHARS);
    memset(longer, '\x80', sizeof longer - 1); /* continuation bytes without end */
    ck_assert_uint_lt(strlen(sl_quote(buf, longer)), SL_QUOTE_CHARS);
    for (int shift = 0; shift < 3;
         shift++) { /* a cut never splits a character: U+20AC, three bytes */
        memset(longer, 'x', 3);
        for (size_t i = 0; i < 60; i++)
            memcpy(longer + shift + 3 * i, "\xe2\x82\xac", 3);
        longer[180] = '\0';
        sl_quote(buf, longer);
        size_t n = strlen(buf) - 4; /* before ..." */
        ck_assert_uint_eq((n - 1 - (size_t)shift) % 3, 0);
    }
}
END_TEST

START_TEST(distances) {
    ck_assert_int_eq(sl_edit_distance("", ""), 0);
    ck_assert_int_eq(sl_edit_distance("", "abc"), 3);
    ck_assert_int_eq(sl_edit_distance("kitten", "sitting"), 3);
    ck_assert_int_eq(sl_edit_distance("dmi", "dim"), 1); /* a swap */
    ck_assert_int_eq(sl_edit_distance("RMSNorm", "rmsnorm"), 0);
    char longer[100];
    memset(longer, 'a', 99);
    longer[99] = '\0';
    ck_assert_int_ge(sl_edit_distance(longer, "a"), 99);
    longer[63] = '\0';
    ck_assert_int_eq(sl_edit_distance(longer, longer), 0);
}
END_TEST

START_TEST(nearest) {
    const struct {
        const char *name;
        int other;
    } table[] = {{"train", 1}, {"eval", 2}, {"probe", 3}, {NULL, 0}};
    ck_assert_str_eq(sl_nearest("trian", table, sizeof *table), "train");
    ck_assert_str_eq(sl_nearest("prob", table, sizeof *table), "probe");
    ck_assert_ptr_null(sl_nearest("zebra", table, sizeof *table));
    ck_assert_ptr_null(sl_nearest("", table, sizeof *table));
}
END_TEST

START_TEST(wrapping) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    fprintf(f, "ab: ");
    sl_print_wrapped(f, "one two  three incomprehensibilities", 4, 2, 12);
    fclose(f);
    ck_assert_str_eq(text, "ab: one two\n  three\n  incomprehensibilities\n");
    free(text);
}
END_TEST

int main(void) {
    Suite *s = suite_create("text");
    TCase *t = tcase_create("text");
    tcase_add_test(t, whole_numbers);
    tcase_add_test(t, real_numbers);
    tcase_add_test(t, reals_read_back);
    tcase_add_test(t, locale_does_not_matter);
    tcase_add_test(t, quoting);
    tcase_add_test(t, distances);
    tcase_add_test(t, nearest);
    tcase_add_test(t, wrapping);
    suite_add_tcase(s, t);
    return run_suite(s);
}
