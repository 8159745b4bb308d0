#include "ops/rows.h"

#include "base/threads.h"

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

void sl_parallel_rows(const sl_op *op, const sl_exec *x, void (*fn)(void *, int64_t, int)) {
    sl_parallel(sl_op_blocks(op).count, fn, &(sl_task){op, x});
}

void sl_fold_columns(const sl_exec *x, int64_t from, int64_t n, int64_t count, int64_t stride, const float *partial,
                     float *g) {
    for (int64_t i = 0; i < count; i++)
        x->k->add(n, partial + i * stride + from, g + from);
}

typedef struct {
    const sl_exec *x;
    int64_t count, n, stride;
    const float *partial;
    float *g;
} fold;


static void fold_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const fold *f = ctx;
    int64_t j = item * SL_FOLD_COLUMNS;
    sl_fold_columns(f->x, j, sl_min(f->n - j, SL_FOLD_COLUMNS), f->count, f->stride, f->partial, f->g);
}

void sl_fold_partials(const sl_exec *x, int64_t count, int64_t n, int64_t stride, const float *partial, float *g) {
    sl_parallel(sl_div_up(n, SL_FOLD_COLUMNS), fold_item, &(fold){x, count, n, stride, partial, g});
}
