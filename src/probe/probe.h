/* Sink and outlier measurements on the activations of forward passes (taps of model.h). Each measure is
 * defined, with its source, in probe/measures.h; the taking of maxima and means over layers, below. */
#ifndef SL_PROBE_PROBE_H
#define SL_PROBE_PROBE_H

#include "model/model.h"

#include <jansson.h>

typedef struct sl_probe sl_probe; /* accumulators and scratch, allocated once */

/* NULL with a message. Scratch is for the number of threads in force now: set that before. */
sl_probe *sl_probe_create(const sl_model *m);
void sl_probe_free(sl_probe *p);
void sl_probe_reset(sl_probe *p);
/* Adds the activations of the forward pass that m has just done (batch*seq tokens). */
void sl_probe_add(sl_probe *p, const sl_model *m);

/* The result; NULL with a message when out of memory. A figure that cannot be told (NaN, infinite, no gate,
 * no norm weights, nothing added) is null. Top level:
 *   max, max_no_token0   largest of layers 0..L (h_0 = embeddings, h_L = last block's output)
 *   m2, m2_layer, m2_dim largest M2 of layers 0..L and where it is (the lowest layer of equals)
 *   top1_permille        of mean |h_j| over tokens and layers 0..L, as MP has it (not the largest layer's)
 *   kurtosis_h           largest of layers 0..L
 *   token0_norm_ratio    largest of layers 0..L
 *   lambda_min           smallest |weight| of the block norms (two a block, the final norm left out)
 *   lambda_at_sink       mean |weight| at channel m2_dim over the block norms
 *   att0, attention_entropy  mean over blocks and heads
 *   sink_rate            share of (block, head) with att0 above .3
 *   value_norm_ratio     mean over blocks and kv heads
 *   gate_mean, gate_std  over all elements of all gated norms, the final one's too if it has a gate
 *   tokens               tokens measured
 * "layers": array of L+1 objects. All have the residual figures: layer, max, max_no_token0, m2, m2_dim,
 * top1_permille, kurtosis_h, token0_norm_ratio. Those of blocks, 0..L-1, describe the block that reads this
 * layer: att0 and entropy (an array, per head), value_norm_ratio (mean over kv heads), lambda_min,
 * lambda_at_sink (mean over the block's norms of |weight| at the layer's own m2_dim), gate_mean, gate_std,
 * gate_channel_min, gate_channel_max (of the channels' means).
 * profile: also channel_mean_abs (mean |h_j| without token 0: its max/median is m2), norm_weight_attn and
 * norm_weight_ffn of blocks, norm_weight_final of layer L. Write it with JSON_REAL_PRECISION(7). */
json_t *sl_probe_result(const sl_probe *p, const sl_model *m, bool profile);

#endif
