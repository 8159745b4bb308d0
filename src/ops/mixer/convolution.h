/* Short causal convolution, depthwise: each channel by itself, over the last few positions of its window. */
#ifndef SL_OPS_MIXER_CONVOLUTION_H
#define SL_OPS_MIXER_CONVOLUTION_H

#include "program/program.h"

typedef struct {
    int64_t first, channels; /* the columns of a row that it changes */
    int64_t width;           /* taps, at least 2: the position itself and width - 1 before it */
    bool bias, silu;
} sl_convolution;

/* In place on rows v [rows, >= first + channels], fp32 or bf16, of which columns first.. become
 *   u_t = bias + sum_{j < width} w[width - 1 - j] v_{t-j},  with silu: u_t sigmoid(u_t),
 * v_{t-j} = 0 before the window's first position: PyTorch's Conv1d with groups = channels, padding = width - 1 and the
 * last width - 1 outputs cut off. Declares <prefix>.conv1d.weight [channels, 1, width], from
 * U(-1/sqrt(width), 1/sqrt(width)) as PyTorch starts it, and, with a bias, <prefix>.conv1d.bias [channels] of zeros.
 * Weight decay takes the taps as matrices, Muon does not. The values before it are saved; rows of a decoder (b->cache)
 * find the width - 1 positions before them in a buffer that lasts. Out of memory: b->failed. */
void sl_build_convolution(sl_program *b, sl_scope scope, const char *prefix, sl_buf v, const sl_convolution *how);

/* What it was built from, of a decoder too; NULL of any other operation, or of NULL. */
const sl_convolution *sl_convolution_of(const sl_op *op);

#endif
