/* Short causal convolution, as ops/mixer/convolution.h: in place on some columns of rows. */
#ifndef SL_CUDA_CONVOLUTION_H
#define SL_CUDA_CONVOLUTION_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device pointers. */
typedef struct {
    bool bf16, silu;
    int64_t windows, seq, channels, width;
    void *v; /* the first of its columns in rows, ld apart */
    int64_t ld;
    void *before; /* [rows, channels], ld_before apart: what stood there, like v; forward writes it */
    int64_t ld_before;
    const float *weight, *bias; /* [channels, width], the position's own tap last; [channels], or NULL */
} slc_convolution;
void slc_convolution_forward(slc_stream s, const slc_convolution *c);
/* One position of each window (seq 1). state [windows, width - 1, channels]: those before it, the last one last, of
 * which as many count as *position says. */
void slc_convolution_step(slc_stream s, const slc_convolution *c, float *state, const int32_t *position);
/* din, which may be dout: laid out as v. Adds to dweight and dbias. scratch: slc_convolution_floats(). */
void slc_convolution_backward(slc_stream s, const slc_convolution *c, const void *dout, void *din, float *dweight,
                              float *dbias, float *scratch);
int64_t slc_convolution_floats(const slc_convolution *c, bool bias); /* reads sizes alone */

#ifdef __cplusplus
}
#endif
#endif
