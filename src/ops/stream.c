/* Operations on the residual stream as a whole, fp32 rows of model.dim. */
#include "ops/ops.h"
#include "program/whole.h"
#include "ops/rowwise.h"

#include <string.h>

/* A block of rows of an operation on every element: what it is in floats. */
typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t row, rows, first, n;
} span;

static span span_at(void *task, int64_t block) {
    span s = {.op = ((sl_task *)task)->op, .x = ((sl_task *)task)->x};
    sl_blocks rows = sl_op_blocks(s.op);
    s.row = sl_block_first(rows, block), s.rows = sl_block_rows(rows, block);
    s.first = s.row * s.op->dim_in, s.n = s.rows * s.op->dim_in;
    return s;
}

static sl_op *new_op(sl_program *b, const sl_op_kind *kind, sl_scope scope, sl_buf in) {
    sl_op *op = sl_program_op(b, kind, scope);
    sl_op_reads(op, in, SL_INPUT_GRADIENT);
    op->dim_in = op->dim_out = b->config->model_dim;
    return op;
}

/* ---- add: out = in[0] + in[1]; the gradient of in[1] is dout itself, as of any residual */

static void add_forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    span s = span_at(task, block);
    s.x->k->sum(s.n, sl_buf_data(s.x, s.op->in[0]) + s.first, sl_buf_data(s.x, s.op->in[1]) + s.first,
                sl_buf_data(s.x, s.op->out) + s.first);
}

static void add_forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, add_forward_block); }

static void add_backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    span s = span_at(task, block);
    const float *dout = sl_buf_data(s.x, s.op->dout) + s.first;
    float *din = sl_buf_data(s.x, s.op->din[0]) + s.first;
    if (s.op->acc[0])
        s.x->k->add(s.n, dout, din);
    else
        memcpy(din, dout, (size_t)s.n * sizeof *din);
}

static void add_backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, add_backward_block); }

SL_WHOLE(add_forward)
SL_WHOLE(add_backward)
static const sl_op_kind add = {.name = "add", .forward = add_forward_stages, .backward = add_backward_stages};

sl_buf sl_build_add(sl_program *b, sl_scope scope, sl_buf in, sl_buf residual) {
    sl_op *op = new_op(b, &add, scope, in);
    sl_op_reads(op, residual, SL_INPUT_ADDED);
    return op->out = sl_program_buffer(b, op->rows, op->dim_in);
}

/* ---- round: the stream as an operand of bf16 products */

static void round_forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    span s = span_at(task, block);
    sl_store_bf16(s.x, s.op->out, s.row, s.rows, 0, s.op->dim_in, sl_buf_data(s.x, s.op->in[0]) + s.first,
                  s.op->dim_in);
}

static void round_forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, round_forward_block); }

static void round_backward_block(void *task, int64_t block, int thread) {
    span s = span_at(task, block);
    int64_t d = s.op->dim_in;
    float *row = sl_worker_scratch(s.x, thread), *din = sl_buf_data(s.x, s.op->din[0]) + s.first;
    for (int64_t i = 0; i < s.rows; i++) {
        s.x->k->from_bf16(d, sl_bf16_row(s.x, s.op->dout, s.row + i), s.op->acc[0] ? row : din + i * d);
        if (s.op->acc[0])
            s.x->k->add(d, row, din + i * d);
    }
}

static void round_backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, round_backward_block); }

SL_WHOLE(round_forward)
SL_WHOLE(round_backward)
static const sl_op_kind rounding = {.name = "round", .forward = round_forward_stages, .backward = round_backward_stages};

sl_buf sl_build_operand(sl_program *b, sl_scope scope, sl_buf in) {
    if (!b->bf16)
        return in;
    sl_op *op = new_op(b, &rounding, scope, in);
    op->worker_bytes = (size_t)op->dim_in * sizeof(float);
    return op->out = sl_program_activation(b, op->rows, op->dim_in);
}

/* ---- clip: in place to [-factor, factor]; no gradient where it cut, which is where |out| is not below factor */

static void clip_forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    span s = span_at(task, block);
    s.x->k->clip_fwd(s.n, s.op->factor, sl_buf_data(s.x, s.op->out) + s.first);
}

static void clip_forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, clip_forward_block); }

static void clip_backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    span s = span_at(task, block);
    s.x->k->clip_bwd(s.n, s.op->factor, sl_buf_data(s.x, s.op->out) + s.first,
                     sl_buf_data(s.x, s.op->dout) + s.first);
}

static void clip_backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, clip_backward_block); }

SL_WHOLE(clip_forward)
SL_WHOLE(clip_backward)
static const sl_op_kind clip = {.name = "clip", .forward = clip_forward_stages, .backward = clip_backward_stages, .keeps_out = true};

void sl_build_clip(sl_program *b, sl_scope scope, sl_buf x, double threshold) {
    sl_op *op = new_op(b, &clip, scope, x);
    op->out = x;
    op->factor = (float)threshold;
}
