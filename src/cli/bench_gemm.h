/* The matrix products of a training step, beside those of a BLAS library where there is one (base/blas.h). */
#ifndef SL_CLI_BENCH_GEMM_H
#define SL_CLI_BENCH_GEMM_H

#include "cli/args.h"

#include <jansson.h>

/* Prints (unless json) and returns an array of {layer, product, m, n, k, gflops} and, beside a library, {blas,
 * blas_gflops, ratio}; NULL with a message on failure. */
json_t *sl_bench_gemm(const sl_args *args, bool json);

#endif
