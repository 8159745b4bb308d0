/* "linear" and "head" (ops/product/): products of product.h on the buffers as they lie. */
#include "base/err.h"
#include "cuda/kind.h"
#include "cuda/rows.h"
#include "cuda/runtime.h"
#include "cuda/xent.h"
#include "ops/product/layer.h"
#include "program/scratch.h"

/* ---- the three products of a layer, of rows row0 on; y and dy of a chunk are counted from its first row */

/* A layer as its products take it. */
typedef struct {
    int64_t n, k;  /* outputs, inputs */
    const void *w; /* [n, k] */
    float *dw;     /* NULL unless training */
    bool add;      /* to what dw holds */
} layer;

static const void *rows_of(const slc_exec *x, sl_buf b, int64_t row0) {
    const sl_buffer *v = &x->info[b];
    return (const char *)x->buf[b] + (size_t)(row0 * v->ld) * (v->bf16 ? sizeof(sl_bf16) : sizeof(float));
}

static layer layer_as_it_lies(const sl_op *op, const slc_exec *x) {
    bool bf16 = x->info[op->in[0]].bf16;
    return (layer){.n = op->dim_out, .k = op->dim_in, .dw = slc_grad(op, x, 0), .add = true,
                   .w = bf16 ? (const void *)slc_weight16(op, x, 0) : (const void *)slc_weight(op, x, 0)};
}

/* y = x W^T, plus the residual. */
static int forward_rows(const sl_op *op, const slc_exec *x, const layer *l, int64_t row0, int64_t rows) {
    const sl_buffer *in = &x->info[op->in[0]], *y = &x->info[sl_layer_y(op)];
    slc_product p = {.m = rows, .n = l->n, .k = l->k, .bf16 = in->bf16, .y_bf16 = y->bf16, .tb = true,
                     .a = rows_of(x, op->in[0], row0), .b = l->w, .lda = in->ld, .ldb = l->k,
                     .y = x->buf[sl_layer_y(op)], .add = slc_f32(x, op->in[1]), .ldy = y->ld, .scale = 1};
    return slc_multiply(x->blas, x->stream, &p);
}

/* din = dy W, or += */
static int input_gradient(const sl_op *op, const slc_exec *x, const layer *l, int64_t row0, int64_t rows) {
    if (op->din[0] == SL_NONE)
        return 0;
    const sl_buffer *dy = &x->info[sl_layer_dy(op)], *din = &x->info[op->din[0]];
    void *to = (void *)(uintptr_t)rows_of(x, op->din[0], row0);
    slc_product p = {.m = rows, .n = l->k, .k = l->n, .bf16 = dy->bf16, .y_bf16 = din->bf16,
                     .a = x->buf[sl_layer_dy(op)], .b = l->w, .lda = dy->ld, .ldb = l->k,
                     .y = to, .add = op->acc[0] ? to : NULL, .ldy = din->ld, .scale = 1};
    return slc_multiply(x->blas, x->stream, &p);
}

/* dW (+)= dy^T x */
static int weight_gradient(const sl_op *op, const slc_exec *x, const layer *l, int64_t row0, int64_t rows) {
    const sl_buffer *dy = &x->info[sl_layer_dy(op)], *in = &x->info[op->in[0]];
    slc_product p = {.m = l->n, .n = l->k, .k = rows, .bf16 = dy->bf16, .ta = true,
                     .a = x->buf[sl_layer_dy(op)], .b = rows_of(x, op->in[0], row0), .lda = dy->ld, .ldb = in->ld,
                     .y = l->dw, .add = l->add ? l->dw : NULL, .ldy = l->k, .scale = 1};
    return slc_multiply(x->blas, x->stream, &p);
}

/* ---- linear. Tensor cores want rows of whole eights of bf16; with other widths, which model.match_params makes, whole
 * steps took 1.75 times as long. So the products go through a copy of the weights filled up with zeros, and their
 * gradient through a buffer like it. */

static bool uneven(const sl_op *op, const sl_buffer *info) {
    const sl_buffer *y = &info[sl_layer_y(op)];
    return info[op->in[0]].bf16 && (op->dim_in % 8 || op->dim_out % 8) && y->ld >= sl_round_up(op->dim_out, 8) &&
           (op->din[0] == SL_NONE || info[op->din[0]].ld >= sl_round_up(op->dim_in, 8));
}

static layer layer_filled_up(const sl_op *op, sl_carver *c) {
    layer l = {.n = sl_round_up(op->dim_out, 8), .k = sl_round_up(op->dim_in, 8)};
    l.w = sl_carve(c, l.n * l.k * (int64_t)sizeof(sl_bf16));
    l.dw = sl_carve_floats(c, l.n * l.k);
    return l;
}

static size_t linear_scratch(const sl_op *op, const sl_program *b) {
    sl_carver count = {0};
    if (uneven(op, b->buffer))
        layer_filled_up(op, &count);
    return count.used;
}

/* Of a product's operand the sum runs over, columns behind the last one count. */
static void zero_behind(const slc_exec *x, sl_buf b, int64_t cols) {
    slc_zero_columns(x->stream, x->info[b].rows, cols, x->info[b].ld, x->info[b].ld, true, x->buf[b]);
}

static layer linear_layer(const sl_op *op, const slc_exec *x) {
    layer l = layer_as_it_lies(op, x);
    if (!uneven(op, x->info))
        return l;
    const void *from = l.w;
    l = layer_filled_up(op, &(sl_carver){.base = x->scratch});
    slc_fill_up(x->stream, op->dim_out, op->dim_in, from, l.n, l.k, (sl_bf16 *)(uintptr_t)l.w);
    return l;
}

static int linear_forward(const sl_op *op, const slc_exec *x) {
    layer l = linear_layer(op, x);
    if (l.k > op->dim_in)
        zero_behind(x, op->in[0], op->dim_in);
    return forward_rows(op, x, &l, 0, op->rows);
}

static int linear_backward(const sl_op *op, const slc_exec *x) {
    /* dout of the residual stream as an operand */
    if (op->temp != SL_NONE && !slc_norm_rounds(op, x))
        slc_round_rows(x->stream, op->rows, op->dim_out, slc_f32(x, op->dout), slc_b16(x, op->temp),
                       x->info[op->temp].ld);
    layer l = linear_layer(op, x);
    if (l.n > op->dim_out)
        zero_behind(x, sl_layer_dy(op), op->dim_out);
    if (input_gradient(op, x, &l, 0, op->rows) || weight_gradient(op, x, &l, 0, op->rows))
        return -1;
    if (!l.add)
        slc_copy_rows(x->stream, op->dim_out, op->dim_in, l.dw, l.k, true, slc_grad(op, x, 0), op->dim_in);
    return 0;
}

/* ---- head */

/* The state, as the CPU's: gradients are those of the mean over rows with a target. */
static float *gradient_scale(const sl_op *op, const slc_exec *x) { return (float *)(void *)(x->state + op->state); }

/* Losses of a chunk, and dlogits: over the logits, or rounded beside them. */
static void lose(const sl_op *op, const slc_exec *x, int64_t row0, int64_t rows) {
    float *logits = slc_f32(x, op->saved[SL_LAYER_Y]);
    const sl_buffer *dy = &x->info[sl_layer_dy(op)];
    slc_xent(x->stream, rows, op->dim_out, op->dim_out, logits, x->targets + row0, gradient_scale(op, x), x->training,
             x->token_loss + row0, x->buf[sl_layer_dy(op)], dy->bf16, dy->ld);
}

static int head_chunk(const sl_op *op, const slc_exec *x, int64_t row0, int64_t rows) {
    int64_t v = op->dim_out;
    layer l = layer_as_it_lies(op, x);
    if (forward_rows(op, x, &l, row0, rows))
        return -1;
    if (x->logits)
        slc_copy(x->stream, x->logits + row0 * v, slc_f32(x, op->saved[SL_LAYER_Y]),
                 (size_t)(rows * v) * sizeof(float));
    if (!x->targets)
        return 0;
    lose(op, x, row0, rows);
    return x->training && (weight_gradient(op, x, &l, row0, rows) || input_gradient(op, x, &l, row0, rows)) ? -1 : 0;
}

static int head_forward(const sl_op *op, const slc_exec *x) {
    int64_t chunk = sl_layer_chunk(op);
    if (x->targets && x->training)
        slc_count_targets(x->stream, op->rows, x->targets, x->grad_scale, gradient_scale(op, x));
    for (int64_t row = 0; row < op->rows; row += chunk)
        if (head_chunk(op, x, row, sl_min(chunk, op->rows - row)))
            return -1;
    return 0;
}

static int head_check(const sl_op *op) {
    return sl_layer_of(op)->softcap == 0 ? 0 : sl_fail("device: cuda has no model.logit_softcap; take device: cpu");
}

const slc_kind slc_product_kinds[] = {{.name = "linear", .forward = linear_forward, .backward = linear_backward,
                                       .scratch = linear_scratch},
                                      {.name = "head", .check = head_check, .forward = head_forward},
                                      {.name = NULL}};
