/* The gate on what a recurrent mixer gives, and the norm beside it, as ops/mixer/gate_norm.h. Rows are fp32 or bf16,
 * all alike. */
#ifndef SL_CUDA_GATE_NORM_H
#define SL_CUDA_GATE_NORM_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum slc_gate_norm_place { SLC_NORM_AFTER_GATE, SLC_NORM_BEFORE_GATE, SLC_NORM_OFF }; /* norm(y g), norm(y) g, y g */
enum slc_gate_norm_gate { SLC_GATE_BY_SILU, SLC_GATE_BY_SIGMOID, SLC_GATE_OPEN }; /* g: z sigmoid(z), sigmoid(z), 1 */

/* Device pointers. */
typedef struct {
    bool bf16;
    int place, gate;
    int64_t rows, dim, span; /* span channels of a row are normalised together; it divides dim */
    bool shared;             /* all spans have the weights of one, [span], else [dim] */
    float eps;
    const void *y, *z; /* [dim] of rows that are ld_y, ld_z apart; SLC_GATE_OPEN reads no z */
    int64_t ld_y, ld_z, ld; /* ld: of out */
    const float *weight;
    float *rstd; /* [rows, dim / span], 1/rms, saved by forward; unless SLC_NORM_OFF */
} slc_gate_norm;
void slc_gate_norm_forward(slc_stream s, const slc_gate_norm *n, void *out);

/* dy and dz, laid out as y and z, are written, or added to; dweight is added to. scratch: slc_gate_norm_floats(). */
typedef struct {
    const void *dout; /* as out */
    void *dy, *dz;
    bool add_y, add_z;
    float *dweight, *scratch;
} slc_gate_norm_back;
void slc_gate_norm_backward(slc_stream s, const slc_gate_norm *n, const slc_gate_norm_back *b);
int64_t slc_gate_norm_floats(int64_t rows, int64_t dim);

#ifdef __cplusplus
}
#endif
#endif
