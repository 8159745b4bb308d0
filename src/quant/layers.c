#include "quant/layers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const sl_block_layer sl_block_layers[] = {
    {SL_HALF_ATTN, SL_PART_qkv, SL_NORM_ATTN, true, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}},
    {SL_HALF_ATTN, SL_PART_gate_in, SL_NORM_ATTN, true, {"self_attn.gate_proj", "self_attn.v_gate_proj", NULL}},
    {SL_HALF_ATTN, SL_PART_out, -1, true, {"self_attn.o_proj", NULL, NULL}},
    {SL_HALF_FFN, SL_PART_in, SL_NORM_FFN, true, {"mlp.gate_proj", "mlp.up_proj", NULL}},
    {SL_HALF_FFN, SL_PART_out, -1, true, {"mlp.down_proj", NULL, NULL}},
    {SL_HALF_FFN, SL_PART_experts_in, SL_NORM_FFN, true, {"mlp.experts.*.gate_proj", "mlp.experts.*.up_proj", NULL}},
    {SL_HALF_FFN, SL_PART_experts_out, -1, true, {"mlp.experts.*.down_proj", NULL, NULL}},
    {SL_HALF_FFN, SL_PART_shared_in, SL_NORM_FFN, true, {"mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", NULL}},
    {SL_HALF_FFN, SL_PART_shared_out, -1, true, {"mlp.shared_experts.down_proj", NULL, NULL}},
    {SL_HALF_FFN, SL_PART_router, SL_NORM_FFN, false, {"mlp.gate", NULL, NULL}},
    {SL_HALF_NONE, SL_PART_none, 0, false, {NULL, NULL, NULL}}};

/* Is `name` the pattern followed by ".weight"? */
static bool matches(const char *name, const char *pattern) {
    for (; *pattern; pattern++) {
        if (*pattern != '*') {
            if (*name++ != *pattern)
                return false;
            continue;
        }
        size_t digits = strspn(name, "0123456789");
        if (!digits)
            return false;
        name += digits;
    }
    return strcmp(name, ".weight") == 0;
}

const sl_block_layer *sl_block_layer_of(const sl_tensor *t, int64_t *block) {
    static const char prefix[] = "model.layers.";
    char *rest;
    if (strncmp(t->name, prefix, sizeof prefix - 1) != 0)
        return NULL;
    *block = strtoll(t->name + sizeof prefix - 1, &rest, 10);
    for (const sl_block_layer *l = sl_block_layers; *rest == '.' && l->part; l++)
        for (int i = 0; i < 3 && l->tensor[i]; i++)
            if (matches(rest + 1, l->tensor[i]))
                return l;
    return NULL;
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
