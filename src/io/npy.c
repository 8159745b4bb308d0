#include "io/npy.h"

#include "base/err.h"
#include "io/file.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "array data is copied as it lies in the file");

static const char magic[6] = "\x93NUMPY";
enum { ALIGN = 64, MAX_DIM = 8 };

/* ---------------------------------------------------------------- writing */

static int64_t item_size(const char *descr) {
    return !strcmp(descr, "<f4") || !strcmp(descr, "<i4") ? 4 : !strcmp(descr, "<f8") ? 8 : 0;
}

int64_t sl_npy_bytes(const char *descr, int ndim, const int64_t *shape) {
    int64_t bytes = item_size(descr);
    bool ok = bytes > 0 && ndim >= 0 && ndim <= MAX_DIM;
    for (int i = 0; ok && i < ndim; i++)
        ok = shape[i] >= 0 && !__builtin_mul_overflow(bytes, shape[i], &bytes);
    return ok ? bytes : -1;
}

int sl_npy_begin(sl_writer *w, const char *path, const char *descr, int ndim, const int64_t *shape) {
    if (sl_npy_bytes(descr, ndim, shape) < 0)
        return sl_fail("%s: cannot write an array of dtype %s with such a shape", path, descr);

    /* Version 1.0: magic, version, length of the rest of the header (16 bits), a Python dict,
     * spaces and a newline, so that the data is aligned. */
    char h[ALIGN * 5];
    int n = sprintf(h + 10, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr) + 10;
    for (int i = 0; i < ndim; i++)
        n += snprintf(h + n, sizeof h - (size_t)n, "%lld,%s", (long long)shape[i],
                      i + 1 < ndim ? " " : "");
    n += sprintf(h + n, "), }");
    int size = (n + 1 + ALIGN - 1) / ALIGN * ALIGN;
    memset(h + n, ' ', (size_t)(size - n - 1));
    h[size - 1] = '\n';
    memcpy(h, magic, sizeof magic);
    h[6] = 1;
    h[7] = 0;
    h[8] = (char)((size - 10) & 255);
    h[9] = (char)((size - 10) >> 8);

    return sl_writer_open(w, path) < 0 || sl_writer_put(w, h, (size_t)size) < 0 ? -1 : 0;
}

int sl_npy_write(const char *path, const char *descr, int ndim, const int64_t *shape, const void *data) {
    sl_writer w;
    if (sl_npy_begin(&w, path, descr, ndim, shape) < 0 ||
        sl_writer_put(&w, data, (size_t)sl_npy_bytes(descr, ndim, shape)) < 0)
        return -1;
    return sl_writer_finish(&w, NULL);
}

/* ---------------------------------------------------------------- reading */

/* What the header's Python dict says. */
typedef struct {
    const char *p, *end; /* not read yet */
    char descr[8];
    bool fortran;
    int ndim;
    int64_t shape[2];
    bool has_descr, has_fortran, has_shape;
} header;

static void skip_blanks(header *h) {
    while (h->p < h->end && (*h->p == ' ' || *h->p == '\n'))
        h->p++;
}

static bool skip(header *h, char c) {
    skip_blanks(h);
    if (h->p < h->end && *h->p == c) {
        h->p++;
        return true;
    }
    return false;
}

/* A Python string without escapes, of fewer than `size` bytes. */
static bool take_string(header *h, char *out, size_t size) {
    char quote = skip(h, '\'') ? '\'' : skip(h, '"') ? '"' : 0;
    size_t n = 0;
    for (; quote && h->p < h->end && *h->p != quote; h->p++) {
        if (n + 1 == size || *h->p < 0x20 || *h->p > 0x7e || *h->p == '\\')
            return false;
        out[n++] = *h->p;
    }
    out[n] = 0;
    return quote && h->p++ < h->end;
}

static bool take_word(header *h, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(h->end - h->p) < n || memcmp(h->p, word, n))
        return false;
    h->p += n;
    return true;
}

static bool take_size(header *h, int64_t *out) {
    *out = 0;
    const char *start = h->p;
    for (; h->p < h->end && *h->p >= '0' && *h->p <= '9'; h->p++)
        if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *h->p - '0', out))
            return false;
    return h->p > start;
}

/* "(3, 4)", "(3,)" or "()"; sizes beyond the second are counted, not kept. */
static bool take_shape(header *h) {
    if (!skip(h, '('))
        return false;
    while (!skip(h, ')')) {
        int64_t n;
        if (h->ndim == 64 || !take_size(h, &n))
            return false;
        if (h->ndim < 2)
            h->shape[h->ndim] = n;
        h->ndim++;
        if (!skip(h, ','))
            return h->ndim > 1 && skip(h, ')');
    }
    return true;
}

static bool take_item(header *h) {
    char key[16];
    if (!take_string(h, key, sizeof key) || !skip(h, ':'))
        return false;
    skip_blanks(h);
    bool *seen = !strcmp(key, "descr")           ? &h->has_descr
                 : !strcmp(key, "fortran_order") ? &h->has_fortran
                 : !strcmp(key, "shape")         ? &h->has_shape
                                                 : NULL;
    if (!seen || *seen)
        return false;
    *seen = true;
    if (seen == &h->has_descr)
        return take_string(h, h->descr, sizeof h->descr);
    if (seen == &h->has_shape)
        return take_shape(h);
    h->fortran = take_word(h, "True");
    return h->fortran || take_word(h, "False");
}

static bool parse_dict(header *h) {
    if (!skip(h, '{'))
        return false;
    while (!skip(h, '}')) {
        if (!take_item(h))
            return false;
        if (!skip(h, ',')) {
            if (!skip(h, '}'))
                return false;
            break;
        }
    }
    skip_blanks(h);
    return h->p == h->end && h->has_descr && h->has_fortran && h->has_shape;
}

/* Finds the header; returns where the data starts, 0 with a message. */
static size_t parse_header(const unsigned char *p, size_t n, const char *name, header *h) {
    size_t start = n > 6 && p[6] == 1 ? 10 : 12;
    if (n < 12 || memcmp(p, magic, sizeof magic)) {
        sl_fail("%s: not a .npy file", name);
        return 0;
    }
    if (p[6] < 1 || p[6] > 3 || p[7] != 0) {
        sl_fail("%s: .npy version %d.%d is not supported (1.0 to 3.0 are)", name, p[6], p[7]);
        return 0;
    }
    size_t len = (size_t)p[8] | (size_t)p[9] << 8;
    if (start == 12)
        len |= (size_t)p[10] << 16 | (size_t)p[11] << 24;
    if (len > n - start) {
        sl_fail("%s: truncated: the header is longer than the file", name);
        return 0;
    }
    *h = (header){.p = (const char *)p + start, .end = (const char *)p + start + len};
    if (!parse_dict(h)) {
        sl_fail("%s: its .npy header cannot be read: a plain array of integers is needed", name);
        return 0;
    }
    return start + len;
}

/* Bytes of an item and its signedness from "<i4", "|u1"; 0 if it is not a little-endian integer. */
static int integer_dtype(const char *descr, bool *is_signed) {
    static const struct {
        const char *descr;
        int size;
        bool is_signed;
    } types[] = {{"|i1", 1, true}, {"|u1", 1, false}, {"<i1", 1, true}, {"<u1", 1, false},
                 {"<i2", 2, true}, {"<u2", 2, false}, {"<i4", 4, true}, {"<u4", 4, false},
                 {"<i8", 8, true}, {"<u8", 8, false}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (!strcmp(descr, types[i].descr)) {
            *is_signed = types[i].is_signed;
            return types[i].size;
        }
    return 0;
}

/* Little-endian item of 1, 2, 4 or 8 bytes, sign-extended if signed; false if outside int32. */
static bool to_int32(const unsigned char *p, int size, bool is_signed, int32_t *out) {
    uint64_t u = 0;
    memcpy(&u, p, (size_t)size);
    uint64_t sign = (uint64_t)1 << (8 * size - 1);
    if (is_signed && (u & sign)) {
        int64_t v = (int64_t)((u ^ sign) - sign);
        *out = (int32_t)v;
        return v >= INT32_MIN;
    }
    *out = (int32_t)(u & INT32_MAX);
    return u <= INT32_MAX;
}

int sl_npy_tokens_from_memory(const void *bytes, size_t n, const char *name, int64_t shape[2],
                              int32_t **data) {
    const unsigned char *p = bytes;
    header h;
    bool is_signed = false;
    size_t at = parse_header(p, n, name, &h);
    if (!at)
        return -1;
    int size = integer_dtype(h.descr, &is_signed);
    if (!size)
        return sl_fail("%s: dtype %s is not a little-endian integer; save it with astype('<i4')",
                       name, h.descr);
    if (h.ndim < 1 || h.ndim > 2)
        return sl_fail("%s: the array has %d dimensions; tokens need 1 or 2", name, h.ndim);
    if (h.fortran && h.ndim == 2)
        return sl_fail("%s: Fortran order; save it with numpy.ascontiguousarray", name);
    int64_t count = h.shape[0], want;
    if ((h.ndim == 2 && __builtin_mul_overflow(count, h.shape[1], &count)) ||
        __builtin_mul_overflow(count, size, &want) || (uint64_t)want != n - at)
        return sl_fail(
            "%s: %zu bytes of data do not agree with its shape: truncated or over-long file", name,
            n - at);
    int32_t *out = malloc(count ? (size_t)count * sizeof *out : 1);
    if (!out)
        return sl_fail("%s: out of memory for %lld tokens", name, (long long)count);
    for (int64_t i = 0; i < count; i++)
        if (!to_int32(p + at + i * size, size, is_signed, &out[i])) {
            free(out);
            return sl_fail("%s: value number %lld does not fit 32 bits: not a token", name,
                           (long long)i);
        }
    shape[0] = h.ndim == 2 ? h.shape[0] : 1;
    shape[1] = h.shape[h.ndim - 1];
    *data = out;
    return 0;
}

int sl_npy_read_tokens(const char *path, int64_t shape[2], int32_t **data) {
    sl_map map;
    if (sl_map_open(&map, path) < 0)
        return -1;
    int rc = sl_npy_tokens_from_memory(map.p, map.n, path, shape, data);
    sl_map_close(&map);
    return rc;
}
