/* What cuBLASLt refuses of the products of product.h. */
#ifndef SL_CUDA_MULTIPLY_H
#define SL_CUDA_MULTIPLY_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As slc_multiply(), by a plain tiled kernel: any shape, stride and alignment, k = 0 included. */
void slc_multiply_own(slc_stream s, const slc_product *p);

#ifdef __cplusplus
}
#endif
#endif
