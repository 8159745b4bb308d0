#include "ops/norm.h"
#include "ops/rowwise.h"

#include <string.h>

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t d = op->dim_in, first = block * rows.size, end = first + sl_block_rows(rows, block);
    float *scratch = sl_thread_scratch(x, thread);
    for (int64_t r = first; r < end; r += SL_ROW_TILE) {
        int64_t n = end - r < SL_ROW_TILE ? end - r : SL_ROW_TILE;
        const float *in = sl_read_rows(x, op->in[0], r, n, scratch);
        float *out = sl_write_rows(x, op->out, r, scratch + SL_ROW_TILE * d);
        x->k->rmsnorm_fwd(n, d, in, d, sl_weight(op, x, 0), op->eps, out, d, sl_buf_data(x, op->saved[0]) + r);
        sl_end_write(x, op->out, r, n, out);
    }
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }

/* The gradient of the residual stream is fp32: din takes it in place. */
static void backward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t d = op->dim_in, first = block * rows.size, end = first + sl_block_rows(rows, block);
    float *scratch = sl_thread_scratch(x, thread), *dw = x->shared + block * d;
    memset(dw, 0, (size_t)d * sizeof *dw);
    for (int64_t r = first; r < end; r += SL_ROW_TILE) {
        int64_t n = end - r < SL_ROW_TILE ? end - r : SL_ROW_TILE;
        const float *dout = sl_read_rows(x, op->dout, r, n, scratch);
        x->k->rmsnorm_bwd(n, d, dout, d, sl_buf_data(x, op->in[0]) + r * d, d, sl_weight(op, x, 0), sl_buf_data(x, op->saved[0]) + r,
                        sl_buf_data(x, op->din) + r * d, d, op->acc, dw);
    }
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, backward_block);
    sl_fold_partials(x, sl_row_blocks(op->rows).count, op->dim_in, op->dim_in, x->shared,
                     sl_weight_grad(op, x, 0));
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
    op->saved[0] = sl_program_buffer(b, op->rows, 1); /* 1 / rms */
    op->out = sl_program_activation(b, op->rows, d);
    op->thread_bytes = (size_t)(2 * SL_ROW_TILE * d) * sizeof(float);
    op->shared_bytes = (size_t)(sl_row_blocks(op->rows).count * d) * sizeof(float);
    return (sl_norm_tap){op->out, weight, SL_NONE};
}
