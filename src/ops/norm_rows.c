#include "ops/norm_rows.h"

#include "ops/rowwise.h"

#include <string.h>

/* The input is the residual stream, fp32 as its gradient is. */
static void forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t first = block * rows.size, n = sl_block_rows(rows, block);
    op->norm->forward(op, x, first, n, sl_buf_data(x, op->in[0]) + first * op->dim_in);
    if (x->info[op->out].bf16)
        sl_pad_rows(x, op->out, first, n);
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }

static void backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t d = op->dim_in, first = block * rows.size;
    float *dw = x->shared + block * d;
    memset(dw, 0, (size_t)d * sizeof *dw);
    op->norm->backward(op, x, first, sl_block_rows(rows, block), sl_buf_data(x, op->in[0]) + first * d,
                       sl_buf_data(x, op->din) + first * d, dw);
}

static void backward(const sl_op *op, const sl_exec *x) {
    int64_t d = op->dim_in;
    sl_parallel_rows(op, x, backward_block);
    sl_fold_partials(x, sl_row_blocks(op->rows).count, d, d, x->shared, sl_weight_grad(op, x, 0));
}

static const sl_op_kind row_norm = {"norm", forward, backward, true, false};

sl_norm_tap sl_build_row_norm(sl_program *b, const sl_row_norm *norm, const char *label, sl_buf in,
                              const char *prefix) {
    int64_t d = b->config->model_dim;
    int weight = sl_program_param(b, prefix, "weight", d, 0, SL_INIT_ONES, 0, SL_DECAY_NORM, false);
    sl_op *op = sl_program_op(b, &row_norm, label);
    op->norm = norm;
    op->in[0] = in;
    op->dim_in = op->dim_out = d;
    op->eps = (float)b->config->norm_eps;
    op->param[0] = weight;
    for (int i = 0; i < norm->statistics; i++)
        op->saved[i] = sl_program_buffer(b, op->rows, 1);
    op->out = sl_program_activation(b, op->rows, d);
    op->shared_bytes = (size_t)(sl_row_blocks(op->rows).count * d) * sizeof(float);
    return (sl_norm_tap){op->out, weight, SL_NONE};
}
