/* Anchors, as ops/attention/anchors.h: rows of heads, in parts that lie one behind the other. Anchors and their
 * gradients are fp32, rows of a layer fp32 or bf16. */
#ifndef SL_CUDA_ANCHORS_H
#define SL_CUDA_ANCHORS_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SLC_ANCHOR_PARTS = 3 };
typedef struct {
    int parts;
    int64_t first[SLC_ANCHOR_PARTS + 1], head_dim; /* part p has heads first[p] to first[p + 1] - 1 */
} slc_anchor_layout;

/* out [rows, heads * head_dim] = in, heads of a part with a weight behind an RMSNorm. raw gets in, rstd [rows, heads]
 * 1/rms of those. */
typedef struct {
    slc_anchor_layout at;
    int64_t rows;
    bool bf16;
    const void *in;
    int64_t ld; /* of in and of its gradient */
    float eps;
    const float *weight[SLC_ANCHOR_PARTS]; /* [head_dim], or NULL */
    float *raw, *rstd;
} slc_anchor;
void slc_anchor_forward(slc_stream s, const slc_anchor *a, float *out);
/* Writes din; adds to dweight. part: slc_anchor_floats() floats. */
void slc_anchor_backward(slc_stream s, const slc_anchor *a, const float *dout, void *din,
                         float *const dweight[SLC_ANCHOR_PARTS], float *part);
int64_t slc_anchor_floats(int64_t rows, int64_t cols);

/* own = f1 c1 anchor + f2 c2 own, in place; before gets own as it was. */
typedef struct {
    slc_anchor_layout at;
    int64_t rows, each; /* columns that share a coefficient of theirs; 0: those of a part do */
    bool bf16;
    void *own, *before; /* rows ld and ld_before apart */
    int64_t ld, ld_before;
    const float *anchor;  /* [rows, columns] */
    const float *coef[2]; /* c1, c2 */
    const void *factors;  /* like own, 2 `of` columns of rows ld_factors apart: f1 = sigmoid of column `column` + part,
                           * f2 of that `of` behind. NULL: 1 */
    int64_t ld_factors;
    int column, of;
} slc_anchor_mix;
void slc_anchor_mix_forward(slc_stream s, const slc_anchor_mix *m);
/* Gradients of own, which may be dout, of the anchor and of the factors, written or added to as it says; those of
 * coefficients are added to. scratch: slc_anchor_mix_floats(). */
typedef struct {
    const void *dout; /* as own */
    void *down, *dfactors;
    float *danchor;
    bool add_anchor, add_factors;
    float *dcoef[2];
    float *scratch;
} slc_anchor_mix_back;
void slc_anchor_mix_backward(slc_stream s, const slc_anchor_mix *m, const slc_anchor_mix_back *b);
int64_t slc_anchor_mix_floats(int64_t rows, int64_t cols);

#ifdef __cplusplus
}
#endif
#endif
