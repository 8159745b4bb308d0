/* safetensors (github.com/huggingface/safetensors): u64 little-endian header length, JSON header
 * {"name": {"dtype", "shape", "data_offsets"}, "__metadata__": {str: str}}, then raw data. Reading
 * treats the file as hostile: header at most 100 MB, offsets inside the file, no overlaps or holes,
 * shape times dtype = bytes, names unique and without control characters. */
#ifndef SL_IO_SAFETENSORS_H
#define SL_IO_SAFETENSORS_H

#include "io/file.h"
#include "io/floats.h"

#include <stdint.h>

enum sl_dtype {
    SL_F32,
    SL_F16,
    SL_BF16,
    SL_F64,
    SL_I8,
    SL_U8,
    SL_I16,
    SL_I32,
    SL_I64,
    SL_BOOL,
    SL_F8_E4M3,
    SL_F8_E5M2
};
const char *sl_dtype_name(enum sl_dtype t);
int64_t sl_dtype_size(enum sl_dtype t);
sl_floats_fn *sl_dtype_floats(enum sl_dtype t); /* of F32, BF16, F16 (all exact) and F64 (rounded); else NULL */

typedef struct {
    char name[256];
    enum sl_dtype dtype;
    int ndim;
    int64_t shape[8];
    uint64_t begin, end; /* bytes from the start of the data section */
} sl_st_tensor;

typedef struct sl_st_file sl_st_file; /* an open file, memory-mapped read-only */

sl_st_file *sl_st_open(const char *path); /* NULL with a message */
/* Internal (checkpoints, fuzzing): the same over n bytes in memory that outlive the result; `name`
 * stands for the file in messages. */
sl_st_file *sl_st_open_memory(const void *p, size_t n, const char *name);
void sl_st_close(sl_st_file *f);
int sl_st_count(const sl_st_file *f);
const sl_st_tensor *sl_st_at(const sl_st_file *f, int i);
const sl_st_tensor *sl_st_find(const sl_st_file *f,
                               const char *name); /* NULL if absent, no message */
/* May be unaligned in a file that others wrote; a file cut short while it is open gives SIGBUS. */
const void *sl_st_data(const sl_st_file *f, const sl_st_tensor *t);
const char *sl_st_metadata(const sl_st_file *f, const char *key); /* NULL if absent */
/* Copies a F32, BF16, F16 (all exact) or F64 (rounded) tensor as floats. Fails if the tensor is
 * missing or its shape is not the given one (message has the file, the name and both shapes). */
int sl_st_read_f32(const sl_st_file *f, const char *name, int ndim, const int64_t *shape,
                   float *dst);
/* Internal: would sl_st_read_f32 succeed? */
int sl_st_check_f32(const sl_st_file *f, const char *name, int ndim, const int64_t *shape);

/* One tensor to write; data in memory, little-endian. */
typedef struct {
    sl_st_tensor meta; /* begin, end are filled by the writer */
    const void *data;
} sl_st_entry;
/* Writes the whole file (tensors in the given order; data section 64-byte aligned by padding the
 * header with spaces), flushed and fsync'ed. keys/values: n_meta metadata strings. */
int sl_st_write(const char *path, sl_st_entry *entries, int n, const char *const *keys,
                const char *const *values, int n_meta);
/* Internal (checkpoints): the same into an open writer, which is abandoned on failure (io/file.h).
 */
int sl_st_put(sl_writer *w, sl_st_entry *entries, int n, const char *const *keys,
              const char *const *values, int n_meta);

#endif
