/* Token shift (RWKV-7, arXiv 2503.14456): each channel moves by a learned share to the position before. */
#ifndef SL_OPS_MIXER_SHIFT_H
#define SL_OPS_MIXER_SHIFT_H

#include "program/program.h"

/* y_t = x_t + (x_{t-1} - x_t) mu with x_{-1} = 0 before the window's first position, of x [rows, d], fp32 or bf16;
 * returns y [rows, d], an activation. Declares <prefix>.<name>, mu [d], without weight decay: it starts as
 * 1 - (i / d)^power for channel i, as in RWKV-LM. Decoders (b->cache) keep x of the position before in a buffer that
 * lasts. Out of memory: b->failed. */
sl_buf sl_build_shift(sl_program *b, sl_scope scope, const char *prefix, const char *name, double power, sl_buf x);

#endif
