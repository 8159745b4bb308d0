/* NumPy .npy files, versions 1.0 to 3.0, C order, little-endian. */
#ifndef SL_IO_NPY_H
#define SL_IO_NPY_H

#include "io/file.h"

#include <stddef.h>
#include <stdint.h>

/* Writes float32, int32 or float64 data; `descr` is "<f4", "<i4" or "<f8". */
int sl_npy_write(const char *path, const char *descr, int ndim, const int64_t *shape,
                 const void *data);
/* The same in pieces: creates the file with its header; all the data is then put into w, and w finished (io/file.h,
 * which says what a failure leaves). `path` must stay until then. */
int sl_npy_begin(sl_writer *w, const char *path, const char *descr, int ndim, const int64_t *shape);
/* Bytes of such an array; -1 if the dtype is none of the three or the size does not fit. */
int64_t sl_npy_bytes(const char *descr, int ndim, const int64_t *shape);
/* Reads an integer array (i1 u1 i2 u2 i4 u4 i8 u8) of 1 or 2 dimensions as int32, allocated with
 * malloc. shape: 2 values, a 1-d array gives [1, n]. Fortran order, object dtype, a value outside
 * int32, a truncated or over-long file: an error naming the file. */
int sl_npy_read_tokens(const char *path, int64_t shape[2], int32_t **data);
/* Internal (fuzzing): the same from n bytes in memory; `name` stands for the file in messages. */
int sl_npy_tokens_from_memory(const void *p, size_t n, const char *name, int64_t shape[2],
                              int32_t **data);

#endif
