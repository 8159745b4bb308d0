/* Linear layers of integer schemes: weights with a scale a row (a tensor's may all be the same), activations with one
 * a row or one for all. y = (float)(sum of (a - zero) w) * scale_a * scale_w, from left to right: the sum is exact,
 * so that fake quantisation (products of integers in fp32, which are exact as far as SL_GEMM_KC terms go) and the
 * int8 unit give the same bits. */
#ifndef SL_OPS_LINEAR_INT_H
#define SL_OPS_LINEAR_INT_H

#include "ops/quant/quantise.h"
#include "program/program.h"

/* Are the linear layers of this program of that kind? */
bool sl_linear_is_int(const sl_program *b, sl_scope scope);
sl_buf sl_build_linear_int(sl_program *b, sl_scope scope, sl_buf x, int64_t dim_in, int64_t dim_out, int weight,
                           int bias, sl_buf residual);
/* Its point; NULL of any other operation. */
const sl_quant_point *sl_linear_int_point(const sl_op *op);
/* Between passes: gives the operation its weights, codes [dim_out, dim_in] and a scale for each row. 0, or -1 with a
 * message. */
int sl_linear_int_weights(const sl_op *op, const sl_kernels *k, const int8_t *code, const float *scale);
/* They as a device takes them, in a program for one: rows of ld codes, zeros behind the depth. */
typedef struct {
    int64_t n, depth, ld;
    const int8_t *code;
    const float *scale; /* [n] */
    const int32_t *sum; /* [n] of each row's codes */
} sl_int_weights;
sl_int_weights sl_linear_int_given(const sl_op *op);

#endif
