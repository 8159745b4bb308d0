/* Attention of attention.c with bf16 operands. */
#ifndef SL_OPS_ATTENTION_BF16_H
#define SL_OPS_ATTENTION_BF16_H

#include "ops/op.h"

extern const sl_op_kind sl_attention_bf16;
size_t sl_attention_bf16_bytes(const sl_op *op, bool training); /* private scratch of a thread */

#endif
