/* A GGUF file that the gguf package wrote (make_gguf.py): its keys, and every type of tensor to the bit. */
#include "base/err.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "unit/suite.h"

#include <stdlib.h>
#include <string.h>

#ifndef GGUF_TYPES_DIR
#error "GGUF_TYPES_DIR: folder of the files"
#endif

static sl_gguf *open_types(void) {
    sl_gguf *f = sl_gguf_open(GGUF_TYPES_DIR "/types.gguf");
    ck_assert_msg(f != NULL, "%s", sl_error());
    return f;
}

START_TEST(every_type_has_the_bits_of_the_package) {
    sl_gguf *f = open_types();
    sl_st_file *want = sl_st_open(GGUF_TYPES_DIR "/types.safetensors");
    ck_assert_msg(want != NULL, "%s", sl_error());
    int supported = 0;
    for (uint32_t id = 0; id < 64; id++)
        supported += sl_ggml_type_of(id) && sl_ggml_type_of(id)->floats;
    ck_assert_int_eq(sl_gguf_count(f), supported); /* a new type needs values here */
    ck_assert_int_eq(sl_gguf_count(f), sl_st_count(want));
    for (int i = 0; i < sl_gguf_count(f); i++) {
        const sl_gguf_tensor *t = sl_gguf_at(f, i);
        const sl_st_tensor *w = sl_st_find(want, t->name);
        ck_assert_msg(w && w->ndim == 2 && t->ndim == 2, "%s", t->name);
        ck_assert_int_eq(t->shape[0], w->shape[0]);
        ck_assert_int_eq(t->shape[1], w->shape[1]);
        int64_t n = t->shape[0] * t->shape[1];
        float *x = malloc((size_t)n * sizeof *x);
        t->type->floats(sl_gguf_data(f, t), n, x);
        ck_assert_msg(!memcmp(x, sl_st_data(want, w), (size_t)n * sizeof *x), "%s: other bits", t->type->name);
        free(x);
    }
    sl_st_close(want);
    sl_gguf_close(f);
}
END_TEST

START_TEST(numbers_of_every_width) {
    static const struct {
        const char *key;
        int64_t value;
    } whole[] = {{"key.u8", 200},        {"key.i8", -100},        {"key.u16", 60000},
                 {"key.i16", -30000},    {"key.u32", 4000000000}, {"key.i32", -2000000000},
                 {"key.u64", INT64_MAX}, {"key.i64", INT64_MIN},  {"key.none", 7}};
    sl_gguf *f = open_types();
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        int64_t v = 7;
        ck_assert_int_eq(sl_gguf_whole(f, whole[i].key, &v), 0);
        ck_assert_msg(v == whole[i].value, "%s", whole[i].key);
        ck_assert_int_eq(sl_gguf_has(f, whole[i].key), i + 1 < sizeof whole / sizeof *whole);
    }
    double r = 7;
    bool b = false;
    ck_assert(sl_gguf_real(f, "key.none", &r) == 0 && r == 7);
    ck_assert(sl_gguf_real(f, "key.f32", &r) == 0 && r == 0.1f);
    ck_assert(sl_gguf_real(f, "key.f64", &r) == 0 && r == 0.1);
    ck_assert(sl_gguf_bool(f, "key.bool", &b) == 0 && b);
    sl_gguf_close(f);
}
END_TEST

START_TEST(strings_and_arrays) {
    sl_gguf *f = open_types();
    sl_gguf_string s = {NULL, 0};
    ck_assert(sl_gguf_text(f, "key.none", &s) == 0 && !s.p);
    ck_assert(sl_gguf_text(f, "key.string", &s) == 0 && sl_gguf_is(s, "a\tb \xc3\xa9") && !sl_gguf_is(s, "a\tb"));
    sl_gguf_array a = {.at = NULL};
    ck_assert(sl_gguf_elements(f, "key.none", SL_GGUF_STRING, &a) == 0 && !a.at);
    ck_assert(sl_gguf_elements(f, "key.strings", SL_GGUF_STRING, &a) == 0 && a.n == 3);
    ck_assert(sl_gguf_is(sl_gguf_next(&a), "one") && sl_gguf_is(sl_gguf_next(&a), "two"));
    ck_assert(a.n == 1 && sl_gguf_is(sl_gguf_next(&a), "\xe2\x96\x81three") && a.n == 0);
    ck_assert(sl_gguf_elements(f, "key.numbers", SL_GGUF_I64, &a) == 0 && a.n == 3);
    ck_assert(sl_gguf_whole_at(&a, 0) == -1 && sl_gguf_whole_at(&a, 2) == 3);
    ck_assert(sl_gguf_elements(f, "key.reals", SL_GGUF_F64, &a) == 0 && a.n == 2 && sl_gguf_real_at(&a, 1) == -1.5);
    ck_assert(sl_gguf_elements(f, "key.bools", SL_GGUF_BOOL, &a) == 0 && a.n == 2);
    ck_assert(sl_gguf_whole_at(&a, 0) == 1 && sl_gguf_whole_at(&a, 1) == 0);
    sl_gguf_close(f);
}
END_TEST

START_TEST(other_kinds_are_refused) {
    sl_gguf *f = open_types();
    sl_gguf_array a;
    sl_gguf_string s;
    int64_t v;
    double r;
    bool b;
    ck_assert_int_eq(sl_gguf_whole(f, "key.f32", &v), -1);
    ck_assert_ptr_nonnull(strstr(sl_error(), "types.gguf: key key.f32: f32 where whole numbers are needed"));
    ck_assert_int_eq(sl_gguf_whole(f, "key.bool", &v), -1);
    ck_assert_int_eq(sl_gguf_real(f, "key.u8", &r), -1);
    ck_assert_int_eq(sl_gguf_bool(f, "key.string", &b), -1);
    ck_assert_int_eq(sl_gguf_text(f, "key.strings", &s), -1);
    ck_assert_ptr_nonnull(strstr(sl_error(), "key.strings: an array of string where strings are needed"));
    ck_assert_int_eq(sl_gguf_elements(f, "key.string", SL_GGUF_STRING, &a), -1);
    ck_assert_int_eq(sl_gguf_elements(f, "key.numbers", SL_GGUF_F64, &a), -1);
    sl_gguf_close(f);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gguf");
    TCase *t = tcase_create("gguf");
    tcase_add_test(t, every_type_has_the_bits_of_the_package);
    tcase_add_test(t, numbers_of_every_width);
    tcase_add_test(t, strings_and_arrays);
    tcase_add_test(t, other_kinds_are_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
