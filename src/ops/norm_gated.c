/* GatedNorm (arXiv 2601.22966, section 3.4): out = q * y, q = factor * sigmoid(W_up silu(W_down y)), y the
 * output of the base norm, weight included; no bias. Start "half": both matrices N(0, init_std), factor 1, so
 * q is about 1/2. Start "identity": W_up = 0 and factor 2, so q is exactly 1. */
#include "base/threads.h"
#include "ops/gate_bf16.h"
#include "ops/gemm.h"
#include "ops/norm.h"
#include "ops/rowwise.h"

#include <stdio.h>
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

/* Private scratch of a thread: the two packs, then h, dh [rows, r] and b, db [rows, d]. */
typedef struct {
    float *pack_a, *pack_b, *h, *dh, *b, *db;
} scratch;

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Floats of the largest pack into panels of p: the products are rows x d, rows x r, r x d in every role. */
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

/* h = silu(a), b = h W_up^T for one block from the saved a. */
static void gate_input(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, scratch *s) {
    int64_t d = op->dim_in, r = rank_of(op);
    x->k->silu_fwd(n * r, sl_buf_data(x, op->saved[0]) + first * r, s->h);
    product(x->k, n, d, r, (sl_mat){s->h, r, 1}, (sl_mat){sl_weight(op, x, 1), r, 1}, s->b, 0, s->pack_a,
            s->pack_b);
}

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t d = op->dim_in, r = rank_of(op), first = block * rows.size, n = sl_block_rows(rows, block);
    scratch s;
    carve(x->k, rows.size, d, r, sl_thread_scratch(x, thread), &s);
    const float *y = sl_buf_data(x, op->in[0]) + first * d;
    float *out = sl_buf_data(x, op->out) + first * d;
    product(x->k, n, r, d, (sl_mat){y, d, 1}, (sl_mat){sl_weight(op, x, 0), d, 1},
            sl_buf_data(x, op->saved[0]) + first * r, 0, s.pack_a, s.pack_b);
    gate_input(op, x, first, n, &s);
    x->k->gate_fwd(n * d, op->factor, s.b, y, out);
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }

/* dy = q dout + da W_down, with db = dout y q', dh = db W_up, da = dh silu'(a); partial sums of
 * dW_down = da^T y and dW_up = db^T h go to this block's place in shared scratch. */
static void backward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t d = op->dim_in, r = rank_of(op), first = block * rows.size, n = sl_block_rows(rows, block);
    scratch s;
    carve(x->k, rows.size, d, r, sl_thread_scratch(x, thread), &s);
    const float *y = sl_buf_data(x, op->in[0]) + first * d;
    float *dy = sl_buf_data(x, op->din) + first * d;
    gate_input(op, x, first, n, &s);
    x->k->gate_bwd(n * d, op->factor, s.b, y, sl_buf_data(x, op->dout) + first * d, dy, s.db);
    float *dw_down = x->shared + block * 2 * r * d, *dw_up = dw_down + r * d;
    product(x->k, d, r, n, (sl_mat){s.db, 1, d}, (sl_mat){s.h, 1, r}, dw_up, 0, s.pack_a, s.pack_b);
    product(x->k, n, r, d, (sl_mat){s.db, d, 1}, (sl_mat){sl_weight(op, x, 1), 1, r}, s.dh, 0, s.pack_a,
            s.pack_b);
    x->k->silu_bwd(n * r, sl_buf_data(x, op->saved[0]) + first * r, s.dh, s.dh);
    product(x->k, r, d, n, (sl_mat){s.dh, 1, r}, (sl_mat){y, 1, d}, dw_down, 0, s.pack_a, s.pack_b);
    product(x->k, n, d, r, (sl_mat){s.dh, r, 1}, (sl_mat){sl_weight(op, x, 0), 1, d}, dy, 1, s.pack_a,
            s.pack_b);
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, backward_block);
    int64_t n = op->dim_in * rank_of(op);
    for (int w = 0; w < 2; w++)
        sl_fold_partials(x, sl_row_blocks(op->rows).count, n, 2 * n, x->shared + w * n, sl_weight_grad(op, x, w));
}

static const sl_op_kind gate = {"gate", forward, backward, true, false};

void sl_gate_values(const sl_op *op, const sl_exec *x, float *dst) {
    if (op->kind == &sl_gate_bf16) {
        sl_gate_bf16_values(op, x, dst);
        return;
    }
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t d = op->dim_in;
    scratch s;
    carve(x->k, rows.size, d, rank_of(op), sl_thread_scratch(x, 0), &s);
    for (int64_t i = 0; i < rows.size * d; i++)
        s.db[i] = 1;
    for (int64_t block = 0; block < rows.count; block++) {
        int64_t n = sl_block_rows(rows, block);
        gate_input(op, x, block * rows.size, n, &s);
        x->k->gate_fwd(n * d, op->factor, s.b, s.db, dst + block * rows.size * d);
    }
}

sl_norm_tap sl_build_gated_norm(sl_program *b, const char *label, sl_buf in, const char *prefix,
                                bool final) {
    const sl_config *c = b->config;
    int64_t d = c->model_dim, r = c->norm_rank;
    sl_norm_tap tap = sl_build_rmsnorm(b, label, in, prefix, final);
    if (final && !c->norm_gate_final)
        return tap;
    bool identity = c->norm_init == SL_GATE_IDENTITY;
    int down = sl_program_param(b, prefix, "gate_down.weight", r, d, SL_INIT_NORMAL, c->model_init_std,
                                SL_DECAY_MATRIX, false);
    int up = sl_program_param(b, prefix, "gate_up.weight", d, r, identity ? SL_INIT_ZEROS : SL_INIT_NORMAL,
                              c->model_init_std, SL_DECAY_MATRIX, false);
    char name[64];
    snprintf(name, sizeof name, "%.50s.gate", label);
    sl_op *op = sl_program_op(b, b->bf16 ? &sl_gate_bf16 : &gate, name);
    op->in[0] = tap.out;
    op->dim_in = d;
    op->dim_out = r;
    op->factor = identity ? 2 : 1;
    op->param[0] = down;
    op->param[1] = up;
    op->saved[0] = sl_program_buffer(b, op->rows, r);
    op->out = sl_program_activation(b, op->rows, d);
    op->flops = 4.0 * (double)op->rows * (double)d * (double)r;
    sl_blocks rows = sl_row_blocks(op->rows);
    if (b->bf16)
        sl_gate_bf16_buffers(b, op);
    else
        op->thread_bytes = (size_t)scratch_floats(b->kernels, rows.size, d, r) * sizeof(float);
    op->shared_bytes = (size_t)(rows.count * 2 * r * d) * sizeof(float);
    return (sl_norm_tap){op->out, tap.weight, b->ops - 1};
}
