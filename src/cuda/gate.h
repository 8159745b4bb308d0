/* The gate of GatedNorm: out = q y, q = factor outer(b) + offset, b = W_up inner(a), a = W_down y
 * (src/ops/norm/gate.h). W_down [rank, dim], W_up [gates, rank]. */
#ifndef SL_CUDA_GATE_H
#define SL_CUDA_GATE_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum slc_gate_act { SLC_GATE_SIGMOID, SLC_GATE_TANH, SLC_GATE_SILU, SLC_GATE_LINEAR, SLC_GATE_RELU };
typedef struct {
    int inner, outer; /* enum slc_gate_act */
    bool bf16;        /* y, out, h, db, da and their like, and operands */
    int64_t rows, dim, ld, rank, ldr, gates; /* gates: dim, or 1 a row; ld of y and out, ldr of h and da */
    float factor, offset;
} slc_norm_gate;
/* h = inner(a), a [rows, rank] fp32. */
void slc_gate_inner(slc_stream s, const slc_norm_gate *g, const float *a, void *h);
/* out = q y from b [rows, gates], fp32. */
void slc_gate_apply(slc_stream s, const slc_norm_gate *g, const float *b, const void *y, void *out);
/* dy = q dout (fp32 [rows, dim]; may not be dout), db [rows, gates] of stride ld (elementwise) or 1. */
void slc_gate_back(slc_stream s, const slc_norm_gate *g, const float *b, const void *y, const void *dout, float *dy,
                   void *db);
/* da = dh inner'(a), dh [rows, rank] fp32. */
void slc_gate_inner_back(slc_stream s, const slc_norm_gate *g, const float *a, const float *dh, void *da);

/* ---- the whole gate in a kernel a direction, on tensor cores: bf16, one score an element, dim a multiple of 8 up to
 * 1,152 with ranks up to 16, to 384 with ranks up to 32 */
bool slc_gate_fits(const slc_norm_gate *g);
/* Rounded; down 16-byte aligned, up 4. */
typedef struct {
    const uint16_t *down, *up;
} slc_gate_weights;
/* a = W_down y, fp32 [rows, rank], and out. */
void slc_norm_gate_forward(slc_stream s, const slc_norm_gate *g, slc_gate_weights w, const uint16_t *y, float *a,
                           uint16_t *out);
/* From a: dy, of stride ld; gradients of the weights are added to. part: slc_norm_gate_parts() floats. */
void slc_norm_gate_backward(slc_stream s, const slc_norm_gate *g, slc_gate_weights w, const uint16_t *y,
                            const float *a, const uint16_t *dout, uint16_t *dy, float *down_grad, float *up_grad,
                            float *part);
int64_t slc_norm_gate_parts(const slc_norm_gate *g);

#ifdef __cplusplus
}
#endif
#endif
