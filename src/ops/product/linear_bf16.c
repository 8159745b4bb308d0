/* Rounding: inputs, weights and output gradients are rounded to bf16 (nearest even) once, as operands; sums are fp32; a
 * result is rounded once when it is stored as an activation, not at all when it joins the residual stream or the weight
 * gradient. Weights are packed at each forward and kept for the backward pass. */
#include "ops/product/linear_bf16.h"
#include "program/whole.h"

#include "ops/product/gemm_bf16.h"
#include "ops/rows.h"

enum { GROUP = 4 }; /* panels that an epilogue gets together: narrower rows are slow to store */

sl_buf sl_panels_buffer(sl_program *b, int64_t n, int64_t k) {
    return sl_program_buffer(b, 1, (sl_bf16_panels_size(n, k) + 1) / 2); /* counted in floats */
}

void sl_linear_bf16_buffers(sl_program *b, sl_op *op, bool residual) {
    op->saved[0] = sl_panels_buffer(b, op->dim_out, op->dim_in);
    if (!b->training)
        return;
    op->saved[1] = sl_panels_buffer(b, op->dim_in, op->dim_out);
    if (residual)
        op->temp = sl_program_activation(b, op->rows, op->dim_out);
}

void sl_pack_weights(const sl_op *op, const sl_exec *x, const float *w, sl_buf forward, sl_buf back) {
    sl_gemm_bf16_pack(x->k, op->dim_out, op->dim_in, w, op->dim_in, sl_buf_bf16(x, forward),
                      sl_bf16_kpad(op->dim_in) * SL_BF16_NR, sl_buf_bf16(x, back),
                      sl_bf16_kpad(op->dim_out) * SL_BF16_NR);
}

typedef struct {
    const sl_exec *x;
    sl_buf y;
    int64_t row0, n;
    const float *residual;
    float *out;
} destination;

static void store_block(void *ctx, int64_t row0, int64_t rows, int64_t col0, int64_t cols, const float *c, int64_t ldc,
                        int thread) {
    (void)thread;
    const destination *d = ctx;
    sl_store_bf16(d->x, d->y, d->row0 + row0, rows, col0, cols, c, ldc);
}

static void add_block(void *ctx, int64_t row0, int64_t rows, int64_t col0, int64_t cols, const float *c, int64_t ldc,
                      int thread) {
    (void)thread;
    const destination *d = ctx;
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = (row0 + i) * d->n + col0;
        d->x->k->sum(cols, c + i * ldc, d->residual + at, d->out + at);
    }
}

/* Adds to what is there, in fp32. */
static void accumulate_block(void *ctx, int64_t row0, int64_t rows, int64_t col0, int64_t cols, const float *c,
                             int64_t ldc, int thread) {
    (void)thread;
    const destination *d = ctx;
    float sum[GROUP * SL_BF16_NR];
    for (int64_t i = 0; i < rows; i++) {
        sl_bf16 *y = sl_bf16_row(d->x, d->y, d->row0 + row0 + i) + col0;
        d->x->k->from_bf16(cols, y, sum);
        d->x->k->add(cols, c + i * ldc, sum);
        d->x->k->to_bf16(cols, sum, y);
    }
}

/* din = dout W, or += where it holds a gradient already. */
static void input_gradient(const sl_op *op, const sl_exec *x, sl_buf dout) {
    destination d = {.x = x, .y = op->din[0]};
    sl_gemm_bf16(x->k, x->work,
                 &(sl_gemm_bf16_args){.m = op->rows, .n = op->dim_in, .k = op->dim_out, .a = sl_buf_bf16(x, dout),
                                      .lda = x->info[dout].ld, .b = sl_buf_bf16(x, op->saved[1]),
                                      .epilogue = op->acc[0] ? accumulate_block : store_block, .ctx = &d,
                                      .group = GROUP});
}

void sl_product_bf16(const sl_exec *x, int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda, sl_buf panels,
                     sl_buf y, int64_t row0) {
    destination d = {.x = x, .y = y, .row0 = row0};
    sl_gemm_bf16(x->k, x->work,
                 &(sl_gemm_bf16_args){.m = m, .n = n, .k = k, .a = a, .lda = lda, .b = sl_buf_bf16(x, panels),
                                      .epilogue = store_block, .ctx = &d, .group = GROUP});
}

static void forward(const sl_op *op, const sl_exec *x) {
    const sl_bf16 *in = sl_buf_bf16(x, op->in[0]);
    int64_t ld = x->info[op->in[0]].ld;
    sl_pack_weights(op, x, sl_weight(op, x, 0), op->saved[0], op->saved[1]);
    if (op->in[1] == SL_NONE) {
        sl_product_bf16(x, op->rows, op->dim_out, op->dim_in, in, ld, op->saved[0], op->out, 0);
        return;
    }
    destination d = {.x = x, .n = op->dim_out, .residual = sl_buf_data(x, op->in[1]), .out = sl_buf_data(x, op->out)};
    sl_gemm_bf16(x->k, x->work,
                 &(sl_gemm_bf16_args){.m = op->rows, .n = op->dim_out, .k = op->dim_in, .a = in, .lda = ld,
                                      .b = sl_buf_bf16(x, op->saved[0]), .epilogue = add_block, .ctx = &d,
                                      .group = GROUP});
}

static void round_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t first = sl_block_first(rows, block);
    sl_store_bf16(x, op->temp, first, sl_block_rows(rows, block), 0, op->dim_out,
                  sl_buf_data(x, op->dout) + first * op->dim_out, op->dim_out);
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_buf dout = op->dout;
    if (op->temp != SL_NONE) {
        sl_parallel_rows(op, x, round_block);
        dout = op->temp;
    }
    int64_t ld = x->info[dout].ld;
    sl_gemm_bf16_wgrad(x->k, x->work, op->rows, op->dim_out, op->dim_in, sl_buf_bf16(x, dout), ld,
                       sl_buf_bf16(x, op->in[0]), x->info[op->in[0]].ld, sl_weight_grad(op, x, 0), op->dim_in, 1);
    input_gradient(op, x, dout);
}

SL_WHOLE(forward)
SL_WHOLE(backward)
const sl_op_kind sl_linear_bf16 = {.name = "linear", .adds = true, .forward = forward_stages, .backward = backward_stages};
