/* What linear layers and the head share: y = x W^T (+ bias) and its gradients, W [dim_out, dim_in] the parameter
 * param[SL_LAYER_WEIGHT], the bias [dim_out] param[SL_LAYER_BIAS] or none, as stages over the products of gemm.h and
 * gemm_bf16.h. x is in[0] and has a gradient din[0]. Of an operation with an output, y is out, and its gradient temp
 * (rounded by the operation) or dout. Of one without (the loss), which may go through its rows in chunks,
 * saved[SL_LAYER_Y] and saved[SL_LAYER_DY] hold those of one chunk; without the latter the gradient overwrites y.
 *
 * bf16: inputs, weights and output gradients are rounded to bf16 (nearest even) once, as operands; sums and biases are
 * fp32; a result is rounded once when it is stored as an activation, not at all when it joins the residual stream or
 * the weight gradient. */
#ifndef SL_OPS_LAYER_H
#define SL_OPS_LAYER_H

#include "base/blas.h"
#include "ops/product/gemm_bf16.h"
#include "program/program.h"
#include "program/scratch.h"

enum { SL_LAYER_Y, SL_LAYER_DY };
enum { SL_LAYER_WEIGHT, SL_LAYER_BIAS };

/* What such an operation has as its own. */
typedef struct {
    const sl_blas *blas; /* of fp32 products; NULL: our own */
    float softcap;       /* of the head: logits become softcap tanh(logit / softcap); 0: they do not */
} sl_layer;
static inline const sl_layer *sl_layer_of(const sl_op *op) { return op->own; }

/* W packed for y and for din, in shared scratch. One pass needs both only in the loss, which does all in forward. */
typedef struct {
    void *forward, *back;
} sl_layer_packed;
/* Of so many bytes each, back 0 where the program does not train. */
sl_layer_packed sl_layer_packed_at(const sl_op *op, int64_t forward, int64_t back, sl_carver *c);

/* Once the operation has its shape, kind and buffers of y: its scratch and FLOPs. */
void sl_layer_build(sl_program *b, sl_op *op);

/* Is a program's layer of so many rows one for few_forward below? */
bool sl_layer_is_few(const sl_program *b, int64_t rows);

/* The stages. In a pass that is not training those of gradients do nothing in an operation without dout (the loss). */
#define SL_LAYER_STAGE(name)                                                                                           \
    int sl_layer_##name(const sl_op *op, const sl_exec *x, const sl_span *s);                                          \
    sl_split sl_layer_##name##_split(const sl_op *op, const sl_exec *x);
SL_LAYER_STAGE(pack)            /* W for y */
SL_LAYER_STAGE(forward)         /* y = x W^T, plus the bias and in[1] */
SL_LAYER_STAGE(few_forward)     /* the same of few rows, without packing */
SL_LAYER_STAGE(pack_back)       /* W for din */
SL_LAYER_STAGE(input_gradient)  /* din = dy W, or += */
SL_LAYER_STAGE(pack_rows)       /* x for the gradient of W */
SL_LAYER_STAGE(weight_gradient) /* dW += dy^T x */
SL_LAYER_STAGE(bf16_pack)
SL_LAYER_STAGE(bf16_forward)
SL_LAYER_STAGE(bf16_pack_back)
SL_LAYER_STAGE(bf16_input_gradient)
SL_LAYER_STAGE(bf16_weight_gradient)
SL_LAYER_STAGE(bf16_fold)
SL_LAYER_STAGE(bias_gradient)   /* dbias += the sum of the rows of dy, of either precision; its kinds have a bias */
#undef SL_LAYER_STAGE
#define SL_LAYER(cut_, name) {.cut = SL_CUT_##cut_, .run = sl_layer_##name, .split = sl_layer_##name##_split}

/* Where a stage is in its operation's rows: x's and din's are counted from row0 on, y's and dy's from 0. */
int64_t sl_layer_chunk(const sl_op *op); /* rows that the stages are about at most */
sl_buf sl_layer_y(const sl_op *op);
sl_buf sl_layer_dy(const sl_op *op);
/* NULL without. */
static inline const float *sl_layer_bias(const sl_op *op, const sl_exec *x) {
    return op->param[SL_LAYER_BIAS] == SL_NONE ? NULL : sl_weight(op, x, SL_LAYER_BIAS);
}
/* Has this pass gradients to compute? */
static inline bool sl_layer_has_gradients(const sl_op *op, const sl_exec *x) {
    return op->out != SL_NONE || x->training;
}

void sl_layer_bf16_build(sl_program *b, sl_op *op); /* sl_layer_build() of a bf16 program */

#endif
