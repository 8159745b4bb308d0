/* x = scale * E[token] with one learned number (DyT's language models, arXiv 2503.10622). In fp32: it stands at the
 * start of the residual stream. */
#include "ops/ops.h"
#include "ops/rows.h"

#include <math.h>
#include <string.h>

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t at = s->first * op->dim_in, n = s->n * op->dim_in;
    float *out = sl_buf_data(x, op->out) + at;
    memcpy(out, sl_buf_data(x, op->in[0]) + at, (size_t)n * sizeof *out);
    x->k->scale(n, *sl_weight(op, x, 0), out);
    return 0;
}

/* The gradient of the scale: a partial sum of each block, in shared scratch. */
static void sum_block(const sl_op *op, const sl_exec *x, sl_blocks blocks, int64_t block) {
    int64_t at = sl_block_first(blocks, block) * op->dim_in, n = sl_block_rows(blocks, block) * op->dim_in;
    x->shared[block] = x->k->dot(n, sl_buf_data(x, op->dout) + at, sl_buf_data(x, op->in[0]) + at);
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t at = s->first * op->dim_in, n = s->n * op->dim_in;
    float *din = sl_buf_data(x, op->din[0]) + at;
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++)
        sum_block(op, x, blocks, i);
    memcpy(din, sl_buf_data(x, op->dout) + at, (size_t)n * sizeof *din);
    x->k->scale(n, *sl_weight(op, x, 0), din);
    return 0;
}

static const sl_op_kind embed_scale = {
    .name = "embed_scale",
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward},
                          {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split})};

sl_buf sl_build_embed_scale(sl_program *b, sl_buf in) {
    static const sl_scope scope = {.layer = SL_NO_LAYER, .part = SL_PART_embed, .role = SL_ROLE_SCALE};
    int64_t d = b->config->model_dim;
    int scale = sl_program_param(b, "model",
                                 &(sl_param_spec){.name = "embed_scale", .rows = 1, .init = SL_INIT_VALUE,
                                                  .start = sqrt((double)d), .decay = SL_DECAY_NORM});
    sl_op *op = sl_program_op(b, &embed_scale, scope);
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = d;
    op->param[0] = scale;
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    return op->out = sl_program_buffer(b, op->rows, d);
}
