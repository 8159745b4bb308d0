/* Mixtures over depth, as ops/depth.h: all rows are fp32. */
#ifndef SL_CUDA_DEPTH_H
#define SL_CUDA_DEPTH_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SLC_DEPTH_APART = 2 };

/* Device pointers. Sources of a row: n of them in a row of the bank, one behind the other, then those apart. */
typedef struct {
    int64_t rows, dim, n;
    const float *bank, *apart[SLC_DEPTH_APART]; /* rows ld_bank and dim apart; NULL: there is none */
    int64_t ld_bank;
    const float *asked;        /* [rows, dim]: a query for each row, of states; NULL: query is that of all */
    const float *query, *norm; /* [dim]; norm NULL: keys are not normed */
    float eps, scale, score_most, beta_most; /* scale: of products without a norm; scores are clamped where asked */
    const float *recency;      /* [1], with asked */
    const float *psi;          /* [rows, layers]; NULL: scores are without */
    const float *coupling;     /* [1], with psi */
    int64_t layers, halves, of_source, of_layer;
    bool null;                 /* one more source, of logit 0 and value 0 */
    float *weight, *rstd, *product; /* [rows, sources], saved by forward: a, 1/rms or scale, v . query */
} slc_depth;
void slc_depth_forward(slc_stream s, const slc_depth *d, float *out);

/* Gradients laid out as what they are of are written, the bank's in places of the n sources alone, or added to;
 * gradients of parameters are added to. scratch: slc_depth_floats(). */
typedef struct {
    const float *dout;
    float *dbank, *dapart[SLC_DEPTH_APART], *dasked, *dpsi;
    bool add_bank, add_apart[SLC_DEPTH_APART], add_asked, add_psi;
    float *dquery, *dnorm, *dcoupling, *drecency;
    float *scratch;
} slc_depth_back;
void slc_depth_backward(slc_stream s, const slc_depth *d, const slc_depth_back *b);
int64_t slc_depth_floats(int64_t rows, int64_t dim, int64_t sources);

#ifdef __cplusplus
}
#endif
#endif
