#include "ops/ops.h"
#include "ops/product/layer.h"
#include "ops/quant/linear_int.h"
#include "ops/quant/quantise.h"
#include "ops/rows.h"

static const sl_op_kind linear = {
    .name = "linear", .adds = true,
    .forward = SL_STAGES(SL_LAYER(PARAMS, pack), SL_LAYER(ROWS, forward)),
    .backward = SL_STAGES(SL_LAYER(PARAMS, pack_back), SL_LAYER(ROWS, input_gradient), SL_LAYER(SUMS, pack_rows),
                          SL_LAYER(SUMS, weight_gradient))};

static const sl_op_kind linear_few = {.name = "linear", .forward = SL_STAGES(SL_LAYER(ROWS, few_forward))};

/* dout of the residual stream as an operand. */
static int round_gradient(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_store_bf16(x, op->temp, s->first, s->n, 0, op->dim_out, sl_buf_data(x, op->dout) + s->first * op->dim_out,
                  op->dim_out);
    return 0;
}

#define BACKWARD_BF16                                                                                                  \
    SL_LAYER(ROWS, bf16_input_gradient), SL_LAYER(SUMS, bf16_weight_gradient), SL_LAYER(FOLD, bf16_fold)
static const sl_op_kind linear_bf16 = {.name = "linear", .adds = true,
                                       .forward = SL_STAGES(SL_LAYER(PARAMS, bf16_pack), SL_LAYER(ROWS, bf16_forward)),
                                       .backward = SL_STAGES(SL_LAYER(PARAMS, bf16_pack_back), BACKWARD_BF16)};
static const sl_op_kind linear_bf16_residual = {
    .name = "linear", .adds = true,
    .forward = SL_STAGES(SL_LAYER(PARAMS, bf16_pack), SL_LAYER(ROWS, bf16_forward)),
    .backward = SL_STAGES(SL_LAYER(PARAMS, bf16_pack_back), {.cut = SL_CUT_ROWS, .run = round_gradient},
                          BACKWARD_BF16)};

static const sl_op_kind *kind_of(const sl_program *b, bool add) {
    if (sl_layer_is_few(b, b->batch * b->seq))
        return &linear_few;
    return !b->bf16 ? &linear : add ? &linear_bf16_residual : &linear_bf16;
}

sl_buf sl_build_linear(sl_program *b, sl_scope scope, sl_buf in, int64_t dim_in, int64_t dim_out,
                       int weight, sl_buf residual) {
    if (sl_linear_is_int(b))
        return sl_build_linear_int(b, scope, in, dim_in, dim_out, weight, residual);
    bool add = residual != SL_NONE;
    in = sl_build_quantiser(b, scope, in, dim_in);
    sl_op *op = sl_program_op(b, kind_of(b, add), scope);
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, residual, SL_INPUT_ADDED);
    op->dim_in = dim_in;
    op->dim_out = dim_out;
    op->param[0] = weight;
    op->out = add ? sl_program_buffer(b, op->rows, dim_out) : sl_program_activation(b, op->rows, dim_out);
    if (add && b->bf16 && b->training)
        op->temp = sl_program_activation(b, op->rows, dim_out);
    sl_layer_build(b, op);
    return op->out;
}
