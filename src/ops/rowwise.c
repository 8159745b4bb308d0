#include "ops/rowwise.h"

#include "base/threads.h"

void sl_parallel_rows(const sl_op *op, const sl_exec *x, void (*fn)(void *, int64_t, int)) {
    sl_parallel(sl_row_blocks(op->rows).count, fn, &(sl_task){op, x});
}

void sl_fold_partials(const sl_exec *x, int64_t count, int64_t n, const float *partial, float *g) {
    for (int64_t i = 0; i < count; i++)
        x->k->add(n, partial + i * n, g);
}
