/* The tensors of a model that others wrote, in whatever files they lie: a folder with model.safetensors, or with
 * model.safetensors.index.json and the files that it names, or GGUF in one file or several parts. Files are mapped;
 * nothing is copied until rows are read. Each is held to what its own reader asks (io/safetensors.h, io/gguf.h). */
#ifndef SL_IO_TENSORS_H
#define SL_IO_TENSORS_H

#include "io/floats.h"
#include "io/gguf.h"

enum { SL_TENSORS_DIMS = 8 };
/* One of them; its strings and data live as long as the source. A row is what the last dimension says. */
typedef struct {
    const char *name;
    const char *file, *type; /* for messages */
    int ndim;
    int64_t shape[SL_TENSORS_DIMS];
    const unsigned char *data;
    int64_t row_bytes;
    sl_floats_fn *floats; /* NULL: of a type that is not read as floats */
} sl_tensor_view;

typedef struct sl_tensors sl_tensors;

/* `path`: the folder, or the GGUF file, of several parts the first (-00001-of-00003.gguf, with the keys of all). Of a
 * folder that has both, the single file is taken, as transformers does. The index is hostile too: names that lead out
 * of the folder, a tensor that its file lacks or that two files have, and one that no entry tells of are errors; so are
 * parts that are missing, that do not say which of how many they are, and tensors that two of them have or none. NULL
 * with a message. */
sl_tensors *sl_tensors_open(const char *path);
void sl_tensors_close(sl_tensors *t);
int sl_tensors_count(const sl_tensors *t);
const sl_tensor_view *sl_tensors_at(const sl_tensors *t, int i); /* sorted by name */
int sl_tensors_find(const sl_tensors *t, const char *name);      /* -1 if absent, no message */
const sl_gguf *sl_tensors_gguf(const sl_tensors *t);             /* its first part; NULL of a folder */
const char *sl_tensors_name(const sl_tensors *t);                /* for messages: the one or first file, or index */

/* Rows of a tensor, the product of all dimensions but the last. */
int64_t sl_tensor_rows(const sl_tensor_view *v);
/* Rows first .. first + rows - 1 as floats; v->floats is not NULL. */
void sl_tensor_read(const sl_tensor_view *v, int64_t first, int64_t rows, float *dst);
/* The tensor is not read again soon: the memory that the file's pages took in reading it is given back. */
void sl_tensor_release(const sl_tensor_view *v);

#endif
