#include "ops/mixer/gate_norm.h"

#include "ops/rows.h"
#include "program/scratch.h"

#include <string.h>

enum { Y, Z };

static const sl_gate_norm *of(const sl_op *op) { return op->own; }

/* A worker's, of one row: converted rows; what stands between gate and norm, and its gradient; results. */
typedef struct {
    float *y, *z, *dout, *between, *dbetween, *out, *dz;
} scratch;

static scratch scratch_of(const sl_op *op, sl_carver *at) {
    scratch s;
    float **each[] = {&s.y, &s.z, &s.dout, &s.between, &s.dbetween, &s.out, &s.dz};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        *each[i] = sl_carve_floats(at, op->dim_in);
    return s;
}

typedef struct {
    const float *y, *z;
} inputs;

/* ---- gates */

static void silu_fwd(const sl_kernels *k, int64_t n, const float *z, const float *y, float *out) {
    k->ffn[SL_FFN_swiglu].fwd(n, z, y, out);
}
static void silu_bwd(const sl_kernels *k, int64_t n, const float *z, const float *y, const float *dout, float *dz,
                     float *dy) {
    k->ffn[SL_FFN_swiglu].bwd(n, z, y, dout, dz, dy);
}
static void sigmoid_fwd(const sl_kernels *k, int64_t n, const float *z, const float *y, float *out) {
    k->gate_fwd(n, 1, z, y, out);
}
static void sigmoid_bwd(const sl_kernels *k, int64_t n, const float *z, const float *y, const float *dout, float *dz,
                        float *dy) {
    k->gate_bwd(n, 1, z, y, dout, dy, dz);
}
static void open_fwd(const sl_kernels *k, int64_t n, const float *z, const float *y, float *out) {
    (void)k, (void)z;
    memcpy(out, y, (size_t)n * sizeof *y);
}
static void open_bwd(const sl_kernels *k, int64_t n, const float *z, const float *y, const float *dout, float *dz,
                     float *dy) {
    (void)k, (void)z, (void)y, (void)dz;
    memcpy(dy, dout, (size_t)n * sizeof *dy);
}

static const struct {
    bool reads;
    void (*fwd)(const sl_kernels *k, int64_t n, const float *z, const float *y, float *out);
    void (*bwd)(const sl_kernels *k, int64_t n, const float *z, const float *y, const float *dout, float *dz,
                float *dy);
} gates[] = {[SL_GATE_NORM_SILU] = {true, silu_fwd, silu_bwd},
             [SL_GATE_NORM_SIGMOID] = {true, sigmoid_fwd, sigmoid_bwd},
             [SL_GATE_NORM_OPEN] = {false, open_fwd, open_bwd}};

static bool reads_z(const sl_op *op) { return gates[of(op)->gate].reads; }

static inputs read_inputs(const sl_op *op, const sl_exec *x, int64_t row, const scratch *s) {
    inputs in = {sl_read_rows(x, op->in[Y], row, 1, s->y), NULL};
    if (reads_z(op))
        in.z = sl_read_columns(x, op->in[Z], row, 1, of(op)->first, op->dim_in, s->z).p;
    return in;
}

static void gate(const sl_op *op, const sl_exec *x, const float *z, const float *y, float *out) {
    gates[of(op)->gate].fwd(x->k, op->dim_in, z, y, out);
}
static void gate_back(const sl_op *op, const sl_exec *x, const float *z, const float *y, const float *dout, float *dz,
                      float *dy) {
    gates[of(op)->gate].bwd(x->k, op->dim_in, z, y, dout, dz, dy);
}

/* saved[0]: 1 / rms of each span. */
static float *rstd_at(const sl_op *op, const sl_exec *x, int64_t row) {
    return sl_buf_data(x, op->saved[0]) + row * (op->dim_in / of(op)->span);
}

static void norm(const sl_op *op, const sl_exec *x, int64_t row, const float *in, float *out) {
    int64_t n = of(op)->span;
    const float *w = sl_weight(op, x, 0);
    float *rstd = rstd_at(op, x, row);
    for (int64_t at = 0; at < op->dim_in; at += n)
        x->k->rmsnorm_fwd(1, n, in + at, n, w + (of(op)->shared ? 0 : at), of(op)->eps, out + at, n, rstd++);
}

static void norm_back(const sl_op *op, const sl_exec *x, int64_t row, const float *dout, const float *in, float *din,
                      float *dw) {
    int64_t n = of(op)->span;
    const float *w = sl_weight(op, x, 0), *rstd = rstd_at(op, x, row);
    for (int64_t at = 0; at < op->dim_in; at += n) {
        int64_t own = of(op)->shared ? 0 : at;
        x->k->rmsnorm_bwd(1, n, dout + at, n, in + at, n, w + own, rstd++, din + at, n, 0, dw + own);
    }
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    scratch s = scratch_of(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    for (int64_t r = span->first; r < span->first + span->n; r++) {
        inputs in = read_inputs(op, x, r, &s);
        switch (of(op)->place) {
        case SL_GATE_NORM_AFTER:
            gate(op, x, in.z, in.y, s.between);
            norm(op, x, r, s.between, s.out);
            break;
        case SL_GATE_NORM_BEFORE:
            norm(op, x, r, in.y, s.between);
            gate(op, x, in.z, s.between, s.out);
            break;
        case SL_GATE_NORM_OFF: gate(op, x, in.z, in.y, s.out); break;
        }
        sl_write_columns(x, op->out, r, 1, 0, op->dim_in, s.out, op->dim_in);
    }
    return 0;
}

/* dy to s->out, dz to s->dz. */
static void row_back(const sl_op *op, const sl_exec *x, int64_t row, const inputs *in, const float *dout,
                     const scratch *s, float *dw) {
    switch (of(op)->place) {
    case SL_GATE_NORM_AFTER:
        gate(op, x, in->z, in->y, s->between);
        norm_back(op, x, row, dout, s->between, s->dbetween, dw);
        gate_back(op, x, in->z, in->y, s->dbetween, s->dz, s->out);
        break;
    case SL_GATE_NORM_BEFORE:
        norm(op, x, row, in->y, s->between);
        gate_back(op, x, in->z, s->between, dout, s->dz, s->dbetween);
        norm_back(op, x, row, s->dbetween, in->y, s->out, dw);
        break;
    case SL_GATE_NORM_OFF: gate_back(op, x, in->z, in->y, dout, s->dz, s->out); break;
    }
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    scratch s = scratch_of(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    sl_blocks blocks = sl_op_blocks(op);
    int64_t d = op->dim_in, params = sl_op_params_floats(op, x->p);
    for (int64_t b = sl_block_at(blocks, span->first), end = sl_block_behind(blocks, span); b < end; b++) {
        float *dw = x->shared + b * params;
        memset(dw, 0, (size_t)params * sizeof *dw);
        for (int64_t r = sl_block_first(blocks, b), last = r + sl_block_rows(blocks, b); r < last; r++) {
            inputs in = read_inputs(op, x, r, &s);
            row_back(op, x, r, &in, sl_read_rows(x, op->dout, r, 1, s.dout), &s, dw);
            sl_write_gradient(x, op->din[Y], r, 1, 0, d, s.out, op->acc[Y], s.dbetween);
            if (reads_z(op))
                sl_write_gradient(x, op->din[Z], r, 1, of(op)->first, d, s.dz, op->acc[Z], s.dbetween);
        }
    }
    if (reads_z(op) && !op->acc[Z]) {
        sl_clear_columns(x, op->din[Z], span->first, span->n, 0, of(op)->first);
        sl_clear_columns(x, op->din[Z], span->first, span->n, of(op)->first + d, x->info[op->din[Z]].ld);
    }
    return 0;
}

static const sl_op_kind gate_norm = {
    .name = "gate_norm",
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward},
                          {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split}),
    .adds = true};

sl_buf sl_build_gate_norm(sl_program *b, sl_scope scope, const char *prefix, sl_buf y, sl_buf z,
                          const sl_gate_norm *how) {
    sl_op *op = sl_program_op(b, &gate_norm, scope);
    sl_gate_norm *own = sl_program_own(b, op, sizeof *own);
    if (!own)
        return y;
    *own = *how;
    sl_op_reads(op, y, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    if (reads_z(op))
        sl_op_reads(op, z, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = b->buffer[y].cols;
    if (how->place != SL_GATE_NORM_OFF) {
        op->param[0] = sl_program_param(b, prefix, &(sl_param_spec){.name = "norm.weight",
                                                                    .rows = how->shared ? how->span : op->dim_in,
                                                                    .init = SL_INIT_ONES, .decay = SL_DECAY_NORM});
        op->saved[0] = sl_program_buffer(b, op->rows, op->dim_in / how->span);
    }
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    sl_carver size = {0};
    scratch_of(op, &size);
    op->worker_bytes = size.used;
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}

void sl_gate_norm_values(const sl_op *op, const sl_exec *x, float *to) {
    int64_t n = op->dim_in;
    for (int64_t row = 0; row < op->rows; row++, to += n) {
        for (int64_t j = 0; j < n; j++)
            to[j] = 1;
        if (reads_z(op))
            gate(op, x, sl_read_columns(x, op->in[Z], row, 1, of(op)->first, n, sl_worker_scratch(x, 0)).p, to, to);
    }
}

const sl_gate_norm *sl_gate_norm_of(const sl_op *op) { return op && op->kind == &gate_norm ? op->own : NULL; }
