/* y = x W^T for so few rows, as in decoding, that reading W is all of the time: straight from W as it lies, once.
 * Packed first, it would be read twice and written once for nothing. */
#include "ops/product/layer.h"

enum { ROWS = 4, COLUMNS = 16 }; /* at most; of a call at least */

bool sl_layer_is_few(const sl_program *b, int64_t rows) {
    return !b->training && !b->bf16 && rows <= ROWS && b->config->gemm == SL_GEMM_OWN;
}

sl_split sl_layer_few_forward_split(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.unit = ROWS, .least = ROWS, .most = ROWS, .parts = 1,
                      .parts_most = sl_max(op->dim_out / COLUMNS, 1)};
}

int sl_layer_few_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t n = op->dim_out, depth = op->dim_in, share = sl_div_up(n, s->parts);
    const float *in = sl_buf_data(x, op->in[0]), *residual = sl_buf_data(x, op->in[1]), *w = sl_weight(op, x, 0);
    const float *bias = sl_layer_bias(op, x);
    float *y = sl_buf_data(x, sl_layer_y(op));
    for (int64_t j = s->part * share, end = sl_min(j + share, n); j < end; j++)
        for (int64_t r = s->first; r < s->first + s->n; r++) {
            float sum = x->k->dot(depth, in + r * depth, w + j * depth);
            if (bias)
                sum += bias[j];
            y[(r - s->row0) * n + j] = residual ? sum + residual[r * n + j] : sum;
        }
    return 0;
}
