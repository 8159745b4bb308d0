/* The gate of gate.c with bf16 operands. */
#ifndef SL_OPS_GATE_BF16_H
#define SL_OPS_GATE_BF16_H

#include "program/program.h"

extern const sl_op_kind sl_gate_bf16;
/* saved[0] is the caller's; saved[1..4]: panels of W_down and W_up, forward and back. Sets the scratch. */
void sl_gate_bf16_buffers(sl_program *b, sl_op *op);
/* Scores b [rows, gates] of a block of rows after a forward, in the first thread's scratch. */
const float *sl_gate_bf16_scores(const sl_op *op, const sl_exec *x, int64_t block);

#endif
