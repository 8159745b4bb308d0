/* The low-rank gate that GatedNorm puts on a base norm: out = q * y, q = factor act(b) + offset, b = W_up inner(W_down y). */
#ifndef SL_OPS_GATE_H
#define SL_OPS_GATE_H

#include "program/program.h"

/* An activation; y may be x, dx may be dy. */
typedef struct sl_act {
    void (*forward)(const sl_kernels *k, int64_t n, const float *x, float *y);
    void (*backward)(const sl_kernels *k, int64_t n, const float *x, const float *dy, float *dx); /* dx = dy act'(x) */
} sl_act;

/* Gates y [rows, dim] of the program's config; tensors <prefix>.gate_down.weight, <prefix>.gate_up.weight. */
sl_buf sl_build_gate(sl_program *b, sl_scope scope, sl_buf y, const char *prefix);

/* ---- shared by gate.c and gate_bf16.c */
extern const sl_op_kind sl_gate_fp32;
size_t sl_gate_fp32_scratch(const sl_op *op, const sl_kernels *k);
/* Floats of both matrices. */
static inline int64_t sl_gate_params(const sl_op *op) { return op->dim_out * (op->dim_in + op->gates); }
/* out = q * y for n rows; b [n, gates] is overwritten. */
void sl_gate_apply(const sl_op *op, const sl_kernels *k, int64_t n, float *b, const float *y, float *out);
/* dy = q * dout, and db; b is overwritten; dy may be dout. */
void sl_gate_gradients(const sl_op *op, const sl_kernels *k, int64_t n, float *b, const float *y, const float *dout,
                       float *dy, float *db);
/* Is it the published gate, elementwise sigmoid, whose kernels do these two in one? */
bool sl_gate_is_fused(const sl_op *op);
/* Sums the blocks' partial gradients [gate_down | gate_up] in shared scratch. */
void sl_gate_fold(const sl_op *op, const sl_exec *x);
/* q for each channel of n rows, [n, dim_in]. */
void sl_gate_spread(const sl_op *op, const sl_kernels *k, int64_t n, const float *b, float *dst);

#endif
