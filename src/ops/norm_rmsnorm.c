#include "ops/norm.h"
#include "ops/rowwise.h"

#include <string.h>

static void forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t r = block * rows.size, d = op->dim_in;
    x->k->rmsnorm_fwd(sl_block_rows(rows, block), d, sl_buf_data(x, op->in[0]) + r * d, d,
                      sl_weight(op, x, 0), op->eps, sl_buf_data(x, op->out) + r * d, d,
                      sl_buf_data(x, op->saved[0]) + r);
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }

static void backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t r = block * rows.size, d = op->dim_in;
    float *dw = x->shared + block * d;
    memset(dw, 0, (size_t)d * sizeof *dw);
    x->k->rmsnorm_bwd(sl_block_rows(rows, block), d, sl_buf_data(x, op->dout) + r * d, d,
                      sl_buf_data(x, op->in[0]) + r * d, d, sl_weight(op, x, 0),
                      sl_buf_data(x, op->saved[0]) + r, sl_buf_data(x, op->din) + r * d, d, op->acc, dw);
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, backward_block);
    sl_fold_partials(x, sl_row_blocks(op->rows).count, op->dim_in, x->shared, sl_weight_grad(op, x, 0));
}

static const sl_op_kind rmsnorm = {"rmsnorm", forward, backward, true, false};

sl_norm_tap sl_build_rmsnorm(sl_program *b, const char *label, sl_buf in, const char *prefix, bool final) {
    (void)final;
    int64_t d = b->config->model_dim;
    int weight = sl_program_param(b, prefix, "weight", d, 0, SL_INIT_ONES, 0, SL_DECAY_NORM, false);
    sl_op *op = sl_program_op(b, &rmsnorm, label);
    op->in[0] = in;
    op->dim_in = op->dim_out = d;
    op->eps = (float)b->config->norm_eps;
    op->param[0] = weight;
    op->saved[0] = sl_program_buffer(b, op->rows, 1);
    op->out = sl_program_buffer(b, op->rows, d);
    op->shared_bytes = (size_t)(sl_row_blocks(op->rows).count * d) * sizeof(float);
    return (sl_norm_tap){op->out, weight, SL_NONE};
}
