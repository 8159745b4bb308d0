/* RWKV-7's operations, as ops/mixer/{shift,squash,rwkv7_rows,wkv7}.h. Device pointers; rows are fp32 or bf16 as bf16
 * says, all else fp32. Gradients of parameters are added to. */
#ifndef SL_CUDA_RWKV_H
#define SL_CUDA_RWKV_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Columns of rows that lie ld apart, and of a gradient: added to what is there, or not. */
typedef struct {
    void *p;
    int64_t ld;
    bool add;
} slc_rwkv_rows;

typedef struct {
    bool bf16;
    int64_t windows, seq, dim;
    slc_rwkv_rows x, y; /* what goes in, and comes out */
    const float *mu;    /* [dim] */
} slc_shift;
void slc_shift_forward(slc_stream s, const slc_shift *o);
/* One position of each window (seq 1). state [windows, dim]: the one before, unless *position is 0. */
void slc_shift_step(slc_stream s, const slc_shift *o, float *state, const int32_t *position);
void slc_shift_backward(slc_stream s, const slc_shift *o, slc_rwkv_rows dy, slc_rwkv_rows dx, float *dmu,
                        float *scratch);
int64_t slc_shift_floats(int64_t rows, int64_t dim);

/* tanh or sigmoid of rows of dim. */
void slc_squash_forward(slc_stream s, bool bf16, bool tanh, int64_t rows, int64_t dim, slc_rwkv_rows x,
                        slc_rwkv_rows y);
void slc_squash_backward(slc_stream s, bool bf16, bool tanh, int64_t rows, int64_t dim, slc_rwkv_rows x,
                         slc_rwkv_rows dy, slc_rwkv_rows dx);

/* Inputs, and the gradient of each, in the order of the operation's inputs; parameters, likewise. scratch:
 * slc_rwkv_floats(). */
enum { SLC_RWKV_INPUTS = 5, SLC_RWKV_PARAMS = 3 };
typedef struct {
    bool bf16;
    int64_t rows, dim, head_dim; /* heads = dim / head_dim */
    float eps;                   /* of the output's norm */
    slc_rwkv_rows in[SLC_RWKV_INPUTS], out;
    const float *param[SLC_RWKV_PARAMS];
    float *mean, *rstd; /* of the output: [rows, heads] */
} slc_rwkv;
typedef struct {
    slc_rwkv_rows dout, din[SLC_RWKV_INPUTS];
    float *dparam[SLC_RWKV_PARAMS], *scratch;
} slc_rwkv_back;
void slc_rwkv_values_forward(slc_stream s, const slc_rwkv *o);
void slc_rwkv_values_backward(slc_stream s, const slc_rwkv *o, const slc_rwkv_back *b);
void slc_rwkv_keys_forward(slc_stream s, const slc_rwkv *o);
void slc_rwkv_keys_backward(slc_stream s, const slc_rwkv *o, const slc_rwkv_back *b);
void slc_rwkv_output_forward(slc_stream s, const slc_rwkv *o);
void slc_rwkv_output_backward(slc_stream s, const slc_rwkv *o, const slc_rwkv_back *b);
int64_t slc_rwkv_floats(int64_t rows, int64_t dim, int64_t head_dim);

/* The recurrence, of inputs r, w, v and keys. */
enum { SLC_WKV7_CHUNK = 32 }; /* positions, from state to saved state */
typedef struct {
    bool bf16;
    int64_t windows, seq, heads, head_dim;
    float rate; /* decay = exp(-rate sigmoid(w + w0)) */
    slc_rwkv_rows in[4], out;
    const float *w0;
    float *states; /* those before each chunk, of each head of each window; NULL: not wanted */
    float *state;  /* NULL, or that of each head of each window, which goes on from here to here, but begins anew where
                    * *position is 0 */
    const int32_t *position;
} slc_wkv7;
int64_t slc_wkv7_head_dim(void); /* the most there is room for */
void slc_wkv7_forward(slc_stream s, const slc_wkv7 *o);
void slc_wkv7_backward(slc_stream s, const slc_wkv7 *o, slc_rwkv_rows dout, const slc_rwkv_rows din[4], float *dw0,
                       float *scratch);
int64_t slc_wkv7_floats(const slc_wkv7 *o); /* reads sizes alone */

#ifdef __cplusplus
}
#endif
#endif
