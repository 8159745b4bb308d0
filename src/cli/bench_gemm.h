/* The matrix products of a training step, beside those of a BLAS library where there is one (base/blas.h), and
 * the rate of the kernel that they are made of. */
#ifndef SL_CLI_BENCH_GEMM_H
#define SL_CLI_BENCH_GEMM_H

#include "cli/args.h"

#include <jansson.h>

/* Prints (unless json) and returns an array of {layer, product, m, n, k, gflops} and, beside a library, {blas,
 * blas_gflops, ratio}; NULL with a message on failure. */
json_t *sl_bench_gemm(const sl_args *args, bool json);

/* The product's kernel alone, in the precision of a model with these overrides: each thread has packed operands of its
 * own that fit its L2 cache, but not L1. Prints (unless json) and returns {precision, tier, threads, m, n, k, bytes of
 * a thread, gflops of all threads (median over `repetitions` of 20 ms), best_gflops}; NULL with a message. */
json_t *sl_bench_kernel(const sl_args *args, bool json);

#endif
