/* Operations on the residual stream and between products: embed, embed_scale, ffn, add, round, clip. */
#include "cuda/kind.h"
#include "cuda/rows.h"
#include "ops/ops.h"

/* ---- embed */

static int embed_forward(const sl_op *op, const slc_exec *x) {
    slc_embed(x->stream, op->rows, op->dim_out, x->tokens, slc_weight(op, x, 0), slc_f32(x, op->out));
    return 0;
}

static int embed_backward(const sl_op *op, const slc_exec *x) {
    slc_embed_back(x->stream, op->rows, op->dim_out, x->tokens, x->order, slc_f32(x, op->dout), x->scratch,
                   slc_grad(op, x, 0));
    return 0;
}

static size_t embed_scratch(const sl_op *op, const sl_program *b) {
    return b->training ? (size_t)(slc_embed_parts(op->rows) * op->dim_out) * sizeof(float) : 0;
}

/* ---- embed_scale */

static int64_t elements(const sl_op *op) { return op->rows * op->dim_out; }

static int scale_forward(const sl_op *op, const slc_exec *x) {
    slc_scale(x->stream, elements(op), slc_weight(op, x, 0), slc_f32(x, op->in[0]), slc_f32(x, op->out));
    return 0;
}

static int scale_backward(const sl_op *op, const slc_exec *x) {
    const float *dout = slc_f32(x, op->dout);
    slc_dot(x->stream, elements(op), dout, slc_f32(x, op->in[0]), x->scratch);
    slc_fold(x->stream, slc_dot_parts(elements(op)), 1, 1, x->scratch, slc_grad(op, x, 0));
    slc_scale(x->stream, elements(op), slc_weight(op, x, 0), dout, slc_f32(x, op->din[0]));
    return 0;
}

static size_t scale_scratch(const sl_op *op, const sl_program *b) {
    (void)b;
    return (size_t)slc_dot_parts(elements(op)) * sizeof(float);
}

/* ---- ffn */

static slc_ffn ffn_of(const sl_op *op, const slc_exec *x) {
    return (slc_ffn){.kind = sl_ffn_kind_of(op), .bf16 = x->info[op->out].bf16, .rows = op->rows, .width = op->dim_out,
                     .ld_in = x->info[op->in[0]].ld, .ld = x->info[op->out].ld};
}

static int ffn_forward(const sl_op *op, const slc_exec *x) {
    slc_ffn f = ffn_of(op, x);
    slc_ffn_forward(x->stream, &f, x->buf[op->in[0]], x->buf[op->out]);
    return 0;
}

static int ffn_backward(const sl_op *op, const slc_exec *x) {
    slc_ffn f = ffn_of(op, x);
    slc_ffn_backward(x->stream, &f, x->buf[op->in[0]], x->buf[op->dout], x->buf[op->din[0]]);
    return 0;
}

/* ---- add, round, clip */

static int add_forward(const sl_op *op, const slc_exec *x) {
    slc_sum(x->stream, elements(op), slc_f32(x, op->in[0]), slc_f32(x, op->in[1]), slc_f32(x, op->out));
    return 0;
}

static int round_forward(const sl_op *op, const slc_exec *x) {
    slc_round_rows(x->stream, op->rows, op->dim_in, slc_f32(x, op->in[0]), slc_b16(x, op->out), x->info[op->out].ld);
    return 0;
}

static int round_backward(const sl_op *op, const slc_exec *x) {
    slc_widen_rows(x->stream, op->rows, op->dim_in, slc_b16(x, op->dout), x->info[op->dout].ld, op->acc[0],
                   slc_f32(x, op->din[0]));
    return 0;
}

static int clip_forward(const sl_op *op, const slc_exec *x) {
    slc_clip(x->stream, elements(op), sl_clip_of(op), slc_f32(x, op->out));
    return 0;
}

static int clip_backward(const sl_op *op, const slc_exec *x) {
    slc_clip_back(x->stream, elements(op), sl_clip_of(op), slc_f32(x, op->out), slc_f32(x, op->dout));
    return 0;
}

const slc_kind slc_rows_kinds[] = {
    {.name = "embed", .forward = embed_forward, .backward = embed_backward, .scratch = embed_scratch},
    {.name = "embed_scale", .forward = scale_forward, .backward = scale_backward, .scratch = scale_scratch},
    {.name = "ffn", .forward = ffn_forward, .backward = ffn_backward},
    {.name = "add", .forward = add_forward},
    {.name = "round", .forward = round_forward, .backward = round_backward},
    {.name = "clip", .forward = clip_forward, .backward = clip_backward},
    {.name = "clip_through", .forward = clip_forward},
    {0}};
