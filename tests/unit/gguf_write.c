/* What is written is what is read. */
#include "io/gguf_write.h"

#include "base/err.h"
#include "scratch.h"
#include "suite.h"

#include <math.h>

static void add_all_kinds(sl_gguf_plan *g) {
    sl_gguf_add_u32(g, "whole", 4000000000u);
    sl_gguf_add_f32(g, "real", 1e-6f);
    sl_gguf_add_bool(g, "yes", true);
    sl_gguf_add_text(g, "text", "a b");
    sl_gguf_add_array(g, "strings", SL_GGUF_STRING, 3);
    sl_gguf_add_element(g, "x", 1);
    sl_gguf_add_element(g, "", 0);
    sl_gguf_add_element(g, "\0y", 2);
    sl_gguf_add_array(g, "none", SL_GGUF_STRING, 0);
    sl_gguf_add_array(g, "numbers", SL_GGUF_I32, 2);
    sl_gguf_add_whole(g, -5);
    sl_gguf_add_whole(g, 7);
}

/* Two tensors, of 28 and of 10 bytes: each is followed by padding. */
static const float matrix[7] = {1, -2, 3, -4, 5, -6, 0.1f}, vector[5] = {0.5f, 1, 2, 3, -65504};

static sl_gguf *write_and_open(const char *path) {
    sl_gguf_plan g;
    sl_writer w;
    unsigned char half[sizeof vector / 2];
    sl_floats_to_f16(vector, 5, half);
    ck_assert_int_eq(sl_gguf_plan_open(&g), 0);
    add_all_kinds(&g);
    sl_gguf_add_tensor(&g, "matrix", sl_ggml_type_of(0), 2, (int64_t[]){1, 7});
    sl_gguf_add_tensor(&g, "vector", sl_ggml_type_of(1), 1, (int64_t[]){5});
    ck_assert_int_eq(sl_writer_open(&w, path), 0);
    ck_assert_int_eq(sl_gguf_put_head(&g, &w), 0);
    ck_assert(!sl_writer_put(&w, matrix, sizeof matrix) && !sl_gguf_put_padding(&w));
    ck_assert(!sl_writer_put(&w, half, sizeof half) && !sl_gguf_put_padding(&w));
    ck_assert_int_eq(sl_writer_finish(&w, NULL), 0);
    sl_gguf_plan_close(&g);
    sl_gguf *f = sl_gguf_open(path);
    ck_assert_msg(f != NULL, "%s", sl_error());
    return f;
}

START_TEST(keys) {
    sl_gguf *f = write_and_open(in_scratch("keys.gguf"));
    int64_t whole = 0;
    double real = 0;
    bool yes = false;
    sl_gguf_string text = {NULL, 0};
    sl_gguf_array a = {.at = NULL}, none = {.at = NULL};
    ck_assert(!sl_gguf_whole(f, "whole", &whole) && whole == 4000000000);
    ck_assert(!sl_gguf_real(f, "real", &real) && real == (double)1e-6f);
    ck_assert(!sl_gguf_bool(f, "yes", &yes) && yes);
    ck_assert(!sl_gguf_text(f, "text", &text) && sl_gguf_is(text, "a b"));
    ck_assert(!sl_gguf_elements(f, "strings", SL_GGUF_STRING, &a) && a.n == 3);
    ck_assert(sl_gguf_is(sl_gguf_next(&a), "x"));
    ck_assert_uint_eq(sl_gguf_next(&a).n, 0);
    text = sl_gguf_next(&a);
    ck_assert(text.n == 2 && !memcmp(text.p, "\0y", 2));
    ck_assert(!sl_gguf_elements(f, "none", SL_GGUF_STRING, &none) && none.at && none.n == 0);
    ck_assert(!sl_gguf_elements(f, "numbers", SL_GGUF_I64, &a) && a.n == 2);
    ck_assert(sl_gguf_whole_at(&a, 0) == -5 && sl_gguf_whole_at(&a, 1) == 7);
    ck_assert_str_eq(sl_gguf_key(f, 6), "yes");
    ck_assert_ptr_null(sl_gguf_key(f, 7));
    sl_gguf_close(f);
}
END_TEST

START_TEST(tensors) {
    sl_gguf *f = write_and_open(in_scratch("tensors.gguf"));
    float back[5];
    ck_assert_int_eq(sl_gguf_count(f), 2);
    const sl_gguf_tensor *t = sl_gguf_find(f, "matrix");
    ck_assert(t && t->ndim == 2 && t->shape[0] == 1 && t->shape[1] == 7);
    ck_assert_mem_eq(sl_gguf_data(f, t), matrix, sizeof matrix);
    t = sl_gguf_find(f, "vector");
    ck_assert(t && t->ndim == 1 && t->shape[0] == 5 && t->begin == 32);
    t->type->floats(sl_gguf_data(f, t), 5, back);
    ck_assert_mem_eq(back, vector, sizeof vector);
    sl_gguf_close(f);
}
END_TEST

/* Every value of binary16 comes back, and what lies between two goes to the nearer, or to the even one: held against
 * the neighbours themselves. */
START_TEST(f16_rounds_to_nearest) {
    for (unsigned h = 0; h < 0x7c00; h++) {
        unsigned char low[2] = {(unsigned char)h, (unsigned char)(h >> 8)}, out[2];
        unsigned char high[2] = {(unsigned char)(h + 1), (unsigned char)((h + 1) >> 8)};
        float a = sl_float_from_f16(low), b = h + 1 == 0x7c00 ? 65536 : sl_float_from_f16(high);
        float middle = a + (b - a) / 2; /* exact */
        const float x[] = {a, -a, middle, nextafterf(middle, 0), nextafterf(middle, INFINITY)};
        const unsigned want[] = {h, h | 0x8000, h + (h & 1), h, h + 1};
        for (int i = 0; i < 5; i++) {
            sl_floats_to_f16(&x[i], 1, out);
            ck_assert_msg((out[0] | (unsigned)out[1] << 8) == want[i], "%a: %02x%02x", (double)x[i], out[1], out[0]);
        }
    }
}
END_TEST

START_TEST(bf16_rounds_to_nearest) {
    for (uint32_t h = 0; h < 0x7f80; h++) {
        float x[] = {sl_float_from_bits(h << 16), sl_float_from_bits(h << 16 | 0x7fff),
                     sl_float_from_bits(h << 16 | 0x8000), sl_float_from_bits(h << 16 | 0x8001)};
        const uint32_t want[] = {h, h, h + (h & 1), h + 1};
        for (int i = 0; i < 4; i++) {
            unsigned char out[2];
            sl_floats_to_bf16(&x[i], 1, out);
            ck_assert_uint_eq(out[0] | (unsigned)out[1] << 8, want[i]);
        }
    }
}
END_TEST

START_TEST(what_is_no_number) {
    const float x[] = {NAN, INFINITY, -INFINITY};
    unsigned char out[6];
    float back[3];
    sl_floats_to_f16(x, 3, out);
    sl_floats_from_f16(out, 3, back);
    ck_assert(isnan(back[0]) && back[1] == x[1] && back[2] == x[2]);
    sl_floats_to_bf16(x, 3, out);
    sl_floats_from_bf16(out, 3, back);
    ck_assert(isnan(back[0]) && back[1] == x[1] && back[2] == x[2]);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gguf_write");
    TCase *tc = tcase_create("gguf_write");
    tcase_add_unchecked_fixture(tc, scratch_make, scratch_remove);
    tcase_add_test(tc, keys);
    tcase_add_test(tc, tensors);
    tcase_add_test(tc, f16_rounds_to_nearest);
    tcase_add_test(tc, bf16_rounds_to_nearest);
    tcase_add_test(tc, what_is_no_number);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
