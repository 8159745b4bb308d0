/* The mixture of moe.h in a quantised model: the same formula in three operations. The router reads x as it is, and
 * leaves its choices in a buffer; the experts' hidden rows, one for each slot, are an activation like any other, so
 * that the same quantisers stand before them as before any linear layer. A row's choices count as positions of its
 * window. */
#include "ops/moe/quantised.h"

#include "ops/quant/quantise.h"
#include "ops/rows.h"

#include <string.h>

/* ---- the router: saved[0] is the route, and the output */

static const sl_op_kind router = {
    .name = "moe_router", .forward = SL_STAGES(SL_MOE_CHOOSE), .end_step = sl_moe_end_step};

/* ---- products of experts with their rows: in[0] the rows, in[1] the route */

enum { BLOCK = 96, COLS = SL_GROUPED_COLS };

typedef struct {
    sl_moe m;
    int first, matrices;    /* of an expert's gate, up, down: which ones are multiplied by */
    int64_t n, depth;       /* each [n, depth] */
} own;

/* Scratch: of all workers, and of one. */
typedef struct {
    char *weights; /* packed matrices of each expert */
    float *y;      /* [places, n] of the down projection */
} shared;

static shared shared_at(const own *o, sl_carver *c) {
    size_t matrix = sl_grouped_bytes(o->m.k, false, o->n, o->depth);
    shared s = {.weights = sl_carve(c, o->m.experts * o->matrices * (int64_t)matrix)};
    s.y = sl_carve_floats(c, o->m.rows * o->m.top * o->n);
    return s;
}

typedef struct {
    float *rows, *packed, *c[2]; /* [BLOCK, depth], their packed form, [BLOCK, COLS] of each product */
} scratch;

static scratch scratch_at(const own *o, sl_carver *c) {
    scratch s = {.rows = sl_carve_floats(c, BLOCK * o->depth)};
    s.packed = sl_carve(c, (int64_t)sl_grouped_rows_bytes(o->m.k, false, BLOCK, o->depth));
    for (int i = 0; i < 2; i++)
        s.c[i] = sl_carve_floats(c, BLOCK * COLS);
    return s;
}

static sl_moe_route route_of(const sl_op *op, const sl_exec *x) {
    const own *o = op->own;
    return sl_moe_route_at(&o->m, &(sl_carver){(char *)sl_buf_data(x, op->in[1]), 0});
}

static void *operand(const own *o, const shared *s, int64_t e, int which) {
    return s->weights + (size_t)(e * o->matrices + which) * sl_grouped_bytes(o->m.k, false, o->n, o->depth);
}

static sl_split panels(const sl_op *op, const sl_exec *x) {
    const own *o = op->own;
    (void)x;
    return (sl_split){.items = o->m.experts * o->matrices * sl_grouped_panels(o->m.k, false, o->n)};
}

static int pack(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const own *o = op->own;
    shared s = shared_at(o, &(sl_carver){(char *)x->shared, 0});
    int64_t per = sl_grouped_panels(o->m.k, false, o->n), size = o->n * o->depth;
    for (int64_t i = span->first; i < span->first + span->n; i++) {
        int64_t matrix = i / per, e = matrix / o->matrices, which = matrix % o->matrices;
        const float *w = sl_weight(op, x, SL_MOE_PART_EXPERTS) + (e * 3 + o->first + which) * size;
        sl_grouped_pack(o->m.k, false, o->n, o->depth, (sl_mat){w, o->depth, 1}, i % per,
                        operand(o, &s, e, (int)which));
    }
    return 0;
}

/* Items: blocks of BLOCK places of one expert after the other. */
static int64_t blocks_of(const sl_moe_route *t, int64_t e) { return sl_div_up(t->offset[e + 1] - t->offset[e], BLOCK); }

static sl_split blocks(const sl_op *op, const sl_exec *x) {
    const own *o = op->own;
    sl_moe_route t = route_of(op, x);
    sl_split s = {0};
    for (int64_t e = 0; e < o->m.experts; e++)
        s.items += blocks_of(&t, e);
    return s;
}

typedef struct {
    int64_t e, first, n; /* expert, first place, places */
} block;

static block block_at(const sl_moe_route *t, int64_t index) {
    int64_t e = 0;
    for (; index >= blocks_of(t, e); e++)
        index -= blocks_of(t, e);
    int64_t first = t->offset[e] + index * BLOCK;
    return (block){e, first, sl_min(BLOCK, t->offset[e + 1] - first)};
}

/* Rows of in[0] by places: the row of each slot, or that of its token. */
static sl_grouped_rows gather(const sl_op *op, const sl_exec *x, const sl_moe_route *t, const block *b, int64_t share,
                              const scratch *s) {
    const own *o = op->own;
    for (int64_t i = 0; i < b->n; i++)
        memcpy(s->rows + i * o->depth, sl_buf_data(x, op->in[0]) + t->slot[b->first + i] / share * o->depth,
               (size_t)o->depth * sizeof(float));
    return sl_grouped_take_rows(o->m.k, false, b->n, o->depth, s->rows, o->depth, s->packed);
}

/* The product of the block's rows with matrix i of its expert's, columns j on, plus its bias, in c[., ldc]. */
static void multiply(const sl_op *op, const sl_exec *x, const block *b, const sl_grouped_rows *rows, int i, int64_t j,
                     int64_t cols, float *c, int64_t ldc) {
    const own *o = op->own;
    shared all = shared_at(o, &(sl_carver){(char *)x->shared, 0});
    sl_grouped_product(rows, operand(o, &all, b->e, i), j, cols, c, ldc, false);
    if (op->param[SL_MOE_PART_BIASES] == SL_NONE)
        return;
    const float *bias = sl_weight(op, x, SL_MOE_PART_BIASES) + sl_moe_bias_at(&o->m, b->e, o->first + i) + j;
    for (int64_t r = 0; r < b->n; r++)
        x->k->add(cols, bias, c + r * ldc);
}

/* ---- hidden: out [slots, ffn] = act(gate) up */

static void hidden_block(const sl_op *op, const sl_exec *x, const sl_moe_route *t, const block *b, const scratch *s) {
    const own *o = op->own;
    sl_grouped_rows rows = gather(op, x, t, b, o->m.top, s);
    for (int64_t j = 0; j < o->n; j += COLS) {
        int64_t cols = sl_min(COLS, o->n - j);
        for (int i = 0; i < 2; i++)
            multiply(op, x, b, &rows, i, j, cols, s->c[i], COLS);
        for (int64_t i = 0; i < b->n; i++)
            o->m.act->fwd(cols, s->c[0] + i * COLS, s->c[1] + i * COLS,
                          sl_buf_data(x, op->out) + t->slot[b->first + i] * o->n + j);
    }
}

static int hidden(const sl_op *op, const sl_exec *x, const sl_span *span) {
    scratch s = scratch_at(op->own, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    sl_moe_route t = route_of(op, x);
    for (int64_t i = span->first; i < span->first + span->n; i++) {
        block b = block_at(&t, i);
        hidden_block(op, x, &t, &b, &s);
    }
    return 0;
}

static const sl_op_kind hidden_kind = {.name = "moe_hidden",
                                       .forward = SL_STAGES({.cut = SL_CUT_PARAMS, .run = pack, .split = panels},
                                                            {.cut = SL_CUT_BATCH, .run = hidden, .split = blocks})};

/* ---- output: out = in[2] + the down projections, weighted */

static int down(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const own *o = op->own;
    shared all = shared_at(o, &(sl_carver){(char *)x->shared, 0});
    scratch s = scratch_at(o, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    sl_moe_route t = route_of(op, x);
    for (int64_t i = span->first; i < span->first + span->n; i++) {
        block b = block_at(&t, i);
        sl_grouped_rows rows = gather(op, x, &t, &b, 1, &s);
        multiply(op, x, &b, &rows, 0, 0, o->n, all.y + b.first * o->n, o->n);
        for (int64_t p = b.first; p < b.first + b.n; p++)
            x->k->scale(o->n, t.weight[t.slot[p]], all.y + p * o->n);
    }
    return 0;
}

static int combine(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const own *o = op->own;
    shared all = shared_at(o, &(sl_carver){(char *)x->shared, 0});
    sl_moe_route t = route_of(op, x);
    const float *residual = sl_buf_data(x, op->in[2]);
    for (int64_t r = span->first; r < span->first + span->n; r++) {
        float *out = sl_buf_data(x, op->out) + r * o->n;
        if (residual)
            memcpy(out, residual + r * o->n, (size_t)o->n * sizeof *out);
        else
            memset(out, 0, (size_t)o->n * sizeof *out);
        for (int64_t s = r * o->m.top; s < (r + 1) * o->m.top; s++)
            if (t.place[s] >= 0)
                x->k->add(o->n, all.y + t.place[s] * o->n, out);
    }
    return 0;
}

static const sl_op_kind output_kind = {.name = "moe_output",
                                       .forward = SL_STAGES({.cut = SL_CUT_PARAMS, .run = pack, .split = panels},
                                                            {.cut = SL_CUT_BATCH, .run = down, .split = blocks},
                                                            {.cut = SL_CUT_ROWS, .run = combine})};

const sl_moe *sl_moe_part_of(const sl_op *op) { /* the mixture is first in every one's own */
    return op->kind == &router || op->kind == &hidden_kind || op->kind == &output_kind ? op->own : NULL;
}

/* ---- building */

static sl_buf build_router(sl_program *b, sl_scope scope, sl_buf x, const sl_moe_params *p) {
    scope.part = SL_PART_router;
    sl_op *op = sl_program_op(b, &router, scope);
    sl_moe *m = sl_program_own(b, op, sizeof *m);
    if (!m)
        return 0;
    sl_moe_describe(b, p->choice, m);
    sl_op_reads(op, x, 0);
    op->param[SL_MOE_ROUTER] = p->router;
    op->param[SL_MOE_ROUTER_BIAS] = p->router_bias;
    op->state_bytes = sizeof(sl_moe_state);
    op->dim_in = m->dim;
    op->flops = 2.0 * (double)m->rows * (double)m->dim * (double)m->experts;
    sl_carver route = {0}, all = {0}, one = {0};
    sl_moe_route_at(m, &route);
    sl_moe_router_shared_at(m, false, &all);
    sl_moe_router_scratch_at(m, &one);
    op->shared_bytes = all.used;
    op->worker_bytes = one.used;
    return op->saved[0] = op->out = sl_program_buffer(b, 1, (int64_t)(route.used / sizeof(float)));
}

static sl_op *experts_op(sl_program *b, const sl_op_kind *kind, sl_scope scope, sl_buf in, sl_buf route,
                         const sl_moe_params *p, const own *is) {
    sl_op *op = sl_program_op(b, kind, scope);
    own *o = sl_program_own(b, op, sizeof *o);
    if (!o)
        return op;
    *o = *is;
    sl_op_reads(op, in, 0);
    sl_op_reads(op, route, 0);
    op->param[SL_MOE_PART_EXPERTS] = p->experts;
    op->param[SL_MOE_PART_BIASES] = p->biases;
    op->dim_in = o->depth;
    op->dim_out = o->n;
    op->flops = 2.0 * (double)(o->m.rows * o->m.top * o->matrices) * (double)(o->n * o->depth);
    sl_carver all = {0}, one = {0};
    shared_at(o, &all);
    scratch_at(o, &one);
    op->shared_bytes = all.used;
    op->worker_bytes = one.used;
    return op;
}

sl_buf sl_build_moe_quantised(sl_program *b, sl_scope scope, sl_buf x, sl_buf residual, const sl_moe_params *p) {
    sl_moe m;
    sl_moe_describe(b, p->choice, &m);
    sl_buf route = build_router(b, scope, x, p);
    scope.part = SL_PART_experts_in;
    sl_buf in = sl_build_quantiser(b, scope, x, m.dim);
    sl_op *op = experts_op(b, &hidden_kind, scope, in, route, p, &(own){m, 0, 2, m.ffn, m.dim});
    sl_buf h = op->out = sl_program_buffer(b, m.rows * m.top, m.ffn);
    scope.part = SL_PART_experts_out;
    h = sl_build_quantiser(b, scope, h, m.ffn);
    op = experts_op(b, &output_kind, scope, h, route, p, &(own){m, 2, 1, m.dim, m.ffn});
    sl_op_reads(op, residual, 0);
    return op->out = sl_program_buffer(b, m.rows, m.dim);
}
