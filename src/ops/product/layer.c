#include "ops/product/layer.h"

#include "ops/product/gemm.h"

int64_t sl_layer_chunk(const sl_op *op) { return op->kind->chunk ? op->kind->chunk(op) : op->rows; }

sl_buf sl_layer_y(const sl_op *op) { return op->out == SL_NONE ? op->saved[SL_LAYER_Y] : op->out; }

sl_buf sl_layer_dy(const sl_op *op) {
    if (op->out == SL_NONE)
        return op->saved[op->saved[SL_LAYER_DY] == SL_NONE ? SL_LAYER_Y : SL_LAYER_DY];
    return op->temp == SL_NONE ? op->dout : op->temp;
}

static const sl_blas *blas_of(const sl_op *op) { return sl_layer_of(op)->blas; }

/* ---- the three products in fp32, of the rows that a stage is about */

sl_layer_packed sl_layer_packed_at(const sl_op *op, int64_t forward, int64_t back, sl_carver *c) {
    if (op->out != SL_NONE) {
        void *either = sl_carve(c, sl_max(forward, back));
        return (sl_layer_packed){either, either};
    }
    sl_layer_packed p = {.forward = sl_carve(c, forward)};
    p.back = sl_carve(c, back);
    return p;
}

static sl_layer_packed packed_at(const sl_op *op, const sl_kernels *k, bool training, sl_carver *c) {
    if (blas_of(op))
        return (sl_layer_packed){0};
    int64_t back = training ? (int64_t)sl_gemm_packed_bytes(k, op->dim_in, op->dim_out) : 0;
    return sl_layer_packed_at(op, (int64_t)sl_gemm_packed_bytes(k, op->dim_out, op->dim_in), back, c);
}

static sl_layer_packed packed_of(const sl_op *op, const sl_exec *x) {
    return packed_at(op, x->k, true, &(sl_carver){(char *)x->shared, 0});
}

static const float *in_rows(const sl_op *op, const sl_exec *x, int64_t row0) {
    return sl_buf_data(x, op->in[0]) + row0 * op->dim_in;
}

static sl_gemm_args forward_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t rows) {
    sl_matrix_weights w = sl_matrix_weight(op, x, SL_LAYER_WEIGHT);
    return (sl_gemm_args){.k = x->k, .m = rows, .n = op->dim_out, .depth = op->dim_in,
                          .a = {in_rows(op, x, row0), op->dim_in, 1}, .b = {w.f32, op->dim_in, 1}, .b16 = w.bf16,
                          .packed = packed_of(op, x).forward, .c = sl_buf_data(x, sl_layer_y(op)), .ldc = op->dim_out,
                          .residual = sl_buf_data(x, op->in[1]), .bias = sl_layer_bias(op, x), .blas = blas_of(op)};
}

static sl_gemm_args input_gradient_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t rows) {
    return (sl_gemm_args){.k = x->k, .m = rows, .n = op->dim_in, .depth = op->dim_out,
                          .a = {sl_buf_data(x, sl_layer_dy(op)), op->dim_out, 1},
                          .b = {sl_weight(op, x, 0), 1, op->dim_in}, .packed = packed_of(op, x).back,
                          .c = sl_buf_data(x, op->din[0]) + row0 * op->dim_in, .ldc = op->dim_in, .add = op->acc[0],
                          .blas = blas_of(op)};
}

static sl_gemm_args weight_gradient_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t rows) {
    return (sl_gemm_args){.k = x->k, .m = op->dim_out, .n = op->dim_in, .depth = rows,
                          .a = {sl_buf_data(x, sl_layer_dy(op)), 1, op->dim_out},
                          .b = {in_rows(op, x, row0), 1, op->dim_in}, .packed = x->sums,
                          .c = sl_weight_grad(op, x, 0), .ldc = op->dim_in, .add = true, .blas = blas_of(op)};
}

/* ---- their stages */

sl_split sl_layer_pack_split(const sl_op *op, const sl_exec *x) {
    sl_gemm_args g = forward_of(op, x, 0, op->rows);
    return sl_gemm_pack_split(&g);
}

int sl_layer_pack(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_args g = forward_of(op, x, 0, op->rows);
    sl_gemm_pack(&g, s);
    return 0;
}

sl_split sl_layer_forward_split(const sl_op *op, const sl_exec *x) {
    sl_gemm_args g = forward_of(op, x, 0, op->rows);
    return sl_gemm_rows_split(&g);
}

int sl_layer_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_args g = forward_of(op, x, s->row0, s->rows);
    sl_gemm_rows(&g, s, sl_worker_scratch(x, s->worker));
    return 0;
}

sl_split sl_layer_pack_back_split(const sl_op *op, const sl_exec *x) {
    if (!sl_layer_has_gradients(op, x))
        return (sl_split){.items = 0};
    sl_gemm_args g = input_gradient_of(op, x, 0, op->rows);
    return sl_gemm_pack_split(&g);
}

int sl_layer_pack_back(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_args g = input_gradient_of(op, x, 0, op->rows);
    sl_gemm_pack(&g, s);
    return 0;
}

sl_split sl_layer_input_gradient_split(const sl_op *op, const sl_exec *x) {
    sl_gemm_args g = input_gradient_of(op, x, 0, op->rows);
    return sl_gemm_rows_split(&g);
}

int sl_layer_input_gradient(const sl_op *op, const sl_exec *x, const sl_span *s) {
    if (!sl_layer_has_gradients(op, x))
        return 0;
    sl_gemm_args g = input_gradient_of(op, x, s->row0, s->rows);
    sl_gemm_rows(&g, s, sl_worker_scratch(x, s->worker));
    return 0;
}

sl_split sl_layer_pack_rows_split(const sl_op *op, const sl_exec *x) {
    if (!sl_layer_has_gradients(op, x))
        return (sl_split){.items = 0};
    sl_gemm_args g = weight_gradient_of(op, x, 0, sl_layer_chunk(op));
    return sl_gemm_pack_split(&g);
}

int sl_layer_pack_rows(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_args g = weight_gradient_of(op, x, s->row0, s->rows);
    sl_gemm_pack(&g, s);
    return 0;
}

sl_split sl_layer_weight_gradient_split(const sl_op *op, const sl_exec *x) {
    if (!sl_layer_has_gradients(op, x))
        return (sl_split){.items = 0};
    sl_gemm_args g = weight_gradient_of(op, x, 0, sl_layer_chunk(op));
    return sl_gemm_tiles_split(&g, x->workers);
}

int sl_layer_weight_gradient(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_args g = weight_gradient_of(op, x, s->row0, s->rows);
    sl_gemm_tiles(&g, x->workers, s, sl_worker_scratch(x, s->worker));
    return 0;
}

/* ---- building */

void sl_layer_build(sl_program *b, sl_op *op) {
    sl_layer *o = sl_program_own(b, op, sizeof *o);
    op->flops = 2.0 * (double)op->rows * (double)op->dim_in * (double)op->dim_out;
    if (!o || b->device || sl_layer_is_few(b, op->rows))
        return;
    if (b->bf16) {
        sl_layer_bf16_build(b, op);
        return;
    }
    if (b->config->gemm == SL_GEMM_BLAS && !(o->blas = sl_blas_load()))
        b->failed = true;
    sl_carver c = {0};
    packed_at(op, b->kernels, b->training, &c);
    op->shared_bytes = c.used;
    if (b->training && !o->blas)
        op->sums_bytes = sl_gemm_packed_bytes(b->kernels, op->dim_in, sl_layer_chunk(op));
    op->worker_bytes = sl_gemm_scratch_bytes(b->kernels);
}
