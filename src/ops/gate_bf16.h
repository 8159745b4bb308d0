/* The gate of norm_gated.c with bf16 operands. */
#ifndef SL_OPS_GATE_BF16_H
#define SL_OPS_GATE_BF16_H

#include "model/program.h"

extern const sl_op_kind sl_gate_bf16;
/* saved[0] is the caller's; saved[1..4]: panels of W_down and W_up, forward and back. Sets the scratch. */
void sl_gate_bf16_buffers(sl_program *b, sl_op *op);
/* Gate values of all rows after a forward, [rows, dim_in] into dst. */
void sl_gate_bf16_values(const sl_op *op, const sl_exec *x, float *dst);

#endif
