#include "ops/product/layer.h"

static sl_layer_packed packed_at(const sl_op *op, bool training, sl_carver *c) {
    int64_t forward = sl_bf16_panels_size(op->dim_out, op->dim_in);
    int64_t back = training ? sl_bf16_panels_size(op->dim_in, op->dim_out) : 0;
    return sl_layer_packed_at(op, forward * (int64_t)sizeof(sl_bf16), back * (int64_t)sizeof(sl_bf16), c);
}

static sl_layer_packed packed_of(const sl_op *op, const sl_exec *x) {
    return packed_at(op, true, &(sl_carver){(char *)x->shared, 0});
}

/* ---- the products, of the rows that a stage is about */

static const sl_bf16 *in_rows(const sl_op *op, const sl_exec *x, int64_t row0) {
    return sl_bf16_row(x, op->in[0], row0);
}

static sl_gemm_bf16_pack_args packing_of(const sl_op *op, const sl_exec *x, bool back) {
    sl_layer_packed p = packed_of(op, x);
    sl_matrix_weights w = sl_matrix_weight(op, x, SL_LAYER_WEIGHT);
    return (sl_gemm_bf16_pack_args){.k = x->k, .n = op->dim_out, .depth = op->dim_in, .w = w.f32, .w16 = w.bf16,
                                    .ldw = op->dim_in, .forward = back ? NULL : p.forward,
                                    .back = back ? p.back : NULL};
}

static sl_gemm_bf16_args forward_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t rows) {
    const sl_buffer *y = &x->info[sl_layer_y(op)];
    sl_gemm_bf16_args g = {.k = x->k, .m = rows, .n = op->dim_out, .depth = op->dim_in, .a = in_rows(op, x, row0),
                           .lda = x->info[op->in[0]].ld, .b = packed_of(op, x).forward, .ldc = y->ld,
                           .ldy = y->ld, .residual = sl_buf_data(x, op->in[1]), .bias = sl_layer_bias(op, x)};
    if (y->bf16)
        g.y = sl_buf_bf16(x, sl_layer_y(op));
    else
        g.c = sl_buf_data(x, sl_layer_y(op));
    return g;
}

static sl_gemm_bf16_args input_gradient_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t rows) {
    sl_buf dy = sl_layer_dy(op);
    return (sl_gemm_bf16_args){.k = x->k, .m = rows, .n = op->dim_in, .depth = op->dim_out, .a = sl_buf_bf16(x, dy),
                               .lda = x->info[dy].ld, .b = packed_of(op, x).back,
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
    sl_gemm_bf16_pack_args p = packing_of(op, x, false);
    return sl_gemm_bf16_pack_split(&p);
}

int sl_layer_bf16_pack(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_bf16_pack_args p = packing_of(op, x, false);
    sl_gemm_bf16_pack(&p, s);
    return 0;
}

sl_split sl_layer_bf16_pack_back_split(const sl_op *op, const sl_exec *x) {
    if (!sl_layer_has_gradients(op, x))
        return (sl_split){.items = 0};
    sl_gemm_bf16_pack_args p = packing_of(op, x, true);
    return sl_gemm_bf16_pack_split(&p);
}

int sl_layer_bf16_pack_back(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_bf16_pack_args p = packing_of(op, x, true);
    sl_gemm_bf16_pack(&p, s);
    return 0;
}

sl_split sl_layer_bf16_forward_split(const sl_op *op, const sl_exec *x) {
    sl_gemm_bf16_args g = forward_of(op, x, 0, op->rows);
    return sl_gemm_bf16_rows_split(&g);
}

int sl_layer_bf16_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_bf16_args g = forward_of(op, x, s->row0, s->rows);
    sl_gemm_bf16_rows(&g, s);
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
    sl_gemm_bf16_rows(&g, s);
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
    sl_carver c = {0};
    packed_at(op, b->training, &c);
    op->shared_bytes = c.used;
    if (!b->training)
        return;
    op->sums_bytes = (size_t)sl_gemm_bf16_wgrad_partials(sl_layer_chunk(op), op->dim_out, op->dim_in) * sizeof(float);
    op->worker_bytes = sl_gemm_bf16_wgrad_scratch_bytes(op->dim_out, op->dim_in);
}
