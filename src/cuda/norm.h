/* Norms of rows, as src/ops/norm: y = gain f(z) (+ bias), z = pre b, with b the row x or the row with sink channels
 * replaced. Rows of inputs and of outputs are fp32 or bf16 each. */
#ifndef SL_CUDA_NORM_H
#define SL_CUDA_NORM_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum slc_norm_kind {
    SLC_NORM_RMS,   /* f = z r, r = 1/sqrt(mean z^2 + eps) */
    SLC_NORM_LAYER, /* f = (z - m) r, r = 1/sqrt(mean (z - m)^2 + eps) */
    SLC_NORM_NONE,  /* f = z */
    SLC_NORM_DYT,   /* f = tanh(alpha z) */
    SLC_NORM_DERF   /* f = erf(alpha z + shift) */
};

enum { SLC_CHANNELS = 64 };
/* Channels that are replaced in a pass, as the state of ops/norm/nullify.c begins. */
typedef struct {
    int64_t count, channel[SLC_CHANNELS];
    float value[SLC_CHANNELS];
} slc_replaced;

/* Device pointers; NULL where the norm has no such thing. */
typedef struct {
    int kind;
    bool x_bf16, bf16; /* inputs and their gradients, outputs and theirs */
    bool zero_centred; /* gain = 1 + weight, else weight */
    int64_t rows, dim, ldx, ld; /* from row to row of inputs, of outputs */
    float eps;
    const void *x;
    const float *weight, *bias, *alpha, *shift, *pre;
    float *mean, *r; /* [rows], saved by forward: mean of LAYER, r of RMS and LAYER */
    const slc_replaced *replaced;
    bool in_b;     /* b is the row with channels replaced, else the row as it is */
    bool only_one; /* outputs of these channels are made from the other one of the two rows (RMS and LAYER alone) */
    int64_t from, seq; /* positions before `from` keep their channels; row r is at *position + r % seq. 0: none does, */
    const int32_t *position; /* and neither this nor seq is read */
} slc_norm;
void slc_norm_forward(slc_stream s, const slc_norm *n, void *y);

/* Gradients of parameters, [dim] or [1]; NULL: not wanted. Those wanted are added to. */
typedef struct {
    float *weight, *bias, *alpha, *shift, *pre;
} slc_norm_grads;
/* dx = or += (add) the gradient of x from dy; rounded: NULL, or gets dx (fp32) rounded, of stride ldr. part:
 * slc_norm_parts() floats. */
void slc_norm_backward(slc_stream s, const slc_norm *n, const void *dy, bool add, void *dx, uint16_t *rounded,
                       int64_t ldr, const slc_norm_grads *g, float *part);
int64_t slc_norm_parts(int64_t rows, int64_t dim);

/* ---- channels that are replaced */

/* The most channels whose |mean| is largest, of equal ones the lower, none of mean 0; value: their mean or 0. */
void slc_choose_channels(slc_stream s, int64_t dim, int64_t most, bool to_mean, const float *mean, slc_replaced *c);
/* sum[j] += x[0, j] + x[1, j] + ... of the norm's inputs but those before `from`, *count += how many these are. part:
 * slc_norm_parts(rows, dim) floats. */
void slc_sum_channels(slc_stream s, const slc_norm *n, float *part, float *sum, int64_t *count);
/* If *applied and *count > 0: mean += rate (sum/count - mean), the whole distance where all means are 0. sum and count
 * become 0 in any case. */
void slc_move_means(slc_stream s, int64_t dim, float rate, const int32_t *applied, float *mean, float *sum,
                    int64_t *count);

#ifdef __cplusplus
}
#endif
#endif
