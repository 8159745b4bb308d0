#include "ops/ops.h"
#include "ops/rowwise.h"

static void forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t at = block * rows.size * op->dim_out, n = sl_block_rows(rows, block) * op->dim_out;
    x->k->gelu_fwd(n, sl_buf_data(x, op->in[0]) + at, sl_buf_data(x, op->out) + at);
}

static void backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t at = block * rows.size * op->dim_out, n = sl_block_rows(rows, block) * op->dim_out;
    x->k->gelu_bwd(n, sl_buf_data(x, op->in[0]) + at, sl_buf_data(x, op->dout) + at,
                   sl_buf_data(x, op->din) + at);
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }
static void backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, backward_block); }

static const sl_op_kind gelu = {"gelu", forward, backward, true, false};

sl_buf sl_build_gelu(sl_program *b, const char *label, sl_buf in, int64_t ffn) {
    sl_op *op = sl_program_op(b, &gelu, label);
    op->in[0] = in;
    op->dim_in = op->dim_out = ffn;
    return op->out = sl_program_buffer(b, op->rows, ffn);
}
