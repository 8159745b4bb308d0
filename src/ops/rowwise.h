/* Shared by operations that work row by row and sum parameter gradients over rows. */
#ifndef SL_OPS_ROWWISE_H
#define SL_OPS_ROWWISE_H

#include "ops/op.h"

/* The context of a parallel item: the operation and what it runs on. */
typedef struct {
    const sl_op *op;
    const sl_exec *x;
} sl_task;

/* fn(task, block, thread) for each block of rows. */
void sl_parallel_rows(const sl_op *op, const sl_exec *x, void (*fn)(void *task, int64_t block, int thread));

/* g[j] += partial[0][j] + partial[1][j] + ... for j < n, in this order. */
void sl_fold_partials(const sl_exec *x, int64_t count, int64_t n, const float *partial, float *g);

#endif
