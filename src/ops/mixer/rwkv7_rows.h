/* What RWKV-7 (arXiv 2503.14456) does row by row around its recurrence (wkv7.h). Rows are fp32 or bf16, sums fp32. */
#ifndef SL_OPS_MIXER_RWKV7_ROWS_H
#define SL_OPS_MIXER_RWKV7_ROWS_H

#include "program/program.h"

/* v + (first - v) sigmoid(z + v0), all [rows, d]; first is v of the model's first layer of this mixer, v0 a parameter
 * [d]. */
sl_buf sl_build_rwkv7_values(sl_program *b, sl_scope scope, sl_buf v, sl_buf first, sl_buf z, int v0);

/* Of k and z [rows, d], with a = sigmoid(z + a0), a0 a parameter [d], and kappa = k k_k over the length of each head's
 * part, at least 1e-12:
 *   [k (1 + (a - 1) k_a) | kappa | kappa a]   [rows, 3 d]
 * Declares <prefix>.k_k and .k_a [d], without weight decay, which start as in RWKV-LM: .71 - .1 linear and 1.02, linear
 * from -1/2 to 1/2 over the channels. */
sl_buf sl_build_rwkv7_keys(sl_program *b, sl_scope scope, const char *prefix, sl_buf k, sl_buf z, int a0,
                           int64_t head_dim);

/* What the output is made of: y of the recurrence, r, k (the first d columns of keys), v and the gate g. */
typedef struct {
    sl_buf y, r, keys, v, g;
} sl_rwkv7_outputs;
enum { SL_RWKV7_K_K, SL_RWKV7_K_A, SL_RWKV7_A0 };                   /* of keys */
enum { SL_RWKV7_NORM_WEIGHT, SL_RWKV7_NORM_BIAS, SL_RWKV7_BONUS }; /* of the output */
#define SL_RWKV7_EPS 64e-5

/* (GroupNorm(y) + <r k, r_k> v) g, where GroupNorm is a LayerNorm of each head with eps 64e-5, weight and bias, and
 * <r k, r_k> a number for each head. [rows, d]. Declares <prefix>.ln_x.weight [d], which decays as norms do and starts
 * at `gain`, .ln_x.bias [d], 0, and .r_k [d], -.04, without weight decay. */
sl_buf sl_build_rwkv7_output(sl_program *b, sl_scope scope, const char *prefix, const sl_rwkv7_outputs *in,
                             int64_t head_dim, double gain);

/* Channels of a head, of operations of the last two kinds; 0 of any other. */
int64_t sl_rwkv7_head_dim(const sl_op *op);

#endif
