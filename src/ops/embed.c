#include "ops/ops.h"

#include <string.h>

enum { SLICE = 64 }; /* columns of one backward item */

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const float *e = sl_weight(op, x, 0);
    float *out = sl_buf_data(x, op->out);
    for (int64_t r = s->first; r < s->first + s->n; r++)
        memcpy(out + r * op->dim_out, e + x->tokens[r] * op->dim_out, (size_t)op->dim_out * sizeof(float));
    return 0;
}

static sl_split slices(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.items = sl_div_up(op->dim_out, SLICE)};
}

/* A slice of columns sums all rows in order: deterministic, though tokens repeat. */
static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t d = op->dim_out, j = s->first * SLICE, n = sl_min(s->n * SLICE, d - j);
    float *g = sl_weight_grad(op, x, 0);
    const float *dout = sl_buf_data(x, op->dout);
    for (int64_t r = 0; r < op->rows; r++)
        x->k->add(n, dout + r * d + j, g + x->tokens[r] * d + j);
    return 0;
}

static const sl_op_kind embed = {
    .name = "embed",
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
    .backward = SL_STAGES({.cut = SL_CUT_SUMS, .run = backward, .split = slices})};

sl_buf sl_build_embed(sl_program *b, int weight) {
    sl_op *op = sl_program_op(b, &embed, (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_embed});
    op->dim_out = b->config->model_dim;
    op->param[0] = weight;
    return op->out = sl_program_buffer(b, op->rows, op->dim_out);
}
