/* The linear layers of the blocks: their operations, their tensors, and which norm they read. */
#ifndef SL_QUANT_LAYERS_H
#define SL_QUANT_LAYERS_H

#include "config/config.h"
#include "ops/norm/norm.h"
#include "program/params.h"

typedef struct {
    enum sl_half half; /* of the operation */
    enum sl_part part;
    int norm;          /* SL_NORM_ATTN, SL_NORM_FFN: it reads that norm's output; or -1 */
    bool linear;       /* false of the router, which reads the norm but is never rounded or rotated on its own */
    const char *tensor[3]; /* behind "model.layers.N.", before ".weight"; '*' is the number of an expert */
} sl_block_layer;

extern const sl_block_layer sl_block_layers[]; /* ended by SL_PART_none */
/* The layer that a tensor belongs to, and the number of its block; NULL if none. */
const sl_block_layer *sl_block_layer_of(const sl_tensor *t, int64_t *block);
/* Where in block `block` the layer's operation stands. */
sl_scope sl_block_layer_scope(const sl_block_layer *l, int64_t block);
/* The norm that a half of a block reads its input from: its tensors' prefix, "model.layers.N.<name>". */
void sl_block_norm_prefix(const sl_config *c, int64_t block, int half, char prefix[96]);

#endif
