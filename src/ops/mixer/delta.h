/* The gated delta rule (Gated DeltaNet, arXiv 2412.06464) and what is left of it without its decay (DeltaNet, arXiv
 * 2406.06484) or without its rule (linear attention with a decay). */
#ifndef SL_OPS_MIXER_DELTA_H
#define SL_OPS_MIXER_DELTA_H

#include "program/program.h"

/* Decay of a head h at a position with the number a of its row: exp(-exp(A_log) softplus(a + dt_bias)) as Mamba-2; 1;
 * sigmoid(a)^(1/16) as GLA (arXiv 2312.06635); 1 - 2^(-5-h) as RetNet (arXiv 2307.08621). */
enum sl_delta_decay { SL_DELTA_SOFTPLUS, SL_DELTA_NO_DECAY, SL_DELTA_SIGMOID, SL_DELTA_FIXED };

typedef struct {
    int64_t key_heads, heads; /* of q and k; of v, a multiple: neighbours share q and k */
    int64_t key_dim, value_dim;
    int64_t first; /* columns of a row of its input, from this one on: [q key_heads*key_dim | k key_heads*key_dim |
                    * v heads*value_dim | b heads, with the rule | a heads, of decays that depend on it] */
    enum sl_delta_decay decay;
    bool rule;
    bool unit;     /* q and k are divided by their lengths; with the rule always: a step is stable only so */
    bool negative; /* beta in (0, 2) in place of (0, 1): eigenvalues of a step down to -1 (arXiv 2411.12537) */
} sl_delta;

/* Of each head, with a state S [value_dim, key_dim] that is 0 before a window, q by key_dim^-1/2 and, if `unit`, q and
 * k each over the root of its square + 1e-6:
 *   S = decay S,  S = S + beta (v - S k) k^T,  o = S q,   beta = sigmoid(b) or 2 sigmoid(b);
 * without the rule S = decay S + v k^T. In [rows, >= first + ...], fp32 or bf16; returns o [rows, heads*value_dim], an
 * activation. Going back, columns of in that are not its own get the gradient 0. Sums and states are fp32.
 * Declares with SL_DELTA_SOFTPLUS <prefix>.dt_bias and .A_log [heads], without weight decay: softplus(dt_bias) starts
 * log-uniform in [.001, .1], exp(A_log) uniform in [.01, 16], as in the authors' code but away from log 0.
 * Going back it needs states every 64 positions, which forward saves, and computes some between again; the step is
 * never inverted, decay may be 0. Decoders (b->cache) keep S in a buffer that lasts. Out of memory: b->failed. */
sl_buf sl_build_delta(sl_program *b, sl_scope scope, const char *prefix, sl_buf in, const sl_delta *how);

/* Columns of a row that belong to it, from first on. */
int64_t sl_delta_columns(const sl_delta *how);

/* What it was built from, of a decoder too; NULL of any other operation, or of NULL. */
const sl_delta *sl_delta_of(const sl_op *op);

#endif
