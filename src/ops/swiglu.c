#include "ops/ops.h"
#include "ops/rowwise.h"

static void forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t f = op->dim_out;
    for (int64_t r = block * rows.size, end = r + sl_block_rows(rows, block); r < end; r++) {
        const float *gate = sl_buf_data(x, op->in[0]) + r * 2 * f;
        x->k->swiglu_fwd(f, gate, gate + f, sl_buf_data(x, op->out) + r * f);
    }
}

static void backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t f = op->dim_out;
    for (int64_t r = block * rows.size, end = r + sl_block_rows(rows, block); r < end; r++) {
        const float *gate = sl_buf_data(x, op->in[0]) + r * 2 * f;
        float *dgate = sl_buf_data(x, op->din) + r * 2 * f;
        x->k->swiglu_bwd(f, gate, gate + f, sl_buf_data(x, op->dout) + r * f, dgate, dgate + f);
    }
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }
static void backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, backward_block); }

static const sl_op_kind swiglu = {"swiglu", forward, backward, true, false};

sl_buf sl_build_swiglu(sl_program *b, const char *label, sl_buf gate_up, int64_t ffn) {
    sl_op *op = sl_program_op(b, &swiglu, label);
    op->in[0] = gate_up;
    op->dim_in = 2 * ffn;
    op->dim_out = ffn;
    return op->out = sl_program_buffer(b, op->rows, ffn);
}
