/* Kernels of operations that treat elements or rows by themselves, and of the embedding. Device memory, enqueued on s.
 * `ld` is the stride of rows in elements; a flag bf16 says what a void pointer points to. */
#ifndef SL_CUDA_ROWS_H
#define SL_CUDA_ROWS_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* to += from, over rows of cols elements, both ld apart. */
void slc_add_rows(slc_stream s, int64_t rows, int64_t cols, int64_t ld, bool bf16, const void *from, void *to);
/* out = a + b; all may be one. */
void slc_sum(slc_stream s, int64_t n, const float *a, const float *b, float *out);
/* w16 = w, rounded to nearest even. */
void slc_round_weights(slc_stream s, int64_t n, const float *w, uint16_t *w16);
/* to [n, k] = from [rows, cols] and zeros; n >= rows, k >= cols. */
void slc_fill_up(slc_stream s, int64_t rows, int64_t cols, const uint16_t *from, int64_t n, int64_t k, uint16_t *to);
/* x's columns from..to become 0. */
void slc_zero_columns(slc_stream s, int64_t rows, int64_t from, int64_t to, int64_t ld, bool bf16, void *x);
/* to = from, or += from, of rows that are ld_to and ld_from apart; fp32. */
void slc_copy_rows(slc_stream s, int64_t rows, int64_t cols, const float *from, int64_t ld_from, bool add, float *to,
                   int64_t ld_to);
/* Rows of a fp32 buffer (ld cols) rounded into those of a bf16 one, and back: y = x, or += x. */
void slc_round_rows(slc_stream s, int64_t rows, int64_t cols, const float *x, uint16_t *y, int64_t ldy);
void slc_widen_rows(slc_stream s, int64_t rows, int64_t cols, const uint16_t *x, int64_t ldx, bool add, float *y);
/* x = min(max(x, -most), most); dx = 0 where |x| is not below most. NaN stays. */
void slc_clip(slc_stream s, int64_t n, float most, float *x);
void slc_clip_back(slc_stream s, int64_t n, float most, const float *x, float *dx);
/* y = a x, a in device memory. */
void slc_scale(slc_stream s, int64_t n, const float *a, const float *x, float *y);
/* part[i], i < slc_dot_parts(n): sums of pieces of x . y. */
int64_t slc_dot_parts(int64_t n);
void slc_dot(slc_stream s, int64_t n, const float *x, const float *y, float *part);
/* g[j] += the sum of part[i, j] over `count` rows of n columns, `stride` apart, in an order that count decides. */
void slc_fold(slc_stream s, int64_t count, int64_t n, int64_t stride, const float *part, float *g);
/* The same for two that lie side by side in rows of 2n: the first n into g, the others into h. */
void slc_fold_two(slc_stream s, int64_t count, int64_t n, const float *part, float *g, float *h);

/* out[r, :] = e[tokens[r], :], of dim columns. */
void slc_embed(slc_stream s, int64_t rows, int64_t dim, const int32_t *tokens, const float *e, float *out);
/* g[tokens[r], :] += dout[r, :], row after row. order: rows sorted by token, stable. part: slc_embed_parts(rows) rows
 * of dim floats. */
int64_t slc_embed_parts(int64_t rows);
void slc_embed_back(slc_stream s, int64_t rows, int64_t dim, const int32_t *tokens, const int32_t *order,
                    const float *dout, float *part, float *g);

/* The activation of a feed-forward, of the rows of simd/ffn.inc: kind is its number there. y = act(gate) up, a row of
 * in [gate | up] of width each; act(x) of rows [x] where the kind has no gate. */
typedef struct {
    int kind;
    bool bf16;
    int64_t rows, width, ld_in, ld; /* of y and dy: ld */
} slc_ffn;
void slc_ffn_forward(slc_stream s, const slc_ffn *f, const void *in, void *y);
void slc_ffn_backward(slc_stream s, const slc_ffn *f, const void *in, const void *dy, void *din);

#ifdef __cplusplus
}
#endif
#endif
