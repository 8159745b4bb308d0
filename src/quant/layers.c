#include "quant/layers.h"

#include <stdio.h>

static const sl_block_layer ffn[] = {{SL_HALF_FFN, SL_PART_in, SL_NORM_FFN, true},
                                     {SL_HALF_FFN, SL_PART_out, -1, true},
                                     {SL_HALF_FFN, SL_PART_experts_in, SL_NORM_FFN, true},
                                     {SL_HALF_FFN, SL_PART_experts_out, -1, true},
                                     {SL_HALF_FFN, SL_PART_shared_in, SL_NORM_FFN, true},
                                     {SL_HALF_FFN, SL_PART_shared_out, -1, true},
                                     {SL_HALF_FFN, SL_PART_router, SL_NORM_FFN, false},
                                     {SL_HALF_FFN, SL_PART_shared_gate_in, SL_NORM_FFN, false},
                                     {.part = SL_PART_none}};

static const sl_block_layer *find(const sl_block_layer *list, sl_scope place) {
    for (; list->part; list++)
        if (list->half == place.half && list->part == place.part)
            return list;
    return NULL;
}

const sl_block_layer *sl_block_layer_of(const sl_tensor *t, int64_t *block) {
    const sl_block_layer *found = t->place.layer == SL_NO_LAYER ? NULL : find(ffn, t->place);
    *block = t->place.layer;
    for (const sl_mixer *const *m = sl_mixers; *m && !found && t->place.layer != SL_NO_LAYER; m++)
        found = find((*m)->layers, t->place);
    return found;
}

const sl_block_layer *sl_block_reader(const sl_config *c, int64_t block, int norm, int i) {
    for (const sl_block_layer *l = norm == SL_NORM_FFN ? ffn : sl_mixer_of(c, block)->layers; l->part; l++)
        if (l->norm == norm && l->linear && i-- == 0)
            return l;
    return NULL;
}

const sl_block_layer *sl_rounded_layer(int i) {
    bool seen[SL_HALF_FFN + 1][SL_PARTS] = {{false}};
    for (const sl_mixer *const *m = sl_mixers;; m++) {
        for (const sl_block_layer *l = *m ? (*m)->layers : ffn; l->part; l++) {
            if (l->linear && !seen[l->half][l->part] && i-- == 0)
                return l;
            seen[l->half][l->part] = true;
        }
        if (!*m)
            return NULL;
    }
}

sl_scope sl_block_layer_scope(const sl_block_layer *l, int64_t block) {
    return (sl_scope){(int)block, l->half, l->part, SL_ROLE_SELF};
}

void sl_block_norm_prefix(const sl_config *c, int64_t block, int half, char prefix[96]) {
    const char *name = half == SL_NORM_ATTN                              ? "input_layernorm"
                       : c->model_norm_place == SL_PLACE_SANDWICH ? "pre_feedforward_layernorm"
                                                                  : "post_attention_layernorm";
    snprintf(prefix, 96, "model.layers.%lld.%s", (long long)block, name);
}
