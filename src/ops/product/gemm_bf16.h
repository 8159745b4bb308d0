/* Threaded bf16 matrix products over the panels and kernels of simd/kernels.h. Three forms make a
 * linear layer Y[m,n] = X[m,k] W[n,k]^T: forward         sl_gemm_bf16, A = X,  B = W^T
 * (sl_gemm_bf16_pack, fwd) input gradient  sl_gemm_bf16, A = dY, B = W    (sl_gemm_bf16_pack, back)
 *   weight gradient sl_gemm_bf16_wgrad, straight from row-major X and dY
 * Each element of a result is summed in an order that depends on k alone, so work may be cut to
 * suit the number of threads and the caches: the bits stay the same for any number and for any cut.
 *
 * bf16 matrices are row-major. Rows of A must be readable, and zero, from k to sl_bf16_kpad(k); the
 * stride sl_bf16_ld(k) leaves room for that and spreads rows over the cache's sets. */
#ifndef SL_OPS_GEMM_BF16_H
#define SL_OPS_GEMM_BF16_H

#include "simd/kernels.h"

#include <stddef.h>

/* Elements of the packed form of B[k,n]. */
static inline int64_t sl_bf16_panels_size(int64_t n, int64_t k) {
    return (n + SL_BF16_NR - 1) / SL_BF16_NR * SL_BF16_NR * sl_bf16_kpad(k);
}

/* Scratch of every thread, for any product; made once, used by one product at a time. */
typedef struct sl_gemm_bf16_work sl_gemm_bf16_work;
sl_gemm_bf16_work *sl_gemm_bf16_work_new(int threads); /* NULL on failure */
void sl_gemm_bf16_work_free(sl_gemm_bf16_work *w);

/* Packs weights w[n,k] for the forward product (panels of 32 rows of w, fwd) and for the input
 * gradient (panels of 32 columns of w, back) in one pass; either may be NULL. A panel begins
 * `stride` elements after the one before: normally sl_bf16_kpad(k)*32 for fwd and
 * sl_bf16_kpad(n)*32 for back. Twice that interleaves two matrices' panels (gate and up side by
 * side); a larger back stride with an offset back stacks matrices along n, all but the last with n
 * a multiple of 32. */
void sl_gemm_bf16_pack(const sl_kernels *kn, int64_t n, int64_t k, const float *w, int64_t ldw,
                       sl_bf16 *fwd, int64_t fwd_stride, sl_bf16 *back, int64_t back_stride);

/* Gets one finished block of C: rows row0.., columns col0.. (both counted in the whole product),
 * still in the cache of `thread`. Called once for each block, in any order, from several threads at
 * once; blocks do not overlap. row0 is a multiple of 32; col0 and, but for the last block, cols are
 * a multiple of 32*group. */
typedef void (*sl_gemm_epilogue)(void *ctx, int64_t row0, int64_t rows, int64_t col0, int64_t cols,
                                 const float *c, int64_t ldc, int thread);

enum { SL_GEMM_BF16_MAX_GROUP = 16 };

typedef struct {
    int64_t m, n, k; /* k >= 1 */
    const sl_bf16 *a;
    int64_t lda;
    const sl_bf16 *b; /* panels, contiguous */
    /* Either c is written (add: accumulated onto), or, if c is NULL, each block goes to the
     * epilogue. */
    float *c;
    int64_t ldc;
    int add;
    sl_gemm_epilogue epilogue;
    void *ctx;
    int group; /* panels of 32 columns that the epilogue wants together, 1..SL_GEMM_BF16_MAX_GROUP
                */
} sl_gemm_bf16_args;

void sl_gemm_bf16(const sl_kernels *kn, sl_gemm_bf16_work *w, const sl_gemm_bf16_args *g);

/* dw[n,k] (+)= dy[m,n]^T x[m,k], m >= 1. Rows of dy and x need no padding. */
void sl_gemm_bf16_wgrad(const sl_kernels *kn, sl_gemm_bf16_work *w, int64_t m, int64_t n, int64_t k,
                        const sl_bf16 *dy, int64_t lddy, const sl_bf16 *x, int64_t ldx, float *dw,
                        int64_t lddw, int add);

#endif
