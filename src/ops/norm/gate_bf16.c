/* The products are thin (rank r beside width d), so that a block of rows goes through the whole gate while it is in the
 * cache. Operands (y, h, db, da and the weights) are rounded to bf16; a, the gate and all sums are fp32. */
#include "ops/norm/gate_bf16.h"
#include "program/whole.h"

#include "base/threads.h"
#include "ops/norm/gate.h"
#include "ops/product/gemm_bf16.h"
#include "ops/product/linear_bf16.h"
#include "ops/rows.h"

#include <string.h>

enum { NR = SL_BF16_NR };

typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t d, r, g, dp, rp, gp, first, n, np; /* width, rank, scores and their padding; the block's rows and theirs */
} block;

/* Private scratch of a thread. */
typedef struct {
    sl_bf16 *h, *da, *db, *turned, *panels; /* [n, rp], [n, rp], [n, gp], [r, np], a [n, d] operand's panels */
    float *h32, *dh, *b, *dy, *y, *db32;    /* [n, r] twice, [n, d] four times */
    float *dw;                              /* dW_up transposed, [r, d] */
} scratch;

static size_t carve(int64_t rows, int64_t d, int64_t r, char *base, scratch *s) {
    int64_t dp = sl_bf16_kpad(d), rp = sl_bf16_kpad(r), np = sl_bf16_kpad(rows);
    size_t at = 0;
#define PART(member, count)                                                                                            \
    do {                                                                                                               \
        if (base)                                                                                                      \
            s->member = (void *)(base + at);                                                                           \
        at += (size_t)sl_round_up((count) * (int64_t)sizeof *s->member, 64);                                           \
    } while (0)
    PART(h, rows * rp);
    PART(da, rows * rp);
    PART(db, rows * dp);
    PART(turned, rp * np);
    PART(panels, dp * np);
    PART(h32, rows * r);
    PART(dh, rows * r);
    PART(b, rows * d);
    PART(dy, rows * d);
    PART(y, rows * d);
    PART(db32, rows * d);
    PART(dw, r * d);
#undef PART
    return at;
}

static block block_at(const sl_op *op, const sl_exec *x, int64_t index, int thread, scratch *s) {
    sl_blocks rows = sl_op_blocks(op);
    block b = {.op = op, .x = x, .d = op->dim_in, .r = op->dim_out, .g = op->gates, .first = sl_block_first(rows, index),
               .n = sl_block_rows(rows, index)};
    b.dp = sl_bf16_kpad(b.d), b.rp = sl_bf16_kpad(b.r), b.gp = sl_bf16_kpad(b.g), b.np = sl_bf16_kpad(b.n);
    *s = (scratch){0};
    carve(rows.size, b.d, b.r, sl_worker_scratch(x, thread), s);
    return b;
}

/* c[m, n] (+)= a panels, k padded. */
static void product(const sl_exec *x, int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                    const sl_bf16 *panels, float *c, int64_t ldc, int add) {
    for (int64_t j = 0; j < n; j += NR)
        x->k->gemm_bf16(m, n - j < NR ? n - j : NR, k, a, lda, panels + j * k, c + j, ldc, add);
}

static void round_rows(const sl_exec *x, int64_t n, int64_t cols, const float *src, sl_bf16 *dst) {
    int64_t ld = sl_bf16_kpad(cols);
    for (int64_t i = 0; i < n; i++) {
        x->k->to_bf16(cols, src + i * cols, dst + i * ld);
        memset(dst + i * ld + cols, 0, (size_t)(ld - cols) * sizeof *dst);
    }
}

/* h = inner(a) rounded, b = h W_up^T, from the saved a. */
static void gate_input(const block *k, scratch *s) {
    k->op->act[1]->forward(k->x->k, k->n * k->r, sl_buf_data(k->x, k->op->saved[0]) + k->first * k->r, s->h32);
    round_rows(k->x, k->n, k->r, s->h32, s->h);
    product(k->x, k->n, k->g, k->rp, s->h, k->rp, sl_buf_bf16(k->x, k->op->saved[3]), s->b, k->g, 0);
}

static void forward_block(void *task, int64_t index, int thread) {
    scratch s;
    block k = block_at(((sl_task *)task)->op, ((sl_task *)task)->x, index, thread, &s);
    const sl_op *op = k.op;
    const sl_exec *x = k.x;
    int64_t ld = x->info[op->in[0]].ld;
    product(x, k.n, k.r, k.dp, sl_buf_bf16(x, op->in[0]) + k.first * ld, ld, sl_buf_bf16(x, op->saved[1]),
            sl_buf_data(x, op->saved[0]) + k.first * k.r, k.r, 0);
    gate_input(&k, &s);
    if (!sl_gate_is_fused(op)) {
        sl_gate_apply(op, x->k, k.n, s.b, sl_read_rows(x, op->in[0], k.first, k.n, s.y), s.dy);
        sl_store_bf16(x, op->out, k.first, k.n, 0, k.d, s.dy, k.d);
        return;
    }
    for (int64_t i = 0; i < k.n; i++)
        x->k->gate_fwd_bf16(k.d, op->factor, s.b + i * k.d, sl_bf16_row(x, op->in[0], k.first + i),
                            sl_bf16_row(x, op->out, k.first + i));
    sl_pad_rows(x, op->out, k.first, k.n);
}

static void pack(const sl_op *op, const sl_exec *x) {
    for (int w = 0; w < 2; w++) {
        int64_t n = w ? op->gates : op->dim_out, k = w ? op->dim_out : op->dim_in;
        sl_gemm_bf16_pack(x->k, n, k, sl_weight(op, x, w), k, sl_buf_bf16(x, op->saved[1 + 2 * w]),
                          sl_bf16_kpad(k) * NR, sl_buf_bf16(x, op->saved[2 + 2 * w]), sl_bf16_kpad(n) * NR);
    }
}

static void forward(const sl_op *op, const sl_exec *x) {
    pack(op, x);
    sl_parallel_rows(op, x, forward_block);
}

/* into[r, n] = a^T b for a [rows, r] (stride rp) and b [rows, n] (stride ldb) of the block: the narrow one is
 * transposed, which costs more than packing. */
static void transposed_product(const block *k, const sl_bf16 *a, int64_t n, const sl_bf16 *b, int64_t ldb, scratch *s,
                               float *into) {
    k->x->k->transpose_bf16(k->n, k->r, a, k->rp, s->turned, k->np);
    for (int64_t j = 0; j < n; j += NR)
        k->x->k->pack_b_bf16(n - j < NR ? n - j : NR, k->n, b + j, ldb, s->panels + j * k->np);
    product(k->x, k->r, n, k->np, s->turned, k->np, s->panels, into, n, 0);
}

/* s->dy = q dout, and s->db. */
static void score_gradients(const block *k, scratch *s) {
    const sl_op *op = k->op;
    const sl_exec *x = k->x;
    if (!sl_gate_is_fused(op)) {
        sl_read_rows(x, op->in[0], k->first, k->n, s->y);
        sl_read_rows(x, op->dout, k->first, k->n, s->dy);
        sl_gate_gradients(op, x->k, k->n, s->b, s->y, s->dy, s->dy, s->db32);
        round_rows(x, k->n, k->g, s->db32, s->db);
        return;
    }
    for (int64_t i = 0; i < k->n; i++) {
        x->k->gate_bwd_bf16(k->d, op->factor, s->b + i * k->d, sl_bf16_row(x, op->in[0], k->first + i),
                            sl_bf16_row(x, op->dout, k->first + i), s->dy + i * k->d, s->db + i * k->dp);
        memset(s->db + i * k->dp + k->d, 0, (size_t)(k->dp - k->d) * sizeof *s->db);
    }
}

/* As in gate.c: dy = q dout + da W_down, and this block's sums of dW_down = da^T y and dW_up = db^T h. */
static void backward_block(void *task, int64_t index, int thread) {
    scratch s;
    block k = block_at(((sl_task *)task)->op, ((sl_task *)task)->x, index, thread, &s);
    const sl_op *op = k.op;
    const sl_exec *x = k.x;
    int64_t ld = x->info[op->in[0]].ld;
    float *dw_down = x->shared + index * sl_gate_params(op), *dw_up = dw_down + k.r * k.d;
    gate_input(&k, &s);
    score_gradients(&k, &s);
    product(x, k.n, k.r, k.gp, s.db, k.gp, sl_buf_bf16(x, op->saved[4]), s.dh, k.r, 0);
    op->act[1]->backward(x->k, k.n * k.r, sl_buf_data(x, op->saved[0]) + k.first * k.r, s.dh, s.dh);
    round_rows(x, k.n, k.r, s.dh, s.da);
    product(x, k.n, k.d, k.rp, s.da, k.rp, sl_buf_bf16(x, op->saved[2]), s.dy, k.d, 1);
    sl_store_bf16(x, op->din[0], k.first, k.n, 0, k.d, s.dy, k.d);
    transposed_product(&k, s.h, k.g, s.db, k.gp, &s, s.dw);
    x->k->transpose_f32(k.r, k.g, s.dw, k.g, dw_up, k.r, 0);
    transposed_product(&k, s.da, k.d, sl_buf_bf16(x, op->in[0]) + k.first * ld, ld, &s, dw_down);
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, backward_block);
    sl_gate_fold(op, x);
}

const float *sl_gate_bf16_scores(const sl_op *op, const sl_exec *x, int64_t index) {
    scratch s;
    block k = block_at(op, x, index, 0, &s);
    gate_input(&k, &s);
    return s.b;
}

void sl_gate_bf16_buffers(sl_program *b, sl_op *op) {
    for (int w = 0; w < 2; w++) {
        int64_t n = w ? op->gates : op->dim_out, k = w ? op->dim_out : op->dim_in;
        op->saved[1 + 2 * w] = sl_panels_buffer(b, n, k);
        op->saved[2 + 2 * w] = sl_panels_buffer(b, k, n);
    }
    scratch s;
    op->worker_bytes = carve(sl_op_blocks(op).size, op->dim_in, op->dim_out, NULL, &s);
}

SL_WHOLE(forward)
SL_WHOLE(backward)
const sl_op_kind sl_gate_bf16 = {.name = "gate", .forward = forward_stages, .backward = backward_stages};
