/* Small kernels beside the products of product.h: what cuBLASLt refuses, and rounding of operands. */
#ifndef SL_CUDA_MULTIPLY_H
#define SL_CUDA_MULTIPLY_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As slc_multiply(), by a plain tiled kernel: any shape, stride and alignment, k = 0 included. */
void slc_multiply_own(slc_stream s, const slc_product *p);

/* y[rows, cols] = x[rows, cols] rounded to bf16, ldx and ldy elements from row to row. */
void slc_round(slc_stream s, int64_t rows, int64_t cols, const float *x, int64_t ldx, uint16_t *y, int64_t ldy);

#ifdef __cplusplus
}
#endif
#endif
