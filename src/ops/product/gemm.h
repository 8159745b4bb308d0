/* fp32 matrix products over the micro-kernel of simd/gemm.c: C (+)= A B, packed and blocked as in
 * Goto & van de Geijn 2008. Every element of C is one accumulator over k in order, cut at multiples of
 * SL_GEMM_KC: the bits do not depend on threads or on how C is cut.
 *
 * The three headers gemm.h, gemm_bf16.h and gemm_int8.h are alike. A product is described by a struct of arguments,
 * the same for each of its stages, and starts no thread: X_split() is how a stage may be cut, X() does what one call of
 * it is given (program/op.h). Packing the right operand is cut into items; the product itself by rows of the left one
 * and shares of the columns; a weight gradient, whose rows are columns of the layer, into items. */
#ifndef SL_OPS_GEMM_H
#define SL_OPS_GEMM_H

#include "base/blas.h"
#include "program/op.h"

enum { SL_GEMM_KC = 384 };

/* A matrix seen by the product: element (i, k) of A is p[i*is + k*ks]; element (k, j) of B is
 * p[j*is + k*ks]. One of is, ks is 1. */
typedef struct {
    const float *p;
    int64_t is, ks;
} sl_mat;

/* C[m, n] = A[m, depth] B[depth, n], plus what is there (add) or plus the rows `residual` and the row `bias`. C must
 * not overlap A or B; residual may be C. */
typedef struct {
    const sl_kernels *k;
    int64_t m, n, depth;
    sl_mat a, b;
    const sl_bf16 *b16; /* B in place of b.p, as it is rounded, with b.ks 1; or NULL. Not with blas */
    float *packed; /* B, packed by the first stage for the second: sl_gemm_packed_bytes(), aligned to 64 */
    float *c;
    int64_t ldc;
    bool add;
    const float *residual; /* of row stride ldc, or NULL */
    const float *bias;     /* [n], or NULL; not with add */
    const sl_blas *blas;   /* multiplies, from A and B as they lie: there is nothing to pack. NULL: our own */
} sl_gemm_args;

size_t sl_gemm_packed_bytes(const sl_kernels *k, int64_t n, int64_t depth);
size_t sl_gemm_scratch_bytes(const sl_kernels *k); /* that each worker needs, aligned to 64 */

/* Packs B; reads nothing else of g. Items whose depth is beyond g->depth are void: where a stage is gone through for
 * chunks of rows, it may be cut for the largest. */
sl_split sl_gemm_pack_split(const sl_gemm_args *g);
void sl_gemm_pack(const sl_gemm_args *g, const sl_span *s);

/* The rows of C that the span means, s->first - s->row0 being the first, and its share of the columns: any rows, though
 * whole units are faster. The split does not depend on m. */
sl_split sl_gemm_rows_split(const sl_gemm_args *g);
void sl_gemm_rows(const sl_gemm_args *g, const sl_span *s, void *scratch);

/* The same product in items, as many as suit so many workers. */
sl_split sl_gemm_tiles_split(const sl_gemm_args *g, int workers);
void sl_gemm_tiles(const sl_gemm_args *g, int workers, const sl_span *s, void *scratch);

#endif
