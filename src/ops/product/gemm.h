/* fp32 matrix products over the micro-kernel of simd/gemm.c: C (+)= A B, packed and blocked as in
 * Goto & van de Geijn 2008. Every element of C is one accumulator over k in order, cut at multiples of
 * SL_GEMM_KC: the bits do not depend on threads or on how C is cut into blocks.
 * Why not BLAS: OpenBLAS gives other bits for other thread counts, and `sinklab bench` shows it slower. */
#ifndef SL_OPS_GEMM_H
#define SL_OPS_GEMM_H

#include "program/op.h"

enum { SL_GEMM_KC = 384 };

/* A matrix seen by the product: element (i, k) of A is p[i*is + k*ks]; element (k, j) of B is
 * p[j*is + k*ks]. One of is, ks is 1. */
typedef struct {
    const float *p;
    int64_t is, ks;
} sl_mat;

/* Bytes of packing scratch: shared (B) and of each thread (A). */
size_t sl_gemm_shared_bytes(const sl_kernels *k, int64_t n, int64_t depth);
size_t sl_gemm_thread_bytes(const sl_kernels *k);

/* C[m, n] (row-major, ldc) = A B, or += when add. With residual (row stride ldc) C = A B + residual. Runs on all
 * threads; C must not overlap A or B. Scratch from x. */
void sl_gemm(const sl_exec *x, int64_t m, int64_t n, int64_t depth, sl_mat a, sl_mat b, float *c,
             int64_t ldc, bool add, const float *residual);

#endif
