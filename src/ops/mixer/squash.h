/* tanh or sigmoid between the two products of a projection of low rank. */
#ifndef SL_OPS_MIXER_SQUASH_H
#define SL_OPS_MIXER_SQUASH_H

#include "program/program.h"

enum sl_squash { SL_SQUASH_TANH, SL_SQUASH_SIGMOID };

/* f of each number of x [rows, n], fp32 or bf16; returns [rows, n], an activation. Out of memory: b->failed. */
sl_buf sl_build_squash(sl_program *b, sl_scope scope, enum sl_squash how, sl_buf x);

/* Which, of such an operation; -1 of any other. */
int sl_squash_of(const sl_op *op);

#endif
