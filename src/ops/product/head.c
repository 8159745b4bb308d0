#include "base/threads.h"
#include "ops/product/gemm.h"
#include "program/whole.h"
#include "ops/product/gemm_bf16.h"
#include "ops/product/linear_bf16.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <string.h>

enum { LOGITS = 4 << 20, CHUNK_MIN = 256, XENT_ROWS = 16 };

/* saved[0]: logits of a chunk of rows; in bf16 also saved[1], saved[2]: panels of the weights for the product and for
 * the input gradient, saved[3]: the chunk's dlogits rounded to operands. */
static int64_t chunk_rows(const sl_op *op) {
    int64_t n = LOGITS / op->dim_out;
    n = n < CHUNK_MIN ? CHUNK_MIN : n;
    return n < op->rows ? n : op->rows;
}

typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t first, rows; /* of the chunk */
    float scale;
} chunk;

static void xent_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const chunk *c = ctx;
    int64_t r = item * XENT_ROWS, n = c->rows - r < XENT_ROWS ? c->rows - r : XENT_ROWS, v = c->op->dim_out;
    c->x->k->xent(n, v, sl_buf_data(c->x, c->op->saved[0]) + r * v, v, c->x->targets + c->first + r,
                  c->scale, c->x->training, c->x->token_loss + c->first + r);
}

static float gradient_scale(const sl_op *op, const sl_exec *x) {
    int64_t count = 0;
    for (int64_t r = 0; r < op->rows; r++)
        count += x->targets[r] >= 0;
    return count ? x->grad_scale / (float)count : 0;
}

static void round_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const chunk *c = ctx;
    int64_t r = item * XENT_ROWS, n = c->rows - r < XENT_ROWS ? c->rows - r : XENT_ROWS, v = c->op->dim_out;
    sl_store_bf16(c->x, c->op->saved[3], r, n, 0, v, sl_buf_data(c->x, c->op->saved[0]) + r * v, v);
}

static void chunk_gradients_bf16(const chunk *c) {
    const sl_op *op = c->op;
    const sl_exec *x = c->x;
    int64_t d = op->dim_in, v = op->dim_out, ldin = x->info[op->in[0]].ld, ldg = x->info[op->saved[3]].ld;
    sl_parallel((c->rows + XENT_ROWS - 1) / XENT_ROWS, round_item, (void *)c);
    sl_gemm_bf16_wgrad(x->k, x->work, c->rows, v, d, sl_buf_bf16(x, op->saved[3]), ldg,
                       sl_buf_bf16(x, op->in[0]) + c->first * ldin, ldin, sl_weight_grad(op, x, 0), d, 1);
    sl_product_bf16(x, c->rows, d, v, sl_buf_bf16(x, op->saved[3]), ldg, op->saved[2], op->din[0], c->first);
}

static void chunk_logits(const chunk *c, float *logits) {
    const sl_op *op = c->op;
    const sl_exec *x = c->x;
    int64_t d = op->dim_in, v = op->dim_out, ld = x->info[op->in[0]].ld;
    if (!x->info[op->in[0]].bf16)
        sl_gemm(x, c->rows, v, d, (sl_mat){sl_buf_data(x, op->in[0]) + c->first * d, d, 1},
                (sl_mat){sl_weight(op, x, 0), d, 1}, logits, v, false, NULL);
    else
        sl_gemm_bf16(x->k, x->work,
                     &(sl_gemm_bf16_args){.m = c->rows, .n = v, .k = d, .a = sl_buf_bf16(x, op->in[0]) + c->first * ld,
                                          .lda = ld, .b = sl_buf_bf16(x, op->saved[1]), .c = logits, .ldc = v,
                                          .group = 1});
}

static void chunk_gradients(const chunk *c) {
    const sl_op *op = c->op;
    const sl_exec *x = c->x;
    int64_t d = op->dim_in, v = op->dim_out;
    const float *dlogits = sl_buf_data(x, op->saved[0]), *in = sl_buf_data(x, op->in[0]) + c->first * d;
    sl_gemm(x, v, d, c->rows, (sl_mat){dlogits, 1, v}, (sl_mat){in, 1, d}, sl_weight_grad(op, x, 0), d,
            true, NULL);
    sl_gemm(x, c->rows, d, v, (sl_mat){dlogits, v, 1}, (sl_mat){sl_weight(op, x, 0), 1, d},
            sl_buf_data(x, op->din[0]) + c->first * d, d, false, NULL);
}

static void forward(const sl_op *op, const sl_exec *x) {
    int64_t v = op->dim_out, step = chunk_rows(op);
    bool bf16 = x->info[op->in[0]].bf16;
    if (bf16)
        sl_pack_weights(op, x, sl_weight(op, x, 0), op->saved[1], op->saved[2]);
    float *logits = sl_buf_data(x, op->saved[0]);
    chunk c = {.op = op, .x = x, .scale = x->targets && x->training ? gradient_scale(op, x) : 0};
    for (c.first = 0; c.first < op->rows; c.first += step) {
        c.rows = op->rows - c.first < step ? op->rows - c.first : step;
        chunk_logits(&c, logits);
        if (x->logits)
            memcpy(x->logits + c.first * v, logits, (size_t)(c.rows * v) * sizeof(float));
        if (!x->targets)
            continue;
        sl_parallel((c.rows + XENT_ROWS - 1) / XENT_ROWS, xent_item, &c);
        if (x->training)
            (bf16 ? chunk_gradients_bf16 : chunk_gradients)(&c);
    }
}

static void backward(const sl_op *op, const sl_exec *x) { (void)op, (void)x; } /* done with the loss */

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind head = {.name = "head", .forward = forward_stages, .backward = backward_stages};

void sl_build_head(sl_program *b, sl_buf in, int weight, int64_t vocab) {
    sl_op *op = sl_program_op(b, &head, (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_head});
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = b->config->model_dim;
    op->dim_out = vocab;
    op->param[0] = weight;
    op->saved[0] = sl_program_buffer(b, chunk_rows(op), vocab);
    op->flops = 2.0 * (double)op->rows * (double)op->dim_in * (double)vocab;
    if (b->bf16) {
        op->saved[1] = sl_panels_buffer(b, vocab, op->dim_in);
        if (b->training) {
            op->saved[2] = sl_panels_buffer(b, op->dim_in, vocab);
            op->saved[3] = sl_program_activation(b, chunk_rows(op), vocab);
        }
        return;
    }
    size_t fwd = sl_gemm_shared_bytes(b->kernels, vocab, op->dim_in),
           dx = sl_gemm_shared_bytes(b->kernels, op->dim_in, vocab),
           dw = sl_gemm_shared_bytes(b->kernels, op->dim_in, chunk_rows(op));
    op->shared_bytes = fwd > dx ? fwd : dx;
    if (b->training && dw > op->shared_bytes)
        op->shared_bytes = dw;
    op->worker_bytes = sl_gemm_thread_bytes(b->kernels);
}
