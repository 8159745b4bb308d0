/* What the operations on heads beside attention hold; a device reads it. */
#ifndef SL_OPS_ATTENTION_HEADS_H
#define SL_OPS_ATTENTION_HEADS_H

#include "program/program.h"

typedef struct {
    int64_t heads, head_dim, dims; /* the first so many heads of a row are rotated, q and k; so much of each */
    const float *cos, *sin;        /* [positions, dims / 2] */
    double base;                   /* that the table is of, */
    bool scaled;                   /* with frequencies as model.rope_scaling has them */
} sl_rope;

typedef struct {
    int64_t heads, kv_heads, head_dim;
    int64_t q_span, k_span; /* heads of a norm, side by side, with a weight for each of their channels */
    float eps;
} sl_qk_norm;

#endif
