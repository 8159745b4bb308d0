/* What the frame of row norms (rows.c) and its variant with replaced channels (nullify.c) share. */
#ifndef SL_OPS_NORM_FRAME_H
#define SL_OPS_NORM_FRAME_H

#include "ops/norm/rows.h"
#include "program/scratch.h"

/* Rows that are worked on at a time, so that they stay in the cache. */
enum { SL_NORM_TILE = 8 };
/* Private scratch of a worker, each [SL_NORM_TILE, dim_in]: rows that are converted, before and behind preaffine. */
typedef struct {
    float *in, *dout, *out, *pre, *dpre;
} sl_norm_tiles;
sl_norm_tiles sl_norm_carve(const sl_op *op, sl_carver *c);
static inline float *sl_norm_carve_tile(const sl_op *op, sl_carver *c) {
    return sl_carve_floats(c, SL_NORM_TILE * op->dim_in);
}

static inline bool sl_norm_has(const sl_op *op, int p) { return op->param[p] != SL_NONE; }

/* n rows of the input as the norm sees them: raw itself, or times the factors of preaffine, in scratch [n, dim_in]. */
const float *sl_norm_factored(const sl_op *op, const sl_exec *x, int64_t n, const float *raw, float *scratch);
/* Does the norm of n rows, `first` of the batch on, into out, whatever its precision. */
void sl_norm_write(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *scratch);
/* Gradients of at most SL_NORM_TILE rows from dout; g[p]: what those of parameter p are added to, NULL where the norm
 * has none. */
typedef void sl_norm_backward_fn(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, int worker,
                                 float *const *g);
/* A stage of ROWS: the rows of each block of s by `rows`, with sums of their own. */
int sl_norm_backward_blocks(const sl_op *op, const sl_exec *x, const sl_span *s, sl_norm_backward_fn *rows);

/* A stage of PARAMS: 1 + weight, where that is what sl_norm_gain() gives. */
int sl_norm_gains(const sl_op *op, const sl_exec *x, const sl_span *s);
sl_split sl_norm_gains_split(const sl_op *op, const sl_exec *x);

/* Appends a norm of `kind`, whose own are own_bytes that begin with sl_norm_own; they are NULL where memory is out. */
sl_op *sl_norm_append(sl_program *b, const sl_op_kind *kind, size_t own_bytes, const sl_row_norm *norm, sl_scope scope,
                      sl_buf in, const char *prefix, const int *param);

/* sl_build_row_norm() where model.sink_nullify asks for it. */
sl_op *sl_append_nullified(sl_program *b, const sl_row_norm *norm, sl_scope scope, sl_buf in, const char *prefix,
                           const int *param);

/* Of a norm with replaced channels. */
typedef struct {
    sl_norm_own base;
    bool in_b, only_one; /* is b another row than the one given; is a not b */
    int value;           /* SL_NULLIFY_* */
    int means, second;   /* parameters [dim]: running means, and what else `value` goes by or SL_NONE */
    int64_t most, from;  /* channels; positions before it are not edited */
    bool random;         /* others than the largest, drawn from: */
    uint64_t seed, sub;
} sl_norm_nullified;
/* Of a step's means in the running ones: a memory of about a hundred steps. */
#define SL_NULLIFY_RATE 0.01f
/* NULL of any other operation. */
const sl_norm_nullified *sl_norm_nullified_of(const sl_op *op);

#endif
