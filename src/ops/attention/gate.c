/* Gates of attention (arXiv 2505.06708): y times floor + (1 - floor) sigmoid(b), b = x W of the block's normed input
 * x, for each element or one for a head; on the heads' outputs before o_proj, or in place on the values. */
#include "ops/attention/heads.h"
#include "ops/ops.h"
#include "ops/rows.h"
#include "program/scratch.h"

static const sl_attention_gate *of(const sl_op *op) { return op->own; }

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
    const sl_attention_gate *o = of(op);
    const float *b = sl_read_rows(x, op->in[1], row, 1, o->group > 1 ? s->db : s->b);
    if (o->group == 1)
        return b;
    for (int64_t j = 0; j < o->n; j++)
        s->b[j] = b[j / o->group];
    return s->b;
}

static void add_floor(const sl_attention_gate *o, const float *from, float *to) {
    for (int64_t j = 0; o->open != 1 && j < o->n; j++)
        to[j] += (1 - o->open) * from[j];
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const sl_attention_gate *o = of(op);
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
static void fold(const sl_attention_gate *o, float *db) {
    for (int64_t j = 0; o->group > 1 && j < o->n / o->group; j++) {
        float sum = 0;
        for (int64_t i = 0; i < o->group; i++)
            sum += db[j * o->group + i];
        db[j] = sum;
    }
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const sl_attention_gate *o = of(op);
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

static const sl_op_kind attention_gate = {.name = "attention_gate",
                                          .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
                                          .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward})};

/* b = x W and the gate of n columns of y from col on, `group` of them to a gate value. */
static sl_buf build(sl_program *b, const sl_anchor_site *s, const char *name, sl_buf x, sl_buf y, int64_t col,
                    int64_t n, int64_t group) {
    sl_scope scope = {(int)s->layer, SL_HALF_ATTN, SL_PART_gate_in, SL_ROLE_SELF};
    const sl_config *c = b->config;
    int w = sl_program_param(b, s->prefix,
                             &(sl_param_spec){.name = name, .rows = n / group, .cols = c->model_dim, .linear = true,
                                              .init = SL_INIT_NORMAL, .start = c->model_init_std,
                                              .decay = SL_DECAY_MATRIX, .place = scope});
    sl_buf gate = sl_build_linear(b, scope, x, c->model_dim, n / group, w, SL_NONE, SL_NONE);
    sl_build_anchored_gate(b, s, gate);
    scope.part = SL_PART_gate;
    sl_op *op = sl_program_op(b, &attention_gate, scope);
    sl_attention_gate *o = sl_program_own(b, op, sizeof *o);
    if (!o)
        return y;
    *o = (sl_attention_gate){col, n, group, (float)(1 - c->attention_gate_floor), col > 0};
    sl_op_reads(op, y, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, gate, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = b->buffer[y].cols;
    if (o->in_place)
        op->saved[0] = sl_program_activation(b, op->rows, n);
    op->out = o->in_place ? y : sl_program_activation(b, op->rows, n);
    sl_carver size = {0};
    scratch_at(op, &size);
    op->worker_bytes = size.used;
    return op->out;
}

void sl_build_value_gate(sl_program *b, const sl_anchor_site *s, sl_buf x, sl_buf qkv) {
    const sl_config *c = b->config;
    int64_t hd = sl_config_head_dim(c), kv = sl_config_kv_heads(c) * hd;
    if (c->attention_gate == SL_ATTENTION_GATE_VALUE)
        build(b, s, "v_gate_proj.weight", x, qkv, c->model_heads * hd + kv, kv, 1);
}

sl_buf sl_build_output_gate(sl_program *b, const sl_anchor_site *s, sl_buf x, sl_buf o) {
    const sl_config *c = b->config;
    int64_t hd = sl_config_head_dim(c), n = c->model_heads * hd;
    if (c->attention_gate == SL_ATTENTION_GATE_ELEMENTWISE)
        return build(b, s, "gate_proj.weight", x, o, 0, n, 1);
    if (c->attention_gate == SL_ATTENTION_GATE_HEADWISE)
        return build(b, s, "gate_proj.weight", x, o, 0, n, hd);
    return o;
}
