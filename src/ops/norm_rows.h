/* The frame of norms that treat each row by itself and have one weight a channel: threads, padding and the sum of the
 * weight's gradient. Such a norm is two row functions and a builder. */
#ifndef SL_OPS_NORM_ROWS_H
#define SL_OPS_NORM_ROWS_H

#include "ops/norm.h"

typedef struct sl_row_norm {
    int statistics; /* floats that it saves a row: saved[0..statistics-1], each [rows] */
    /* Rows first..first+n-1 of op->out, fp32 or bf16, from those at in. */
    void (*forward)(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in);
    /* din (+)= (op->acc) from these rows of op->dout, dw += over them. */
    void (*backward)(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *din,
                     float *dw);
} sl_row_norm;

sl_norm_tap sl_build_row_norm(sl_program *b, const sl_row_norm *norm, const char *label, sl_buf in, const char *prefix);

#endif
