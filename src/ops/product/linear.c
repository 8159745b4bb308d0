#include "ops/ops.h"
#include "ops/product/layer.h"
#include "ops/quant/linear_int.h"
#include "ops/quant/quantise.h"
#include "ops/rows.h"

/* dout of the residual stream as an operand. */
static int round_gradient(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_store_bf16(x, op->temp, s->first, s->n, 0, op->dim_out, sl_buf_data(x, op->dout) + s->first * op->dim_out,
                  op->dim_out);
    return 0;
}

enum form { FP32, FEW, BF16, BF16_RESIDUAL, FORMS };
/* The forms of a layer; the rest: what the gradient of a bias needs. */
#define KINDS(name_, ...)                                                                                              \
    {[FP32] = {.name = name_, .adds = true, .forward = SL_STAGES(SL_LAYER(PARAMS, pack), SL_LAYER(ROWS, forward)),     \
               .backward = SL_STAGES(SL_LAYER(PARAMS, pack_back), SL_LAYER(ROWS, input_gradient),                      \
                                     __VA_ARGS__ SL_LAYER(SUMS, pack_rows), SL_LAYER(SUMS, weight_gradient))},         \
     [FEW] = {.name = name_, .forward = SL_STAGES(SL_LAYER(ROWS, few_forward))},                                       \
     [BF16] = {.name = name_, .adds = true, .forward = FORWARD_BF16,                                                   \
               .backward = SL_STAGES(SL_LAYER(PARAMS, bf16_pack_back), BACKWARD_BF16(__VA_ARGS__))},                   \
     [BF16_RESIDUAL] = {.name = name_, .adds = true, .forward = FORWARD_BF16,                                          \
                        .backward = SL_STAGES(SL_LAYER(PARAMS, bf16_pack_back),                                        \
                                              {.cut = SL_CUT_ROWS, .run = round_gradient},                             \
                                              BACKWARD_BF16(__VA_ARGS__))}}
#define FORWARD_BF16 SL_STAGES(SL_LAYER(PARAMS, bf16_pack), SL_LAYER(ROWS, bf16_forward))
#define BACKWARD_BF16(...)                                                                                             \
    SL_LAYER(ROWS, bf16_input_gradient), __VA_ARGS__ SL_LAYER(SUMS, bf16_weight_gradient), SL_LAYER(FOLD, bf16_fold)
static const sl_op_kind kinds[2][FORMS] = {KINDS("linear", ), KINDS("linear_bias", SL_LAYER(SUMS, bias_gradient), )};

static const sl_op_kind *kind_of(const sl_program *b, bool bias, bool stream) {
    if (sl_layer_is_few(b, b->batch * b->seq))
        return &kinds[bias][FEW];
    return &kinds[bias][!b->bf16 ? FP32 : stream ? BF16_RESIDUAL : BF16];
}

sl_buf sl_build_linear(sl_program *b, sl_scope scope, sl_buf in, int64_t dim_in, int64_t dim_out,
                       int weight, int bias, sl_buf residual) {
    bool stream = residual != SL_NONE;
    residual = residual == SL_APART ? SL_NONE : residual;
    if (sl_linear_is_int(b, scope))
        return sl_build_linear_int(b, scope, in, dim_in, dim_out, weight, bias, residual);
    in = sl_build_quantiser(b, scope, in, dim_in);
    sl_op *op = sl_program_op(b, kind_of(b, bias != SL_NONE, stream), scope);
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, residual, SL_INPUT_ADDED);
    op->dim_in = dim_in;
    op->dim_out = dim_out;
    op->param[SL_LAYER_WEIGHT] = weight;
    op->param[SL_LAYER_BIAS] = bias;
    op->out = stream ? sl_program_buffer(b, op->rows, dim_out) : sl_program_activation(b, op->rows, dim_out);
    if (stream && b->bf16 && b->training)
        op->temp = sl_program_activation(b, op->rows, dim_out);
    sl_layer_build(b, op);
    return op->out;
}

sl_buf sl_build_unquantised(sl_program *b, sl_scope scope, sl_buf x, int64_t dim_in, int64_t dim_out, int weight,
                            sl_buf residual) {
    const struct sl_quant_options *quant = b->quant;
    b->quant = NULL;
    sl_buf y = sl_build_linear(b, scope, x, dim_in, dim_out, weight, SL_NONE, residual);
    b->quant = quant;
    return y;
}
