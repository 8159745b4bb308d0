/* The frame of norms that treat each row by itself: conversion of rows, sums of the parameters' gradients, and what
 * works with any of them: a factor on each channel of the input (model.norm_opts.preaffine) and a weight that is
 * stored as its distance from 1 (zero_centred), and sink channels that are replaced (nullify.c). Such a norm is two
 * row functions and a builder. */
#ifndef SL_OPS_NORM_ROWS_H
#define SL_OPS_NORM_ROWS_H

#include "ops/norm/norm.h"

/* Places in op->param; SL_NONE where the norm has no such parameter. */
enum {
    SL_NORM_WEIGHT, /* [dim]; read it by sl_norm_gain() */
    SL_NORM_BIAS,   /* [dim] */
    SL_NORM_ALPHA,  /* [1] */
    SL_NORM_SHIFT,  /* [1] */
    SL_NORM_PRE,    /* [dim]: the frame's own */
    SL_NORM_PARAMS
};
_Static_assert((int)SL_NORM_PARAMS <= (int)SL_OP_PARAMS, "an operation has room for a norm's parameters");

/* What divides a row, as far as the frame has to know it: replacing channels in the row or in its statistics alone. */
enum sl_norm_form {
    SL_NORM_OTHER,       /* none of the following */
    SL_NORM_BY_CHANNEL,  /* nothing: each output is a function of its input alone */
    SL_NORM_BY_RMS,      /* y = gain x r, saved[0] is r = 1/sqrt(mean x^2 + eps) */
    SL_NORM_BY_DEVIATION /* y = gain (x - m) r (+ bias), saved[0] is the mean m, saved[1] is r = 1/sqrt(mean (x - m)^2
                          * + eps) */
};

typedef struct {
    enum sl_norm_form form;
    int saves; /* floats that forward keeps of a row: saved[0..saves-1], each [rows]; at most 3 */
    /* out[n, dim_in] from in; rows first..first+n-1 of the batch. */
    void (*forward)(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *out);
    /* din[n, dim_in] (+)= (add), g[p] += over the rows for each parameter p that the norm has. din is not dout. */
    void (*backward)(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *dout, const float *in,
                     float *din, int add, float *const *g);
    /* The same for bf16 rows of out and dout, ld apart; NULL: the frame converts. */
    void (*forward_bf16)(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, sl_bf16 *out,
                         int64_t ld);
    void (*backward_bf16)(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const sl_bf16 *dout, int64_t ld,
                          const float *in, float *din, int add, float *const *g);
} sl_row_norm;

/* What the operation of such a norm, or of a variant of the frame, begins its own with. */
typedef struct {
    const sl_row_norm *norm;
    float eps;
} sl_norm_own;
static inline const sl_norm_own *sl_norm_own_of(const sl_op *op) { return op->own; }

/* What the kernels multiply by: the weight, or 1 + weight of a zero-centred one. */
const float *sl_norm_gain(const sl_op *op, const sl_exec *x);

/* NULL without a bias. */
static inline const float *sl_norm_bias(const sl_op *op, const sl_exec *x) {
    return op->param[SL_NORM_BIAS] == SL_NONE ? NULL : sl_weight(op, x, SL_NORM_BIAS);
}
/* Declares <prefix>.bias [dim], for a norm that has one; returns its index. */
int sl_norm_bias_param(sl_program *b, const char *prefix);

/* Appends a norm with weight and whatever else param (SL_NORM_PARAMS indices, or NULL for nothing) names. */
sl_norm_tap sl_build_row_norm(sl_program *b, const sl_row_norm *norm, sl_scope scope, sl_buf in, const char *prefix,
                              const int *param);

#endif
