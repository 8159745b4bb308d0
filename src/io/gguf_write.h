/* Writing GGUF version 3 (io/gguf.h has the format). Keys and tensors are added one by one, in the order of the file;
 * then their description is written, and behind it the data of each tensor in the same order. Nothing is checked that
 * the caller can't get wrong by accident: keys are unique, tensors have 1 to 4 dimensions. */
#ifndef SL_IO_GGUF_WRITE_H
#define SL_IO_GGUF_WRITE_H

#include "io/gguf.h"

#include <stdio.h>

typedef struct {
    char *bytes;
    size_t n;
    FILE *stream; /* that grows them */
} sl_gguf_part;

typedef struct {
    sl_gguf_part key, tensor;
    uint64_t keys, tensors, data; /* bytes of data so far, padded */
} sl_gguf_plan;

/* A full memory is told of by sl_gguf_put_head. */
int sl_gguf_plan_open(sl_gguf_plan *g);
void sl_gguf_plan_close(sl_gguf_plan *g); /* also after a failed open */

void sl_gguf_add_u32(sl_gguf_plan *g, const char *key, uint32_t v);
void sl_gguf_add_f32(sl_gguf_plan *g, const char *key, float v);
void sl_gguf_add_bool(sl_gguf_plan *g, const char *key, bool v);
void sl_gguf_add_text(sl_gguf_plan *g, const char *key, const char *text);
/* An array of n elements of this type, SL_GGUF_STRING or SL_GGUF_I32; just so many of them follow. */
void sl_gguf_add_array(sl_gguf_plan *g, const char *key, enum sl_gguf_type type, uint64_t n);
void sl_gguf_add_element(sl_gguf_plan *g, const char *p, size_t n); /* bytes of a string */
void sl_gguf_add_whole(sl_gguf_plan *g, int32_t v);
/* shape: the length of a row last; type: a row of tables/ggml_type.inc whose blocks are single values. */
void sl_gguf_add_tensor(sl_gguf_plan *g, const char *name, const sl_ggml_type *type, int ndim, const int64_t *shape);

/* All but the data; 0, or -1 with a message and the writer abandoned, as after a failed sl_writer_put. */
int sl_gguf_put_head(sl_gguf_plan *g, sl_writer *w);
/* Zeros to the next place where data may begin: behind each tensor. */
int sl_gguf_put_padding(sl_writer *w);

#endif
