/* Llama: RMSNorm before both halves of a block, grouped-query attention with rotary positions, SwiGLU (arXiv
 * 2302.13971). SmolLM2, TinyLlama and Llama 3 are of it; in GGUF Mistral too. */
#include "families/kind.h"

static int from_hf(const sl_hf *s, sl_config *c) {
    return sl_hf_sizes(s, false, c) || sl_hf_ffn(s, "hidden_act", "silu", true, c) || sl_hf_rope(s, c) ||
                   sl_hf_bias(s, c) || sl_hf_layer_types(s, c)
               ? -1
               : 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    static const char *const more[] = {"attention.sliding_window", NULL};
    return sl_keys_sizes(k, c) || sl_keys_rope(k, c) ||
                   sl_keys_whole(k, "attention.sliding_window", 0, &c->attention_window) || sl_keys_check(k, more)
               ? -1
               : 0;
}

const sl_place sl_llama_gguf_places[] = {{"model.layers.*.self_attn.q_proj", "blk.*.attn_q", SL_PLACE_PAIRS, 0, 0},
                                         {"model.layers.*.self_attn.k_proj", "blk.*.attn_k", SL_PLACE_PAIRS, 0, 0},
                                         {NULL, NULL, 0, 0, 0}};

const sl_family sl_family_llama = {from_hf, from_gguf, NULL, sl_llama_gguf_places, NULL, NULL, NULL};
