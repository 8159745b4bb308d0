/* bf16 matrix products over the panels and kernels of simd/kernels.h, for stages as in gemm.h. Three forms make a
 * linear layer Y[m,n] = X[m,k] W[n,k]^T:
 *   forward         sl_gemm_bf16_rows, A = X,  B = W^T (packed as `forward`)
 *   input gradient  sl_gemm_bf16_rows, A = dY, B = W   (packed as `back`)
 *   weight gradient sl_gemm_bf16_wgrad and _fold, straight from row-major X and dY
 * Each element of a result is summed in an order that depends on k alone, so work may be cut to suit the number of
 * workers and the caches: the bits stay the same.
 *
 * bf16 matrices are row-major. Rows of A must be readable, and zero, from k to sl_bf16_kpad(k); the stride
 * sl_bf16_ld(k) leaves room for that and spreads rows over the cache's sets. */
#ifndef SL_OPS_GEMM_BF16_H
#define SL_OPS_GEMM_BF16_H

#include "program/op.h"

/* Elements of the packed form of B[k,n]. */
static inline int64_t sl_bf16_panels_size(int64_t n, int64_t k) { return sl_round_up(n, SL_BF16_NR) * sl_bf16_kpad(k); }

/* ---- packing weights w[n, depth] for both directions in one pass, panels of 32 rows and of 32 columns of w */
typedef struct {
    const sl_kernels *k;
    int64_t n, depth;
    const float *w;
    const sl_bf16 *w16; /* w, rounded already; or NULL. Not with back */
    int64_t ldw;
    sl_bf16 *forward, *back; /* either may be NULL; sl_bf16_panels_size(n, depth) and (depth, n), aligned to 64 */
} sl_gemm_bf16_pack_args;
sl_split sl_gemm_bf16_pack_split(const sl_gemm_bf16_pack_args *p);
void sl_gemm_bf16_pack(const sl_gemm_bf16_pack_args *p, const sl_span *s);

/* ---- C[m, n] = A[m, depth] B[depth, n], either in fp32 (c) or rounded (y). No result may overlap A or B. */
typedef struct {
    const sl_kernels *k;
    int64_t m, n, depth; /* depth >= 1 */
    const sl_bf16 *a;
    int64_t lda;
    const sl_bf16 *b; /* panels, contiguous */
    float *c;         /* or NULL */
    int64_t ldc;
    const float *residual; /* of row stride ldc, added to C before it is stored in c: may be c; or NULL */
    sl_bf16 *y;            /* where c is NULL: rounded once; columns from n to sl_bf16_kpad(n) are set to zero */
    int64_t ldy;
    const float *bias;     /* [n], added to C before it is stored; or NULL */
    bool add; /* onto what is there, in fp32; not beside a residual or a bias */
} sl_gemm_bf16_args;
/* The rows of C that the span means, s->first - s->row0 being the first, and its share of the columns. The split does
 * not depend on m. */
sl_split sl_gemm_bf16_rows_split(const sl_gemm_bf16_args *g);
void sl_gemm_bf16_rows(const sl_gemm_bf16_args *g, const sl_span *s);

/* ---- dw[n, depth] += dy[m, n]^T x[m, depth], m >= 1. Rows of dy and x need no padding. A small dw is summed in parts
 * of m, which the fold adds up; how many depends on the shape alone. */
typedef struct {
    const sl_kernels *k;
    int64_t m, n, depth;
    int64_t chunk; /* m, or that of the largest of the chunks of rows that the stages are gone through for */
    const sl_bf16 *dy;
    int64_t lddy;
    const sl_bf16 *x;
    int64_t ldx;
    float *dw;
    int64_t lddw;
    float *partials; /* sl_gemm_bf16_wgrad_partials() floats of all workers */
} sl_gemm_bf16_wgrad_args;
size_t sl_gemm_bf16_wgrad_scratch_bytes(int64_t n, int64_t depth); /* that each worker needs, aligned to 64 */
int64_t sl_gemm_bf16_wgrad_partials(int64_t chunk, int64_t n, int64_t depth);
sl_split sl_gemm_bf16_wgrad_split(const sl_gemm_bf16_wgrad_args *g, int workers);
void sl_gemm_bf16_wgrad(const sl_gemm_bf16_wgrad_args *g, int workers, const sl_span *s, void *scratch);
/* The stage behind it; nothing (no items) where dw is summed in one part. */
sl_split sl_gemm_bf16_fold_split(const sl_gemm_bf16_wgrad_args *g);
void sl_gemm_bf16_fold(const sl_gemm_bf16_wgrad_args *g, const sl_span *s);

#endif
