/* The gate in fp32. Both matrices are packed once a pass, the rows' operands block by block. */
#include "ops/norm/gate.h"
#include "ops/rows.h"
#include "program/scratch.h"

/* An operand of a product as the packing reads it: src[i*is + kk*ks]. */
typedef struct {
    const float *src;
    int64_t is, ks;
} operand;

/* c[rows, n] (+)= a panels, with a packed here. */
static void product(const sl_kernels *k, int64_t rows, int64_t n, int64_t depth, operand a, float *pack_a,
                    const float *panels, float *c, int add) {
    int64_t mr = k->gemm_mr, nr = k->gemm_nr;
    k->pack_f32(rows, depth, a.src, a.is, a.ks, (int)mr, pack_a);
    for (int64_t j = 0; j < n; j += nr)
        for (int64_t i = 0; i < rows; i += mr)
            k->gemm_f32(depth, pack_a + i * depth, panels + j * depth, c + i * n + j, n, (int)sl_min(rows - i, mr),
                        (int)sl_min(n - j, nr), add);
}

/* Private scratch of a worker: the packed operands, then h, dh [rows, rank] and b, db [rows, gates]. */
typedef struct {
    float *pack_a, *pack_b, *h, *dh, *b, *db;
} scratch;

static scratch carve(const sl_op *op, const sl_kernels *k, sl_carver *c) {
    int64_t rows = sl_op_blocks(op).size, d = op->dim_in, r = sl_gate_of(op)->rank, g = sl_gate_of(op)->gates;
    int64_t mr = k->gemm_mr, nr = k->gemm_nr, wide = sl_max(d, r); /* g <= d */
    scratch s;
    s.pack_a = sl_carve_floats(c, sl_max(sl_round_up(rows, mr) * wide, sl_round_up(sl_max(g, r), mr) * rows));
    s.pack_b = sl_carve_floats(c, sl_round_up(wide, nr) * rows);
    s.h = sl_carve_floats(c, rows * r);
    s.dh = sl_carve_floats(c, rows * r);
    s.b = sl_carve_floats(c, rows * g);
    s.db = sl_carve_floats(c, rows * g);
    return s;
}

static scratch scratch_of(const sl_op *op, const sl_exec *x, int worker) {
    return carve(op, x->k, &(sl_carver){.base = sl_worker_scratch(x, worker)});
}

/* ---- packing: W_down and W_up, each forward and back */

static sl_split pack_split(const sl_op *op, const sl_exec *x) {
    (void)op, (void)x;
    return (sl_split){.items = 4};
}

static int pack(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t item = s->first; item < s->first + s->n; item++) {
        int w = (int)item / 2;
        bool back = item % 2;
        int64_t out = sl_gate_out(op, w), in = sl_gate_in(op, w);
        float *panels = sl_buf_data(x, op->saved[SL_GATE_DOWN + item]);
        if (panels)
            x->k->pack_f32(back ? in : out, back ? out : in, sl_weight(op, x, w), back ? 1 : in, back ? in : 1,
                           x->k->gemm_nr, panels);
    }
    return 0;
}

/* ---- rows */

/* h = inner(a), b = h W_up^T for n rows from the saved a. */
static void gate_input(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const scratch *s) {
    const sl_gate *g = sl_gate_of(op);
    int64_t r = g->rank;
    g->inner->forward(x->k, n * r, sl_buf_data(x, op->saved[0]) + first * r, s->h);
    product(x->k, n, g->gates, r, (operand){s->h, r, 1}, s->pack_a, sl_buf_data(x, op->saved[SL_GATE_UP]), s->b, 0);
}

static void forward_rows(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const scratch *s) {
    int64_t d = op->dim_in, r = sl_gate_of(op)->rank;
    const float *y = sl_buf_data(x, op->in[0]) + first * d;
    product(x->k, n, r, d, (operand){y, d, 1}, s->pack_a, sl_buf_data(x, op->saved[SL_GATE_DOWN]),
            sl_buf_data(x, op->saved[0]) + first * r, 0);
    gate_input(op, x, first, n, s);
    sl_gate_apply(op, x->k, n, s->b, y, sl_buf_data(x, op->out) + first * d);
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch t = scratch_of(op, x, s->worker);
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++)
        forward_rows(op, x, sl_block_first(blocks, i), sl_block_rows(blocks, i), &t);
    return 0;
}

/* into[rows, cols] = a^T b, a [n, rows] and b [n, cols] of a block of n rows. */
static void transposed_product(const sl_kernels *k, int64_t n, int64_t rows, const float *a, int64_t cols,
                               const float *b, const scratch *s, float *into) {
    k->pack_f32(cols, n, b, 1, cols, k->gemm_nr, s->pack_b);
    product(k, rows, cols, n, (operand){a, 1, rows}, s->pack_a, s->pack_b, into, 0);
}

/* dy = q dout + da W_down, with db = dout y q' (summed over the row if there is one score), dh = db W_up,
 * da = dh inner'(a); sum: this block's dW_down = da^T y and dW_up = db^T h. */
static void backward_rows(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const scratch *s, float *sum) {
    const sl_gate *gate = sl_gate_of(op);
    int64_t d = op->dim_in, r = gate->rank, g = gate->gates;
    const float *y = sl_buf_data(x, op->in[0]) + first * d, *dout = sl_buf_data(x, op->dout) + first * d;
    float *dy = sl_buf_data(x, op->din[0]) + first * d;
    gate_input(op, x, first, n, s);
    sl_gate_gradients(op, x->k, n, s->b, y, dout, dy, s->db);
    transposed_product(x->k, n, g, s->db, r, s->h, s, sum + r * d);
    product(x->k, n, r, g, (operand){s->db, g, 1}, s->pack_a, sl_buf_data(x, op->saved[SL_GATE_UP_BACK]), s->dh, 0);
    gate->inner->backward(x->k, n * r, sl_buf_data(x, op->saved[0]) + first * r, s->dh, s->dh);
    transposed_product(x->k, n, r, s->dh, d, y, s, sum);
    product(x->k, n, d, r, (operand){s->dh, r, 1}, s->pack_a, sl_buf_data(x, op->saved[SL_GATE_DOWN_BACK]), dy, 1);
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch t = scratch_of(op, x, s->worker);
    int64_t floats = sl_op_params_floats(op, x->p);
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++)
        backward_rows(op, x, sl_block_first(blocks, i), sl_block_rows(blocks, i), &t, x->shared + i * floats);
    return 0;
}

static float *scores(const sl_op *op, const sl_exec *x, int64_t block) {
    scratch t = scratch_of(op, x, 0);
    sl_blocks blocks = sl_op_blocks(op);
    gate_input(op, x, sl_block_first(blocks, block), sl_block_rows(blocks, block), &t);
    return t.b;
}

static void build(sl_program *b, sl_op *op) {
    for (int w = 0; w < 2; w++) {
        int64_t out = sl_gate_out(op, w), in = sl_gate_in(op, w), nr = b->kernels->gemm_nr;
        op->saved[SL_GATE_DOWN + 2 * w] = sl_program_buffer(b, 1, sl_round_up(out, nr) * in);
        if (b->training)
            op->saved[SL_GATE_DOWN_BACK + 2 * w] = sl_program_buffer(b, 1, sl_round_up(in, nr) * out);
    }
    sl_carver count = {0};
    carve(op, b->kernels, &count);
    op->worker_bytes = count.used;
}

const sl_gate_products sl_gate_fp32 = {
    .kind = {.name = "gate", .again = true,
             .forward = SL_STAGES({.cut = SL_CUT_PARAMS, .run = pack, .split = pack_split},
                                  {.cut = SL_CUT_ROWS, .run = forward}),
             .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward},
                                   {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split})},
    .build = build,
    .scores = scores};
