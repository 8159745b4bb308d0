/* The activation between the two projections of a feed-forward, whatever its kind (simd/ffn.inc): rows of the input are
 * [gate | up], or [x] where the kind has no gate. */
#include "ops/ops.h"
#include "program/whole.h"
#include "ops/rowwise.h"

static void forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t f = op->dim_out;
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        const float *in = sl_buf_data(x, op->in[0]) + r * op->dim_in;
        op->ffn->fwd(f, in, in + f, sl_buf_data(x, op->out) + r * f);
    }
}

static void backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t f = op->dim_out;
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        const float *in = sl_buf_data(x, op->in[0]) + r * op->dim_in;
        float *din = sl_buf_data(x, op->din[0]) + r * op->dim_in;
        op->ffn->bwd(f, in, in + f, sl_buf_data(x, op->dout) + r * f, din, din + f);
    }
}

static void forward_block_bf16(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t f = op->dim_out;
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        const sl_bf16 *in = sl_bf16_row(x, op->in[0], r);
        op->ffn->fwd_bf16(f, in, in + f, sl_bf16_row(x, op->out, r));
        sl_pad_rows(x, op->out, r, 1);
    }
}

static void backward_block_bf16(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t f = op->dim_out;
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        const sl_bf16 *in = sl_bf16_row(x, op->in[0], r);
        sl_bf16 *din = sl_bf16_row(x, op->din[0], r);
        op->ffn->bwd_bf16(f, in, in + f, sl_bf16_row(x, op->dout, r), din, din + f);
        sl_pad_rows(x, op->din[0], r, 1);
    }
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }
static void backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, backward_block); }
static void forward_bf16(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block_bf16); }
static void backward_bf16(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, backward_block_bf16); }

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind ffn = {.name = "ffn", .forward = forward_stages, .backward = backward_stages};
SL_WHOLE(forward_bf16)
SL_WHOLE(backward_bf16)
static const sl_op_kind ffn_bf16 = {.name = "ffn", .forward = forward_bf16_stages, .backward = backward_bf16_stages};

sl_buf sl_build_ffn(sl_program *b, sl_scope scope, enum sl_ffn kind, sl_buf in, int64_t width) {
    sl_op *op = sl_program_op(b, b->bf16 ? &ffn_bf16 : &ffn, scope);
    op->ffn = &b->kernels->ffn[kind];
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = sl_ffn_gated[kind] ? 2 * width : width;
    op->dim_out = width;
    return op->out = sl_program_activation(b, op->rows, width);
}

const bool sl_ffn_gated[] = {
#define FFN(name, gated, ...) gated,
#include "simd/ffn.inc"
#undef FFN
};
