/* A mixture of experts as one operation (formulas: moe.h). Forward: route, pack the weights of experts that have rows,
 * then one parallel region over blocks of places: gather x, h = w act(gate) up, y = W_down h + w b_down; last, each row
 * adds its places' y. The weight w goes in before W_down, so that backward has its gradient without y: with dh =
 * W_down^T dout, dw = <dh, act(gate) up> + <dout, b_down>. Backward: the same blocks of places for dh, dgate, dup and
 * dx, then one region over blocks of the weight gradients of all experts, their biases, then the router.
 *
 * bf16: x, gate, up, w act(gate) up, dgate, dup, dout and the weights are rounded once, as operands; scores, weights of
 * choices, y, and the gradient of x up to its store are fp32. */
#include "ops/moe/moe.h"

#include "ops/product/gemm_bf16.h"
#include "ops/moe/quantised.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <string.h>

enum { COLS = SL_GROUPED_COLS };

/* ---- the packed matrices of an expert. Its parameters lie one behind the other: gate, up [ffn, dim], down [dim,
 * ffn]. */
enum { GATE, UP, DOWN, FORWARD, DOWN_BACK = FORWARD, GATE_BACK, UP_BACK, ALL };

typedef struct {
    int64_t n, depth;
    sl_mat b;
} matrix;

/* w: the expert's first parameter; NULL where only sizes are wanted. */
static matrix matrix_of(const sl_moe *m, int which, const float *w) {
    int64_t d = m->dim, f = m->ffn;
    const float *up = w ? w + f * d : NULL, *down = w ? w + 2 * f * d : NULL;
    switch (which) {
    case GATE: return (matrix){f, d, {w, d, 1}};
    case UP: return (matrix){f, d, {up, d, 1}};
    case DOWN: return (matrix){d, f, {down, f, 1}};
    case DOWN_BACK: return (matrix){f, d, {down, 1, f}};
    case GATE_BACK: return (matrix){d, f, {w, 1, d}};
    default: return (matrix){d, f, {up, 1, d}};
    }
}

/* Bytes of the matrices from..to-1 of one expert. */
static size_t matrices_bytes(const sl_moe *m, int from, int to) {
    size_t bytes = 0;
    for (int i = from; i < to; i++) {
        matrix x = matrix_of(m, i, NULL);
        bytes += sl_grouped_bytes(m->k, m->bf16, x.n, x.depth);
    }
    return bytes;
}

/* ---- memory */

/* A block of rows that one item takes through an expert: whole micro-tiles. */
static int64_t block_unit(const sl_moe *m) { return m->bf16 ? SL_BF16_KR : m->k->gemm_mr; }
static int64_t block_most(const sl_moe *m) {
    return m->bf16 ? 96 : sl_round_up(128 - m->k->gemm_mr + 1, m->k->gemm_mr);
}

static int64_t row_ld(const sl_moe *m) { return m->bf16 ? sl_bf16_ld(m->dim) : m->dim; }
static int64_t element(const sl_moe *m) { return m->bf16 ? (int64_t)sizeof(sl_bf16) : (int64_t)sizeof(float); }

/* Scratch of all threads. Forward: y; backward: dout and x gathered, and the gradient of the gathered x. */
typedef struct {
    sl_moe_router_shared router;
    char *weights; /* fp32: packed matrices of every expert */
    float *y;
    void *dout, *x;
} shared;

static shared shared_at(const sl_moe *m, bool backward, sl_carver *b) {
    int64_t places = m->rows * m->top;
    shared s = {.router = sl_moe_router_shared_at(m, backward, b)};
    if (!m->bf16)
        s.weights = sl_carve(b, m->experts * (int64_t)(backward ? matrices_bytes(m, FORWARD, ALL)
                                                                    : matrices_bytes(m, 0, FORWARD)));
    s.y = sl_carve(b, places * m->dim * (int64_t)sizeof(float));
    if (backward) {
        s.dout = sl_carve(b, places * row_ld(m) * element(m));
        s.x = sl_carve(b, places * row_ld(m) * element(m));
    }
    return s;
}

/* Scratch of one thread. */
typedef struct {
    void *rows;             /* gathered [block, dim] */
    float *packed;          /* rows of A */
    float *c[3];            /* [block, COLS] */
    float *line[3];         /* [COLS] */
    void *wgrad;
} scratch;

static scratch scratch_at(const sl_moe *m, sl_carver *b) {
    int64_t block = block_most(m), deep = m->dim > m->ffn ? m->dim : m->ffn;
    scratch s;
    s.rows = sl_carve(b, block * row_ld(m) * element(m));
    s.packed = sl_carve(b, (int64_t)sl_grouped_rows_bytes(m->k, m->bf16, block, deep));
    for (int i = 0; i < 3; i++) {
        s.c[i] = sl_carve(b, block * COLS * (int64_t)sizeof(float));
        s.line[i] = sl_carve(b, COLS * (int64_t)sizeof(float));
    }
    s.wgrad = sl_carve(b, (int64_t)sl_grouped_wgrad_bytes(m->k, m->bf16));
    return s;
}

/* ---- a pass */

typedef struct {
    const sl_op *op;
    const sl_exec *x;
    const sl_moe *m;
    sl_moe_route t;
    shared s;
    bool backward;
    int64_t block;           /* places of an item */
    sl_buf gate_up, h;       /* gate in the first half of the rows, up in the second */
    int64_t cut_n[3], cut_m[3], cuts[3]; /* blocks of the weight gradients */
} pass;

static pass start(const sl_op *op, const sl_exec *x, bool backward) {
    const sl_moe *m = op->own;
    pass p = {.op = op, .x = x, .m = m, .backward = backward, .gate_up = op->saved[1], .h = op->saved[2]};
    p.t = sl_moe_route_of(op, x);
    p.s = shared_at(m, backward, &(sl_carver){(char *)x->shared, 0});
    /* Several items a thread; which places an item has changes no bit. */
    int64_t wanted = sl_div_up(m->rows * m->top, 4 * x->workers);
    p.block = sl_min(sl_round_up(wanted, block_unit(m)), block_most(m));
    return p;
}

static int64_t places_of(const pass *p, int64_t e) { return p->t.offset[e + 1] - p->t.offset[e]; }

static const float *expert_weights(const pass *p, int64_t e) {
    return sl_weight(p->op, p->x, SL_MOE_EXPERTS) + e * 3 * p->m->dim * p->m->ffn;
}

/* The bias of an expert's matrix GATE, UP or DOWN; NULL without. */
static const float *bias_of(const pass *p, int64_t e, int which) {
    return p->op->param[SL_MOE_BIASES] == SL_NONE
               ? NULL
               : sl_weight(p->op, p->x, SL_MOE_BIASES) + sl_moe_bias_at(p->m, e, which);
}

/* Where a packed matrix of an expert lies: bf16 keeps all from forward to backward. */
static void *operand(const pass *p, int64_t e, int which) {
    const sl_moe *m = p->m;
    int first = m->bf16 || !p->backward ? 0 : FORWARD;
    int last = m->bf16 ? (m->training ? ALL : FORWARD) : (p->backward ? ALL : FORWARD);
    char *base = m->bf16 ? (char *)sl_buf_bf16(p->x, p->op->saved[3]) : p->s.weights;
    return base + (size_t)e * matrices_bytes(m, first, last) + matrices_bytes(m, first, which);
}

/* ---- stages that pack: items are panels, of one expert after the other; those without rows need none */

typedef struct {
    int first, last; /* which matrices */
} packing;

static packing packing_of(const sl_moe *m, bool backward) {
    return backward ? (packing){FORWARD, ALL} : (packing){0, m->bf16 && m->training ? ALL : FORWARD};
}

static int64_t panels_of(const sl_moe *m, packing k) {
    int64_t n = 0;
    for (int i = k.first; i < k.last; i++)
        n += sl_grouped_panels(m->k, m->bf16, matrix_of(m, i, NULL).n);
    return n;
}

static void pack_panel(const pass *p, packing k, int64_t e, int64_t panel) {
    const sl_moe *m = p->m;
    for (int i = k.first; i < k.last; i++) {
        matrix x = matrix_of(m, i, expert_weights(p, e));
        int64_t n = sl_grouped_panels(m->k, m->bf16, x.n);
        if (panel < n) {
            sl_grouped_pack(m->k, m->bf16, x.n, x.depth, x.b, panel, operand(p, e, i));
            return;
        }
        panel -= n;
    }
}

static void pack(const pass *p, const sl_span *s) {
    packing k = packing_of(p->m, p->backward);
    int64_t panels = panels_of(p->m, k);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        if (places_of(p, i / panels) > 0)
            pack_panel(p, k, i / panels, i % panels);
}

static int pack_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    pass p = start(op, x, false);
    pack(&p, s);
    return 0;
}

static int pack_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    pass p = start(op, x, true);
    pack(&p, s);
    return 0;
}

static sl_split pack_forward_items(const sl_op *op, const sl_exec *x) {
    const sl_moe *m = op->own;
    (void)x;
    return (sl_split){.items = m->experts * panels_of(m, packing_of(m, false))};
}

/* bf16 keeps what forward has packed. */
static sl_split pack_backward_items(const sl_op *op, const sl_exec *x) {
    const sl_moe *m = op->own;
    (void)x;
    return (sl_split){.items = m->bf16 ? 0 : m->experts * panels_of(m, packing_of(m, true))};
}

/* ---- blocks of places */

typedef struct {
    int64_t e, first, n; /* expert, first place, places */
} block;

static int64_t count_blocks(const pass *p) {
    int64_t n = 0;
    for (int64_t e = 0; e < p->m->experts; e++)
        n += sl_div_up(places_of(p, e), p->block);
    return n;
}

static block block_at(const pass *p, int64_t index) {
    int64_t e = 0;
    for (int64_t n; index >= (n = sl_div_up(places_of(p, e), p->block)); e++)
        index -= n;
    int64_t first = p->t.offset[e] + index * p->block;
    return (block){e, first, sl_min(p->block, p->t.offset[e + 1] - first)};
}

/* Rows of a buffer [rows, dim], in the order of the block's places, as the products take them. */
static void gather(const pass *p, const block *b, sl_buf from, char *to) {
    const sl_moe *m = p->m;
    const sl_buffer *v = &p->x->info[from];
    int64_t ld = row_ld(m), padded = sl_bf16_kpad(m->dim);
    for (int64_t i = 0; i < b->n; i++) {
        int64_t row = p->t.slot[b->first + i] / m->top;
        char *y = to + i * ld * element(m);
        if (!m->bf16) {
            memcpy(y, sl_buf_data(p->x, from) + row * v->ld, (size_t)m->dim * sizeof(float));
        } else if (v->bf16) {
            memcpy(y, sl_buf_bf16(p->x, from) + row * v->ld, (size_t)padded * sizeof(sl_bf16));
        } else {
            sl_bf16 *z = (sl_bf16 *)(void *)y;
            m->k->to_bf16(m->dim, sl_buf_data(p->x, from) + row * v->ld, z);
            memset(z + m->dim, 0, (size_t)(padded - m->dim) * sizeof *z);
        }
    }
}

static void *buffer_row(const pass *p, sl_buf v, int64_t row) {
    return (char *)p->x->buf[v] + row * p->x->info[v].ld * element(p->m);
}

/* A block of columns of an activation: fp32 rows in place, or through a line of scratch. */
static float *read_line(const pass *p, sl_buf v, int64_t row, int64_t col, int64_t n, float *line) {
    if (!p->m->bf16)
        return sl_buf_data(p->x, v) + row * p->x->info[v].ld + col;
    p->m->k->from_bf16(n, sl_buf_bf16(p->x, v) + row * p->x->info[v].ld + col, line);
    return line;
}

static void store_cols(const pass *p, sl_buf v, int64_t row, int64_t rows, int64_t col, int64_t cols, const float *c,
                       int64_t ldc) {
    if (p->m->bf16) {
        sl_store_bf16(p->x, v, row, rows, col, cols, c, ldc);
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
        float *y = sl_buf_data(p->x, v) + (row + i) * p->x->info[v].ld + col;
        if (y != c + i * ldc)
            memcpy(y, c + i * ldc, (size_t)cols * sizeof(float));
    }
}

static sl_grouped_rows take_rows(const pass *p, const block *b, int64_t depth, const void *a, int64_t lda,
                                 scratch *s) {
    return sl_grouped_take_rows(p->m->k, p->m->bf16, b->n, depth, a, lda, s->packed);
}

static sl_split forward_blocks(const sl_op *op, const sl_exec *x) {
    pass p = start(op, x, false);
    return (sl_split){.items = count_blocks(&p)};
}

static sl_split backward_blocks(const sl_op *op, const sl_exec *x) {
    pass p = start(op, x, true);
    return (sl_split){.items = count_blocks(&p)};
}

/* ---- forward */

static void add_to_rows(const pass *p, int64_t rows, int64_t cols, const float *bias, float *c) {
    for (int64_t i = 0; i < rows; i++)
        p->m->k->add(cols, bias, c + i * COLS);
}

/* h = w act(gate) up of the block's places, and gate and up where backward needs them. */
static void forward_hidden(const pass *p, const block *b, const sl_grouped_rows *rows, scratch *s) {
    const sl_moe *m = p->m;
    int64_t places = m->rows * m->top;
    const float *bias[] = {bias_of(p, b->e, GATE), bias_of(p, b->e, UP)};
    for (int64_t j = 0; j < m->ffn; j += COLS) {
        int64_t cols = sl_min(COLS, m->ffn - j);
        for (int which = GATE; which <= UP; which++) {
            sl_grouped_product(rows, operand(p, b->e, which), j, cols, s->c[which], COLS, false);
            if (bias[which])
                add_to_rows(p, b->n, cols, bias[which] + j, s->c[which]);
        }
        if (m->training) {
            store_cols(p, p->gate_up, b->first, b->n, j, cols, s->c[0], COLS);
            store_cols(p, p->gate_up, places + b->first, b->n, j, cols, s->c[1], COLS);
        }
        for (int64_t i = 0; i < b->n; i++) {
            float *h = s->c[2] + i * COLS;
            m->act->fwd(cols, s->c[0] + i * COLS, s->c[1] + i * COLS, h);
            m->k->scale(cols, p->t.weight[p->t.slot[b->first + i]], h);
        }
        store_cols(p, p->h, b->first, b->n, j, cols, s->c[2], COLS);
    }
}

/* y += w b_down */
static void add_down_bias(const pass *p, const block *b) {
    const float *bias = bias_of(p, b->e, DOWN);
    for (int64_t i = b->first; bias && i < b->first + b->n; i++) {
        float w = p->t.weight[p->t.slot[i]], *y = p->s.y + i * p->m->dim;
        for (int64_t j = 0; j < p->m->dim; j++)
            y[j] += w * bias[j];
    }
}

static void forward_block(const pass *p, int64_t index, int worker) {
    const sl_moe *m = p->m;
    scratch s = scratch_at(m, &(sl_carver){sl_worker_scratch(p->x, worker), 0});
    block b = block_at(p, index);
    gather(p, &b, p->op->in[0], s.rows);
    sl_grouped_rows rows = take_rows(p, &b, m->dim, s.rows, row_ld(m), &s);
    forward_hidden(p, &b, &rows, &s);
    rows = take_rows(p, &b, m->ffn, buffer_row(p, p->h, b.first), p->x->info[p->h].ld, &s);
    sl_grouped_product(&rows, operand(p, b.e, DOWN), 0, m->dim, p->s.y + b.first * m->dim, m->dim, false);
    add_down_bias(p, &b);
}

static int forward_places(const sl_op *op, const sl_exec *x, const sl_span *s) {
    pass p = start(op, x, false);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        forward_block(&p, i, s->worker);
    return 0;
}

static int combine(const sl_op *op, const sl_exec *x, const sl_span *span) {
    pass p = start(op, x, false);
    const sl_moe *m = p.m;
    const float *residual = sl_buf_data(x, op->in[1]);
    for (int64_t r = span->first; r < span->first + span->n; r++) {
        float *out = sl_buf_data(x, op->out) + r * m->dim;
        if (residual)
            memcpy(out, residual + r * m->dim, (size_t)m->dim * sizeof *out);
        else
            memset(out, 0, (size_t)m->dim * sizeof *out);
        for (int64_t s = r * m->top; s < (r + 1) * m->top; s++)
            if (p.t.place[s] >= 0)
                m->k->add(m->dim, p.s.y + p.t.place[s] * m->dim, out);
    }
    return 0;
}

/* ---- backward */

/* Row `place` of the gathered dout, columns j on: fp32 in place, or through a line of scratch. */
static const float *dout_line(const pass *p, int64_t place, int64_t j, int64_t n, float *line) {
    const char *row = (const char *)p->s.dout + (place * row_ld(p->m) + j) * element(p->m);
    if (!p->m->bf16)
        return (const float *)(const void *)row;
    p->m->k->from_bf16(n, (const sl_bf16 *)(const void *)row, line);
    return line;
}

/* Of the places' weights through b_down: <dout, b_down>, 0 without. */
static void start_dweight(const pass *p, const block *b, scratch *s) {
    const sl_moe *m = p->m;
    const float *bias = bias_of(p, b->e, DOWN);
    for (int64_t i = b->first; i < b->first + b->n; i++) {
        float *dweight = &p->t.dweight[p->t.slot[i]];
        *dweight = 0;
        for (int64_t j = 0, n; bias && j < m->dim; j += n) {
            n = sl_min(COLS, m->dim - j);
            *dweight += m->k->dot(n, dout_line(p, i, j, n, s->line[0]), bias + j);
        }
    }
}

/* From dh = W_down^T dout: the gradient of the places' weights, and dgate and dup, which take the places of gate and
 * up. */
static void backward_hidden(const pass *p, const block *b, const sl_grouped_rows *dout, scratch *s) {
    const sl_moe *m = p->m;
    int64_t places = m->rows * m->top;
    start_dweight(p, b, s);
    for (int64_t j = 0; j < m->ffn; j += COLS) {
        int64_t cols = sl_min(COLS, m->ffn - j);
        sl_grouped_product(dout, operand(p, b->e, DOWN_BACK), j, cols, s->c[0], COLS, false);
        for (int64_t i = 0; i < b->n; i++) {
            int64_t place = b->first + i, slot = p->t.slot[place];
            float *dh = s->c[0] + i * COLS;
            float *gate = read_line(p, p->gate_up, place, j, cols, s->line[0]);
            float *up = read_line(p, p->gate_up, places + place, j, cols, s->line[1]);
            m->act->fwd(cols, gate, up, s->line[2]);
            p->t.dweight[slot] += m->k->dot(cols, dh, s->line[2]);
            m->k->scale(cols, p->t.weight[slot], dh);
            m->act->bwd(cols, gate, up, dh, gate, up);
            store_cols(p, p->gate_up, place, 1, j, cols, gate, COLS);
            store_cols(p, p->gate_up, places + place, 1, j, cols, up, COLS);
        }
    }
}

static void backward_block(const pass *p, int64_t index, int worker) {
    const sl_moe *m = p->m;
    scratch s = scratch_at(m, &(sl_carver){sl_worker_scratch(p->x, worker), 0});
    block b = block_at(p, index);
    int64_t at = b.first * row_ld(m) * element(m), ld = p->x->info[p->gate_up].ld;
    float *dx = p->s.y + b.first * m->dim;
    gather(p, &b, p->op->dout, (char *)p->s.dout + at);
    gather(p, &b, p->op->in[0], (char *)p->s.x + at);
    sl_grouped_rows rows = take_rows(p, &b, m->dim, (char *)p->s.dout + at, row_ld(m), &s);
    backward_hidden(p, &b, &rows, &s);
    rows = take_rows(p, &b, m->ffn, buffer_row(p, p->gate_up, b.first), ld, &s);
    sl_grouped_product(&rows, operand(p, b.e, GATE_BACK), 0, m->dim, dx, m->dim, false);
    rows = take_rows(p, &b, m->ffn, buffer_row(p, p->gate_up, m->rows * m->top + b.first), ld, &s);
    sl_grouped_product(&rows, operand(p, b.e, UP_BACK), 0, m->dim, dx, m->dim, true);
}

static int backward_places(const sl_op *op, const sl_exec *x, const sl_span *s) {
    pass p = start(op, x, true);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        backward_block(&p, i, s->worker);
    return 0;
}

/* The three weight gradients [n, m] of an expert are cut into even blocks of at most `most` x SL_GROUPED_WGRAD_M. */
static int64_t even_cut(int64_t n, int64_t most, int64_t unit) {
    return sl_round_up(sl_div_up(n, sl_div_up(n, most)), unit);
}

static int64_t cut_into(pass *p, int64_t most) {
    const sl_moe *m = p->m;
    int64_t all = 0;
    for (int i = GATE; i <= DOWN; i++) {
        int64_t n = i == DOWN ? m->dim : m->ffn, wide = i == DOWN ? m->ffn : m->dim;
        p->cut_n[i] = sl_min(even_cut(n, most, block_unit(m)), most);
        p->cut_m[i] = even_cut(wide, SL_GROUPED_WGRAD_M, SL_BF16_NR);
        all += p->cuts[i] = sl_div_up(n, p->cut_n[i]) * sl_div_up(wide, p->cut_m[i]);
    }
    return all;
}

/* Low blocks pack x more often; only so where there would be few for the threads. Returns how many an expert has. */
static int64_t cut_weight_gradients(pass *p) {
    int64_t all = cut_into(p, SL_GROUPED_WGRAD_N);
    return all * p->m->experts < 8 * p->x->workers ? cut_into(p, SL_GROUPED_WGRAD_N / 2) : all;
}

static void weight_block(const pass *p, int64_t item, int worker) {
    const sl_moe *m = p->m;
    int64_t all = p->cuts[GATE] + p->cuts[UP] + p->cuts[DOWN], e = item / all, cut = item % all,
            places = places_of(p, e);
    int which = GATE;
    for (; cut >= p->cuts[which]; which++)
        cut -= p->cuts[which];
    bool down = which == DOWN;
    int64_t n = down ? m->dim : m->ffn, wide = down ? m->ffn : m->dim, across = sl_div_up(wide, p->cut_m[which]);
    int64_t i = cut / across * p->cut_n[which], j = cut % across * p->cut_m[which], first = p->t.offset[e];
    if (places == 0)
        return;
    scratch s = scratch_at(m, &(sl_carver){sl_worker_scratch(p->x, worker), 0});
    const char *dout = (const char *)p->s.dout + first * row_ld(m) * element(m),
               *in = (const char *)p->s.x + first * row_ld(m) * element(m),
               *dhidden = buffer_row(p, p->gate_up, first + (which == UP ? m->rows * m->top : 0)),
               *h = buffer_row(p, p->h, first);
    int64_t ldh = p->x->info[p->h].ld;
    float *dw = sl_weight_grad(p->op, p->x, SL_MOE_EXPERTS) + (e * 3 + which) * m->dim * m->ffn;
    sl_grouped_wgrad(m->k, m->bf16, places, sl_min(p->cut_n[which], n - i), sl_min(p->cut_m[which], wide - j),
                     (down ? dout : dhidden) + i * element(m), down ? row_ld(m) : ldh,
                     (down ? h : in) + j * element(m), down ? ldh : row_ld(m), dw + i * wide + j, wide, s.wgrad);
}

static int weight_gradients(const sl_op *op, const sl_exec *x, const sl_span *s) {
    pass p = start(op, x, true);
    cut_weight_gradients(&p);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        weight_block(&p, i, s->worker);
    return 0;
}

static sl_split weight_blocks(const sl_op *op, const sl_exec *x) {
    pass p = start(op, x, true);
    return (sl_split){.items = p.m->experts * cut_weight_gradients(&p)};
}

/* The gradient of the bias of one matrix of one expert: that of its rows, of dout weighted, summed in their order. */
static void bias_gradient(const pass *p, int64_t e, int which, scratch *s) {
    const sl_moe *m = p->m;
    int64_t width = which == DOWN ? m->dim : m->ffn, second = which == UP ? m->rows * m->top : 0;
    float *g = sl_weight_grad(p->op, p->x, SL_MOE_BIASES) + sl_moe_bias_at(m, e, which);
    for (int64_t i = p->t.offset[e]; i < p->t.offset[e + 1]; i++) {
        for (int64_t j = 0, n; j < width; j += n) {
            n = sl_min(COLS, width - j);
            if (which != DOWN) {
                m->k->add(n, read_line(p, p->gate_up, second + i, j, n, s->line[0]), g + j);
                continue;
            }
            const float *dout = dout_line(p, i, j, n, s->line[0]);
            for (int64_t k = 0; k < n; k++)
                g[j + k] += p->t.weight[p->t.slot[i]] * dout[k];
        }
    }
}

/* Items: matrices of experts. */
static int bias_gradients(const sl_op *op, const sl_exec *x, const sl_span *span) {
    pass p = start(op, x, true);
    scratch s = scratch_at(p.m, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    for (int64_t i = span->first; i < span->first + span->n; i++)
        bias_gradient(&p, i / 3, (int)(i % 3), &s);
    return 0;
}

static sl_split biases(const sl_op *op, const sl_exec *x) {
    const sl_moe *m = op->own;
    (void)x;
    return (sl_split){.items = op->param[SL_MOE_BIASES] == SL_NONE ? 0 : 3 * m->experts};
}

static int router_gradients(const sl_op *op, const sl_exec *x, const sl_span *s) {
    pass p = start(op, x, true);
    sl_moe_choose_back(op, x, s, p.s.y);
    return 0;
}

/* ---- building */

static const sl_op_kind moe = {
    .name = "moe", .adds = true,
    .forward = SL_STAGES(SL_MOE_CHOOSE, {.cut = SL_CUT_BATCH, .run = pack_forward, .split = pack_forward_items},
                         {.cut = SL_CUT_BATCH, .run = forward_places, .split = forward_blocks},
                         {.cut = SL_CUT_ROWS, .run = combine}),
    .backward = SL_STAGES(
        {.cut = SL_CUT_PARAMS, .run = sl_moe_pack_router_back, .split = sl_moe_router_back_panels},
        {.cut = SL_CUT_BATCH, .run = pack_backward, .split = pack_backward_items},
        {.cut = SL_CUT_BATCH, .run = backward_places, .split = backward_blocks},
        {.cut = SL_CUT_BATCH, .run = weight_gradients, .split = weight_blocks},
        {.cut = SL_CUT_BATCH, .run = bias_gradients, .split = biases},
        {.cut = SL_CUT_ROWS, .run = router_gradients},
        {.cut = SL_CUT_BATCH, .run = sl_moe_fold_router, .split = sl_moe_fold_router_split}),
    .end_step = sl_moe_end_step};

void sl_moe_describe(const sl_program *b, int bias, sl_moe *m) {
    const sl_config *c = b->config;
    *m = (sl_moe){0};
    m->k = b->kernels;
    m->act = &b->kernels->ffn[c->model_ffn_kind];
    m->bf16 = b->bf16;
    m->training = b->training;
    m->sigmoid = c->model_router == SL_ROUTER_SIGMOID;
    m->rows = b->batch * b->seq;
    m->seq = b->seq;
    m->dim = c->model_dim;
    m->experts = c->model_experts;
    m->top = c->model_experts_per_token;
    m->ffn = sl_config_expert_ffn(c);
    m->capacity = c->model_expert_capacity;
    m->aux = c->model_balance == SL_BALANCE_AUX ? c->model_balance_coef : 0;
    m->z = c->model_router_z_loss;
    m->rate = c->model_balance_rate;
    m->bias = bias;
}

static void plan_scratch(const sl_moe *m, sl_op *op) {
    sl_carver forward_shared = {0}, backward_shared = {0}, router = {0}, experts = {0};
    shared_at(m, false, &forward_shared);
    if (m->training)
        shared_at(m, true, &backward_shared);
    sl_moe_router_scratch_at(m, &router);
    scratch_at(m, &experts);
    op->shared_bytes = (size_t)sl_max((int64_t)forward_shared.used, (int64_t)backward_shared.used);
    op->worker_bytes = (size_t)sl_max((int64_t)router.used, (int64_t)experts.used);
}

sl_buf sl_build_moe(sl_program *b, sl_scope scope, sl_buf x, sl_buf residual, const sl_moe_params *params) {
    residual = residual == SL_APART ? SL_NONE : residual; /* fp32 in any case */
    if (b->quant)
        return sl_build_moe_quantised(b, scope, x, residual, params);
    sl_op *op = sl_program_op(b, &moe, scope);
    sl_moe *m = sl_program_own(b, op, sizeof *m);
    if (!m)
        return 0;
    sl_moe_describe(b, params->choice, m);
    op->state_bytes = sizeof(sl_moe_state);
    sl_op_reads(op, x, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, residual, SL_INPUT_ADDED);
    op->dim_in = op->dim_out = m->dim;
    op->param[SL_MOE_ROUTER] = params->router;
    op->param[SL_MOE_EXPERTS] = params->experts;
    op->param[SL_MOE_ROUTER_BIAS] = params->router_bias;
    op->param[SL_MOE_BIASES] = params->biases;
    int64_t places = m->rows * m->top;
    op->flops = 2.0 * (double)m->rows * (double)m->dim * (double)(m->experts + 3 * m->top * m->ffn);
    if (!b->device)
        plan_scratch(m, op);
    sl_carver route = {0};
    sl_moe_route_at(m, &route);
    op->saved[0] = sl_program_buffer(b, 1, (int64_t)(route.used / sizeof(float)));
    if (m->training)
        op->saved[1] = sl_program_activation(b, 2 * places, m->ffn);
    op->saved[2] = sl_program_activation(b, places, m->ffn);
    /* A device packs nothing; the buffer stands there all the same, so that both have the same list of them. */
    size_t packed = matrices_bytes(m, 0, m->training ? ALL : FORWARD) / sizeof(float);
    if (m->bf16)
        op->saved[3] = sl_program_buffer(b, 1, b->device ? 1 : m->experts * (int64_t)packed);
    return op->out = sl_program_buffer(b, m->rows, m->dim);
}

const sl_moe *sl_moe_of(const sl_op *op) { return op->kind == &moe ? op->own : NULL; }

const sl_moe_state *sl_moe_state_of(const sl_op *op, const sl_exec *x) {
    return sl_moe_of(op) ? sl_op_state(op, x) : NULL;
}
