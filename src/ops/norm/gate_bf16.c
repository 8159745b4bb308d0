/* The gate with bf16 operands. The products are thin (rank r beside width d), so that a block of rows goes through the
 * whole gate while it is in the cache. Operands (y, h, db, da and the weights) are rounded to bf16; a, the gate and all
 * sums are fp32. */
#include "ops/norm/gate.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <string.h>

enum { NR = SL_BF16_NR };

/* Private scratch of a worker. */
typedef struct {
    sl_bf16 *h, *da, *db, *turned, *panels; /* [n, rp], [n, rp], [n, gp], [r, np], a [n, d] operand's panels */
    float *h32, *dh, *b, *dy, *y, *db32;    /* [n, r] twice, [n, g], [n, d] twice, [n, g] */
    float *dw;                              /* dW_up transposed, [r, g] */
} scratch;

static sl_bf16 *carve_bf16(sl_carver *c, int64_t n) { return sl_carve(c, n * (int64_t)sizeof(sl_bf16)); }

static scratch carve(const sl_op *op, sl_carver *c) {
    int64_t rows = sl_op_blocks(op).size, d = op->dim_in, r = sl_gate_of(op)->rank, g = sl_gate_of(op)->gates;
    int64_t dp = sl_bf16_kpad(d), rp = sl_bf16_kpad(r), gp = sl_bf16_kpad(g), np = sl_bf16_kpad(rows);
    scratch s;
    s.h = carve_bf16(c, rows * rp);
    s.da = carve_bf16(c, rows * rp);
    s.db = carve_bf16(c, rows * gp);
    s.turned = carve_bf16(c, rp * np);
    s.panels = carve_bf16(c, dp * np);
    s.h32 = sl_carve_floats(c, rows * r);
    s.dh = sl_carve_floats(c, rows * r);
    s.b = sl_carve_floats(c, rows * g);
    s.dy = sl_carve_floats(c, rows * d);
    s.y = sl_carve_floats(c, rows * d);
    s.db32 = sl_carve_floats(c, rows * g);
    s.dw = sl_carve_floats(c, r * g);
    return s;
}

/* A block of rows and all that its steps need. */
typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t d, r, g, dp, rp, gp, first, n, np; /* width, rank, scores and their padding; the block's rows and theirs */
    scratch s;
} block;

static block block_at(const sl_op *op, const sl_exec *x, int64_t index, int worker) {
    sl_blocks rows = sl_op_blocks(op);
    block b = {.op = op, .x = x, .d = op->dim_in, .r = sl_gate_of(op)->rank, .g = sl_gate_of(op)->gates,
               .first = sl_block_first(rows, index), .n = sl_block_rows(rows, index)};
    b.dp = sl_bf16_kpad(b.d), b.rp = sl_bf16_kpad(b.r), b.gp = sl_bf16_kpad(b.g), b.np = sl_bf16_kpad(b.n);
    b.s = carve(op, &(sl_carver){.base = sl_worker_scratch(x, worker)});
    return b;
}

/* c[m, n] (+)= a panels, k padded. */
static void product(const sl_exec *x, int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                    const sl_bf16 *panels, float *c, int64_t ldc, int add) {
    x->k->gemm_bf16_store(m, n, k, a, lda, panels, &(sl_bf16_store){.c = c, .ldc = ldc, .ldp = NR, .add = add});
}

static void round_rows(const sl_exec *x, int64_t n, int64_t cols, const float *src, sl_bf16 *dst) {
    int64_t ld = sl_bf16_kpad(cols);
    for (int64_t i = 0; i < n; i++) {
        x->k->to_bf16(cols, src + i * cols, dst + i * ld);
        memset(dst + i * ld + cols, 0, (size_t)(ld - cols) * sizeof *dst);
    }
}

/* ---- packing, 32 rows of a matrix an item: one of its panels forward, 32 rows of every panel back */

static sl_split pack_split(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.items = sl_div_up(sl_gate_out(op, 0), NR) + sl_div_up(sl_gate_out(op, 1), NR)};
}

static void pack_rows(const sl_op *op, const sl_exec *x, int w, int64_t row) {
    int64_t n = sl_gate_out(op, w), k = sl_gate_in(op, w), rows = sl_min(n - row, NR);
    const float *from = sl_weight(op, x, w) + row * k;
    sl_bf16 *forward = sl_buf_bf16(x, op->saved[SL_GATE_DOWN + 2 * w]);
    sl_bf16 *back = sl_buf_bf16(x, op->saved[SL_GATE_DOWN_BACK + 2 * w]);
    x->k->pack_bt_f32(rows, k, from, k, forward + row * sl_bf16_kpad(k));
    for (int64_t j = 0; back && j < k; j += NR)
        x->k->pack_b_f32(sl_min(k - j, NR), rows, from + j, k, back + j * sl_bf16_kpad(n) + row * NR);
}

static int pack(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t down = sl_div_up(sl_gate_out(op, 0), NR);
    for (int64_t item = s->first; item < s->first + s->n; item++)
        pack_rows(op, x, item >= down, (item >= down ? item - down : item) * NR);
    return 0;
}

/* ---- forward */

/* h = inner(a) rounded, b = h W_up^T, from the saved a. */
static void gate_input(const block *k) {
    const sl_op *op = k->op;
    const sl_exec *x = k->x;
    sl_gate_of(op)->inner->forward(x->k, k->n * k->r, sl_buf_data(x, op->saved[0]) + k->first * k->r, k->s.h32);
    round_rows(x, k->n, k->r, k->s.h32, k->s.h);
    product(x, k->n, k->g, k->rp, k->s.h, k->rp, sl_buf_bf16(x, op->saved[SL_GATE_UP]), k->s.b, k->g, 0);
}

static void forward_block(const block *k) {
    const sl_op *op = k->op;
    const sl_exec *x = k->x;
    const sl_gate *gate = sl_gate_of(op);
    product(x, k->n, k->r, k->dp, sl_bf16_row(x, op->in[0], k->first), x->info[op->in[0]].ld,
            sl_buf_bf16(x, op->saved[SL_GATE_DOWN]), sl_buf_data(x, op->saved[0]) + k->first * k->r, k->r, 0);
    gate_input(k);
    if (!gate->fused) {
        sl_gate_apply(op, x->k, k->n, k->s.b, sl_read_rows(x, op->in[0], k->first, k->n, k->s.y), k->s.dy);
        sl_store_bf16(x, op->out, k->first, k->n, 0, k->d, k->s.dy, k->d);
        return;
    }
    for (int64_t i = 0; i < k->n; i++)
        x->k->gate_fwd_bf16(k->d, gate->factor, k->s.b + i * k->d, sl_bf16_row(x, op->in[0], k->first + i),
                            sl_bf16_row(x, op->out, k->first + i));
    sl_pad_rows(x, op->out, k->first, k->n);
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        block k = block_at(op, x, i, s->worker);
        forward_block(&k);
    }
    return 0;
}

static float *scores(const sl_op *op, const sl_exec *x, int64_t index) {
    block k = block_at(op, x, index, 0);
    gate_input(&k);
    return k.s.b;
}

/* ---- backward */

/* into[r, n] = a^T b for a [rows, r] (stride rp) and b [rows, n] (stride ldb) of the block: the narrow one is
 * transposed, which costs more than packing. */
static void transposed_product(const block *k, const sl_bf16 *a, int64_t n, const sl_bf16 *b, int64_t ldb,
                               float *into) {
    const scratch *s = &k->s;
    k->x->k->transpose_bf16(k->n, k->r, a, k->rp, s->turned, k->np);
    for (int64_t j = 0; j < n; j += NR)
        k->x->k->pack_b_bf16(sl_min(n - j, NR), k->n, b + j, ldb, s->panels + j * k->np);
    product(k->x, k->r, n, k->np, s->turned, k->np, s->panels, into, n, 0);
}

/* s->dy = q dout, and s->db. */
static void score_gradients(const block *k) {
    const sl_op *op = k->op;
    const sl_exec *x = k->x;
    const scratch *s = &k->s;
    if (!sl_gate_of(op)->fused) {
        sl_read_rows(x, op->in[0], k->first, k->n, s->y);
        sl_read_rows(x, op->dout, k->first, k->n, s->dy);
        sl_gate_gradients(op, x->k, k->n, s->b, s->y, s->dy, s->dy, s->db32);
        round_rows(x, k->n, k->g, s->db32, s->db);
        return;
    }
    for (int64_t i = 0; i < k->n; i++) {
        x->k->gate_bwd_bf16(k->d, sl_gate_of(op)->factor, s->b + i * k->d, sl_bf16_row(x, op->in[0], k->first + i),
                            sl_bf16_row(x, op->dout, k->first + i), s->dy + i * k->d, s->db + i * k->dp);
        memset(s->db + i * k->dp + k->d, 0, (size_t)(k->dp - k->d) * sizeof *s->db);
    }
}

/* As in gate_fp32.c: dy = q dout + da W_down, and this block's sums of dW_down = da^T y and dW_up = db^T h. */
static void backward_block(const block *k, float *dw_down, float *dw_up) {
    const sl_op *op = k->op;
    const sl_exec *x = k->x;
    const scratch *s = &k->s;
    const sl_bf16 *y = sl_bf16_row(x, op->in[0], k->first);
    gate_input(k);
    score_gradients(k);
    product(x, k->n, k->r, k->gp, s->db, k->gp, sl_buf_bf16(x, op->saved[SL_GATE_UP_BACK]), s->dh, k->r, 0);
    sl_gate_of(op)->inner->backward(x->k, k->n * k->r, sl_buf_data(x, op->saved[0]) + k->first * k->r, s->dh, s->dh);
    round_rows(x, k->n, k->r, s->dh, s->da);
    product(x, k->n, k->d, k->rp, s->da, k->rp, sl_buf_bf16(x, op->saved[SL_GATE_DOWN_BACK]), s->dy, k->d, 1);
    sl_store_bf16(x, op->din[0], k->first, k->n, 0, k->d, s->dy, k->d);
    transposed_product(k, s->h, k->g, s->db, k->gp, s->dw);
    x->k->transpose_f32(k->r, k->g, s->dw, k->g, dw_up, k->r, 0);
    transposed_product(k, s->da, k->d, y, x->info[op->in[0]].ld, dw_down);
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        block k = block_at(op, x, i, s->worker);
        float *sum = x->shared + i * sl_op_params_floats(op, x->p);
        backward_block(&k, sum, sum + k.r * k.d);
    }
    return 0;
}

/* ---- building */

/* A buffer, counted in floats, for the panels of an operand [k, n]. */
static sl_buf panels_buffer(sl_program *b, int64_t n, int64_t k) {
    return sl_program_buffer(b, 1, sl_round_up(n, NR) * sl_bf16_kpad(k) / 2);
}

static void build(sl_program *b, sl_op *op) {
    for (int w = 0; w < 2; w++) {
        int64_t out = sl_gate_out(op, w), in = sl_gate_in(op, w);
        op->saved[SL_GATE_DOWN + 2 * w] = panels_buffer(b, out, in);
        if (b->training)
            op->saved[SL_GATE_DOWN_BACK + 2 * w] = panels_buffer(b, in, out);
    }
    sl_carver count = {0};
    carve(op, &count);
    op->worker_bytes = count.used;
}

const sl_gate_products sl_gate_bf16 = {
    .kind = {.name = "gate", .again = true,
             .forward = SL_STAGES({.cut = SL_CUT_PARAMS, .run = pack, .split = pack_split},
                                  {.cut = SL_CUT_ROWS, .run = forward}),
             .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward},
                                   {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split})},
    .build = build,
    .scores = scores};
