/* GGUF files put together piece by piece, right or wrong. */
#ifndef SL_TESTS_GGUF_FILE_H
#define SL_TESTS_GGUF_FILE_H

#include "io/gguf.h"

#include <check.h>
#include <string.h>

/* What has been put so far. */
static unsigned char file[16384];
static size_t size;

static inline void put(const void *p, size_t n) {
    ck_assert_uint_le(size + n, sizeof file);
    memcpy(file + size, p, n);
    size += n;
}

static inline void put32(uint32_t v) { put(&v, sizeof v); }
static inline void put64(uint64_t v) { put(&v, sizeof v); }

static inline void put_string(const char *s) {
    put64(strlen(s));
    put(s, strlen(s));
}

static inline void put_head(uint64_t tensors, uint64_t pairs) {
    size = 0;
    put("GGUF", 4);
    put32(3);
    put64(tensors);
    put64(pairs);
}

static inline void put_u32(const char *key, uint32_t v) {
    put_string(key);
    put32(SL_GGUF_U32);
    put32(v);
}

static inline void put_tensor(const char *name, uint32_t type, uint64_t row, uint64_t rows, uint64_t offset) {
    put_string(name);
    put32(2);
    put64(row);
    put64(rows);
    put32(type);
    put64(offset);
}

/* Zeros up to the data and n bytes of it. */
static inline void put_data(size_t n) {
    static const unsigned char zeros[1024];
    put(zeros, (32 - size % 32) % 32 + n);
}

#endif
