/* x + P[position], P learned (Vaswani et al. 2017; Radford et al. 2019), at the start of the residual stream: fp32. */
#include "ops/ops.h"

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t d = op->dim_in;
    const float *table = sl_weight(op, x, 0) + x->position * d;
    for (int64_t r = s->first; r < s->first + s->n; r++)
        x->k->sum(d, sl_buf_data(x, op->in[0]) + r * d, table + r % op->seq * d, sl_buf_data(x, op->out) + r * d);
    return 0;
}

static sl_split positions(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.items = op->seq};
}

/* A row of the table sums the windows in order. */
static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t d = op->dim_in;
    float *g = sl_weight_grad(op, x, 0);
    for (int64_t t = s->first; t < s->first + s->n; t++)
        for (int64_t r = t; r < op->rows; r += op->seq)
            x->k->add(d, sl_buf_data(x, op->dout) + r * d, g + t * d);
    return 0;
}

static const sl_op_kind learned_positions = {
    .name = "positions",
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
    .backward = SL_STAGES({.cut = SL_CUT_SUMS, .run = backward, .split = positions})};

sl_buf sl_build_positions(sl_program *b, sl_buf in) {
    static const sl_scope scope = {.layer = SL_NO_LAYER, .part = SL_PART_positions};
    int64_t d = b->config->model_dim;
    int table = sl_build_matrix(b, (sl_scope){.layer = SL_NO_LAYER}, "model.embed_positions", "weight",
                                b->config->model_learned_positions, d, 0);
    sl_op *op = sl_program_op(b, &learned_positions, scope);
    sl_op_reads(op, in, SL_INPUT_ADDED);
    op->dim_in = op->dim_out = d;
    op->param[0] = table;
    return op->out = sl_program_buffer(b, op->rows, d);
}
