/* The end of a step on the device: mean loss, norm of the gradient, the decision whether to apply it, and one step of
 * train.optimizer over the flat parameter block. Formulas are those of train/optim_*.c and train/step.c. Nothing comes
 * to the host: what a step decides lies in slc_control. */
#ifndef SL_CUDA_OPTIM_H
#define SL_CUDA_OPTIM_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In device memory. */
typedef struct {
    /* Set by the host before each step. */
    float lr, c1, c2;  /* c1, c2: AdamW's bias corrections 1 - beta^step */
    double clip_norm;  /* <= 0: no clipping */
    double most_loss;  /* a loss above it skips the step; INFINITY: none does */
    /* Set by the kernels. */
    double loss;       /* mean of the step's batches so far */
    double grad_norm;  /* before clipping */
    float scale;       /* of gradients: clip_norm / grad_norm, or 1 */
    int32_t skipped;   /* loss or norm is not finite, or the loss is above most_loss; the host may set it afterwards */
    int32_t applied;   /* the update was */
} slc_control;

/* loss = 0 */
void slc_begin_step(slc_stream s, slc_control *c);
/* loss += share * mean of token_loss over rows with targets[row] >= 0 (0 without any), summed in double. */
void slc_mean_loss(slc_stream s, int64_t rows, const float *token_loss, const int32_t *targets, double share,
                   slc_control *c);

/* ---- kernels over pieces of tensors, cut by shape alone */

enum { SLC_CHUNK = 8192 };
enum { SLC_UPDATE_NONE, SLC_UPDATE_ADAMW, SLC_UPDATE_SGD }; /* NONE: nothing, its gradients stay too */

/* A piece of one tensor. Tables of them lie in device memory. */
typedef struct {
    int64_t offset; /* floats from the start of the block */
    int32_t n, how; /* at most SLC_CHUNK; SLC_UPDATE_* */
    float decay, rate; /* rate: of the learning rate */
} slc_chunk;

/* Blocks of the same layout, 256-byte aligned; v may be NULL without AdamW, w16 (w rounded to bf16) at all times. */
typedef struct {
    float *w, *g, *m, *v;
    uint16_t *w16;
} slc_blocks;

typedef struct {
    float beta1, beta2, eps; /* AdamW */
    float momentum;          /* SGD */
} slc_rates;

/* part[i] = sum of squares of gradients of chunk i, in double. */
void slc_sum_squares(slc_stream s, int64_t chunks, const slc_chunk *chunk, const float *g, double *part);
/* grad_norm from these parts, scale, skipped. */
void slc_judge(slc_stream s, int64_t chunks, const double *part, slc_control *c);
/* If the step is not skipped: one step of w, m, v and w16. In any case gradients become zero, and applied is set. */
void slc_update(slc_stream s, int64_t chunks, const slc_chunk *chunk, slc_blocks b, slc_rates r, slc_control *c);

/* ---- Muon: `count` matrices of `size` floats each at a time */

typedef struct {
    int64_t offset;
    float decay;
} slc_matrix;

/* Pieces of a matrix, for the sums of squares. */
static inline int64_t slc_muon_parts(int64_t size) { return (size + SLC_CHUNK - 1) / SLC_CHUNK; }
/* If not skipped: m = mu m + scale g, u = scale g + mu m; part[count, slc_muon_parts(size)]: sums of squares of u. If
 * skipped u and part are what they were before. In any case gradients become zero. */
void slc_muon_momentum(slc_stream s, int64_t count, int64_t size, const slc_matrix *t, slc_blocks b, float mu, float *u,
                       double *part, const slc_control *c);
/* u /= |u| + 1e-7, of each matrix. */
void slc_muon_normalise(slc_stream s, int64_t count, int64_t size, float *u, const double *part);
/* power = A I + B gram + C power, of matrices [side, side]. */
void slc_muon_polynomial(slc_stream s, int64_t count, int64_t side, const float *gram, float *power);
/* If not skipped: w -= lr (factor u + decay w), and w16. */
void slc_muon_apply(slc_stream s, int64_t count, int64_t size, const slc_matrix *t, slc_blocks b, float factor,
                    const float *u, const slc_control *c);

#ifdef __cplusplus
}
#else

/* ---- the optimizer (optim_step.c) */

#include "config/config.h"
#include "program/params.h"

typedef struct slc_optim slc_optim;

/* train.optimizer for the tensors of p (whose blocks on the host are not looked at). w, g, m, v, w16 and control are
 * device memory; m, v and w16 NULL where there is none. NULL with a message. */
slc_optim *slc_optim_open(const sl_params *p, const sl_config *c, float *w, float *g, float *m, float *v,
                          uint16_t *w16, slc_control *control);
void slc_optim_close(slc_optim *o); /* of NULL: nothing */
size_t slc_optim_bytes(const slc_optim *o); /* of device memory */
/* Enqueue; 0, or -1 with a message. judge: norm and decision; update: the rest, as control->skipped then says. */
int slc_optim_judge(slc_optim *o, slc_stream s);
int slc_optim_update(slc_optim *o, slc_blas *b, slc_stream s);

#endif
#endif
