/* fp32 products (ops/product/gemm.h) with threads, for those who are no operations: the optimizer, bench. */
#ifndef SL_TRAIN_MULTIPLY_H
#define SL_TRAIN_MULTIPLY_H

#include "ops/product/gemm.h"

typedef struct {
    const sl_kernels *k;
    char *scratch; /* of each thread, scratch_bytes apart */
    size_t scratch_bytes;
    float *packed;
} sl_multiplier;

/* Memory for products whose right operand takes at most packed_bytes (sl_gemm_packed_bytes()), and for sl_threads() as
 * it is now. Returns 0, or -1 with a message; close it either way. */
int sl_multiplier_open(sl_multiplier *m, const sl_kernels *k, size_t packed_bytes);
void sl_multiplier_close(sl_multiplier *m);

/* The product that g describes, but for g.k and g.packed, which are m's. */
void sl_multiply(const sl_multiplier *m, sl_gemm_args g);

#endif
