/* RWKV-7's recurrence (arXiv 2503.14456): a delta rule with a decay for each channel of keys. */
#ifndef SL_OPS_MIXER_WKV7_H
#define SL_OPS_MIXER_WKV7_H

#include "program/program.h"

typedef struct {
    int64_t heads, head_dim;
} sl_wkv7;

/* Minus the log of the smallest decay: exp(-1/2), so that decays lie in (.545, 1). */
#define SL_WKV7_RATE 0.6065306597126334

/* What it reads, rows of heads * head_dim numbers, fp32 or bf16. keys: [k | kappa | kappa a], three such rows side by
 * side, from sl_build_rwkv7_keys. */
typedef struct {
    sl_buf r, w, v, keys;
} sl_wkv7_inputs;

/* Of each head, with a state S [head_dim, head_dim] that is 0 before a window:
 *   S = S diag(exp(-exp(-1/2) sigmoid(w + w0))) - (S kappa) (kappa a)^T + v k^T,  y = S r
 * where S kappa is of the state before and w0 a parameter [heads*head_dim]. Returns y [rows, heads*head_dim], an
 * activation. Sums and states are fp32. Going back it needs states every 32 positions, which forward saves, and
 * computes those between again; the step is never inverted. Decoders (b->cache) keep S in a buffer that lasts. Out of
 * memory: b->failed. */
sl_buf sl_build_wkv7(sl_program *b, sl_scope scope, const sl_wkv7_inputs *in, const sl_wkv7 *how, int w0);

/* What it was built from, of a decoder too; NULL of any other operation, or of NULL. */
const sl_wkv7 *sl_wkv7_of(const sl_op *op);

#endif
