/* Matrix products on the device: cuBLASLt (gemm.c), which is loaded when a device is opened. */
#ifndef SL_CUDA_PRODUCT_H
#define SL_CUDA_PRODUCT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct slc_blas slc_blas;
typedef void *slc_stream; /* a cudaStream_t */

/* y[m, n] = scale * a b + add, all row-major, in device memory. a is [m, k], or stored as its transpose [k, m] (ta); b
 * is [k, n], or stored as [n, k] (tb). bf16: both operands are; sums are fp32. fp32 is fp32 throughout, no TF32. */
typedef struct {
    int64_t m, n, k;
    bool bf16, y_bf16; /* y_bf16 only with bf16 */
    bool ta, tb;
    const void *a, *b;
    int64_t lda, ldb;  /* elements from row to row as stored */
    void *y;
    const void *add;   /* NULL, or like y, with its precision and ldy; may be y */
    int64_t ldy;
    float scale;
    int64_t batch, stride_a, stride_b, stride_y; /* so many products at once, elements apart; batch 0 is 1 */
} slc_product;
/* Enqueues it. Same shapes, strides and alignment to 16 bytes: same bits. Returns 0, or -1 with a message. */
int slc_multiply(slc_blas *b, slc_stream s, const slc_product *p);

int slc_blas_open(slc_blas **b); /* 0, or -1 with a message */
void slc_blas_close(slc_blas *b);

#ifdef __cplusplus
}
#endif
#endif
