#include "io/tfevents.h"

#include "suite.h"

#include <string.h>

START_TEST(crc_has_its_check_value) {
    ck_assert_uint_eq(sl_crc32c("123456789", 9), 0xe3069283);
    ck_assert_uint_eq(sl_crc32c("", 0), 0);
    unsigned char zeros[32] = {0}; /* RFC 3720, B.4 */
    ck_assert_uint_eq(sl_crc32c(zeros, sizeof zeros), 0x8a9136aa);
}
END_TEST

/* The bytes that the package tensorboard 2.21.0 writes for the same messages with its RecordWriter. */
static const unsigned char head[71] = {
    0x18, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xa3, 0x7f, 0x4b, 0x22, 0x09, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0xf8, 0x3f, 0x1a, 0x0d, 0x62, 0x72, 0x61, 0x69, 0x6e, 0x2e, 0x45, 0x76, 0x65, 0x6e, 0x74, 0x3a, 0x32,
    0x2a, 0x28, 0x64, 0x6c, 0x0f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x6d, 0x53, 0x2b, 0x09, 0x09, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0xf8, 0x3f, 0x10, 0x07, 0x3a, 0x02, 0x08, 0x01, 0x77, 0x47, 0x71, 0xc7};
static const unsigned char scalar[51] = {
    0x23, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xb0, 0x9f, 0x77, 0x43, 0x09, 0x00, 0x00, 0x10, 0x40, 0xfc,
    0x54, 0xd9, 0x41, 0x10, 0xac, 0x02, 0x2a, 0x15, 0x0a, 0x13, 0x0a, 0x0c, 0x6d, 0x65, 0x74, 0x72, 0x69, 0x63,
    0x73, 0x2f, 0x6c, 0x6f, 0x73, 0x73, 0x15, 0x00, 0x00, 0x20, 0x40, 0x34, 0x63, 0x2c, 0x4e};

static unsigned char written[512];
static FILE *open_written(size_t room) {
    FILE *f = fmemopen(written, room, "w");
    ck_assert_ptr_nonnull(f);
    return f;
}

static void check_written(FILE *f, const unsigned char *want, size_t n) {
    ck_assert_int_eq(ftell(f), (long)n);
    ck_assert_int_eq(fclose(f), 0);
    ck_assert_mem_eq(written, want, n);
}

START_TEST(bytes_are_tensorboards) {
    FILE *f = open_written(sizeof written);
    ck_assert_int_eq(sl_tfevents_begin(f, 1.5, 7), 0);
    check_written(f, head, sizeof head);
    f = open_written(sizeof written);
    ck_assert_int_eq(sl_tfevents_scalar(f, 1700000000.25, 300, "metrics/loss", 2.5f), 0);
    check_written(f, scalar, sizeof scalar);
}
END_TEST

/* A longer tag is cut: the same bytes, and none beyond the room for a message. */
START_TEST(long_tags_are_cut) {
    char tag[SL_TFEVENTS_TAG + 51];
    unsigned char want[sizeof written];
    memset(tag, 'a', sizeof tag - 1);
    tag[sizeof tag - 1] = 0;
    FILE *f = open_written(sizeof written);
    ck_assert_int_eq(sl_tfevents_scalar(f, -1, INT64_MAX, tag, 1), 0);
    size_t n = (size_t)ftell(f);
    ck_assert_int_eq(fclose(f), 0);
    memcpy(want, written, n);
    tag[SL_TFEVENTS_TAG] = 0;
    f = open_written(sizeof written);
    ck_assert_int_eq(sl_tfevents_scalar(f, -1, INT64_MAX, tag, 1), 0);
    check_written(f, want, n);
}
END_TEST

START_TEST(a_full_disk_is_told) {
    FILE *f = fopen("/dev/full", "w");
    if (!f)
        return;
    setvbuf(f, NULL, _IONBF, 0);
    ck_assert_int_eq(sl_tfevents_begin(f, 1.5, 7), -1);
    ck_assert_int_eq(sl_tfevents_scalar(f, 1.5, 7, "loss", 1), -1);
    fclose(f);
}
END_TEST

int main(void) {
    Suite *s = suite_create("tfevents");
    TCase *t = tcase_create("tfevents");
    tcase_add_test(t, crc_has_its_check_value);
    tcase_add_test(t, bytes_are_tensorboards);
    tcase_add_test(t, long_tags_are_cut);
    tcase_add_test(t, a_full_disk_is_told);
    suite_add_tcase(s, t);
    return run_suite(s);
}
