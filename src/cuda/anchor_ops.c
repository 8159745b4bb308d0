/* Anchors: anchor, anchor_mix. */
#include "cuda/anchors.h"
#include "cuda/kind.h"
#include "ops/attention/anchors.h"

static slc_anchor_layout layout_of(const sl_anchor_layout *l) {
    slc_anchor_layout to = {.parts = l->parts, .head_dim = l->head_dim};
    memcpy(to.first, l->first, sizeof to.first);
    return to;
}

/* ---- anchor */

enum { RAW, RSTD };

static slc_anchor anchor_of(const sl_op *op, const slc_exec *x) {
    const sl_anchoring *o = sl_anchoring_of(op);
    const sl_buffer *in = &x->info[op->in[0]];
    slc_anchor a = {.at = layout_of(&o->at), .rows = op->rows, .bf16 = in->bf16, .in = x->buf[op->in[0]], .ld = in->ld,
                    .eps = o->eps, .raw = slc_f32(x, op->saved[RAW]), .rstd = slc_f32(x, op->saved[RSTD])};
    for (int p = 0; p < a.at.parts; p++)
        a.weight[p] = slc_weight(op, x, p);
    return a;
}

static int anchor_forward(const sl_op *op, const slc_exec *x) {
    slc_anchor a = anchor_of(op, x);
    slc_anchor_forward(x->stream, &a, slc_f32(x, op->out));
    return 0;
}

static int anchor_backward(const sl_op *op, const slc_exec *x) {
    slc_anchor a = anchor_of(op, x);
    float *dweight[SLC_ANCHOR_PARTS] = {NULL};
    for (int p = 0; p < a.at.parts; p++)
        dweight[p] = slc_grad(op, x, p);
    slc_anchor_backward(x->stream, &a, slc_f32(x, op->dout), x->buf[op->din[0]], dweight, x->scratch);
    return 0;
}

static size_t anchor_scratch(const sl_op *op, const sl_program *b) {
    return b->training ? (size_t)slc_anchor_floats(op->rows, op->dim_in) * sizeof(float) : 0;
}

/* ---- anchor_mix */

enum { OWN, ANCHOR, FACTORS };

static slc_anchor_mix mix_of(const sl_op *op, const slc_exec *x) {
    const sl_anchor_mixture *o = sl_anchor_mixture_of(op);
    const sl_buffer *own = &x->info[op->out];
    slc_anchor_mix m = {.at = layout_of(&o->at), .rows = op->rows,
                        .each = o->each == SL_ANCHORS_SCALAR     ? 0
                                : o->each == SL_ANCHORS_HEADWISE ? o->at.head_dim
                                                                 : 1,
                        .bf16 = own->bf16, .own = x->buf[op->out], .ld = own->ld, .before = x->buf[op->saved[0]],
                        .ld_before = x->info[op->saved[0]].ld, .anchor = slc_f32(x, op->in[ANCHOR]),
                        .coef = {slc_weight(op, x, 0), slc_weight(op, x, 1)}, .column = o->column, .of = o->of};
    if (op->in[FACTORS] != SL_NONE)
        m.factors = x->buf[op->in[FACTORS]], m.ld_factors = x->info[op->in[FACTORS]].ld;
    return m;
}

static int mix_forward(const sl_op *op, const slc_exec *x) {
    slc_anchor_mix m = mix_of(op, x);
    slc_anchor_mix_forward(x->stream, &m);
    return 0;
}

static int mix_backward(const sl_op *op, const slc_exec *x) {
    slc_anchor_mix m = mix_of(op, x);
    slc_anchor_mix_back b = {.dout = x->buf[op->dout], .down = x->buf[op->din[OWN]],
                             .danchor = slc_f32(x, op->din[ANCHOR]), .add_anchor = op->acc[ANCHOR],
                             .dcoef = {slc_grad(op, x, 0), slc_grad(op, x, 1)}, .scratch = x->scratch};
    if (m.factors)
        b.dfactors = x->buf[op->din[FACTORS]], b.add_factors = op->acc[FACTORS];
    slc_anchor_mix_backward(x->stream, &m, &b);
    return 0;
}

static size_t mix_scratch(const sl_op *op, const sl_program *b) {
    return b->training ? (size_t)slc_anchor_mix_floats(op->rows, op->dim_in) * sizeof(float) : 0;
}

const slc_kind slc_anchor_kinds[] = {
    {.name = "anchor", .forward = anchor_forward, .backward = anchor_backward, .scratch = anchor_scratch},
    {.name = "anchor_mix", .forward = mix_forward, .backward = mix_backward, .scratch = mix_scratch},
    {0}};
