#include "ops/sigmoid_gate.h"

#include "ops/rows.h"
#include "program/scratch.h"

static const sl_sigmoid_gate *of(const sl_op *op) { return op->own; }

/* Private scratch of a worker: one row each. */
typedef struct {
    float *whole, *b, *dout, *y, *db, *out;
} scratch;

static scratch scratch_at(const sl_op *op, sl_carver *at) {
    int64_t n = of(op)->n;
    scratch s = {.whole = sl_carve_floats(at, op->dim_in), .b = sl_carve_floats(at, n)};
    s.dout = sl_carve_floats(at, op->dim_out);
    s.y = sl_carve_floats(at, op->dim_in);
    s.db = sl_carve_floats(at, n);
    s.out = sl_carve_floats(at, n);
    return s;
}

/* One value for each gated column. */
static const float *gate_inputs(const sl_op *op, const sl_exec *x, int64_t row, const scratch *s) {
    const sl_sigmoid_gate *o = of(op);
    const float *b = sl_read_rows(x, op->in[1], row, 1, o->group > 1 ? s->db : s->b);
    if (o->group == 1)
        return b;
    for (int64_t j = 0; j < o->n; j++)
        s->b[j] = b[j / o->group];
    return s->b;
}

static void add_floor(const sl_sigmoid_gate *o, const float *from, float *to) {
    for (int64_t j = 0; o->open != 1 && j < o->n; j++)
        to[j] += (1 - o->open) * from[j];
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const sl_sigmoid_gate *o = of(op);
    scratch s = scratch_at(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    for (int64_t r = span->first; r < span->first + span->n; r++) {
        const float *y = sl_read_rows(x, op->in[0], r, 1, s.whole) + o->first, *b = gate_inputs(op, x, r, &s);
        if (o->in_place)
            sl_write_columns(x, op->saved[0], r, 1, 0, o->n, y, o->n);
        x->k->gate_fwd(o->n, o->open, b, y, s.out);
        add_floor(o, y, s.out);
        sl_write_columns(x, op->out, r, 1, o->first, o->n, s.out, o->n);
    }
    return 0;
}

/* Sums the gradients of columns that share a gate value. */
static void fold(const sl_sigmoid_gate *o, float *db) {
    for (int64_t j = 0; o->group > 1 && j < o->n / o->group; j++) {
        float sum = 0;
        for (int64_t i = 0; i < o->group; i++)
            sum += db[j * o->group + i];
        db[j] = sum;
    }
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const sl_sigmoid_gate *o = of(op);
    scratch s = scratch_at(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    for (int64_t r = span->first; r < span->first + span->n; r++) {
        const float *b = gate_inputs(op, x, r, &s);
        const float *y = sl_read_rows(x, o->in_place ? op->saved[0] : op->in[0], r, 1, s.y);
        const float *dout = sl_read_rows(x, op->dout, r, 1, s.dout) + o->first;
        x->k->gate_bwd(o->n, o->open, b, y, dout, s.out, s.db);
        add_floor(o, dout, s.out);
        fold(o, s.db);
        sl_write_columns(x, op->din[0], r, 1, o->first, o->n, s.out, o->n);
        sl_write_columns(x, op->din[1], r, 1, 0, o->n / o->group, s.db, o->n / o->group);
    }
    return 0;
}

static const sl_op_kind sigmoid_gate = {.name = "sigmoid_gate",
                                        .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
                                        .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward})};

sl_buf sl_build_sigmoid_gate(sl_program *b, sl_scope scope, sl_buf y, sl_buf gate, const sl_sigmoid_gate *how) {
    sl_op *op = sl_program_op(b, &sigmoid_gate, scope);
    sl_sigmoid_gate *o = sl_program_own(b, op, sizeof *o);
    if (!o)
        return y;
    *o = *how;
    sl_op_reads(op, y, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, gate, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = b->buffer[y].cols;
    if (o->in_place)
        op->saved[0] = sl_program_activation(b, op->rows, o->n);
    bool fp32 = !b->buffer[y].bf16;
    op->out = o->in_place ? y
              : fp32      ? sl_program_buffer(b, op->rows, o->n)
                          : sl_program_activation(b, op->rows, o->n);
    sl_carver size = {0};
    scratch_at(op, &size);
    op->worker_bytes = size.used;
    return op->out;
}
