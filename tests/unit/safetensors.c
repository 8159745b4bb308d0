#include "io/safetensors.h"

#include "base/err.h"
#include "scratch.h"
#include "suite.h"

#include <math.h>
#include <stdint.h>

static uint32_t bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* tests/golden/reference.safetensors was written by the reference library (safetensors 0.8.0,
 * Python). */
static sl_st_file *open_reference(void) {
    char path[1024];
    const char *tests = getenv("SL_TESTS");
    ck_assert_msg(tests != NULL, "SL_TESTS is not set; run the tests with meson test");
    snprintf(path, sizeof path, "%s/golden/reference.safetensors", tests);
    sl_st_file *f = sl_st_open(path);
    ck_assert_msg(f != NULL, "%s", sl_error());
    return f;
}

START_TEST(reference_file_is_read) {
    sl_st_file *f = open_reference();
    ck_assert_int_eq(sl_st_count(f), 7);
    ck_assert_str_eq(sl_st_metadata(f, "format"), "pt");
    ck_assert_str_eq(sl_st_metadata(f, "note"),
                     "written by safetensors 0.8.0, \"quoted\" \xc3\xa9");
    ck_assert_ptr_null(sl_st_metadata(f, "nothing"));
    ck_assert_ptr_null(sl_st_find(f, "nothing"));
    const sl_st_tensor *ids = sl_st_find(f, "ids"), *flag = sl_st_find(f, "flag");
    ck_assert_int_eq(ids->dtype, SL_I64);
    int64_t v[3];
    memcpy(v, sl_st_data(f, ids), sizeof v);
    ck_assert(v[0] == 1 && v[1] == -2 && v[2] == (int64_t)1 << 40);
    ck_assert_int_eq(flag->ndim, 0);
    ck_assert_int_eq(*(const char *)sl_st_data(f, flag), 1);

    float x[11];
    int64_t s23[2] = {2, 3}, s24[2] = {2, 4}, s3[1] = {3}, s11[1] = {11}, s03[2] = {0, 3};
    ck_assert_int_eq(sl_st_read_f32(f, "f32", 2, s23, x), 0);
    const uint32_t f32[6] = {0x3fc00000, 0xc0100000, 1, 0x7f7fffff, 0xff800000, 0x3dcccccd};
    for (int i = 0; i < 6; i++)
        ck_assert_uint_eq(bits(x[i]), f32[i]);
    ck_assert_int_eq(sl_st_read_f32(f, "bf16", 2, s24, x), 0);
    const uint32_t bf16[8] = {0, 0x8001, 0x7f, 0x80, 0x3f80, 0xc049, 0x7f7f, 0xff80};
    for (int i = 0; i < 8; i++)
        ck_assert_uint_eq(bits(x[i]), bf16[i] << 16);
    ck_assert_int_eq(sl_st_read_f32(f, "f16", 1, s11, x), 0);
    const float f16[11] = {0,  -0.0f, 0x1p-24f, -1023 * 0x1p-24f, 0x1p-14f,   1,
                           -2, 65504, INFINITY, -INFINITY,        0x1.554p-2f};
    for (int i = 0; i < 11; i++)
        ck_assert_uint_eq(bits(x[i]), bits(f16[i]));
    ck_assert_int_eq(sl_st_read_f32(f, "f64", 1, s3, x), 0);
    ck_assert(x[0] == 0.1f && isinf(x[1]) && x[2] == 0 && signbit(x[2]));
    ck_assert_int_eq(sl_st_read_f32(f, "none", 2, s03, x), 0);

    ck_assert_int_eq(sl_st_read_f32(f, "f32", 2, s24, x), -1);
    ck_error("tensor f32 has shape [2, 3] where [2, 4] is needed");
    ck_assert_int_eq(sl_st_read_f32(f, "f32", 1, s3, x), -1);
    ck_assert_int_eq(sl_st_read_f32(f, "gone", 1, s3, x), -1);
    ck_error("reference.safetensors: tensor gone is missing");
    ck_assert_int_eq(sl_st_read_f32(f, "ids", 1, s3, x), -1);
    ck_error("is I64");
    sl_st_close(f);
}
END_TEST

/* All 65536 halves against arithmetic on their fields: (-1)^s 2^(e-15) (1 + f/1024). */
START_TEST(every_half_is_exact) {
    static uint16_t h[65536];
    static float x[65536];
    for (int i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    sl_st_entry e = {.meta = {.name = "h", .dtype = SL_F16, .ndim = 1, .shape = {65536}},
                     .data = h};
    int64_t shape[1] = {65536};
    ck_assert_int_eq(sl_st_write(in_scratch("h"), &e, 1, NULL, NULL, 0), 0);
    sl_st_file *f = sl_st_open(in_scratch("h"));
    ck_assert_msg(f != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_st_read_f32(f, "h", 1, shape, x), 0);
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 10 & 31, fraction = i & 1023;
        double want = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                     : ldexp(fraction, -24);
        ck_assert_int_eq(signbit(x[i]) != 0, i >> 15);
        ck_assert(isnan(want) ? isnan(x[i]) : fabs(x[i]) == want);
    }
    sl_st_close(f);
}
END_TEST

START_TEST(written_file_is_read_back) {
    const float a[6] = {1, 2, 3, -0.0f, 0x1p-149f, NAN};
    const uint8_t b[3] = {7, 8, 9};
    sl_st_entry e[3] = {
        {.meta = {.name = "layer.\"q\".weight", .dtype = SL_F32, .ndim = 2, .shape = {2, 3}},
         .data = a},
        {.meta = {.name = "bytes", .dtype = SL_U8, .ndim = 1, .shape = {3}}, .data = b},
        {.meta = {.name = "none", .dtype = SL_F64, .ndim = 2, .shape = {5, 0}}, .data = NULL},
    };
    const char *keys[] = {"format", "k"}, *values[] = {"pt", "v\n"};
    ck_assert_int_eq(sl_st_write(in_scratch("w"), e, 3, keys, values, 2), 0);
    size_t n;
    unsigned char *p = get_file(in_scratch("w"), &n);
    uint64_t header;
    memcpy(&header, p, 8);
    ck_assert_uint_eq((header + 8) % 64, 0);
    ck_assert_uint_eq(n, header + 8 + 24 + 3);
    ck_assert_mem_eq(p + 8 + header, a, 24);
    free(p);
    sl_st_file *f = sl_st_open(in_scratch("w"));
    ck_assert_msg(f != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_st_count(f), 3);
    ck_assert_str_eq(sl_st_at(f, 0)->name, "layer.\"q\".weight");
    ck_assert_str_eq(sl_st_metadata(f, "k"), "v\n");
    float x[6];
    int64_t shape[2] = {2, 3};
    ck_assert_int_eq(sl_st_read_f32(f, "layer.\"q\".weight", 2, shape, x), 0);
    ck_assert_mem_eq(a, x, sizeof a);
    ck_assert_mem_eq(sl_st_data(f, sl_st_find(f, "bytes")), b, 3);
    sl_st_close(f);
}
END_TEST

START_TEST(write_refuses) {
    const float a[4] = {0};
    sl_st_entry e[2] = {
        {.meta = {.name = "a", .dtype = SL_F32, .ndim = 1, .shape = {4}}, .data = a},
        {.meta = {.name = "a", .dtype = SL_F32, .ndim = 1, .shape = {4}}, .data = a}};
    ck_assert_int_eq(sl_st_write(in_scratch("r"), e, 2, NULL, NULL, 0), -1);
    ck_error("repeated name");
    ck_assert_int_ne(access(in_scratch("r"), F_OK), 0); /* nothing half-written stays */
    strcpy(e[1].meta.name, "b\n");
    ck_assert_int_eq(sl_st_write(in_scratch("r"), e, 2, NULL, NULL, 0), -1);
    strcpy(e[1].meta.name, "\xff");
    ck_assert_int_eq(sl_st_write(in_scratch("r"), e, 2, NULL, NULL, 0), -1);
    ck_error("UTF-8");
    strcpy(e[1].meta.name, "__metadata__");
    const char *key = "k", *value = "v";
    ck_assert_int_eq(sl_st_write(in_scratch("r"), e, 2, &key, &value, 1), -1);
    strcpy(e[1].meta.name, "b");
    e[1].meta.shape[0] = INT64_MAX;
    ck_assert_int_eq(sl_st_write(in_scratch("r"), e, 2, NULL, NULL, 0), -1);
    e[1].meta.shape[0] = 4;
    ck_assert_int_eq(sl_st_write(in_scratch("no/r"), e, 2, NULL, NULL, 0), -1);
    ck_assert_int_eq(sl_st_write("/dev/full", e, 2, NULL, NULL, 0), -1);
    ck_error("No space left");
}
END_TEST

/* A file with this header and n data bytes. */
static sl_st_file *open_header(const char *json, size_t n) {
    static unsigned char buf[4096];
    uint64_t len = strlen(json);
    memcpy(buf, &len, 8);
    memcpy(buf + 8, json, len);
    memset(buf + 8 + len, 0, n);
    return sl_st_open_memory(buf, 8 + len + n, "x.st");
}

#define T(name, shape, offsets)                                                                    \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *json;
    size_t n;
    const char *message;
} bad[] = {
    {"", 0, "not a safetensors file"},
    {"[]", 0, "not a safetensors file"},
    {" {}", 0, "not a safetensors file"},
    {"{} x", 0, "not a safetensors file"},
    {"{" T("a", "[1]", "[0,4]") "," T("a", "[1]", "[4,8]") "}", 8, "unique keys"},
    {"{\"a\":1}", 0, "not an object"},
    {"{" T("", "[1]", "[0,4]") "}", 4, "name is empty"},
    {"{" T("a\\n", "[1]", "[0,4]") "}", 4, "control characters"},
    {"{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", 4, "dtype"},
    {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "dtype \"Q4\""},
    {"{\"a\":{\"dtype\":\"\\n\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "dtype \"?\""},
    {"{" T("a", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "at most 8"},
    {"{" T("a", "{}", "[0,4]") "}", 4, "shape"},
    {"{" T("a", "[-1]", "[0,4]") "}", 4, "not a size"},
    {"{" T("a", "[1.0]", "[0,4]") "}", 4, "not a size"},
    {"{" T("a", "[1]", "[0]") "}", 4, "data_offsets"},
    {"{" T("a", "[1]", "[4,0]") "}", 4, "data_offsets"},
    {"{" T("a", "[1]", "[-4,0]") "}", 4, "data_offsets"},
    {"{" T("a", "[1]", "[0,4,8]") "}", 4, "data_offsets"},
    {"{" T("a", "[2]", "[0,8]") "}", 7, "ends 1 bytes after"},
    {"{" T("a", "[2]", "[0,4]") "}", 4, "do not agree"},
    {"{" T("a", "[4611686018427387904,4]", "[0,0]") "}", 0, "do not agree"},
    {"{" T("a", "[1]", "[0,4]") "," T("b", "[2]", "[0,8]") "}", 8, "overlapping"},
    {"{" T("a", "[1]", "[0,4]") "," T("b", "[1]", "[8,12]") "}", 12,
     "a hole in the data before tensor b"},
    {"{" T("a", "[1]", "[4,8]") "}", 8, "a hole"},
    {"{" T("a", "[1]", "[0,4]") "}", 5, "1 bytes after the last tensor"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
    {"{\"__metadata__\":[]}", 0, "__metadata__"},
};

START_TEST(bad_files_are_refused) {
    ck_assert_ptr_null(open_header(bad[_i].json, bad[_i].n));
    ck_error(bad[_i].message);
    ck_error("x.st: ");
}
END_TEST

START_TEST(long_names_and_deep_headers_are_refused) {
    char json[3000];
    char name[300];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    snprintf(json, sizeof json, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}",
             name);
    ck_assert_ptr_null(open_header(json, 1));
    ck_error("longer than 255");
    snprintf(json, sizeof json, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}",
             name + 1);
    sl_st_file *f = open_header(json, 1);
    ck_assert_msg(f != NULL, "%s", sl_error());
    sl_st_close(f);
    memset(json, '[', sizeof json - 1);
    memcpy(json, "{\"a\":", 5);
    json[sizeof json - 1] = 0;
    ck_assert_ptr_null(open_header(json, 0));
    uint64_t huge[2] = {UINT64_MAX, 0};
    ck_assert_ptr_null(sl_st_open_memory(huge, sizeof huge, "x.st"));
    huge[0] = 9;
    ck_assert_ptr_null(sl_st_open_memory(huge, sizeof huge, "x.st"));
    ck_error("truncated");
}
END_TEST

START_TEST(every_truncation_is_refused) {
    sl_st_file *f = open_reference();
    const unsigned char *end = (const unsigned char *)sl_st_data(f, sl_st_find(f, "flag")) + 1;
    size_t n = 0; /* the header is 504 bytes, the data 111 */
    for (n = 0; n < 8 + 504 + 111; n++) {
        unsigned char *copy = malloc(n + 1); /* exact, for a sanitizer */
        memcpy(copy, end - (8 + 504 + 111), n);
        ck_assert_ptr_null(sl_st_open_memory(copy, n, "x.st"));
        free(copy);
    }
    sl_st_close(f);
}
END_TEST

START_TEST(unreadable_paths) {
    ck_assert_ptr_null(sl_st_open(in_scratch("nothing")));
    ck_error("No such file");
    ck_assert_ptr_null(sl_st_open(scratch));
    ck_error("not a regular file");
    ck_assert_ptr_null(sl_st_open("/dev/zero"));
    ck_error("not a regular file");
    put_file(in_scratch("empty"), "", 0);
    ck_assert_ptr_null(sl_st_open(in_scratch("empty")));
    ck_error("only 0 bytes");
}
END_TEST

int main(void) {
    Suite *s = suite_create("safetensors");
    TCase *t = tcase_create("safetensors");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_test(t, reference_file_is_read);
    tcase_add_test(t, every_half_is_exact);
    tcase_add_test(t, written_file_is_read_back);
    tcase_add_test(t, write_refuses);
    tcase_add_loop_test(t, bad_files_are_refused, 0, sizeof bad / sizeof bad[0]);
    tcase_add_test(t, long_names_and_deep_headers_are_refused);
    tcase_add_test(t, every_truncation_is_refused);
    tcase_add_test(t, unreadable_paths);
    suite_add_tcase(s, t);
    return run_suite(s);
}
