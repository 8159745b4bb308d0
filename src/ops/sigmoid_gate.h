/* Gates that another projection opens: y times floor + (1 - floor) sigmoid(b). Attention's (arXiv 2505.06708), that of
 * shared experts (Qwen2-MoE, Qwen3-Next). */
#ifndef SL_OPS_SIGMOID_GATE_H
#define SL_OPS_SIGMOID_GATE_H

#include "program/program.h"

/* What the operation is; a device reads it. */
typedef struct {
    int64_t first, n; /* the gated columns of y, in[0]; in place where they are only some of them */
    int64_t group;    /* so many side by side share a gate value, a column of b, in[1] */
    float open;       /* 1 - floor */
    bool in_place;    /* saved[0]: the columns before the gate */
} sl_sigmoid_gate;

/* y [rows, cols] and b [rows, n / group] of one precision, which is that of what is returned: [rows, n], or y itself
 * where the gate is in place. */
sl_buf sl_build_sigmoid_gate(sl_program *b, sl_scope scope, sl_buf y, sl_buf gate, const sl_sigmoid_gate *how);

#endif
