/* OLMo 2 (arXiv 2501.00656): Llama whose norms stand on the outputs of both halves of a block, not on their inputs,
 * with a norm on all queries and one on all keys of a position. */
#include "families/kind.h"

static void set_norms(sl_config *c) {
    c->model_norm_place = SL_PLACE_OUTPUT;
    c->model_qk_norm = true;
    c->model_qk_norm_span = SL_SPAN_PROJECTION;
}

static int from_hf(const sl_hf *s, sl_config *c) {
    set_norms(c);
    return sl_hf_sizes(s, false, c) || sl_hf_real(s, "rms_norm_eps", 1e-5, &c->norm_eps) ||
                   sl_hf_ffn(s, "hidden_act", "silu", true, c) || sl_hf_rope(s, c) || sl_hf_bias(s, c)
               ? -1
               : 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    set_norms(c);
    return sl_keys_sizes(k, c) || sl_keys_rope(k, c) || sl_keys_check(k, NULL) ? -1 : 0;
}

#define OF_BLOCK(ours, theirs)                                                                                         \
    { "model.layers.*." ours, "blk.*." theirs, 0, 0, 0 }
static const sl_place gguf_places[] = {OF_BLOCK("post_attention_layernorm", "post_attention_norm"),
                                       OF_BLOCK("post_feedforward_layernorm", "post_ffw_norm"),
                                       {NULL, NULL, 0, 0, 0}};

const sl_family sl_family_olmo2 = {from_hf, from_gguf, NULL, gguf_places, NULL, NULL, NULL};
