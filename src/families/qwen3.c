/* Qwen3: Llama with a norm on each query and key head (arXiv 2505.09388). */
#include "families/kind.h"

static int from_hf(const sl_hf *s, sl_config *c) {
    c->model_qk_norm = true;
    return sl_hf_sizes(s, false, c) || sl_hf_ffn(s, "hidden_act", "silu", true, c) || sl_hf_rope(s, c) ||
                   sl_hf_bias(s, c) || sl_qwen_windows(s, c)
               ? -1
               : 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    c->model_qk_norm = true;
    return sl_family_qwen2.from_gguf(k, c);
}

const sl_family sl_family_qwen3 = {from_hf, from_gguf, NULL, NULL, NULL, NULL, NULL};
