/* Operations on the residual stream as a whole, fp32 rows of model.dim. */
#include "ops/ops.h"
#include "ops/rows.h"

#include <string.h>

static sl_op *new_op(sl_program *b, const sl_op_kind *kind, sl_scope scope, sl_buf in, unsigned use) {
    sl_op *op = sl_program_op(b, kind, scope);
    sl_op_reads(op, in, use);
    op->dim_in = op->dim_out = b->config->model_dim;
    return op;
}

/* Row `row` of an fp32 buffer. */
static float *at(const sl_op *op, const sl_exec *x, sl_buf b, int64_t row) {
    return sl_buf_data(x, b) + row * op->dim_in;
}

/* ---- add: out = in[0] + in[1] */

static int add_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    x->k->sum(s->n * op->dim_in, at(op, x, op->in[0], s->first), at(op, x, op->in[1], s->first),
              at(op, x, op->out, s->first));
    return 0;
}

static const sl_op_kind add = {.name = "add", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = add_forward})};

sl_buf sl_build_add(sl_program *b, sl_scope scope, sl_buf in, sl_buf residual) {
    sl_op *op = new_op(b, &add, scope, in, SL_INPUT_ADDED);
    sl_op_reads(op, residual, SL_INPUT_ADDED);
    return op->out = sl_program_buffer(b, op->rows, op->dim_in);
}

/* ---- round: the stream as an operand of bf16 products */

static int round_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_store_bf16(x, op->out, s->first, s->n, 0, op->dim_in, at(op, x, op->in[0], s->first), op->dim_in);
    return 0;
}

static int round_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    float *scratch = sl_worker_scratch(x, s->worker);
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        float *din = at(op, x, op->din[0], r), *dout = op->acc[0] ? scratch : din;
        x->k->from_bf16(op->dim_in, sl_bf16_row(x, op->dout, r), dout);
        if (op->acc[0])
            x->k->add(op->dim_in, dout, din);
    }
    return 0;
}

static const sl_op_kind rounding = {.name = "round", .adds = true,
                                    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = round_forward}),
                                    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = round_backward})};

sl_buf sl_build_operand(sl_program *b, sl_scope scope, sl_buf in) {
    if (!b->bf16)
        return in;
    sl_op *op = new_op(b, &rounding, scope, in, SL_INPUT_GRADIENT);
    op->worker_bytes = (size_t)op->dim_in * sizeof(float);
    return op->out = sl_program_activation(b, op->rows, op->dim_in);
}

/* ---- multiply: in place by a constant */

static int multiply_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    x->k->scale(s->n * op->dim_in, *(const float *)op->own, at(op, x, op->out, s->first));
    return 0;
}

static int multiply_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    x->k->scale(s->n * op->dim_in, *(const float *)op->own, at(op, x, op->dout, s->first));
    return 0;
}

static const sl_op_kind multiply = {.name = "multiply",
                                    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = multiply_forward}),
                                    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = multiply_backward})};

void sl_build_embed_multiplier(sl_program *b, sl_buf x) {
    sl_scope scope = {.layer = SL_NO_LAYER, .part = SL_PART_embed, .role = SL_ROLE_SCALE};
    sl_op *op = new_op(b, &multiply, scope, x, SL_INPUT_GRADIENT);
    float *own = sl_program_own(b, op, sizeof *own);
    op->out = x;
    if (own)
        *own = (float)b->config->model_embed_multiplier;
}

/* ---- clip: in place to [-most, most]; no gradient where it cut, which is where |out| is not below that, or
 * (model.clip_backward: through) all of it */

float sl_clip_of(const sl_op *op) { return *(const float *)op->own; }

static int clip_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    x->k->clip_fwd(s->n * op->dim_in, sl_clip_of(op), at(op, x, op->out, s->first));
    return 0;
}

static int clip_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    x->k->clip_bwd(s->n * op->dim_in, sl_clip_of(op), at(op, x, op->out, s->first), at(op, x, op->dout, s->first));
    return 0;
}

static const sl_op_kind clip = {.name = "clip",
                                .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = clip_forward}),
                                .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = clip_backward}),
                                .keeps_out = true};
static const sl_op_kind clip_through = {.name = "clip_through",
                                        .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = clip_forward})};

void sl_build_clip(sl_program *b, sl_scope scope, sl_buf x, double threshold, int backward) {
    sl_op *op = new_op(b, backward == SL_CLIP_THROUGH ? &clip_through : &clip, scope, x, SL_INPUT_GRADIENT);
    float *own = sl_program_own(b, op, sizeof *own);
    op->out = x;
    if (own)
        *own = (float)threshold;
}
