/* Products of groups of rows, each with a matrix of its own (experts): the pieces of which an operation makes one
 * parallel region over groups and blocks, where a threaded product a group would be many small regions. Nothing here
 * starts threads or allocates. fp32 or bf16 operands (`bf16`), fp32 sums; each element is summed over k in order, so no
 * cut of rows or columns changes a bit. */
#ifndef SL_OPS_GEMM_GROUPED_H
#define SL_OPS_GEMM_GROUPED_H

#include "ops/product/gemm.h"

#include <stdbool.h>
#include <stddef.h>

/* ---- B[depth, n], packed into panels of so many columns (a divisor of SL_GROUPED_COLS) */
enum { SL_GROUPED_COLS = 128 };
int64_t sl_grouped_panels(const sl_kernels *k, bool bf16, int64_t n);
size_t sl_grouped_bytes(const sl_kernels *k, bool bf16, int64_t n, int64_t depth); /* a multiple of 64 */
/* Packs one panel of b into its place in the operand `dst` (64-byte aligned). */
void sl_grouped_pack(const sl_kernels *k, bool bf16, int64_t n, int64_t depth, sl_mat b, int64_t panel, void *dst);

/* ---- A[rows, depth] */
typedef struct {
    const sl_kernels *k;
    bool bf16;
    int64_t rows, depth, lda;
    const void *a;
} sl_grouped_rows;
/* fp32: packs a (row stride lda) into `packed`, of sl_grouped_rows_bytes(). bf16: takes the rows as they lie; they
 * must be zero from depth to sl_bf16_kpad(depth). */
sl_grouped_rows sl_grouped_take_rows(const sl_kernels *k, bool bf16, int64_t rows, int64_t depth, const void *a,
                                     int64_t lda, float *packed);
size_t sl_grouped_rows_bytes(const sl_kernels *k, bool bf16, int64_t rows, int64_t depth);
/* c[rows, cols] (+)= A times the columns col0.. of an operand; col0 is a multiple of SL_GROUPED_COLS. */
void sl_grouped_product(const sl_grouped_rows *a, const void *operand, int64_t col0, int64_t cols, float *c,
                        int64_t ldc, bool add);

/* ---- weight gradient: dw[n, m] += dy[rows, n]^T x[rows, m], n and m at most these. dy and x need no padding. */
enum { SL_GROUPED_WGRAD_N = 256, SL_GROUPED_WGRAD_M = 384 };
size_t sl_grouped_wgrad_bytes(const sl_kernels *k, bool bf16);
void sl_grouped_wgrad(const sl_kernels *k, bool bf16, int64_t rows, int64_t n, int64_t m, const void *dy, int64_t lddy,
                      const void *x, int64_t ldx, float *dw, int64_t lddw, void *scratch);

#endif
