/* The mixture of moe.h in a quantised model, forward alone: the same formula in plain steps, with what experts read and what
 * their down projections read rotated, observed or rounded in between. The router reads x as it is. Of the down projections'
 * input a row's choices count as positions of its window. */
#include "ops/moe/quantised.h"
#include "program/whole.h"

#include "base/threads.h"
#include "ops/product/gemm.h"
#include "ops/moe/moe.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"
#include "ops/rows.h"

#include <stdio.h>
#include <string.h>

enum { ROUTE, WORK, HIDDEN }; /* places in op->saved */

/* Arrays in the work buffer. Rows of one expert are at most all rows. */
typedef struct {
    float *rotated, *rounded;        /* what experts read, [rows, dim], or down projections, [slots, ffn] */
    float *gathered, *gate, *up, *y; /* of one expert */
} work;

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static work work_at(const sl_moe *m, sl_carver *b) {
    int64_t slots = m->rows * m->top, size = (int64_t)sizeof(float), wide = larger(m->dim, m->ffn);
    work w;
    w.rotated = sl_carve(b, larger(m->rows * m->dim, slots * m->ffn) * size);
    w.rounded = sl_carve(b, larger(m->rows * m->dim, slots * m->ffn) * size);
    w.gathered = sl_carve(b, m->rows * wide * size);
    w.gate = sl_carve(b, m->rows * m->ffn * size);
    w.up = sl_carve(b, m->rows * m->ffn * size);
    w.y = sl_carve(b, m->rows * m->dim * size);
    return w;
}

/* ---- rotation and rounding of rows */

typedef struct {
    const sl_rotation *r;
    const sl_exec *x;
    int64_t rows, n;
    const float *from;
    float *to;
} rotation;

static void rotate_block(void *ctx, int64_t block, int thread) {
    const rotation *t = ctx;
    sl_blocks rows = sl_row_blocks(t->rows, 1);
    int64_t first = sl_block_first(rows, block);
    for (int64_t i = first; i < first + sl_block_rows(rows, block); i++)
        sl_rotate_row(t->r, t->from + i * t->n, t->to + i * t->n, sl_worker_scratch(t->x, thread));
}

/* What layers read instead of v [rows, n]: v itself, or in rotated or rounded. */
static const float *transformed(const sl_op *op, const sl_exec *x, int which, int64_t rows, int64_t n, const float *v,
                                const work *w) {
    sl_quant_point *p = op->point[which];
    if (op->rotation[which]) {
        rotation t = {op->rotation[which], x, rows, n, v, w->rotated};
        sl_parallel(sl_row_blocks(rows, 1).count, rotate_block, &t);
        v = w->rotated;
    }
    if (!p)
        return v;
    sl_quant_point_apply(p, x->k, v, n, w->rounded, n);
    return p->observe ? v : w->rounded;
}

/* ---- experts */

typedef struct {
    const sl_op *op;
    const sl_exec *x;
    sl_moe_route t;
    work w;
    float *hidden; /* [slots, ffn] */
} pass;

static void product(const pass *p, int64_t rows, int64_t n, int64_t k, const float *a, const float *weights, float *c) {
    if (rows) /* an expert may have none */
        sl_gemm(p->x, rows, n, k, (sl_mat){a, k, 1}, (sl_mat){weights, k, 1}, c, n, false, NULL);
}

/* Weights of expert e: gate, up [ffn, dim], down [dim, ffn]. */
static const float *expert_weights(const pass *p, int64_t e) {
    return sl_weight(p->op, p->x, 1) + e * 3 * p->op->moe->dim * p->op->moe->ffn;
}

/* The hidden rows of expert e from rows of x, each to its slot. */
static void hidden_of(const pass *p, int64_t e, const float *x) {
    const sl_moe *m = p->op->moe;
    int64_t first = p->t.offset[e], n = p->t.offset[e + 1] - first;
    const float *w = expert_weights(p, e);
    for (int64_t i = 0; i < n; i++)
        memcpy(p->w.gathered + i * m->dim, x + p->t.slot[first + i] / m->top * m->dim, (size_t)m->dim * sizeof *x);
    product(p, n, m->ffn, m->dim, p->w.gathered, w, p->w.gate);
    product(p, n, m->ffn, m->dim, p->w.gathered, w + m->ffn * m->dim, p->w.up);
    for (int64_t i = 0; i < n; i++)
        m->act->fwd(m->ffn, p->w.gate + i * m->ffn, p->w.up + i * m->ffn, p->hidden + p->t.slot[first + i] * m->ffn);
}

/* Adds the weighted outputs of expert e to the rows of out. */
static void output_of(const pass *p, int64_t e, const float *hidden, float *out) {
    const sl_moe *m = p->op->moe;
    int64_t first = p->t.offset[e], n = p->t.offset[e + 1] - first;
    for (int64_t i = 0; i < n; i++)
        memcpy(p->w.gathered + i * m->ffn, hidden + p->t.slot[first + i] * m->ffn, (size_t)m->ffn * sizeof *hidden);
    product(p, n, m->dim, m->ffn, p->w.gathered, expert_weights(p, e) + 2 * m->ffn * m->dim, p->w.y);
    for (int64_t i = 0; i < n; i++) {
        int64_t slot = p->t.slot[first + i];
        float *y = p->w.y + i * m->dim;
        m->k->scale(m->dim, p->t.weight[slot], y);
        m->k->add(m->dim, y, out + slot / m->top * m->dim);
    }
}

static void forward(const sl_op *op, const sl_exec *x) {
    const sl_moe *m = op->moe;
    pass p = {.op = op, .x = x, .hidden = sl_buf_data(x, op->saved[HIDDEN])};
    int64_t slots = m->rows * m->top;
    float *out = sl_buf_data(x, op->out);
    const float *residual = sl_buf_data(x, op->in[1]);
    p.t = sl_moe_route_at(m, &(sl_carver){(char *)sl_buf_data(x, op->saved[ROUTE]), 0});
    p.w = work_at(m, &(sl_carver){(char *)sl_buf_data(x, op->saved[WORK]), 0});
    sl_moe_router_shared router = sl_moe_router_shared_at(m, false, &(sl_carver){(char *)x->shared, 0});
    sl_moe_choose(op, x, &p.t, &router);
    const float *in = transformed(op, x, 0, m->rows, m->dim, sl_buf_data(x, op->in[0]), &p.w);
    for (int64_t e = 0; e < m->experts; e++)
        hidden_of(&p, e, in);
    const float *hidden = transformed(op, x, 1, slots, m->ffn, p.hidden, &p.w);
    if (residual)
        memcpy(out, residual, (size_t)(m->rows * m->dim) * sizeof *out);
    else
        memset(out, 0, (size_t)(m->rows * m->dim) * sizeof *out);
    for (int64_t e = 0; e < m->experts; e++)
        output_of(&p, e, hidden, out);
}

SL_WHOLE(forward)
static const sl_op_kind moe_quantised = {.name = "moe_quantised", .forward = forward_stages, .backward = NULL};

/* ---- building */

static void build_input(sl_program *b, sl_op *op, int which, enum sl_part part, enum sl_quant_class class, int64_t rows,
                        int64_t n, int64_t seq) {
    bool rounds = b->quant->scheme && b->quant->scheme->range != SL_RANGE_NONE;
    sl_scope scope = op->scope;
    scope.part = part;
    if (sl_rotates(b, class) && !(op->rotation[which] = sl_rotation_new(b->quant->seed, sl_scope_as(scope, SL_ROLE_ROTATE), n)))
        b->failed = true;
    if ((rounds || b->quant->observe) &&
        !(op->point[which] = sl_quant_point_new(b, scope, class, rows, n, seq)))
        b->failed = true;
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

void sl_quantise_moe(sl_program *b, sl_op *op) {
    const sl_moe *m = op->moe;
    sl_carver size = {0};
    work_at(m, &size);
    op->kind = &moe_quantised;
    op->saved[WORK] = sl_program_buffer(b, 1, (int64_t)(size.used / sizeof(float)));
    build_input(b, op, 0, SL_PART_experts_in, SL_QUANT_POST_NORM, m->rows, m->dim, op->seq);
    build_input(b, op, 1, SL_PART_experts_out, SL_QUANT_DOWN_IN, m->rows * m->top, m->ffn, op->seq * m->top);
    op->shared_bytes = most(op->shared_bytes, most(sl_gemm_shared_bytes(b->kernels, m->ffn, m->dim),
                                                   sl_gemm_shared_bytes(b->kernels, m->dim, m->ffn)));
    op->worker_bytes = most(op->worker_bytes, sl_gemm_thread_bytes(b->kernels));
    op->worker_bytes = most(op->worker_bytes, (size_t)(2 * larger(m->dim, m->ffn)) * sizeof(double));
}
