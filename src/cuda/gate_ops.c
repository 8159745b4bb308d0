/* The gate of GatedNorm: in one kernel where that fits, else by products. */
#include "cuda/gate.h"
#include "cuda/kind.h"
#include "cuda/rows.h"
#include "ops/norm/gate.h"
#include "program/scratch.h"

static slc_norm_gate gate_of(const sl_op *op, const sl_program *b) {
    static const int outer[] = {[SL_GATE_SIGMOID] = SLC_GATE_SIGMOID, [SL_GATE_TANH] = SLC_GATE_TANH,
                                [SL_GATE_SILU] = SLC_GATE_SILU, [SL_GATE_LINEAR] = SLC_GATE_LINEAR};
    static const int inner[] = {[SL_GATE_INNER_SILU] = SLC_GATE_SILU, [SL_GATE_INNER_RELU] = SLC_GATE_RELU};
    const sl_gate *g = sl_gate_of(op);
    const sl_buffer *out = &b->buffer[op->out];
    return (slc_norm_gate){.inner = inner[b->config->norm_inner], .outer = outer[b->config->norm_outer],
                           .bf16 = out->bf16, .rows = op->rows, .dim = op->dim_in, .ld = out->ld, .rank = g->rank,
                           .ldr = sl_round_up(g->rank, 8), .gates = g->gates, .factor = g->factor,
                           .offset = g->offset};
}

/* ---- by products */

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

static const void *weight_of(const sl_op *op, const slc_exec *x, const slc_norm_gate *g, int i) {
    return g->bf16 ? (const void *)slc_weight16(op, x, i) : slc_weight(op, x, i);
}

/* h = inner(a), b = h W_up^T from the saved a. */
static int gate_input(const sl_op *op, const slc_exec *x, const slc_norm_gate *g, const gate_scratch *s) {
    slc_gate_inner(x->stream, g, slc_f32(x, op->saved[0]), s->h);
    slc_product up = {.m = g->rows, .n = g->gates, .k = g->rank, .bf16 = g->bf16, .tb = true, .a = s->h, .lda = g->ldr,
                      .b = weight_of(op, x, g, 1), .ldb = g->rank, .y = s->b, .ldy = g->gates, .scale = 1};
    return slc_multiply(x->blas, x->stream, &up);
}

static slc_gate_weights weights_of(const sl_op *op, const slc_exec *x) {
    return (slc_gate_weights){slc_weight16(op, x, 0), slc_weight16(op, x, 1)};
}

static int gate_forward(const sl_op *op, const slc_exec *x) {
    slc_norm_gate g = gate_of(op, x->program);
    if (slc_gate_fits(&g)) {
        slc_norm_gate_forward(x->stream, &g, weights_of(op, x), slc_b16(x, op->in[0]), slc_f32(x, op->saved[0]),
                              slc_b16(x, op->out));
        return 0;
    }
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
static int gate_gradients(const sl_op *op, const slc_exec *x, const slc_norm_gate *g, const gate_scratch *s) {
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
    slc_norm_gate g = gate_of(op, x->program);
    if (slc_gate_fits(&g)) {
        slc_norm_gate_backward(x->stream, &g, weights_of(op, x), slc_b16(x, op->in[0]), slc_f32(x, op->saved[0]),
                               slc_b16(x, op->dout), slc_b16(x, op->din[0]), slc_grad(op, x, 0), slc_grad(op, x, 1),
                               x->scratch);
        return 0;
    }
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
    slc_norm_gate g = gate_of(op, b);
    if (slc_gate_fits(&g))
        return b->training ? (size_t)slc_norm_gate_parts(&g) * sizeof(float) : 0;
    sl_carver count = {0};
    carve(op, g.ld, &count);
    return count.used;
}

const slc_kind slc_gate_kinds[] = {
    {.name = "gate", .forward = gate_forward, .backward = gate_backward, .scratch = gate_scratch_bytes}, {0}};
