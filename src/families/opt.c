/* OPT (arXiv 2205.01068): LayerNorm and biases throughout, learned positions, ReLU. */
#include "base/err.h"
#include "families/kind.h"

static int read_sizes(const sl_hf *s, sl_config *c) {
    return sl_hf_whole(s, "num_hidden_layers", -1, &c->model_layers) ||
                   sl_hf_whole(s, "hidden_size", -1, &c->model_dim) ||
                   sl_hf_whole(s, "num_attention_heads", -1, &c->model_heads) ||
                   sl_hf_whole(s, "ffn_dim", -1, &c->model_ffn) ||
                   sl_hf_whole(s, "max_position_embeddings", -1, &c->model_learned_positions) ||
                   sl_hf_bool(s, "tie_word_embeddings", true, &c->model_tie_embeddings)
               ? -1
               : 0;
}

static int from_hf(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"_remove_final_layer_norm", NULL};
    static const char *const on[] = {"do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine", NULL};
    int64_t width = 0;
    if (read_sizes(s, c) || sl_hf_ffn(s, "activation_function", "relu", false, c) || sl_hf_off(s, off) ||
        sl_hf_on(s, on) || sl_hf_whole(s, "word_embed_proj_dim", c->model_dim, &width))
        return -1;
    if (width != c->model_dim)
        return sl_fail("%s: word_embed_proj_dim: only hidden_size is supported", s->name);
    sl_set_layernorm(c);
    c->norm_eps = 1e-5;
    c->model_seq = c->model_learned_positions;
    c->model_rope_base = 0;
    return 0;
}

#define OF_BLOCK(ours, theirs)                                                                                         \
    { "model.layers.*." ours, "model.decoder.layers.*." theirs, 0, 0, 0 }
static const sl_place hf_places[] = {
    {"model.embed_tokens", "model.decoder.embed_tokens", 0, 0, 0},
    {"model.embed_positions", "model.decoder.embed_positions", SL_PLACE_BEHIND_TWO, 0, 0},
    {"model.norm", "model.decoder.final_layer_norm", 0, 0, 0},
    OF_BLOCK("input_layernorm", "self_attn_layer_norm"),
    OF_BLOCK("post_attention_layernorm", "final_layer_norm"),
    OF_BLOCK("self_attn.q_proj", "self_attn.q_proj"),
    OF_BLOCK("self_attn.k_proj", "self_attn.k_proj"),
    OF_BLOCK("self_attn.v_proj", "self_attn.v_proj"),
    OF_BLOCK("self_attn.o_proj", "self_attn.out_proj"),
    OF_BLOCK("mlp.up_proj", "fc1"),
    OF_BLOCK("mlp.down_proj", "fc2"),
    {NULL, NULL, 0, 0, 0}};

const sl_family sl_family_opt = {from_hf, NULL, hf_places, NULL, NULL, "model.", NULL};
