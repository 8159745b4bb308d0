#include "ops/product/layer.h"

sl_buf sl_panels_buffer(sl_program *b, int64_t n, int64_t k) {
    return sl_program_buffer(b, 1, (sl_bf16_panels_size(n, k) + 1) / 2); /* counted in floats */
}

/* ---- the products, of the rows that a stage is about */

static const sl_bf16 *in_rows(const sl_op *op, const sl_exec *x, int64_t row0) {
    return sl_bf16_row(x, op->in[0], row0);
}

static sl_gemm_bf16_pack_args packing_of(const sl_op *op, const sl_exec *x) {
    return (sl_gemm_bf16_pack_args){.k = x->k, .n = op->dim_out, .depth = op->dim_in, .w = sl_weight(op, x, 0),
                                    .ldw = op->dim_in, .forward = sl_buf_bf16(x, op->saved[SL_LAYER_PANELS]),
                                    .back = sl_buf_bf16(x, op->saved[SL_LAYER_PANELS_BACK])};
}

static sl_gemm_bf16_args forward_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t rows) {
    const sl_buffer *y = &x->info[sl_layer_y(op)];
    sl_gemm_bf16_args g = {.k = x->k, .m = rows, .n = op->dim_out, .depth = op->dim_in, .a = in_rows(op, x, row0),
                           .lda = x->info[op->in[0]].ld, .b = sl_buf_bf16(x, op->saved[SL_LAYER_PANELS]), .ldc = y->ld,
                           .ldy = y->ld, .residual = sl_buf_data(x, op->in[1])};
    if (y->bf16)
        g.y = sl_buf_bf16(x, sl_layer_y(op));
    else
        g.c = sl_buf_data(x, sl_layer_y(op));
    return g;
}

static sl_gemm_bf16_args input_gradient_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t rows) {
    sl_buf dy = sl_layer_dy(op);
    return (sl_gemm_bf16_args){.k = x->k, .m = rows, .n = op->dim_in, .depth = op->dim_out, .a = sl_buf_bf16(x, dy),
                               .lda = x->info[dy].ld, .b = sl_buf_bf16(x, op->saved[SL_LAYER_PANELS_BACK]),
                               .y = sl_bf16_row(x, op->din[0], row0), .ldy = x->info[op->din[0]].ld, .add = op->acc[0]};
}

static sl_gemm_bf16_wgrad_args weight_gradient_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t rows) {
    sl_buf dy = sl_layer_dy(op);
    return (sl_gemm_bf16_wgrad_args){.k = x->k, .m = rows, .n = op->dim_out, .depth = op->dim_in,
                                     .chunk = sl_layer_chunk(op), .dy = sl_buf_bf16(x, dy), .lddy = x->info[dy].ld,
                                     .x = in_rows(op, x, row0), .ldx = x->info[op->in[0]].ld,
                                     .dw = sl_weight_grad(op, x, 0), .lddw = op->dim_in, .partials = x->sums};
}

/* ---- their stages */

sl_split sl_layer_bf16_pack_split(const sl_op *op, const sl_exec *x) {
    sl_gemm_bf16_pack_args p = packing_of(op, x);
    return sl_gemm_bf16_pack_split(&p);
}

int sl_layer_bf16_pack(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_bf16_pack_args p = packing_of(op, x);
    sl_gemm_bf16_pack(&p, s);
    return 0;
}

sl_split sl_layer_bf16_forward_split(const sl_op *op, const sl_exec *x) {
    sl_gemm_bf16_args g = forward_of(op, x, 0, op->rows);
    return sl_gemm_bf16_rows_split(&g);
}

int sl_layer_bf16_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_bf16_args g = forward_of(op, x, s->row0, s->rows);
    sl_gemm_bf16_rows(&g, s, sl_worker_scratch(x, s->worker));
    return 0;
}

sl_split sl_layer_bf16_input_gradient_split(const sl_op *op, const sl_exec *x) {
    sl_gemm_bf16_args g = {.n = op->dim_in, .depth = op->dim_out};
    (void)x;
    return sl_gemm_bf16_rows_split(&g);
}

int sl_layer_bf16_input_gradient(const sl_op *op, const sl_exec *x, const sl_span *s) {
    if (!sl_layer_has_gradients(op, x))
        return 0;
    sl_gemm_bf16_args g = input_gradient_of(op, x, s->row0, s->rows);
    sl_gemm_bf16_rows(&g, s, sl_worker_scratch(x, s->worker));
    return 0;
}

sl_split sl_layer_bf16_weight_gradient_split(const sl_op *op, const sl_exec *x) {
    if (!sl_layer_has_gradients(op, x))
        return (sl_split){.items = 0};
    sl_gemm_bf16_wgrad_args g = weight_gradient_of(op, x, 0, sl_layer_chunk(op));
    return sl_gemm_bf16_wgrad_split(&g, x->workers);
}

int sl_layer_bf16_weight_gradient(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_bf16_wgrad_args g = weight_gradient_of(op, x, s->row0, s->rows);
    sl_gemm_bf16_wgrad(&g, x->workers, s, sl_worker_scratch(x, s->worker));
    return 0;
}

sl_split sl_layer_bf16_fold_split(const sl_op *op, const sl_exec *x) {
    if (!sl_layer_has_gradients(op, x))
        return (sl_split){.items = 0};
    sl_gemm_bf16_wgrad_args g = weight_gradient_of(op, x, 0, sl_layer_chunk(op));
    return sl_gemm_bf16_fold_split(&g);
}

int sl_layer_bf16_fold(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_bf16_wgrad_args g = weight_gradient_of(op, x, s->row0, s->rows);
    sl_gemm_bf16_fold(&g, s);
    return 0;
}

/* ---- building */

void sl_layer_bf16_build(sl_program *b, sl_op *op) {
    op->worker_bytes = sl_gemm_bf16_scratch_bytes();
    op->saved[SL_LAYER_PANELS] = sl_panels_buffer(b, op->dim_out, op->dim_in);
    if (!b->training)
        return;
    op->saved[SL_LAYER_PANELS_BACK] = sl_panels_buffer(b, op->dim_in, op->dim_out);
    op->sums_bytes =
        (size_t)sl_gemm_bf16_wgrad_partials(sl_layer_chunk(op), op->dim_out, op->dim_in) * sizeof(float);
    size_t wgrad = sl_gemm_bf16_wgrad_scratch_bytes(op->dim_out, op->dim_in);
    if (wgrad > op->worker_bytes)
        op->worker_bytes = wgrad;
}
