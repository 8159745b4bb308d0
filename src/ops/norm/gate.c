/* The gate of norm_gated.c in fp32: out = q * y, q = factor act(b) + offset, b = W_up inner(W_down y), no bias. */
#include "ops/norm/gate.h"
#include "program/whole.h"

#include "base/threads.h"
#include "ops/norm/gate_bf16.h"
#include "ops/product/gemm.h"
#include "ops/norm/norm.h"
#include "ops/rows.h"

#include <string.h>

/* Thin products inside a block of rows: c[rows, n] = a b with both packed here; scratch as laid out below. */
static void product(const sl_kernels *k, int64_t rows, int64_t n, int64_t depth, sl_mat a, sl_mat b,
                    float *c, int add, float *pack_a, float *pack_b) {
    int64_t mr = k->gemm_mr, nr = k->gemm_nr;
    k->pack_f32(rows, depth, a.p, a.is, a.ks, (int)mr, pack_a);
    k->pack_f32(n, depth, b.p, b.is, b.ks, (int)nr, pack_b);
    for (int64_t j = 0; j < n; j += nr)
        for (int64_t i = 0; i < rows; i += mr)
            k->gemm_f32(depth, pack_a + i * depth, pack_b + j * depth, c + i * n + j, n,
                        (int)(rows - i < mr ? rows - i : mr), (int)(n - j < nr ? n - j : nr), add);
}

/* Private scratch of a thread: the two packs, then h, dh [rows, r] and b, db [rows, gates]. */
typedef struct {
    float *pack_a, *pack_b, *h, *dh, *b, *db;
} scratch;

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Floats of the largest pack into panels of p: the products are rows x d, rows x r, r x d in every role; gates <= d. */
static int64_t pack_floats(int64_t rows, int64_t d, int64_t r, int64_t p) {
    int64_t n = max64(sl_round_up(rows, p) * max64(d, r), sl_round_up(d, p) * max64(rows, r));
    return max64(n, sl_round_up(r, p) * max64(rows, d));
}

static void carve(const sl_kernels *k, int64_t rows, int64_t d, int64_t r, float *base, scratch *s) {
    s->pack_a = base;
    s->pack_b = s->pack_a + sl_round_up(pack_floats(rows, d, r, k->gemm_mr), 16);
    s->h = s->pack_b + sl_round_up(pack_floats(rows, d, r, k->gemm_nr), 16);
    s->dh = s->h + sl_round_up(rows * r, 16);
    s->b = s->dh + sl_round_up(rows * r, 16);
    s->db = s->b + sl_round_up(rows * d, 16);
}

static int64_t scratch_floats(const sl_kernels *k, int64_t rows, int64_t d, int64_t r) {
    return sl_round_up(pack_floats(rows, d, r, k->gemm_mr), 16) +
           sl_round_up(pack_floats(rows, d, r, k->gemm_nr), 16) + 2 * sl_round_up(rows * r, 16) +
           2 * sl_round_up(rows * d, 16);
}

static int64_t rank_of(const sl_op *op) { return op->dim_out; } /* columns of W_down's output */

/* h = inner(a), b = h W_up^T for one block from the saved a. */
static void gate_input(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, scratch *s) {
    int64_t r = rank_of(op);
    op->act[1]->forward(x->k, n * r, sl_buf_data(x, op->saved[0]) + first * r, s->h);
    product(x->k, n, op->gates, r, (sl_mat){s->h, r, 1}, (sl_mat){sl_weight(op, x, 1), r, 1}, s->b, 0, s->pack_a,
            s->pack_b);
}

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t d = op->dim_in, r = rank_of(op), first = sl_block_first(rows, block), n = sl_block_rows(rows, block);
    scratch s;
    carve(x->k, rows.size, d, r, sl_worker_scratch(x, thread), &s);
    const float *y = sl_buf_data(x, op->in[0]) + first * d;
    float *out = sl_buf_data(x, op->out) + first * d;
    product(x->k, n, r, d, (sl_mat){y, d, 1}, (sl_mat){sl_weight(op, x, 0), d, 1},
            sl_buf_data(x, op->saved[0]) + first * r, 0, s.pack_a, s.pack_b);
    gate_input(op, x, first, n, &s);
    sl_gate_apply(op, x->k, n, s.b, y, out);
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }

/* dy = q dout + da W_down, with db = dout y q' (summed over the row if there is one score), dh = db W_up,
 * da = dh inner'(a); partial sums of
 * dW_down = da^T y and dW_up = db^T h go to this block's place in shared scratch. */
static void backward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t d = op->dim_in, r = rank_of(op), first = sl_block_first(rows, block), n = sl_block_rows(rows, block), g = op->gates;
    scratch s;
    carve(x->k, rows.size, d, r, sl_worker_scratch(x, thread), &s);
    const float *y = sl_buf_data(x, op->in[0]) + first * d;
    float *dout = sl_buf_data(x, op->dout) + first * d, *dy = sl_buf_data(x, op->din[0]) + first * d;
    gate_input(op, x, first, n, &s);
    sl_gate_gradients(op, x->k, n, s.b, y, dout, dy, s.db);
    float *dw_down = x->shared + block * sl_gate_params(op), *dw_up = dw_down + r * d;
    product(x->k, g, r, n, (sl_mat){s.db, 1, g}, (sl_mat){s.h, 1, r}, dw_up, 0, s.pack_a, s.pack_b);
    product(x->k, n, r, g, (sl_mat){s.db, g, 1}, (sl_mat){sl_weight(op, x, 1), 1, r}, s.dh, 0, s.pack_a,
            s.pack_b);
    op->act[1]->backward(x->k, n * r, sl_buf_data(x, op->saved[0]) + first * r, s.dh, s.dh);
    product(x->k, r, d, n, (sl_mat){s.dh, 1, r}, (sl_mat){y, 1, d}, dw_down, 0, s.pack_a, s.pack_b);
    product(x->k, n, d, r, (sl_mat){s.dh, r, 1}, (sl_mat){sl_weight(op, x, 0), 1, d}, dy, 1, s.pack_a,
            s.pack_b);
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, backward_block);
    sl_gate_fold(op, x);
}

SL_WHOLE(forward)
SL_WHOLE(backward)
const sl_op_kind sl_gate_fp32 = {.name = "gate", .forward = forward_stages, .backward = backward_stages};

size_t sl_gate_fp32_scratch(const sl_op *op, const sl_kernels *k) {
    return (size_t)scratch_floats(k, sl_op_blocks(op).size, op->dim_in, rank_of(op)) * sizeof(float);
}

void sl_gate_values(const sl_op *op, const sl_exec *x, float *dst) {
    sl_blocks rows = sl_op_blocks(op);
    for (int64_t block = 0; block < rows.count; block++) {
        int64_t first = sl_block_first(rows, block), n = sl_block_rows(rows, block);
        scratch s;
        const float *b;
        if (op->kind == &sl_gate_bf16) {
            b = sl_gate_bf16_scores(op, x, block);
        } else {
            carve(x->k, rows.size, op->dim_in, rank_of(op), sl_worker_scratch(x, 0), &s);
            gate_input(op, x, first, n, &s);
            b = s.b;
        }
        sl_gate_spread(op, x->k, n, b, dst + first * op->dim_in);
    }
}
