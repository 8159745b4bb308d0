/* GGUF (docs/gguf.md of github.com/ggml-org/ggml), versions 2 and 3, little-endian: "GGUF", u32 version, u64 tensors,
 * u64 key-values; then these, descriptions of the tensors, and from the next multiple of general.alignment (32) on
 * their data. Reading treats the file as hostile: every count and length is held against the bytes that are left, keys
 * and names are unique and without control characters, arrays hold no arrays, tensors tile the data but for the padding
 * between them. Strings may hold any bytes. */
#ifndef SL_IO_GGUF_H
#define SL_IO_GGUF_H

#include "io/file.h"
#include "io/ggml_types.h"

#include <stdbool.h>
#include <stdint.h>

enum sl_gguf_type {
    SL_GGUF_U8,
    SL_GGUF_I8,
    SL_GGUF_U16,
    SL_GGUF_I16,
    SL_GGUF_U32,
    SL_GGUF_I32,
    SL_GGUF_F32,
    SL_GGUF_BOOL,
    SL_GGUF_STRING,
    SL_GGUF_ARRAY,
    SL_GGUF_U64,
    SL_GGUF_I64,
    SL_GGUF_F64,
    SL_GGUF_TYPES
};

/* Bytes within the file, not terminated; {NULL, 0} where there is none. */
typedef struct {
    const char *p;
    size_t n;
} sl_gguf_string;

/* Elements within the file. */
typedef struct {
    enum sl_gguf_type type; /* of an element */
    int64_t n;
    const unsigned char *at; /* NULL: the key is absent */
} sl_gguf_array;

enum { SL_GGUF_NAME = 256, SL_GGUF_DIMS = 4 };
typedef struct {
    char name[SL_GGUF_NAME];
    const sl_ggml_type *type;
    int ndim;
    int64_t shape[SL_GGUF_DIMS]; /* the length of a row last, other than in the file; whole blocks of the type */
    uint64_t begin, end;         /* bytes from the start of the data */
} sl_gguf_tensor;

typedef struct sl_gguf sl_gguf; /* an open file, memory-mapped read-only */

sl_gguf *sl_gguf_open(const char *path); /* NULL with a message */
/* Internal (fuzzing): the same over n bytes in memory that outlive the result; `name` stands for the file in
 * messages. */
sl_gguf *sl_gguf_open_memory(const void *p, size_t n, const char *name);
void sl_gguf_close(sl_gguf *f);
const char *sl_gguf_name(const sl_gguf *f); /* for messages */

/* ---- key-values. Those that fill *v leave it as it is where the key is absent, and fail with the file and the key in
 * the message where it is of another kind. */
const char *sl_gguf_key(const sl_gguf *f, int i); /* the i-th, sorted; NULL past the last */
bool sl_gguf_has(const sl_gguf *f, const char *key);
/* A whole number of any width. */
int sl_gguf_whole(const sl_gguf *f, const char *key, int64_t *v);
int sl_gguf_real(const sl_gguf *f, const char *key, double *v); /* a finite F32 or F64 */
int sl_gguf_bool(const sl_gguf *f, const char *key, bool *v);
int sl_gguf_text(const sl_gguf *f, const char *key, sl_gguf_string *v);
bool sl_gguf_is(sl_gguf_string s, const char *text); /* are the bytes these? */
/* An array whose elements are strings, whole numbers (any width and sign), reals or bools, as `kind` is:
 * SL_GGUF_STRING, SL_GGUF_I64, SL_GGUF_F64, SL_GGUF_BOOL. */
int sl_gguf_elements(const sl_gguf *f, const char *key, enum sl_gguf_type kind, sl_gguf_array *v);
/* Element i of such an array, 0 <= i < n. A bool is 0 or 1; a U64 above the range of int64_t is its largest. */
int64_t sl_gguf_whole_at(const sl_gguf_array *a, int64_t i);
double sl_gguf_real_at(const sl_gguf_array *a, int64_t i);
/* Strings one after the other: takes the next one off the array, whose n goes down to 0. */
sl_gguf_string sl_gguf_next(sl_gguf_array *a);

/* ---- tensors */
int sl_gguf_count(const sl_gguf *f);
const sl_gguf_tensor *sl_gguf_at(const sl_gguf *f, int i);              /* in the order of the data */
const sl_gguf_tensor *sl_gguf_find(const sl_gguf *f, const char *name); /* NULL if absent, no message */
/* May be unaligned; a file cut short while it is open gives SIGBUS. */
const void *sl_gguf_data(const sl_gguf *f, const sl_gguf_tensor *t);

#endif
