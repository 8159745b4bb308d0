/* What attention.c, attention_bf16.c and cached_attention.c share. */
#ifndef SL_OPS_ATTENTION_H
#define SL_OPS_ATTENTION_H

#include "program/program.h"

void sl_attention_kind(const sl_program *b, sl_op *op); /* sizes and kind from the configuration */
extern const sl_op_kind sl_attention_bf16;
size_t sl_attention_bf16_bytes(const sl_op *op, bool training); /* private scratch of a thread */

#endif
