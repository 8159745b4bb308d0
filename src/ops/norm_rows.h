/* The frame of norms that treat each row by itself and have one weight a channel: threads, conversion of rows and the sum
 * of the weight's gradient. Such a norm is two row functions and a builder. */
#ifndef SL_OPS_NORM_ROWS_H
#define SL_OPS_NORM_ROWS_H

#include "ops/norm.h"

typedef struct sl_row_norm {
    int statistics; /* floats that it saves a row: saved[0..statistics-1], each [rows] */
    /* out[n, dim_in] from in; rows first..first+n-1 of the batch. */
    void (*forward)(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *out);
    /* din (+)= (op->acc), dw += over the rows. */
    void (*backward)(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *dout, const float *in,
                     float *din, float *dw);
} sl_row_norm;

sl_norm_tap sl_build_row_norm(sl_program *b, const sl_row_norm *norm, const char *label, sl_buf in, const char *prefix);

#endif
