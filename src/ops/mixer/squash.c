#include "ops/mixer/squash.h"

#include "ops/rows.h"
#include "program/scratch.h"

typedef struct {
    float *x, *dout, *y;
} scratch;

static scratch scratch_of(const sl_op *op, sl_carver *at) {
    scratch s = {.x = sl_carve_floats(at, op->dim_in)};
    s.dout = sl_carve_floats(at, op->dim_in);
    s.y = sl_carve_floats(at, op->dim_in);
    return s;
}

static enum sl_squash how_of(const sl_op *op) { return *(const enum sl_squash *)op->own; }

static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    scratch s = scratch_of(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    for (int64_t r = span->first; r < span->first + span->n; r++) {
        const float *in = sl_read_rows(x, op->in[0], r, 1, s.x);
        (how_of(op) == SL_SQUASH_TANH ? x->k->tanh : x->k->sigmoid)(op->dim_in, in, s.y);
        sl_write_columns(x, op->out, r, 1, 0, op->dim_in, s.y, op->dim_in);
    }
    return 0;
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    scratch s = scratch_of(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    for (int64_t r = span->first; r < span->first + span->n; r++) {
        const float *in = sl_read_rows(x, op->in[0], r, 1, s.x), *dout = sl_read_rows(x, op->dout, r, 1, s.dout);
        (how_of(op) == SL_SQUASH_TANH ? x->k->tanh_bwd : x->k->sigmoid_bwd)(op->dim_in, in, dout, s.y);
        sl_write_columns(x, op->din[0], r, 1, 0, op->dim_in, s.y, op->dim_in);
    }
    return 0;
}

static const sl_op_kind kind = {.name = "squash", .again = true,
                                .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
                                .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward})};

sl_buf sl_build_squash(sl_program *b, sl_scope scope, enum sl_squash how, sl_buf x) {
    sl_op *op = sl_program_op(b, &kind, scope);
    enum sl_squash *own = sl_program_own(b, op, sizeof *own);
    if (!own)
        return x;
    *own = how;
    sl_op_reads(op, x, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = b->buffer[x].cols;
    sl_carver size = {0};
    scratch_of(op, &size);
    op->worker_bytes = size.used;
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}

int sl_squash_of(const sl_op *op) { return op && op->kind == &kind ? (int)how_of(op) : -1; }
