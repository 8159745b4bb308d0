/* Linear layers of integer schemes: weights with a scale a row (a tensor's may all be the same), activations with one a row
 * or one for all. y = (float)(sum of (a - zero) w) * scale_a * scale_w, from left to right: the sum is exact, so that fake
 * quantisation (products of integers in fp32, which are exact as far as SL_GEMM_KC terms go) and the int8 unit give the
 * same bits. */
#ifndef SL_OPS_LINEAR_INT_H
#define SL_OPS_LINEAR_INT_H

#include "program/program.h"

typedef struct sl_int_weights {
    int64_t n, k;
    float *scale;    /* [n] */
    float *number;   /* [n, k]: codes as floats, for fp32 products; NULL where real */
    int8_t *panels;  /* and for the int8 unit; NULL where not */
    int32_t *sum;    /* of each row's codes */
} sl_int_weights;
void sl_int_weights_free(sl_int_weights *w);

/* Are the linear layers of this program of that kind? */
bool sl_linear_is_int(const sl_program *b);
sl_buf sl_build_linear_int(sl_program *b, sl_scope scope, sl_buf x, int64_t dim_in, int64_t dim_out, int weight,
                           sl_buf residual);
/* Gives the operation its weights: codes [n, k] and a scale for each row. */
void sl_linear_int_weights(const sl_op *op, const sl_kernels *k, const int8_t *code, const float *scale);

#endif
