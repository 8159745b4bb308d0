/* GPT-2: LayerNorm and biases throughout, learned positions, GELU by tanh, tied embeddings. Its matrices lie as [in,
 * out], queries, keys and values in one; the masks in old files hold nothing. */
#include "families/kind.h"

static const char activation[] = "gelu_new";

static int read_sizes(const sl_hf *s, sl_config *c) {
    return sl_hf_whole(s, "n_layer", -1, &c->model_layers) || sl_hf_whole(s, "n_embd", -1, &c->model_dim) ||
                   sl_hf_whole(s, "n_head", -1, &c->model_heads) ||
                   sl_hf_whole(s, "n_positions", -1, &c->model_learned_positions) ||
                   sl_hf_whole(s, "n_inner", c->model_dim < 1 << 20 ? 4 * c->model_dim : 0, &c->model_ffn) ||
                   sl_hf_real(s, "layer_norm_epsilon", 1e-5, &c->norm_eps) ||
                   sl_hf_bool(s, "tie_word_embeddings", true, &c->model_tie_embeddings)
               ? -1
               : 0;
}

static int from_hf(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"scale_attn_by_inverse_layer_idx", "add_cross_attention", NULL};
    static const char *const on[] = {"scale_attn_weights", NULL};
    if (read_sizes(s, c) || sl_hf_ffn(s, "activation_function", activation, false, c) || sl_hf_off(s, off) ||
        sl_hf_on(s, on))
        return -1;
    sl_set_layernorm(c);
    c->model_seq = c->model_learned_positions;
    c->model_rope_base = 0;
    return 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    sl_set_layernorm(c);
    if (sl_ffn_named(sl_gguf_name(k->f), activation, false, c) || sl_keys_sizes(k, c) || sl_keys_check(k, NULL))
        return -1;
    c->model_learned_positions = c->model_seq;
    c->model_rope_base = 0;
    return 0;
}

#define OF_BLOCK(ours, theirs, how, part, parts)                                                                       \
    { "model.layers.*." ours, "transformer.h.*." theirs, how, part, parts }
static const sl_place hf_places[] = {{"model.embed_tokens", "transformer.wte", 0, 0, 0},
                                     {"model.embed_positions", "transformer.wpe", 0, 0, 0},
                                     {"model.norm", "transformer.ln_f", 0, 0, 0},
                                     OF_BLOCK("input_layernorm", "ln_1", 0, 0, 0),
                                     OF_BLOCK("post_attention_layernorm", "ln_2", 0, 0, 0),
                                     OF_BLOCK("self_attn.q_proj", "attn.c_attn", SL_PLACE_TRANSPOSED, 0, 3),
                                     OF_BLOCK("self_attn.k_proj", "attn.c_attn", SL_PLACE_TRANSPOSED, 1, 3),
                                     OF_BLOCK("self_attn.v_proj", "attn.c_attn", SL_PLACE_TRANSPOSED, 2, 3),
                                     OF_BLOCK("self_attn.o_proj", "attn.c_proj", SL_PLACE_TRANSPOSED, 0, 0),
                                     OF_BLOCK("mlp.up_proj", "mlp.c_fc", SL_PLACE_TRANSPOSED, 0, 0),
                                     OF_BLOCK("mlp.down_proj", "mlp.c_proj", SL_PLACE_TRANSPOSED, 0, 0),
                                     {NULL, NULL, 0, 0, 0}};
static const char *const ignored[] = {"*.attn.bias", "*.attn.masked_bias", NULL};

const sl_family sl_family_gpt2 = {from_hf, from_gguf, hf_places, sl_gguf_fused_places, ignored, "transformer.", NULL};
