/* Files that lie: one line each, and no byte beyond the file is read (the sanitizer's build holds that). */
#include "io/gguf.h"

#include "base/err.h"
#include "gguf_file.h"
#include "scratch.h"
#include "suite.h"

/* In a block of just its size: what reads further is seen. */
static sl_gguf *parse(void) {
    static unsigned char *copy;
    free(copy);
    copy = malloc(size + !size);
    memcpy(copy, file, size);
    return sl_gguf_open_memory(copy, size, "x.gguf");
}

static void refused(const char *message) {
    sl_gguf *f = parse();
    ck_assert_msg(!f, "accepted; wanted: %s", message);
    ck_error(message);
    ck_error("x.gguf");
}

/* Two tensors and a key. */
static void put_whole(void) {
    put_head(2, 1);
    put_u32("a", 5);
    put_tensor("first", 0, 3, 2, 0);
    put_tensor("second", 2, 32, 1, 32);
    put_data(32 + 18);
}

START_TEST(a_whole_file) {
    put_whole();
    sl_gguf *f = parse();
    ck_assert_msg(f != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_gguf_count(f), 2);
    const sl_gguf_tensor *t = sl_gguf_find(f, "first");
    ck_assert(t && t->shape[0] == 2 && t->shape[1] == 3 && t->ndim == 2 && t->end - t->begin == 24);
    ck_assert_str_eq(sl_gguf_at(f, 1)->name, "second");
    ck_assert_ptr_null(sl_gguf_find(f, "third"));
    ck_assert_ptr_null(sl_gguf_find(f, "firs"));
    sl_gguf_close(f);
}
END_TEST

START_TEST(any_cut_is_refused) {
    put_whole();
    for (size_t n = size; n-- > 0;) {
        size = n;
        ck_assert_msg(!parse(), "%zu bytes", n);
        ck_error("x.gguf: ");
    }
}
END_TEST

START_TEST(heads) {
    put_whole();
    file[0] = 'g';
    refused("not a GGUF file");
    put_whole();
    file[4] = 1;
    refused("version 1 of GGUF is not supported; 2 and 3 are");
    put_whole();
    memcpy(file + 4, "\0\0\0\3", 4);
    refused("big-endian");
    put_whole();
    file[4] = 2;
    sl_gguf *f = parse();
    ck_assert_msg(f != NULL, "%s", sl_error());
    sl_gguf_close(f);
    ck_assert_ptr_null(sl_gguf_open(in_scratch("nothing.gguf")));
    ck_error("nothing.gguf");
}
END_TEST

START_TEST(lying_counts) {
    static const uint64_t many[] = {2, 1u << 30, (uint64_t)1 << 60, UINT64_MAX};
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        put_head(0, many[i]);
        refused("reaches beyond the end");
        put_head(many[i], 0);
        refused("reaches beyond the end");
        put_head(0, 1);
        put64(many[i]);
        refused("reaches beyond the end");
        for (uint32_t type = 0; type < SL_GGUF_TYPES; type++) {
            if (type == SL_GGUF_ARRAY)
                continue;
            put_head(0, 1);
            put_string("list");
            put32(SL_GGUF_ARRAY);
            put32(type);
            put64(many[i]);
            put("", 1);
            refused("reaches beyond the end");
        }
    }
    put_head(0, 1);
    put_string("list");
    put32(SL_GGUF_ARRAY);
    put32(SL_GGUF_STRING);
    put64(1);
    put64(UINT64_MAX - 4);
    refused("a string at byte");
}
END_TEST

static void put_nested(uint32_t type) {
    put_head(0, 1);
    put_string("list");
    put32(SL_GGUF_ARRAY);
    put32(type);
    put64(1);
    put32(SL_GGUF_ARRAY);
    put64(1);
}

START_TEST(values) {
    put_nested(SL_GGUF_ARRAY);
    refused("key list: arrays of arrays are not supported");
    put_nested(SL_GGUF_TYPES);
    refused("key list: values of type 13 are not known");
    put_head(0, 1);
    put_string("flag");
    put32(SL_GGUF_BOOL);
    put("\2", 1);
    refused("key flag: a bool that is neither 0 nor 1");
    put_head(0, 2);
    put_u32("twice", 1);
    put_u32("twice", 2);
    refused("key twice is there twice");
    put_head(0, 1);
    put_u32("", 1);
    refused("a key is empty");
    put_head(0, 1);
    put_u32("a\nb", 1);
    refused("control characters");
    put_head(0, 1);
    put_u32("general.alignment", 0);
    refused("0 is no alignment");
    put_head(0, 1);
    put_string("general.alignment");
    put32(SL_GGUF_STRING);
    put_string("32");
    refused("general.alignment: string where whole numbers are needed");
    put_head(0, 1);
    put_string("x");
    put32(SL_GGUF_F32);
    put32(0x7fc00000);
    sl_gguf *f = parse();
    double x;
    ck_assert_msg(f != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_gguf_real(f, "x", &x), -1);
    ck_error("key x is not a finite number");
    sl_gguf_close(f);
}
END_TEST

static void put_dimensions(uint32_t n) {
    put_head(1, 0);
    put_string("t");
    put32(n);
    put_data(256);
}

START_TEST(tensors) {
    put_dimensions(0);
    refused("tensor t has 0 dimensions");
    put_dimensions(5);
    refused("tensor t has 5 dimensions");
    static const struct {
        uint64_t row, rows, offset;
        uint32_t type;
        const char *message;
    } bad[] = {{4, 0, 0, 0, "0 is no legal dimension"},
               {UINT64_MAX, 1, 0, 0, "is no legal dimension"},
               {(uint64_t)1 << 62, 8, 0, 0, "larger than any file"},
               {1, INT64_MAX / 4, UINT64_MAX - 31, 0, "larger than any file"},
               {4, 1, 0, 4, "type 4 is not known; F32, F16, BF16, F64, Q4_0"},
               {4, 1, 0, UINT32_MAX, "is not known"},
               {33, 1, 0, 2, "rows of 33 values are not whole blocks of Q4_0, 32"},
               {4, 1, 16, 0, "not at a multiple of 32"},
               {4, 1, 32, 0, "a hole in the data before tensor t"},
               {4, 1 << 20, 0, 0, "after the end of the file"},
               {4, (uint64_t)1 << 58, 0, 0, "after the end of the file"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_head(1, 0);
        put_tensor("t", bad[i].type, bad[i].row, bad[i].rows, bad[i].offset);
        put_data(64);
        refused(bad[i].message);
    }
    put_head(2, 0);
    put_tensor("t", 0, 8, 1, 0);
    put_tensor("t", 0, 8, 1, 32);
    put_data(64);
    refused("tensor t is there twice");
    put_head(2, 0);
    put_tensor("t", 0, 16, 1, 0);
    put_tensor("u", 0, 8, 1, 32);
    put_data(64);
    refused("overlapping data at tensor u");
    put_head(1, 0);
    put_tensor("a\x7f", 0, 8, 1, 0);
    put_data(64);
    refused("a tensor name is empty");
}
END_TEST

START_TEST(alignments) {
    put_head(2, 1);
    put_u32("general.alignment", 8);
    put_tensor("t", 0, 1, 1, 0);
    put_tensor("u", 0, 1, 1, 8);
    put("\0\0\0\0\0\0\0", (8 - size % 8) % 8);
    uint64_t one = 0x3f800000;
    put64(one);
    put(&one, 4);
    sl_gguf *f = parse();
    ck_assert_msg(f != NULL, "%s", sl_error());
    float x = 0;
    sl_gguf_find(f, "u")->type->floats(sl_gguf_data(f, sl_gguf_find(f, "u")), 1, &x);
    ck_assert(x == 1);
    sl_gguf_close(f);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gguf");
    TCase *t = tcase_create("gguf");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_test(t, a_whole_file);
    tcase_add_test(t, any_cut_is_refused);
    tcase_add_test(t, heads);
    tcase_add_test(t, lying_counts);
    tcase_add_test(t, values);
    tcase_add_test(t, tensors);
    tcase_add_test(t, alignments);
    suite_add_tcase(s, t);
    return run_suite(s);
}
