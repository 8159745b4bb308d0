/* The low-rank gate that GatedNorm puts on a base norm: out = q * y, q = factor act(b) + offset, b = W_up
 * inner(W_down y). */
#ifndef SL_OPS_NORM_GATE_H
#define SL_OPS_NORM_GATE_H

#include "program/program.h"

/* Gates y [rows, dim] of the program's config; tensors <prefix>.gate_down.weight, <prefix>.gate_up.weight. */
sl_buf sl_build_gate(sl_program *b, sl_scope scope, sl_buf y, const char *prefix);

/* ---- shared by gate.c, gate_fp32.c and gate_bf16.c */

/* An activation; y may be x, dx may be dy. */
typedef struct {
    void (*forward)(const sl_kernels *k, int64_t n, const float *x, float *y);
    void (*backward)(const sl_kernels *k, int64_t n, const float *x, const float *dy, float *dx); /* dx = dy act'(x) */
} sl_act;

/* The products in one precision. saved[0] is a = W_down y [rows, rank]; panels of the packed matrices are
 * saved[GATE_*]. */
enum { SL_GATE_DOWN = 1, SL_GATE_DOWN_BACK, SL_GATE_UP, SL_GATE_UP_BACK };
typedef struct {
    sl_op_kind kind;
    /* Buffers of the panels, those back only in training, and bytes of a worker's scratch. */
    void (*build)(sl_program *b, sl_op *op);
    /* b [rows, gates] of a block of rows after a forward, in the first worker's scratch. */
    float *(*scores)(const sl_op *op, const sl_exec *x, int64_t block);
} sl_gate_products;
extern const sl_gate_products sl_gate_fp32, sl_gate_bf16;

/* The gate's own. */
typedef struct {
    const sl_gate_products *products;
    int64_t rank, gates; /* scores of a row: dim, or 1 */
    const sl_act *outer, *inner;
    float factor, offset;
    bool fused;          /* the published gate, elementwise sigmoid, whose kernels do apply and gradients in one */
} sl_gate;
static inline const sl_gate *sl_gate_of(const sl_op *op) { return op->own; }

/* [out, in] of W_down (0) and W_up (1). */
static inline int64_t sl_gate_out(const sl_op *op, int w) { return w ? sl_gate_of(op)->gates : sl_gate_of(op)->rank; }
static inline int64_t sl_gate_in(const sl_op *op, int w) { return w ? sl_gate_of(op)->rank : op->dim_in; }

/* out = q * y for n rows; b [n, gates] is overwritten. */
void sl_gate_apply(const sl_op *op, const sl_kernels *k, int64_t n, float *b, const float *y, float *out);
/* dy = q * dout, and db; b is overwritten; dy may be dout. */
void sl_gate_gradients(const sl_op *op, const sl_kernels *k, int64_t n, float *b, const float *y, const float *dout,
                       float *dy, float *db);

#endif
