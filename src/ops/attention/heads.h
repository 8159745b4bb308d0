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

typedef struct {
    int64_t first, n; /* the gated columns of in[0]; in place where they are only some of them */
    int64_t group;    /* so many side by side share a gate value, a column of in[1] */
    float open;       /* 1 - floor */
    bool in_place;    /* saved[0]: the columns before the gate */
} sl_attention_gate;

#endif
