/* Phi (Phi-1, 1.5 and 2; arXiv 2306.11644): attention and feed-forward side by side behind one LayerNorm, biases
 * throughout, that of the head too, and a rotary embedding of part of each head. */
#include "families/kind.h"

static const char activation[] = "gelu_new";

static void set_block(sl_config *c) {
    sl_set_layernorm(c);
    c->model_block = SL_BLOCK_PARALLEL_SHARED;
    c->model_head_bias = true;
}

static int from_hf(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"qk_layernorm", NULL};
    if (sl_hf_off(s, off) || sl_hf_sizes(s, false, c) || sl_hf_real(s, "layer_norm_eps", 1e-5, &c->norm_eps) ||
        sl_hf_ffn(s, "hidden_act", activation, false, c) || sl_hf_rope_part(s, 0.5, c))
        return -1;
    set_block(c);
    return 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    set_block(c);
    return sl_ffn_named(sl_gguf_name(k->f), activation, false, c) || sl_keys_sizes(k, c) || sl_keys_rope_part(k, c) ||
                   sl_keys_check(k, NULL)
               ? -1
               : 0;
}

#define OF_BLOCK(ours, theirs)                                                                                         \
    { "model.layers.*." ours, "model.layers.*." theirs, 0, 0, 0 }
static const sl_place hf_places[] = {{"model.norm", "model.final_layernorm", 0, 0, 0},
                                     OF_BLOCK("self_attn.o_proj", "self_attn.dense"),
                                     OF_BLOCK("mlp.up_proj", "mlp.fc1"),
                                     OF_BLOCK("mlp.down_proj", "mlp.fc2"),
                                     {NULL, NULL, 0, 0, 0}};

/* Old files have queries, keys and values in one. */
#define OF_ATTENTION(ours, theirs, part)                                                                               \
    { "model.layers.*.self_attn." ours, "blk.*." theirs, 0, 0, 0 }, {                                                  \
        "model.layers.*.self_attn." ours, "blk.*.attn_qkv", 0, part, 3                                                 \
    }
static const sl_place gguf_places[] = {OF_ATTENTION("q_proj", "attn_q", 0), OF_ATTENTION("k_proj", "attn_k", 1),
                                       OF_ATTENTION("v_proj", "attn_v", 2), {NULL, NULL, 0, 0, 0}};

const sl_family sl_family_phi = {from_hf, from_gguf, hf_places, gguf_places, NULL, NULL, NULL};
