/* Attention over depth, as ops/depth.h without null evidence: all rows are fp32. */
#ifndef SL_CUDA_DEPTH_H
#define SL_CUDA_DEPTH_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device pointers. Sources of a row: n of them in a row of the bank, one behind the other, and the partial sum. */
typedef struct {
    int64_t rows, dim, n;
    const float *bank, *partial; /* rows ld_bank and dim apart; partial NULL: there is none */
    int64_t ld_bank;
    const float *query, *norm; /* [dim]; norm NULL: keys are not normed */
    float eps;
    bool null; /* one more source, of logit 0 and value 0 */
    float *weight, *rstd, *product; /* [rows, sources], saved by forward: a, 1/rms, v . (norm query) */
} slc_depth;
void slc_depth_forward(slc_stream s, const slc_depth *d, float *out);

/* dbank and dpartial, laid out as bank and partial, are written, the bank's in places of the n sources alone, or added
 * to; gradients of parameters are added to. scratch: slc_depth_floats(). */
typedef struct {
    const float *dout;
    float *dbank, *dpartial;
    bool add_bank, add_partial;
    float *dquery, *dnorm;
    float *scratch;
} slc_depth_back;
void slc_depth_backward(slc_stream s, const slc_depth *d, const slc_depth_back *b);
int64_t slc_depth_floats(int64_t rows, int64_t dim, int64_t sources);

#ifdef __cplusplus
}
#endif
#endif
