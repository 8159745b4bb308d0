/* The gate of GatedNorm: in one kernel where that fits, else by products. */
#include "cuda/gate.h"
#include "cuda/kind.h"
#include "cuda/rows.h"
#include "ops/norm/gate.h"
#include "program/scratch.h"

static slc_norm_gate gate_of(const sl_op *op, const slc_exec *x) {
    static const int outer[] = {[SL_GATE_SIGMOID] = SLC_GATE_SIGMOID, [SL_GATE_TANH] = SLC_GATE_TANH,
                                [SL_GATE_SILU] = SLC_GATE_SILU, [SL_GATE_LINEAR] = SLC_GATE_LINEAR};
    static const int inner[] = {[SL_GATE_INNER_SILU] = SLC_GATE_SILU, [SL_GATE_INNER_RELU] = SLC_GATE_RELU};
    const sl_config *c = x->program->config;
    const sl_gate *g = sl_gate_of(op);
    const sl_buffer *out = &x->info[op->out];
    return (slc_norm_gate){.inner = inner[c->norm_inner], .outer = outer[c->norm_outer], .bf16 = out->bf16,
                           .rows = op->rows,
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

/* In the buffers that the CPU has for its own packing (ops/norm/gate.h), which are as large. */
static slc_gate_packed packed_of(const sl_op *op, const slc_exec *x) {
    void *p[SL_OP_SAVED];
    for (int i = 0; i < SL_OP_SAVED; i++)
        p[i] = op->saved[i] == SL_NONE ? NULL : x->buf[op->saved[i]];
    return (slc_gate_packed){p[SL_GATE_DOWN], p[SL_GATE_UP], p[SL_GATE_DOWN_BACK], p[SL_GATE_UP_BACK]};
}

/* The gate's own kernels go through the channels of few rows a warp: on an H100 those of cuBLASLt are faster with 4,096
 * rows (d 384: 85 microseconds a gate, both directions, against 92), and half as fast with 32,768 (356, 168). */
enum { MANY_ROWS = 8192 };

static bool fits(const sl_op *op, const slc_exec *x, const slc_norm_gate *g) {
    const sl_buffer *v = &x->info[op->saved[SL_GATE_DOWN]];
    size_t room = (size_t)(v->rows * v->ld) * (v->bf16 ? sizeof(sl_bf16) : sizeof(float));
    return slc_gate_fits(g) && slc_gate_packed_bytes(g) <= room && (op->rows >= MANY_ROWS || x->apart);
}

static int gate_forward(const sl_op *op, const slc_exec *x) {
    slc_norm_gate g = gate_of(op, x);
    if (fits(op, x, &g)) {
        slc_gate_packed p = packed_of(op, x);
        slc_gate_pack(x->stream, &g, (slc_gate_weights){slc_weight16(op, x, 0), slc_weight16(op, x, 1)}, p);
        slc_norm_gate_forward(x->stream, &g, p, slc_b16(x, op->in[0]), slc_f32(x, op->saved[0]), slc_b16(x, op->out));
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
    slc_norm_gate g = gate_of(op, x);
    gate_scratch s = carve(op, g.ld, &(sl_carver){.base = x->scratch});
    if (fits(op, x, &g)) {
        slc_norm_gate_backward(x->stream, &g, packed_of(op, x), slc_b16(x, op->in[0]), slc_f32(x, op->saved[0]),
                          slc_b16(x, op->dout), slc_b16(x, op->din[0]), s.h, s.da, s.db);
        return gate_gradients(op, x, &g, &s);
    }
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

const slc_kind slc_gate_kinds[] = {
    {.name = "gate", .forward = gate_forward, .backward = gate_backward, .scratch = gate_scratch_bytes}, {0}};
