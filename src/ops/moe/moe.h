/* Mixture of experts (Shazeer et al., arXiv 1701.06538): what the files of the operation share, and what a model
 * reads of it. Each row goes to `top` of `experts` gated networks (model.ffn_kind); out = residual + sum_i w_i
 * expert_i(x) over its experts in their order. The router and the matrices of experts may add biases (gpt-oss).
 *
 *   scores   s = softmax(z) or sigmoid(z) (DeepSeek-V3, arXiv 2412.19437) of z = W x (+ b), fp32 also in a bf16 program
 *   choice   the `top` largest s, of equals the first; balance: bias adds a bias per expert to the choice alone
 *   weights  w = s / (sum of the chosen s + 1e-20); with top = 1, w = s, or the router would have no gradient
 *   capacity c > 0: in training passes an expert takes the first ceil(c rows top / experts) of its rows in the order of
 *            rows; the others get nothing from it (Switch, arXiv 2101.03961). Elsewhere no row is dropped.
 *   aux loss E sum_e f_e P_e: f share of the choices, P mean share of the scores; 1 when balanced (arXiv 2101.03961)
 *   z-loss   mean of (log sum exp z)^2 (ST-MoE, arXiv 2202.08906)
 *   bias     after a step b_e += rate sign(mean count - count_e) (arXiv 2408.15664); not learned, has no gradient
 *
 * Each choice of a row has a slot, row * top + j, experts ascending in j; and, unless it is dropped, a place: places
 * are sorted by expert and, within one, by row. */
#ifndef SL_OPS_MOE_H
#define SL_OPS_MOE_H

#include "ops/product/gemm_grouped.h"
#include "program/program.h"
#include "program/scratch.h"

enum { SL_MOE_MAX_EXPERTS = 256, SL_MOE_MAX_TOP = 16 };

/* The operation's parameters, those of sl_moe_params (ops.h). */
enum { SL_MOE_ROUTER, SL_MOE_EXPERTS, SL_MOE_ROUTER_BIAS, SL_MOE_BIASES };
/* Those of the operations of a quantised model that multiply by experts: their matrices and biases. */
enum { SL_MOE_PART_EXPERTS, SL_MOE_PART_BIASES };

/* Sums over the training passes of one step. */
typedef struct {
    int64_t passes, choices, dropped;
    double aux, z;
    int64_t count[SL_MOE_MAX_EXPERTS]; /* choices of each expert, the dropped ones included */
} sl_moe_load;

/* What the operation is; passes only read it. */
typedef struct {
    const sl_kernels *k;
    const sl_ffn_kernels *act;
    bool bf16, training, sigmoid;
    int64_t rows, seq, dim, experts, top, ffn;
    double capacity, aux, z, rate; /* 0: off */
    int bias;                      /* of the choice: parameter, or SL_NONE */
} sl_moe;

/* What passes change. */
typedef struct {
    double extra;          /* aux and z loss of the last training pass, times their coefficients */
    sl_moe_load now, last; /* the step in progress; the last one */
} sl_moe_state;

/* Where in the biases of all experts that of an expert's matrix gate, up or down (0 to 2) is. */
static inline int64_t sl_moe_bias_at(const sl_moe *m, int64_t expert, int which) {
    return expert * (2 * m->ffn + m->dim) + which * m->ffn;
}

/* NULL of any other operation. */
const sl_moe *sl_moe_of(const sl_op *op);
const sl_moe_state *sl_moe_state_of(const sl_op *op, const sl_exec *x);

/* The mixture of the program's configuration. */
void sl_moe_describe(const sl_program *b, int bias, sl_moe *m);

/* ---- inside the operation */

/* One pass's routing: arrays in a saved buffer. */
typedef struct {
    float *score, *lse;         /* [rows, experts], [rows] */
    float *weight, *dweight;    /* [slots] */
    int32_t *expert, *place;    /* [slots]; place -1: dropped */
    int32_t *slot;              /* [places] */
    int32_t *offset;            /* [experts + 1] first place of each expert */
    int32_t *count;             /* [experts] choices, the dropped ones included */
} sl_moe_route;

sl_moe_route sl_moe_route_at(const sl_moe *m, sl_carver *b);
sl_moe_route sl_moe_route_of(const sl_op *op, const sl_exec *x); /* in saved[0] */

/* Scratch of the router: shared by all threads, and of one. */
typedef struct {
    void *operand;              /* the router's matrix, packed */
    double *sums;               /* [blocks of rows, experts + 1]: scores' shares, squares of lse */
    float *dw;                  /* [blocks of rows, experts * dim + experts]: of the matrix and the bias */
} sl_moe_router_shared;
/* first in shared scratch */
sl_moe_router_shared sl_moe_router_shared_at(const sl_moe *m, bool backward, sl_carver *b);
typedef struct {
    float *x, *out, *dscore, *packed;
    void *wgrad;
} sl_moe_router_scratch;
sl_moe_router_scratch sl_moe_router_scratch_at(const sl_moe *m, sl_carver *b);

/* Stages that choose: the router's matrix packed (items); scores and choices of rows; their places (one item),
 * counted in the state by training passes. */
#define SL_MOE_CHOOSE                                                                                                  \
    {.cut = SL_CUT_PARAMS, .run = sl_moe_pack_router, .split = sl_moe_router_panels},                                  \
        {.cut = SL_CUT_ROWS, .run = sl_moe_choose}, {.cut = SL_CUT_BATCH, .run = sl_moe_place}
int sl_moe_pack_router(const sl_op *op, const sl_exec *x, const sl_span *s);
sl_split sl_moe_router_panels(const sl_op *op, const sl_exec *x);
int sl_moe_choose(const sl_op *op, const sl_exec *x, const sl_span *s);
int sl_moe_place(const sl_op *op, const sl_exec *x, const sl_span *s);

/* Stages of their gradients, from dweight (0 of dropped slots): the transpose packed; of rows, din (+)= that of the
 * router's input plus, of each row, the rows of dplace [places, dim] that are its own; the gradients of the router's
 * matrix and bias folded from partial sums. */
int sl_moe_pack_router_back(const sl_op *op, const sl_exec *x, const sl_span *s);
sl_split sl_moe_router_back_panels(const sl_op *op, const sl_exec *x);
void sl_moe_choose_back(const sl_op *op, const sl_exec *x, const sl_span *s, const float *dplace);
int sl_moe_fold_router(const sl_op *op, const sl_exec *x, const sl_span *s);
sl_split sl_moe_fold_router_split(const sl_op *op, const sl_exec *x);

/* kind->end_step: updates the biases if applied, and starts the next sums. */
void sl_moe_end_step(const sl_op *op, const sl_exec *x, bool applied);

#endif
