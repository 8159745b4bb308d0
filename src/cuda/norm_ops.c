/* Norms, with replaced channels and without. */
#include "base/err.h"
#include "cuda/kind.h"
#include "cuda/norm.h"
#include "ops/norm/frame.h"

/* ---- norms */

/* The state of ops/norm/nullify.c. */
typedef struct {
    slc_replaced list;
    int64_t rows;
    float sum[];
} nullified_state;

static nullified_state *state_of(const sl_op *op, const slc_exec *x) { return (void *)(x->state + op->state); }

static int kind_of(const sl_op *op) {
    switch (sl_norm_own_of(op)->norm->form) {
    case SL_NORM_BY_RMS: return SLC_NORM_RMS;
    case SL_NORM_BY_DEVIATION: return SLC_NORM_LAYER;
    default:
        return op->param[SL_NORM_SHIFT] != SL_NONE   ? SLC_NORM_DERF
               : op->param[SL_NORM_ALPHA] != SL_NONE ? SLC_NORM_DYT
                                                     : SLC_NORM_NONE;
    }
}

static slc_norm norm_of(const sl_op *op, const slc_exec *x) {
    const sl_buffer *in = &x->info[op->in[0]], *out = &x->info[op->out];
    const sl_norm_nullified *o = sl_norm_nullified_of(op);
    slc_norm n = {.kind = kind_of(op), .x_bf16 = in->bf16, .bf16 = out->bf16,
                  .zero_centred = x->program->config->norm_zero_centred,
                  .rows = op->rows, .dim = op->dim_in, .ldx = in->ld, .ld = out->ld, .eps = sl_norm_own_of(op)->eps,
                  .x = x->buf[op->in[0]], .weight = slc_weight(op, x, SL_NORM_WEIGHT),
                  .bias = slc_weight(op, x, SL_NORM_BIAS), .alpha = slc_weight(op, x, SL_NORM_ALPHA),
                  .shift = slc_weight(op, x, SL_NORM_SHIFT), .pre = slc_weight(op, x, SL_NORM_PRE)};
    if (n.kind == SLC_NORM_RMS)
        n.r = slc_f32(x, op->saved[0]);
    if (n.kind == SLC_NORM_LAYER)
        n.mean = slc_f32(x, op->saved[0]), n.r = slc_f32(x, op->saved[1]);
    if (o)
        n.replaced = &state_of(op, x)->list, n.in_b = o->in_b, n.only_one = o->only_one, n.from = o->from,
        n.seq = op->seq, n.position = x->position;
    return n;
}

static int norm_check(const sl_op *op) {
    const sl_norm_nullified *o = sl_norm_nullified_of(op);
    if (o && o->random)
        return sl_fail("device: cuda has no model.sink_nullify_channels=random; take device: cpu");
    if (o && o->second != SL_NONE)
        return sl_fail("device: cuda has no model.sink_nullify_value=%s; take device: cpu",
                       sl_choices_nullify_value[o->value].name);
    return kind_of(op) != SLC_NORM_LAYER || op->param[SL_NORM_BIAS] == SL_NONE
               ? 0
               : sl_fail("device: cuda has no layernorm with model.norm_opts.bias; take device: cpu");
}

static int norm_forward(const sl_op *op, const slc_exec *x) {
    const sl_norm_nullified *o = sl_norm_nullified_of(op);
    slc_norm n = norm_of(op, x);
    if (o)
        slc_choose_channels(x->stream, op->dim_in, o->most, o->value == SL_NULLIFY_MEAN, x->w + slc_at(x, o->means),
                            &state_of(op, x)->list);
    slc_norm_forward(x->stream, &n, x->buf[op->out]);
    if (o && (x->training || x->measuring))
        slc_sum_channels(x->stream, &n, x->scratch, state_of(op, x)->sum, &state_of(op, x)->rows);
    return 0;
}

static int norm_backward(const sl_op *op, const slc_exec *x) {
    slc_norm n = norm_of(op, x);
    slc_norm_grads g = {slc_grad(op, x, SL_NORM_WEIGHT), slc_grad(op, x, SL_NORM_BIAS), slc_grad(op, x, SL_NORM_ALPHA),
                        slc_grad(op, x, SL_NORM_SHIFT), slc_grad(op, x, SL_NORM_PRE)};
    const sl_op *before = op > x->program->op && slc_norm_rounds(op - 1, x) ? op - 1 : NULL;
    slc_norm_backward(x->stream, &n, x->buf[op->dout], op->acc[0], x->buf[op->din[0]],
                      before ? slc_b16(x, before->temp) : NULL, before ? x->info[before->temp].ld : 0, &g, x->scratch);
    return 0;
}

static size_t norm_scratch(const sl_op *op, const sl_program *b) {
    (void)b;
    return (size_t)slc_norm_parts(op->rows, op->dim_in) * sizeof(float);
}

static int norm_end_step(const sl_op *op, const slc_exec *x, const int32_t *applied) {
    const sl_norm_nullified *o = sl_norm_nullified_of(op);
    nullified_state *s = o ? state_of(op, x) : NULL;
    if (o)
        slc_move_means(x->stream, op->dim_in, SL_NULLIFY_RATE, applied, (float *)(uintptr_t)x->w + slc_at(x, o->means),
                       s->sum, &s->rows);
    return 0;
}

const slc_kind slc_norm_kinds[] = {
    {.name = "norm", .check = norm_check, .forward = norm_forward, .backward = norm_backward, .scratch = norm_scratch,
     .end_step = norm_end_step},
    {0}};
