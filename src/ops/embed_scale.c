/* x = scale * E[token] with one learned number (DyT's language models, arXiv 2503.10622). In fp32: it stands at the
 * start of the residual stream. */
#include "ops/ops.h"
#include "program/whole.h"
#include "ops/rowwise.h"

#include <math.h>
#include <string.h>

static void forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t first = sl_block_first(rows, block) * op->dim_in, n = sl_block_rows(rows, block) * op->dim_in;
    float *out = sl_buf_data(x, op->out) + first;
    memcpy(out, sl_buf_data(x, op->in[0]) + first, (size_t)n * sizeof *out);
    x->k->scale(n, *sl_weight(op, x, 0), out);
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }

static void backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t first = sl_block_first(rows, block) * op->dim_in, n = sl_block_rows(rows, block) * op->dim_in;
    const float *dout = sl_buf_data(x, op->dout) + first;
    float *din = sl_buf_data(x, op->din[0]) + first;
    x->shared[block] = x->k->dot(n, dout, sl_buf_data(x, op->in[0]) + first);
    memcpy(din, dout, (size_t)n * sizeof *din);
    x->k->scale(n, *sl_weight(op, x, 0), din);
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, backward_block);
    sl_fold_partials(x, sl_op_blocks(op).count, 1, 1, x->shared, sl_weight_grad(op, x, 0));
}

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind embed_scale = {.name = "embed_scale", .forward = forward_stages, .backward = backward_stages};

sl_buf sl_build_embed_scale(sl_program *b, sl_buf in) {
    int64_t d = b->config->model_dim;
    int scale = sl_program_param(b, "model", "embed_scale", 1, 0, SL_INIT_VALUE, sqrt((double)d), SL_DECAY_NORM, false);
    sl_op *op = sl_program_op(b, &embed_scale, (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_embed, .role = SL_ROLE_SCALE});
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = d;
    op->param[0] = scale;
    op->shared_bytes = (size_t)sl_op_blocks(op).count * sizeof(float);
    return op->out = sl_program_buffer(b, op->rows, d);
}
