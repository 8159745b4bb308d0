/* Norms, with replaced channels and without, and the gate of GatedNorm. */
#include "cuda/kind.h"
#include "cuda/norm.h"
#include "cuda/rows.h"
#include "ops/norm/frame.h"
#include "ops/norm/gate.h"
#include "program/scratch.h"

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
    slc_norm n = {.kind = kind_of(op), .x_bf16 = in->bf16, .bf16 = out->bf16, .zero_centred = x->program->config->norm_zero_centred,
                  .rows = op->rows, .dim = op->dim_in, .ldx = in->ld, .ld = out->ld, .eps = sl_norm_own_of(op)->eps,
                  .x = x->buf[op->in[0]], .weight = slc_weight(op, x, SL_NORM_WEIGHT),
                  .bias = slc_weight(op, x, SL_NORM_BIAS), .alpha = slc_weight(op, x, SL_NORM_ALPHA),
                  .shift = slc_weight(op, x, SL_NORM_SHIFT), .pre = slc_weight(op, x, SL_NORM_PRE)};
    if (n.kind == SLC_NORM_RMS)
        n.r = slc_f32(x, op->saved[0]);
    if (n.kind == SLC_NORM_LAYER)
        n.mean = slc_f32(x, op->saved[0]), n.r = slc_f32(x, op->saved[1]);
    if (o)
        n.replaced = &state_of(op, x)->list, n.in_b = o->in_b, n.only_one = o->only_one;
    return n;
}

static int norm_forward(const sl_op *op, const slc_exec *x) {
    const sl_norm_nullified *o = sl_norm_nullified_of(op);
    slc_norm n = norm_of(op, x);
    if (o)
        slc_choose_channels(x->stream, op->dim_in, o->most, o->to_mean, x->w + slc_at(x, o->means),
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
    slc_norm_backward(x->stream, &n, x->buf[op->dout], op->acc[0], x->buf[op->din[0]], &g, x->scratch);
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

/* ---- the gate */

static slc_gate gate_of(const sl_op *op, const slc_exec *x) {
    static const int outer[] = {[SL_GATE_SIGMOID] = SLC_GATE_SIGMOID, [SL_GATE_TANH] = SLC_GATE_TANH,
                                [SL_GATE_SILU] = SLC_GATE_SILU, [SL_GATE_LINEAR] = SLC_GATE_LINEAR};
    static const int inner[] = {[SL_GATE_INNER_SILU] = SLC_GATE_SILU, [SL_GATE_INNER_RELU] = SLC_GATE_RELU};
    const sl_config *c = x->program->config;
    const sl_gate *g = sl_gate_of(op);
    const sl_buffer *out = &x->info[op->out];
    return (slc_gate){.inner = inner[c->norm_inner], .outer = outer[c->norm_outer], .bf16 = out->bf16, .rows = op->rows,
                      .dim = op->dim_in, .ld = out->ld, .rank = g->rank, .ldr = sl_round_up(g->rank, 8),
                      .gates = g->gates, .factor = g->factor, .offset = g->offset};
}

typedef struct {
    void *h, *da, *db;
    float *b, *dh, *dy;
} gate_scratch;

static gate_scratch carve(const sl_op *op, int64_t ld, sl_carver *c) {
    const sl_gate *g = sl_gate_of(op);
    int64_t rows = op->rows, ldr = sl_round_up(g->rank, 8);
    gate_scratch s = {.h = sl_carve_floats(c, rows * ldr), .b = sl_carve_floats(c, rows * g->gates)};
    s.da = sl_carve_floats(c, rows * ldr);
    s.db = sl_carve_floats(c, rows * (g->gates == 1 ? 1 : ld));
    s.dh = sl_carve_floats(c, rows * g->rank);
    s.dy = sl_carve_floats(c, rows * op->dim_in);
    return s;
}

static const void *weight_of(const sl_op *op, const slc_exec *x, const slc_gate *g, int i) {
    return g->bf16 ? (const void *)slc_weight16(op, x, i) : slc_weight(op, x, i);
}

/* h = inner(a), b = h W_up^T from the saved a. */
static int gate_input(const sl_op *op, const slc_exec *x, const slc_gate *g, const gate_scratch *s) {
    slc_gate_inner(x->stream, g, slc_f32(x, op->saved[0]), s->h);
    slc_product up = {.m = g->rows, .n = g->gates, .k = g->rank, .bf16 = g->bf16, .tb = true, .a = s->h, .lda = g->ldr,
                      .b = weight_of(op, x, g, 1), .ldb = g->rank, .y = s->b, .ldy = g->gates, .scale = 1};
    return slc_multiply(x->blas, x->stream, &up);
}

static int gate_forward(const sl_op *op, const slc_exec *x) {
    slc_gate g = gate_of(op, x);
    gate_scratch s = carve(op, g.ld, &(sl_carver){.base = x->scratch});
    slc_product down = {.m = g.rows, .n = g.rank, .k = g.dim, .bf16 = g.bf16, .tb = true, .a = x->buf[op->in[0]],
                        .lda = x->info[op->in[0]].ld, .b = weight_of(op, x, &g, 0), .ldb = g.dim,
                        .y = slc_f32(x, op->saved[0]), .ldy = g.rank, .scale = 1};
    if (slc_multiply(x->blas, x->stream, &down) || gate_input(op, x, &g, &s))
        return -1;
    slc_gate_apply(x->stream, &g, s.b, x->buf[op->in[0]], x->buf[op->out]);
    return 0;
}

/* dW_up += db^T h, dW_down += da^T y. */
static int gate_gradients(const sl_op *op, const slc_exec *x, const slc_gate *g, const gate_scratch *s) {
    float *up_grad = slc_grad(op, x, 1), *down_grad = slc_grad(op, x, 0);
    slc_product up = {.m = g->gates, .n = g->rank, .k = g->rows, .bf16 = g->bf16, .ta = true, .a = s->db,
                      .lda = g->gates == 1 ? 1 : g->ld, .b = s->h, .ldb = g->ldr, .y = up_grad, .add = up_grad,
                      .ldy = g->rank, .scale = 1};
    slc_product down = {.m = g->rank, .n = g->dim, .k = g->rows, .bf16 = g->bf16, .ta = true, .a = s->da,
                        .lda = g->ldr, .b = x->buf[op->in[0]], .ldb = x->info[op->in[0]].ld, .y = down_grad,
                        .add = down_grad, .ldy = g->dim, .scale = 1};
    return slc_multiply(x->blas, x->stream, &up) || slc_multiply(x->blas, x->stream, &down) ? -1 : 0;
}

/* dy = q dout + da W_down, da = (db W_up) inner'(a). */
static int gate_backward(const sl_op *op, const slc_exec *x) {
    slc_gate g = gate_of(op, x);
    gate_scratch s = carve(op, g.ld, &(sl_carver){.base = x->scratch});
    float *dy = g.bf16 ? s.dy : slc_f32(x, op->din[0]);
    if (gate_input(op, x, &g, &s))
        return -1;
    slc_gate_back(x->stream, &g, s.b, x->buf[op->in[0]], x->buf[op->dout], dy, s.db);
    slc_product up = {.m = g.rows, .n = g.rank, .k = g.gates, .bf16 = g.bf16, .a = s.db,
                      .lda = g.gates == 1 ? 1 : g.ld, .b = weight_of(op, x, &g, 1), .ldb = g.rank, .y = s.dh,
                      .ldy = g.rank, .scale = 1};
    if (slc_multiply(x->blas, x->stream, &up))
        return -1;
    slc_gate_inner_back(x->stream, &g, slc_f32(x, op->saved[0]), s.dh, s.da);
    slc_product down = {.m = g.rows, .n = g.dim, .k = g.rank, .bf16 = g.bf16, .a = s.da, .lda = g.ldr,
                        .b = weight_of(op, x, &g, 0), .ldb = g.dim, .y = dy, .add = dy, .ldy = g.dim, .scale = 1};
    if (slc_multiply(x->blas, x->stream, &down) || gate_gradients(op, x, &g, &s))
        return -1;
    if (g.bf16)
        slc_round_rows(x->stream, g.rows, g.dim, dy, slc_b16(x, op->din[0]), x->info[op->din[0]].ld);
    return 0;
}

static size_t gate_scratch_bytes(const sl_op *op, const sl_program *b) {
    sl_carver count = {0};
    carve(op, b->buffer[op->out].ld, &count);
    return count.used;
}

const slc_kind slc_norm_kinds[] = {
    {.name = "norm", .forward = norm_forward, .backward = norm_backward, .scratch = norm_scratch,
     .end_step = norm_end_step},
    {.name = "gate", .forward = gate_forward, .backward = gate_backward, .scratch = gate_scratch_bytes},
    {0}};
