/* A mixture of experts on the device: formulas and names of ops/moe/moe.h. The number and shape of launches do not
 * depend on the routing: grids cover every way in which places may fall on experts, and blocks without work return.
 * Slots are row * top + j; places are slots sorted by expert and, within one, by row; all sums have one order. */
#ifndef SL_CUDA_MOE_H
#define SL_CUDA_MOE_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SLC_MOE_MAX_EXPERTS = 256, SLC_MOE_ROWS = 64 }; /* rows of a chunk in which slots are counted */

/* sl_moe_state and sl_moe_load, to the byte. */
typedef struct {
    int64_t passes, choices, dropped;
    double aux, z;
    int64_t count[SLC_MOE_MAX_EXPERTS];
} slc_moe_load;
typedef struct {
    double extra;
    slc_moe_load now, last;
} slc_moe_state;

enum { SLC_MOE_SILU, SLC_MOE_SIGMOID, SLC_MOE_GELU }; /* of the gate */

typedef struct {
    int64_t rows, dim, experts, top, ffn;
    int64_t capacity; /* places that an expert has at most */
    int act;          /* SLC_MOE_* */
    bool bf16, sigmoid, training, measured; /* measured: the pass is counted in the state */
    double aux, z, rate; /* coefficients; 0: off */
    float grad_scale;
} slc_moe;

/* Of one pass, kept for backward: sl_moe_route. */
typedef struct {
    float *score, *lse;      /* [rows, experts], [rows] */
    float *weight, *dweight; /* [slots] */
    int32_t *expert, *place; /* [slots]; place -1: dropped */
    int32_t *slot;           /* [places] */
    int32_t *offset;         /* [experts + 1] first place of each expert */
    int32_t *count;          /* [experts] choices, the dropped ones included */
} slc_moe_route;

/* Activations [rows or places, columns], fp32 or (bf16 of slc_moe) bf16, ld elements from row to row. */
typedef struct {
    void *p;
    int64_t ld;
} slc_moe_rows;

/* Scratch of one pass, of slc_moe_scratch_bytes(). */
size_t slc_moe_scratch_bytes(const slc_moe *m);

/* Chooses: t and, if measured, the state, from x and the router's matrix [experts, dim] in fp32; bias: NULL, or
 * [experts]. */
void slc_moe_route_rows(slc_stream s, const slc_moe *m, slc_moe_rows x, const float *router, const float *bias,
                        const slc_moe_route *t, slc_moe_state *state, void *scratch);
/* out [rows, dim] = residual (NULL: 0) + the experts' results. weights: of the first expert's gate, up [ffn, dim], down
 * [dim, ffn], the others behind; fp32 or bf16. gate_up [2 slots, ffn], gate in the first half, is written in training;
 * h [slots, ffn] always. */
void slc_moe_forward(slc_stream s, const slc_moe *m, slc_moe_rows x, const void *weights, const slc_moe_route *t,
                     slc_moe_rows gate_up, slc_moe_rows h, const float *residual, float *out, void *scratch);
/* In two, of a quantised model, fp32, whose hidden rows are rounded in between: h [slots, ffn] = act(gate) up, row by
 * slot and not by place; and out from it. */
void slc_moe_hidden(slc_stream s, const slc_moe *m, slc_moe_rows x, const void *weights, const slc_moe_route *t,
                    slc_moe_rows h);
void slc_moe_output(slc_stream s, const slc_moe *m, slc_moe_rows h, const void *weights, const slc_moe_route *t,
                    const float *residual, float *out, void *scratch);
/* From dout [rows, dim] in fp32: din = its gradient (add: +=), gradients of the experts and the router added to
 * dweights and drouter. gate_up is overwritten. */
void slc_moe_backward(slc_stream s, const slc_moe *m, slc_moe_rows x, const void *weights, const float *router,
                      const slc_moe_route *t, slc_moe_rows gate_up, slc_moe_rows h, const float *dout,
                      slc_moe_rows din, bool add, float *dweights, float *drouter, void *scratch);
/* After a step: biases move if it was applied (bias NULL: none), and the next sums begin. */
void slc_moe_end_step(slc_stream s, const slc_moe *m, slc_moe_state *state, float *bias, const int32_t *applied);

#ifdef __cplusplus
}
#endif
#endif
