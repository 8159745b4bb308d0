/* Mamba-2's recurrence, which its paper calls state space duality (Dao & Gu 2024, arXiv 2405.21060). */
#ifndef SL_OPS_MIXER_SSD_H
#define SL_OPS_MIXER_SSD_H

#include "program/program.h"

typedef struct {
    int64_t heads, head_dim;
    int64_t groups, state; /* heads / groups side by side share B and C, of `state` numbers each; groups divide heads */
    int64_t first;         /* columns of a row of its input: [x heads*head_dim | B groups*state | C groups*state |
                            * dt heads] from this one on */
} sl_ssd;

/* Of each head, with a state h [head_dim, state] that is 0 before a window:
 *   dt = softplus(dt + dt_bias), a = -exp(A_log), h = exp(dt a) h + dt x B^T, y = h C + D x
 * in [rows, >= first + ...], fp32 or bf16; returns y [rows, heads*head_dim], an activation. Going back, columns of in
 * that are not its own get the gradient 0. Sums and states are fp32.
 * Declares <prefix>.dt_bias, .A_log and .D [heads], without weight decay. They start as Mamba-2's: softplus(dt_bias)
 * log-uniform in [.001, .1], exp(A_log) uniform in [1, 16], D = 1.
 * Going back it needs states every 64 positions, which forward saves, and computes those between again; the step is
 * never inverted, decay may be 0. Decoders (b->cache) keep h in a buffer that lasts. Out of memory: b->failed. */
sl_buf sl_build_ssd(sl_program *b, sl_scope scope, const char *prefix, sl_buf in, const sl_ssd *how);

/* What it was built from, of a decoder too; NULL of any other operation, or of NULL. */
const sl_ssd *sl_ssd_of(const sl_op *op);

#endif
