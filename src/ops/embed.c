#include "base/threads.h"
#include "ops/ops.h"
#include "program/whole.h"
#include "ops/rowwise.h"

#include <string.h>

enum { SLICE = 64 }; /* columns of one backward item */

static void forward_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)ctx)->op;
    const sl_exec *x = ((sl_task *)ctx)->x;
    sl_blocks rows = sl_op_blocks(op);
    const float *e = sl_weight(op, x, 0);
    float *out = sl_buf_data(x, op->out);
    for (int64_t r = sl_block_first(rows, item), end = r + sl_block_rows(rows, item); r < end; r++)
        memcpy(out + r * op->dim_out, e + x->tokens[r] * op->dim_out, (size_t)op->dim_out * sizeof(float));
}

static void forward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, forward_item);
}

/* A slice of columns sums all rows in order: deterministic, though tokens repeat. */
static void backward_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)ctx)->op;
    const sl_exec *x = ((sl_task *)ctx)->x;
    int64_t d = op->dim_out, j = item * SLICE, n = d - j < SLICE ? d - j : SLICE;
    float *g = sl_weight_grad(op, x, 0);
    const float *dout = sl_buf_data(x, op->dout);
    for (int64_t r = 0; r < op->rows; r++)
        x->k->add(n, dout + r * d + j, g + x->tokens[r] * d + j);
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel((op->dim_out + SLICE - 1) / SLICE, backward_item, &(sl_task){op, x});
}

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind embed = {.name = "embed", .forward = forward_stages, .backward = backward_stages};

sl_buf sl_build_embed(sl_program *b, int weight) {
    sl_op *op = sl_program_op(b, &embed, (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_embed});
    op->dim_out = b->config->model_dim;
    op->param[0] = weight;
    return op->out = sl_program_buffer(b, op->rows, op->dim_out);
}
