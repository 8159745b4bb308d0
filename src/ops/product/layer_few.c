/* y = x W^T for so few rows, as in decoding, that reading W is all of the time: straight from W as it lies, once.
 * Packed first, it would be read twice and written once for nothing. */
#include "ops/product/layer.h"

enum { ROWS = 4, COLUMNS = 16 }; /* at most; of a call at least, and that stay in the cache from row to row */

bool sl_layer_is_few(const sl_program *b, int64_t rows) {
    return !b->training && !b->bf16 && rows <= ROWS && b->config->gemm == SL_GEMM_OWN;
}

sl_split sl_layer_few_forward_split(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.unit = ROWS, .least = ROWS, .most = ROWS, .parts = 1,
                      .parts_most = sl_max(op->dim_out / COLUMNS, 1)};
}

/* Columns j0 up to j1 of x W^T, of row r, into y. */
static void multiply(const sl_op *op, const sl_exec *x, int64_t r, int64_t j0, int64_t j1, float *y) {
    int64_t depth = op->dim_in;
    const float *in = sl_buf_data(x, op->in[0]) + r * depth;
    sl_matrix_weights w = sl_matrix_weight(op, x, SL_LAYER_WEIGHT);
    if (w.bf16)
        x->k->dot_rows_mixed(j1 - j0, depth, in, w.bf16 + j0 * depth, depth, y + j0);
    for (int64_t j = j0; w.f32 && j < j1; j++)
        y[j] = x->k->dot(depth, in, w.f32 + j * depth);
}

int sl_layer_few_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t n = op->dim_out, share = sl_div_up(n, s->parts), end = sl_min((s->part + 1) * share, n);
    const float *bias = sl_layer_bias(op, x);
    for (int64_t j0 = s->part * share; j0 < end; j0 += COLUMNS)
        for (int64_t r = s->first, j1 = sl_min(j0 + COLUMNS, end); r < s->first + s->n; r++) {
            float *y = sl_buf_data(x, sl_layer_y(op)) + (r - s->row0) * n;
            multiply(op, x, r, j0, j1, y);
            for (int64_t j = j0; bias && j < j1; j++)
                y[j] += bias[j];
            for (int64_t j = j0; op->in[1] != SL_NONE && j < j1; j++)
                y[j] += sl_buf_data(x, op->in[1])[r * n + j];
        }
    return 0;
}
