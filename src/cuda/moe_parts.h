/* What the kernels of a mixture of experts share: the room of a pass, and what the products' backward asks of the
 * router. */
#ifndef SL_CUDA_MOE_PARTS_H
#define SL_CUDA_MOE_PARTS_H

#include "cuda/grouped.h"
#include "cuda/moe.h"

/* sigmoid(a), and what is left of 1 */
static __device__ __forceinline__ float sigmoid_pair(float a, float *rest) {
    float e = expf(-fabsf(a)), s = 1 / (1 + e), r = e * s;
    *rest = a >= 0 ? r : s;
    return a >= 0 ? s : isnan(a) ? a : r;
}

/* The room of a pass, in device memory; forward's and backward's are the same bytes. */
struct slc_moe_scratch {
    /* forward */
    int32_t *hist;   /* [chunks of rows, experts] choices, */
    int32_t *before; /* and those of the chunks before */
    double *sums;    /* [chunks, experts + 1]: scores' shares, squares of lse */
    float *y;        /* [slots, dim] */
    /* backward */
    slc_bf16 *dout; /* [rows, ld] rounded; bf16 alone */
    float *part;    /* [slots, parts] of dweight */
    float *dscore;  /* [rows, experts] */
    float *dplace;  /* [slots, dim] */
    float *dw;      /* [chunks, experts, dim] of the router */
    size_t bytes;
};

/* Between rows of dout; parts of dweight that a place has. */
inline int64_t slc_moe_dout_ld(const slc_moe *m) { return slc_div_up(m->dim, 8) * 8; }
inline int64_t slc_moe_parts(const slc_moe *m) {
    return m->bf16 ? slc_div_up(m->ffn, bf16_tile::TILE) * bf16_tile::PARTS
                   : slc_div_up(m->ffn, fp32_tile::TILE) * fp32_tile::PARTS;
}
/* Rows of a partial sum of the router's gradient. */
inline int64_t slc_moe_router_rows(const slc_moe *m) { return slc_max(128, slc_div_up(m->rows, 64)); }

/* The next `bytes` of base, aligned for what a warp loads; *at moves on. */
inline void *slc_moe_carve(char *base, size_t *at, int64_t bytes) {
    char *p = base ? base + *at : nullptr;
    *at += ((size_t)bytes + 255) / 256 * 256;
    return p;
}

/* base NULL: its size alone. */
inline slc_moe_scratch slc_moe_scratch_at(const slc_moe *m, void *base) {
    slc_moe_scratch s = {};
    size_t forward = 0, backward = 0;
    int64_t chunks = slc_div_up(m->rows, SLC_MOE_ROWS), slots = m->rows * m->top, word = sizeof(float),
            rounded = m->bf16 ? m->rows * slc_moe_dout_ld(m) : 0,
            parts = slc_div_up(m->rows, slc_moe_router_rows(m));
    char *b = (char *)base;
    s.hist = (int32_t *)slc_moe_carve(b, &forward, chunks * m->experts * word);
    s.before = (int32_t *)slc_moe_carve(b, &forward, chunks * m->experts * word);
    s.sums = (double *)slc_moe_carve(b, &forward, chunks * (m->experts + 1) * (int64_t)sizeof(double));
    s.y = (float *)slc_moe_carve(b, &forward, slots * m->dim * word);
    s.dout = (slc_bf16 *)slc_moe_carve(b, &backward, rounded * (int64_t)sizeof(slc_bf16));
    s.part = (float *)slc_moe_carve(b, &backward, slots * slc_moe_parts(m) * word);
    s.dscore = (float *)slc_moe_carve(b, &backward, m->rows * m->experts * word);
    s.dplace = (float *)slc_moe_carve(b, &backward, slots * m->dim * word);
    s.dw = (float *)slc_moe_carve(b, &backward, parts * m->experts * m->dim * word);
    s.bytes = forward > backward || !m->training ? forward : backward;
    return s;
}

/* The router's backward, from s.part and s.dplace: drouter[experts, dim] gains the gradient by its matrix, din[rows,
 * dim] becomes (add: gains) that by the rows, the places' included. */
void slc_moe_router_back(slc_stream stream, const slc_moe *m, slc_moe_rows x, const float *router,
                         const slc_moe_route *t, slc_moe_rows din, bool add, float *drouter,
                         const slc_moe_scratch &s);

#endif
