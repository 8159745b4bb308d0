#include "io/npy.h"

#include "base/err.h"
#include "scratch.h"
#include "suite.h"

#include <stdint.h>

/* A version 1.0 file with this header dict and these data bytes. */
static size_t make(unsigned char *out, const char *dict, const void *data, size_t n) {
    size_t len = strlen(dict);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (unsigned char)(len & 255);
    out[9] = (unsigned char)(len >> 8);
    memcpy(out + 10, dict, len);
    memcpy(out + 10 + len, data, n);
    return 10 + len + n;
}

static int read_dict(const char *dict, const void *data, size_t n, int64_t shape[2],
                     int32_t **out) {
    unsigned char buf[1024];
    return sl_npy_tokens_from_memory(buf, make(buf, dict, data, n), "x.npy", shape, out);
}

#define DICT(descr, shape) "{'descr': '" descr "', 'fortran_order': False, 'shape': " shape ", }\n"

START_TEST(written_file_is_read_back) {
    const int32_t x[6] = {0, -1, INT32_MAX, INT32_MIN, 256, 7};
    int64_t shape[2] = {2, 3}, got[2];
    int32_t *y;
    ck_assert_int_eq(sl_npy_write(in_scratch("a.npy"), "<i4", 2, shape, x), 0);
    ck_assert_int_eq(sl_npy_read_tokens(in_scratch("a.npy"), got, &y), 0);
    ck_assert_int_eq(got[0], 2);
    ck_assert_int_eq(got[1], 3);
    ck_assert_mem_eq(x, y, sizeof x);
    free(y);
}
END_TEST

/* The bytes NumPy writes for numpy.save of numpy.array([1.5, -2], "<f4"). */
START_TEST(written_bytes_are_numpys) {
    const float x[2] = {1.5f, -2.0f};
    int64_t shape[1] = {2};
    char want[128];
    memset(want, ' ', sizeof want);
    const char head[] =
        "\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    memcpy(want, head, sizeof head - 1);
    want[127] = '\n';
    ck_assert_int_eq(sl_npy_write(in_scratch("b.npy"), "<f4", 1, shape, x), 0);
    size_t n;
    unsigned char *p = get_file(in_scratch("b.npy"), &n);
    ck_assert_uint_ge(n, 64 + sizeof x);
    ck_assert_uint_eq((n - sizeof x) % 64, 0);
    size_t header = n - sizeof x;
    ck_assert_uint_eq(p[8] + 256u * p[9] + 10, header);
    ck_assert_mem_eq(p, want, 8);
    ck_assert_mem_eq(p + 10, want + 10, sizeof head - 11);
    ck_assert_int_eq(p[header - 1], '\n');
    ck_assert_mem_eq(p + header, x, sizeof x);
    free(p);
}
END_TEST

START_TEST(write_refuses) {
    int64_t shape[2] = {INT64_MAX / 2, 3}, negative[1] = {-1}, one[1] = {1};
    ck_assert_int_eq(sl_npy_write(in_scratch("c.npy"), "<f4", 2, shape, shape), -1);
    ck_assert_int_eq(sl_npy_write(in_scratch("c.npy"), "<f4", 1, negative, shape), -1);
    ck_assert_int_eq(sl_npy_write(in_scratch("c.npy"), "<u2", 1, one, shape), -1);
    ck_assert_int_eq(sl_npy_write(in_scratch("no/c.npy"), "<f4", 1, one, shape), -1);
    ck_error("no/c.npy");
    ck_assert_int_eq(sl_npy_write("/dev/full", "<f4", 1, one, shape), -1);
    ck_error("No space left");
    ck_assert_int_eq(access("/dev/full", F_OK), 0); /* a device is not removed after a failure */
}
END_TEST

static const struct {
    const char *dict;
    unsigned char data[8];
    size_t n;
    int32_t first;
} good[] = {
    {DICT("|i1", "(1,)"), {0x80}, 1, -128},
    {DICT("|u1", "(1,)"), {0xff}, 1, 255},
    {DICT("<i2", "(1, 1)"), {0xfe, 0xff}, 2, -2},
    {DICT("<u2", "(1,)"), {0xff, 0xff}, 2, 65535},
    {DICT("<i4", "(1,)"), {0, 0, 0, 0x80}, 4, INT32_MIN},
    {DICT("<u4", "(1,)"), {0xff, 0xff, 0xff, 0x7f}, 4, INT32_MAX},
    {DICT("<i8", "(1,)"), {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 8, -1},
    {DICT("<u8", "(1,)"), {5}, 8, 5},
    {"{\"shape\":(1,),\"descr\":\"|u1\",\"fortran_order\":True}", {9}, 1, 9},
};

START_TEST(every_integer_type) {
    int64_t shape[2];
    int32_t *x;
    ck_assert_msg(read_dict(good[_i].dict, good[_i].data, good[_i].n, shape, &x) == 0, "%s",
                  sl_error());
    ck_assert_int_eq(shape[0], 1);
    ck_assert_int_eq(shape[1], 1);
    ck_assert_int_eq(x[0], good[_i].first);
    free(x);
}
END_TEST

static const struct {
    const char *dict;
    size_t n;
    const char *message;
} bad[] = {
    {DICT("<f4", "(1,)"), 4, "dtype <f4"},
    {DICT(">i4", "(1,)"), 4, "dtype >i4"},
    {DICT("|O", "(1,)"), 8, "dtype |O"},
    {DICT("<i4", "()"), 4, "0 dimensions"},
    {DICT("<i4", "(1, 1, 1)"), 4, "3 dimensions"},
    {DICT("<i4", "(2,)"), 4, "truncated or over-long"},
    {DICT("<i4", "(1,)"), 8, "truncated or over-long"},
    {DICT("<i4", "(4611686018427387905,)"), 4, "truncated or over-long"},
    {DICT("<i4", "(4294967296, 4294967296)"), 4, "truncated or over-long"},
    {DICT("<i4", "(99999999999999999999,)"), 4, "header cannot be read"},
    {DICT("<i4", "(-1,)"), 4, "header cannot be read"},
    {DICT("<i4", "(1)"), 4, "header cannot be read"},
    {DICT("<i4", "(1,"), 4, "header cannot be read"},
    {"{'descr': '|u1', 'fortran_order': True, 'shape': (1, 1)}", 1, "Fortran"},
    {"{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}", 4,
     "header cannot be read"},
    {"{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (1,)}", 4, "header cannot"},
    {"{'descr': '<i4', 'shape': (1,)}", 4, "header cannot be read"},
    {"{'descr': '<i4', 'fortran_order': False, 'shape': (1,)} x", 4, "header cannot be read"},
    {"{'descr': '<i4', 'fortran_order': 0, 'shape': (1,)}", 4, "header cannot be read"},
    {"", 0, "not a .npy"},
    {"__", 0, "header cannot be read"},
};

START_TEST(bad_files_are_refused) {
    const unsigned char zeros[16] = {0};
    int64_t shape[2];
    int32_t *x;
    ck_assert_int_eq(read_dict(bad[_i].dict, zeros, bad[_i].n, shape, &x), -1);
    ck_error(bad[_i].message);
    ck_error("x.npy: ");
}
END_TEST

START_TEST(values_outside_int32_are_refused) {
    const unsigned char big[8] = {0, 0, 0, 0x80},
                        low[8] = {0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff};
    int64_t shape[2];
    int32_t *x;
    ck_assert_int_eq(read_dict(DICT("<u4", "(1,)"), big, 4, shape, &x), -1);
    ck_error("value number 0");
    ck_assert_int_eq(read_dict(DICT("<i8", "(1,)"), big, 8, shape, &x), -1);
    ck_assert_int_eq(read_dict(DICT("<i8", "(1,)"), low, 8, shape, &x), -1);
}
END_TEST

/* Every prefix of a good file, and other versions. */
START_TEST(truncation_and_versions) {
    unsigned char buf[256];
    const int32_t x[2] = {1, 2};
    int64_t shape[2];
    int32_t *y;
    size_t n = make(buf, DICT("<i4", "(2,)"), x, sizeof x);
    for (size_t k = 0; k < n; k++)
        ck_assert_int_eq(sl_npy_tokens_from_memory(buf, k, "x.npy", shape, &y), -1);
    buf[6] = 4;
    ck_assert_int_eq(sl_npy_tokens_from_memory(buf, n, "x.npy", shape, &y), -1);
    ck_error("version 4.0");
    memmove(buf + 12, buf + 10, n - 10); /* version 2.0 has a length of 32 bits */
    buf[6] = 2;
    buf[10] = buf[11] = 0;
    ck_assert_int_eq(sl_npy_tokens_from_memory(buf, n + 2, "x.npy", shape, &y), 0);
    ck_assert_int_eq(y[1], 2);
    free(y);
    buf[11] = 0xff;
    ck_assert_int_eq(sl_npy_tokens_from_memory(buf, n + 2, "x.npy", shape, &y), -1);
    ck_error("truncated");
}
END_TEST

int main(void) {
    Suite *s = suite_create("npy");
    TCase *t = tcase_create("npy");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_test(t, written_file_is_read_back);
    tcase_add_test(t, written_bytes_are_numpys);
    tcase_add_test(t, write_refuses);
    tcase_add_loop_test(t, every_integer_type, 0, sizeof good / sizeof good[0]);
    tcase_add_loop_test(t, bad_files_are_refused, 0, sizeof bad / sizeof bad[0]);
    tcase_add_test(t, values_outside_int32_are_refused);
    tcase_add_test(t, truncation_and_versions);
    suite_add_tcase(s, t);
    return run_suite(s);
}
