/* Qwen2: Llama with biases on queries, keys and values (arXiv 2407.10671). */
#include "base/err.h"
#include "families/kind.h"

int sl_qwen_windows(const sl_hf *s, sl_config *c) {
    bool windows = false;
    if (sl_hf_bool(s, "use_sliding_window", false, &windows) || sl_hf_layer_types(s, c))
        return -1;
    if (windows && !sl_hf_get(s, "layer_types"))
        return sl_fail("%s: use_sliding_window is supported with layer_types alone", s->name);
    return windows || c->attention_window == 0
               ? 0
               : sl_fail("%s: layer_types: \"sliding_attention\" where use_sliding_window is false", s->name);
}

static int from_hf(const sl_hf *s, sl_config *c) {
    c->model_attention_bias = SL_ATTENTION_BIAS_QKV;
    return sl_hf_sizes(s, false, c) || sl_hf_ffn(s, "hidden_act", "silu", true, c) || sl_hf_rope(s, c) ||
                   sl_qwen_windows(s, c)
               ? -1
               : 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    return sl_keys_sizes(k, c) || sl_keys_rope(k, c) || sl_keys_check(k, NULL) ? -1 : 0;
}

const sl_family sl_family_qwen2 = {from_hf, from_gguf, NULL, NULL, NULL, NULL, NULL};
