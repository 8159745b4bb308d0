/* The gate on what a recurrent mixer gives, and the norm beside it. */
#ifndef SL_OPS_MIXER_GATE_NORM_H
#define SL_OPS_MIXER_GATE_NORM_H

#include "program/program.h"

enum sl_gate_norm_place { SL_GATE_NORM_AFTER, SL_GATE_NORM_BEFORE, SL_GATE_NORM_OFF };
enum sl_gate_norm_gate { SL_GATE_NORM_SILU, SL_GATE_NORM_SIGMOID, SL_GATE_NORM_OPEN }; /* OPEN: no gate, no z */
typedef struct {
    enum sl_gate_norm_place place;
    enum sl_gate_norm_gate gate;
    int64_t span;  /* channels of y that are normalised together; it divides them all */
    bool shared;   /* all spans have the weights of one */
    int64_t first; /* column of z in rows of its buffer */
    float eps;
} sl_gate_norm;

/* norm(y g(z)), norm(y) g(z) or y g(z) of y [rows, d], an activation, and z, d columns of an activation of rows, unless
 * g is 1 (SL_NONE: no z); returns an activation [rows, d]. g is silu or sigmoid. The norm is RMSNorm (arXiv 1910.07467)
 * of each span, with a weight for each channel, <prefix>.norm.weight [d], or [span] if shared. Going back, the other
 * columns of z's buffer get the gradient 0. Out of memory: b->failed. */
sl_buf sl_build_gate_norm(sl_program *b, sl_scope scope, const char *prefix, sl_buf y, sl_buf z,
                          const sl_gate_norm *how);

/* What it was built from; NULL of any other operation, or of NULL. */
const sl_gate_norm *sl_gate_norm_of(const sl_op *op);
/* After a forward of a model that keeps z: g(z) of all rows into to [rows, d]. */
void sl_gate_norm_values(const sl_op *op, const sl_exec *x, float *to);

#endif
