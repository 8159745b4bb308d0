/* Token bins: both llm.c flavours, bare ids, and one message a mistake. */
#include "data/bin.h"
#include "base/err.h"
#include "scratch.h"
#include "suite.h"

#include <errno.h>

static unsigned char file[SL_BIN_HEADER_BYTES + 64] __attribute__((aligned(8)));

static size_t make(int32_t magic, int32_t version, int32_t count, size_t payload) {
    int32_t *h = (int32_t *)(void *)file;
    memset(file, 0, sizeof file);
    h[0] = magic, h[1] = version, h[2] = count;
    for (size_t i = 0; i < payload; i++)
        file[SL_BIN_HEADER_BYTES + i] = (unsigned char)(i + 1);
    return SL_BIN_HEADER_BYTES + payload;
}

START_TEST(reads_llmc) {
    sl_tokens t;
    ck_assert_int_eq(sl_bin_parse(&t, file, make(20240520, 1, 3, 6), "x"), 0);
    ck_assert_int_eq(t.count, 3);
    ck_assert_int_eq(t.width, 2);
    ck_assert_int_eq(sl_tokens_at(&t, 0), 0x0201);
    ck_assert_int_eq(sl_tokens_at(&t, 2), 0x0605);
    ck_assert_int_eq(sl_bin_parse(&t, file, make(20240801, 7, 2, 8), "x"), 0);
    ck_assert_int_eq(t.width, 4);
    ck_assert_int_eq(sl_tokens_at(&t, 1), 0x08070605);
}
END_TEST

START_TEST(reads_bare_ids) {
    sl_tokens t;
    const uint16_t id[] = {7, 65535, 9};
    ck_assert_int_eq(sl_bin_parse(&t, id, sizeof id, "train.bin"), 0);
    ck_assert_int_eq(t.count, 3);
    ck_assert_int_eq(sl_tokens_at(&t, 1), 65535);
    int64_t at;
    ck_assert_int_eq(sl_tokens_largest(&t, &at), 65535);
    ck_assert_int_eq(at, 1);
    ck_assert_int_eq(sl_bin_parse(&t, id, 2, "train.bin"), 0);
    ck_assert_int_eq(t.count, 1);
    ck_assert_int_eq(sl_bin_parse(&t, id, sizeof id, "train.dat"), -1);
    ck_error("must be named *.bin");
}
END_TEST

static const struct {
    int32_t magic, version, count;
    size_t payload;
    const char *message;
} bad[] = {
    {20240520, 1, 3, 5, "truncated: the header claims 3 tokens, which are 1030 bytes, but the file has 1029"},
    {20240520, 1, 3, 7, "too long"},
    {20240520, 1, 3, 12, "too long"},
    {20240801, 7, 3, 6, "truncated"},
    {20240520, 1, INT32_MAX, 6, "truncated: the header claims 2147483647 tokens, which are 4294968318 bytes"},
    {20240801, 7, INT32_MAX, 6, "truncated: the header claims 2147483647 tokens, which are 8589935612 bytes"},
    {20240520, 1, -1, 6, "negative number of tokens, -1"},
    {20240520, 1, INT32_MIN, 6, "negative number of tokens, -2147483648"},
    {20240520, 1, 0, 0, "holds no tokens"},
    {20240520, 2, 3, 6, "version 2 of the token bin 20240520, only 1 is known"},
    {20240801, 1, 3, 12, "version 1 of the token bin 20240801, only 7 is known"},
    {20240522, 1, 3, 6, "evaluation file"},
    {20240328, 1, 3, 6, "tokenizer, not a token bin"},
    {278895051, 1, 3, 6, "modded-nanogpt"},
};

START_TEST(bad_files_are_refused) {
    sl_tokens t;
    size_t n = make(bad[_i].magic, bad[_i].version, bad[_i].count, bad[_i].payload);
    ck_assert_int_eq(sl_bin_parse(&t, file, n, "x.bin"), -1);
    ck_error("x.bin: ");
    ck_error(bad[_i].message);
    ck_assert_int_eq(t.count, 0);
}
END_TEST

START_TEST(every_truncation_is_refused) {
    sl_tokens t;
    size_t n = make(20240520, 1, 3, 6);
    for (size_t k = 4; k < n; k++)
        ck_assert_int_eq(sl_bin_parse(&t, file, k, "x.bin"), -1);
    for (size_t k = 0; k < 4; k++)
        ck_assert_int_eq(sl_bin_parse(&t, file, k, "x"), -1);
    ck_assert_int_eq(sl_bin_parse(&t, file, 0, "x.bin"), -1);
    ck_error("holds no tokens");
    ck_assert_int_eq(sl_bin_parse(&t, file + 4, 3, "x.bin"), -1);
    ck_error("odd number");
}
END_TEST

static void write_and_read(const sl_tokens *t, int32_t magic, int32_t version) {
    const uint64_t extra[4] = {1, 2, UINT64_MAX, 4};
    uint64_t back[4];
    sl_bin b;
    const char *path = in_scratch("a.bin");
    ck_assert_int_eq(sl_bin_write(path, t, extra), 0);
    ck_assert_int_eq(sl_bin_open(&b, path), 0);
    ck_assert_int_eq(((const int32_t *)(const void *)b.map.p)[0], magic);
    ck_assert_int_eq(((const int32_t *)(const void *)b.map.p)[1], version);
    ck_assert_int_eq(b.tokens.count, t->count);
    ck_assert_int_eq(b.tokens.width, t->width);
    ck_assert_mem_eq(b.tokens.id, t->id, (size_t)t->count * (size_t)t->width);
    ck_assert(sl_bin_extra(&b, back));
    ck_assert_mem_eq(back, extra, sizeof back);
    ck_assert(sl_bin_looks_like(path));
    sl_bin_close(&b);
}

START_TEST(written_bins_are_read_back) {
    const uint16_t narrow[] = {0, 65535, 7};
    const uint32_t wide[] = {0, 65536, 128255};
    write_and_read(&(sl_tokens){narrow, 2, 3}, 20240520, 1);
    write_and_read(&(sl_tokens){wide, 4, 3}, 20240801, 7);
    ck_assert_int_eq(sl_bin_write("/nonexistent/a.bin", &(sl_tokens){narrow, 2, 3}, NULL), -1);
    ck_error("/nonexistent/a.bin");
    ck_assert_int_eq(sl_bin_write(in_scratch("b.bin"), &(sl_tokens){narrow, 2, (int64_t)INT32_MAX + 1}, NULL), -1);
    ck_error("more than the 2147483647");
    ck_assert_int_ne(access(in_scratch("b.bin"), F_OK), 0);
}
END_TEST

static ssize_t full_disk(int fd, const void *p, size_t n) {
    (void)fd, (void)p, (void)n;
    errno = ENOSPC;
    return -1;
}

/* A write that fails leaves the old bin as it was, and nothing else. */
START_TEST(full_disk_leaves_the_old_bin) {
    const uint16_t id[] = {1, 2, 3};
    const char *path = in_scratch("c.bin");
    ck_assert_int_eq(sl_bin_write(path, &(sl_tokens){id, 2, 3}, NULL), 0);
    sl_sys_calls saved = sl_sys;
    sl_sys.write = full_disk;
    int rc = sl_bin_write(path, &(sl_tokens){id, 2, 2}, NULL);
    sl_sys = saved;
    ck_assert_int_eq(rc, -1);
    ck_error("No space left");
    sl_bin b;
    ck_assert_int_eq(sl_bin_open(&b, path), 0);
    ck_assert_int_eq(b.tokens.count, 3);
    sl_bin_close(&b);
    char command[600];
    snprintf(command, sizeof command, "test $(ls %s | grep -c c.bin) = 1", scratch);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(missing_and_odd_files) {
    sl_bin b;
    ck_assert_int_eq(sl_bin_open(&b, in_scratch("none.bin")), -1);
    ck_error("none.bin");
    ck_assert_int_eq(sl_bin_open(&b, scratch), -1);
    ck_error("regular file");
    ck_assert(!sl_bin_looks_like(in_scratch("none.bin")));
    put_file(in_scratch("t.txt"), "some text", 9);
    ck_assert(!sl_bin_looks_like(in_scratch("t.txt")));
}
END_TEST

int main(void) {
    Suite *s = suite_create("bin");
    TCase *t = tcase_create("bin");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_test(t, reads_llmc);
    tcase_add_test(t, reads_bare_ids);
    tcase_add_loop_test(t, bad_files_are_refused, 0, sizeof bad / sizeof *bad);
    tcase_add_test(t, every_truncation_is_refused);
    tcase_add_test(t, written_bins_are_read_back);
    tcase_add_test(t, full_disk_leaves_the_old_bin);
    tcase_add_test(t, missing_and_odd_files);
    suite_add_tcase(s, t);
    return run_suite(s);
}
