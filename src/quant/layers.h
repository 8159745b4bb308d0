/* The linear layers of the blocks: their places, their tensors, and which norm they read. */
#ifndef SL_QUANT_LAYERS_H
#define SL_QUANT_LAYERS_H

#include "config/config.h"
#include "ops/mixer/mixer.h"
#include "ops/norm/norm.h"
#include "program/params.h"

/* The layer that a tensor belongs to, and the number of its block; NULL if none. */
const sl_block_layer *sl_block_layer_of(const sl_tensor *t, int64_t *block);
/* The i-th kind of linear layer that reads this norm of the block (SL_NORM_ATTN, SL_NORM_FFN), of those that a block of
 * this configuration may have; NULL past the last. */
const sl_block_layer *sl_block_reader(const sl_config *c, int64_t block, int norm, int i);
/* The i-th kind of linear layer that is rounded, of any mixer and feed-forward, each once; NULL past the last. */
const sl_block_layer *sl_rounded_layer(int i);
/* Where in block `block` the layer's operation stands. */
sl_scope sl_block_layer_scope(const sl_block_layer *l, int64_t block);
/* The norm that a half of a block reads its input from: its tensors' prefix, "model.layers.N.<name>". */
void sl_block_norm_prefix(const sl_config *c, int64_t block, int half, char prefix[96]);

#endif
