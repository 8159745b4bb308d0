/* The gradient of a bias: the sum of the rows of dy, in their order, a slice of columns at a time. */
#include "ops/product/layer.h"

enum { SLICE = 64 };

sl_split sl_layer_bias_gradient_split(const sl_op *op, const sl_exec *x) {
    return (sl_split){.items = sl_layer_has_gradients(op, x) ? sl_div_up(op->dim_out, SLICE) : 0};
}

int sl_layer_bias_gradient(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_buf dy = sl_layer_dy(op);
    const sl_buffer *v = &x->info[dy];
    int64_t j = s->first * SLICE, end = sl_min(j + s->n * SLICE, op->dim_out);
    float *g = sl_weight_grad(op, x, SL_LAYER_BIAS), row[SLICE];
    for (int64_t n; j < end; j += n) {
        n = sl_min(end - j, SLICE);
        for (int64_t r = 0; r < s->rows; r++) {
            if (v->bf16)
                x->k->from_bf16(n, sl_bf16_row(x, dy, r) + j, row);
            x->k->add(n, v->bf16 ? row : sl_buf_data(x, dy) + r * v->ld + j, g + j);
        }
    }
    return 0;
}
