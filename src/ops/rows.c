#include "ops/rows.h"

#include <string.h>

const float *sl_read_rows(const sl_exec *x, sl_buf b, int64_t row, int64_t n, float *scratch) {
    const sl_buffer *v = &x->info[b];
    if (!v->bf16)
        return sl_buf_data(x, b) + row * v->ld;
    for (int64_t i = 0; i < n; i++)
        x->k->from_bf16(v->cols, sl_buf_bf16(x, b) + (row + i) * v->ld, scratch + i * v->cols);
    return scratch;
}

void sl_store_bf16(const sl_exec *x, sl_buf b, int64_t row0, int64_t rows, int64_t col0, int64_t cols, const float *c,
                   int64_t ldc) {
    for (int64_t i = 0; i < rows; i++)
        x->k->to_bf16(cols, c + i * ldc, sl_bf16_row(x, b, row0 + i) + col0);
    if (col0 + cols == x->info[b].cols)
        sl_pad_rows(x, b, row0, rows);
}

sl_columns sl_read_columns(const sl_exec *x, sl_buf b, int64_t row, int64_t n, int64_t col, int64_t cols,
                           float *scratch) {
    const sl_buffer *v = &x->info[b];
    if (!v->bf16)
        return (sl_columns){sl_buf_data(x, b) + row * v->ld + col, v->ld};
    for (int64_t i = 0; i < n; i++)
        x->k->from_bf16(cols, sl_bf16_row(x, b, row + i) + col, scratch + i * cols);
    return (sl_columns){scratch, cols};
}

void sl_write_columns(const sl_exec *x, sl_buf b, int64_t row, int64_t n, int64_t col, int64_t cols, const float *y,
                      int64_t ldy) {
    const sl_buffer *v = &x->info[b];
    if (v->bf16)
        sl_store_bf16(x, b, row, n, col, cols, y, ldy);
    for (int64_t i = 0; !v->bf16 && i < n; i++)
        memcpy(sl_buf_data(x, b) + (row + i) * v->ld + col, y + i * ldy, (size_t)cols * sizeof *y);
}

void sl_write_gradient(const sl_exec *x, sl_buf b, int64_t row, int64_t n, int64_t col, int64_t cols, float *y,
                       bool add, float *scratch) {
    sl_columns old = add ? sl_read_columns(x, b, row, n, col, cols, scratch) : (sl_columns){0};
    for (int64_t i = 0; add && i < n; i++)
        x->k->add(cols, old.p + i * old.ld, y + i * cols);
    sl_write_columns(x, b, row, n, col, cols, y, cols);
}

void sl_clear_columns(const sl_exec *x, sl_buf b, int64_t row, int64_t n, int64_t from, int64_t to) {
    size_t value = x->info[b].bf16 ? sizeof(sl_bf16) : sizeof(float);
    for (int64_t i = row; i < row + n; i++)
        memset((char *)x->buf[b] + (size_t)(i * x->info[b].ld + from) * value, 0, (size_t)(to - from) * value);
}

void sl_pad_rows(const sl_exec *x, sl_buf b, int64_t row, int64_t n) {
    int64_t cols = x->info[b].cols, padding = sl_bf16_kpad(cols) - cols;
    for (int64_t i = 0; padding && i < n; i++)
        memset(sl_bf16_row(x, b, row + i) + cols, 0, (size_t)padding * sizeof(sl_bf16));
}

sl_qk sl_edit_qk(const sl_exec *x, sl_buf b, int64_t row, int64_t heads, int64_t hd, float *scratch) {
    const sl_buffer *v = &x->info[b];
    if (!v->bf16)
        return (sl_qk){sl_buf_data(x, b) + row * v->ld, heads * hd};
    x->k->from_bf16(heads * hd, sl_buf_bf16(x, b) + row * v->ld, scratch);
    return (sl_qk){scratch, heads * hd};
}

void sl_end_qk(const sl_exec *x, sl_buf b, int64_t row, sl_qk qk) {
    if (x->info[b].bf16)
        x->k->to_bf16(qk.n, qk.p, sl_buf_bf16(x, b) + row * x->info[b].ld);
}

void sl_fold_columns(const sl_exec *x, int64_t from, int64_t n, int64_t count, int64_t stride, const float *partial,
                     float *g) {
    for (int64_t i = 0; i < count; i++)
        x->k->add(n, partial + i * stride + from, g + from);
}

int64_t sl_op_param_floats(const sl_op *op, const sl_params *p, int i) {
    return op->param[i] == SL_NONE ? 0 : p->tensor[op->param[i]].size;
}

int64_t sl_op_params_floats(const sl_op *op, const sl_params *p) {
    int64_t n = 0;
    for (int i = 0; i < SL_OP_PARAMS; i++)
        n += sl_op_param_floats(op, p, i);
    return n;
}

size_t sl_fold_params_bytes(const sl_op *op, const sl_params *p) {
    return (size_t)(sl_op_blocks(op).count * sl_op_params_floats(op, p)) * sizeof(float);
}

sl_split sl_fold_params_split(const sl_op *op, const sl_exec *x) {
    sl_split g = {0};
    for (int i = 0; i < SL_OP_PARAMS; i++)
        g.items += sl_div_up(sl_op_param_floats(op, x->p, i), SL_FOLD_COLUMNS);
    return g;
}

/* Items count slices of the first parameter, then of the next one. */
static void fold_slice(const sl_op *op, const sl_exec *x, int64_t item) {
    int64_t at = 0, n = sl_op_param_floats(op, x->p, 0);
    int i = 0;
    while (item >= sl_div_up(n, SL_FOLD_COLUMNS)) {
        item -= sl_div_up(n, SL_FOLD_COLUMNS);
        at += n;
        n = sl_op_param_floats(op, x->p, ++i);
    }
    int64_t j = item * SL_FOLD_COLUMNS;
    sl_fold_columns(x, j, sl_min(n - j, SL_FOLD_COLUMNS), sl_op_blocks(op).count, sl_op_params_floats(op, x->p),
                    x->shared + at, sl_weight_grad(op, x, i));
}

int sl_fold_params(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = s->first; i < s->first + s->n; i++)
        fold_slice(op, x, i);
    return 0;
}
