/* A scratch folder for tests that write files, and small file tools. */
#ifndef SL_TESTS_SCRATCH_H
#define SL_TESTS_SCRATCH_H

#include <check.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char scratch[64];

static int scratch_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static inline void scratch_remove(void) {
    nftw(scratch, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void scratch_make(void) {
    /* Memory where there is some: fsync on a busy disk takes long, and no test depends on the disk.
     */
    snprintf(scratch, sizeof scratch, "%s/sinklab-test-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(scratch));
}

/* Path of a name in the scratch folder; four can be in use at a time. */
static inline const char *in_scratch(const char *name) {
    static char path[4][512];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", scratch, name);
    return path[next];
}

static inline void put_file(const char *path, const void *p, size_t n) {
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(p, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

/* The whole file, to be freed. */
static inline unsigned char *get_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s", path);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    unsigned char *p = malloc(*n + 1);
    ck_assert_uint_eq(fread(p, 1, *n, f), *n);
    fclose(f);
    return p;
}

/* The pending message is one line that contains `part`. */
#define ck_error(part)                                                                             \
    do {                                                                                           \
        ck_assert_msg(strstr(sl_error(), part) != NULL, "message: %s", sl_error());                \
        ck_assert_msg(strchr(sl_error(), '\n') == NULL, "message: %s", sl_error());                \
    } while (0)

#endif
