/* int8 products over the panels and kernels of simd/kernels.h, for stages as in gemm.h:
 * y[m,n] = X[m,k] W[n,k]^T for X and W that stand for (code - zero)*scale_a of their row (or all) and code*scale_b of
 * theirs. Sums of integers are exact: tiers, threads and cuts give the same bits:
 * y = (float)(sum of (a - zero)*b) * scale_a * scale_b, from left to right. That is also how the product of
 * fake-quantised numbers is defined: the same function on any tier. */
#ifndef SL_OPS_GEMM_INT8_H
#define SL_OPS_GEMM_INT8_H

#include "program/op.h"

/* Recommended row stride of codes: whole lines of 64 bytes, an odd number of them. */
static inline int64_t sl_int8_ld(int64_t k) { return sl_int8_kpad(k) | SL_INT8_KR; }
/* Bytes of the packed form of W[n,k]. */
static inline int64_t sl_int8_panels_size(int64_t n, int64_t k) {
    return sl_round_up(n, SL_INT8_NR) * sl_int8_kpad(k);
}

/* ---- packing weight codes w[n,k] (symmetric: zero point 0) into panels, with the sums of their rows */
typedef struct {
    const sl_kernels *k;
    int64_t n, depth;
    const int8_t *w;
    int64_t ldw;
    int8_t *panels; /* sl_int8_panels_size() */
    int32_t *sum;   /* n */
} sl_gemm_int8_pack_args;
sl_split sl_gemm_int8_pack_split(const sl_gemm_int8_pack_args *p);
void sl_gemm_int8_pack(const sl_gemm_int8_pack_args *p, const sl_span *s);

/* ---- the product */
typedef struct {
    const sl_kernels *k;
    int64_t m, n, depth; /* 1 <= depth <= SL_INT8_MAX_K */
    const uint8_t *a; /* codes, rows readable up to sl_int8_kpad(depth) */
    int64_t lda;
    int32_t zero;         /* of all of A; symmetric codes are stored with 128 */
    const float *scale_a; /* one a row (step_a 1) or one for all (0) */
    int64_t step_a;
    const int8_t *b; /* panels */
    const int32_t *sum;
    const float *scale_b; /* the same for the rows of W */
    int64_t step_b;
    const float *plus; /* added to the product: rows as those of y, or y; or NULL */
    const float *bias; /* [n], added to that; or NULL */
    float *y;
    int64_t ldy;
} sl_gemm_int8_args;
size_t sl_gemm_int8_scratch_bytes(void); /* that each worker needs */
/* The rows of y that the span means, s->first - s->row0 being the first, and its share of the columns. The split does
 * not depend on m. */
sl_split sl_gemm_int8_rows_split(const sl_gemm_int8_args *g);
void sl_gemm_int8_rows(const sl_gemm_int8_args *g, const sl_span *s, void *scratch);

#endif
