#include "ops/ops.h"
#include "ops/rowwise.h"

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t f = op->dim_out;
    float *scratch = sl_thread_scratch(x, thread);
    for (int64_t r = block * rows.size, end = r + sl_block_rows(rows, block); r < end; r++) {
        const float *in = sl_read_rows(x, op->in[0], r, 1, scratch);
        float *out = sl_write_rows(x, op->out, r, scratch);
        x->k->gelu_fwd(f, in, out);
        sl_end_write(x, op->out, r, 1, out);
    }
}

static void backward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t f = op->dim_out;
    float *scratch = sl_thread_scratch(x, thread);
    for (int64_t r = block * rows.size, end = r + sl_block_rows(rows, block); r < end; r++) {
        const float *in = sl_read_rows(x, op->in[0], r, 1, scratch);
        const float *dout = sl_read_rows(x, op->dout, r, 1, scratch + f);
        float *din = sl_write_rows(x, op->din, r, scratch);
        x->k->gelu_bwd(f, in, dout, din);
        sl_end_write(x, op->din, r, 1, din);
    }
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }
static void backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, backward_block); }

static const sl_op_kind gelu = {"gelu", forward, backward, true, false};

sl_buf sl_build_gelu(sl_program *b, const char *label, sl_buf in, int64_t ffn) {
    sl_op *op = sl_program_op(b, &gelu, label);
    op->in[0] = in;
    op->dim_in = op->dim_out = ffn;
    op->thread_bytes = (size_t)(2 * ffn) * sizeof(float);
    return op->out = sl_program_activation(b, op->rows, ffn);
}
