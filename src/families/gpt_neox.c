/* GPT-NeoX (arXiv 2204.06745), of which Pythia is: LayerNorm and biases throughout, attention and feed-forward side by
 * side, a rotary embedding of part of each head, and queries, keys and values of a head one under the other. */
#include "base/err.h"
#include "families/kind.h"

static int read_sizes(const sl_hf *s, sl_config *c) {
    return sl_hf_whole(s, "num_hidden_layers", -1, &c->model_layers) ||
                   sl_hf_whole(s, "hidden_size", -1, &c->model_dim) ||
                   sl_hf_whole(s, "num_attention_heads", -1, &c->model_heads) ||
                   sl_hf_whole(s, "intermediate_size", -1, &c->model_ffn) ||
                   sl_hf_whole(s, "max_position_embeddings", c->model_seq, &c->model_seq) ||
                   sl_hf_real(s, "layer_norm_eps", 1e-5, &c->norm_eps) ||
                   sl_hf_bool(s, "tie_word_embeddings", false, &c->model_tie_embeddings)
               ? -1
               : 0;
}

/* rotary_emb_base and rotary_pct of transformers 4, rope_parameters of 5. */
static int read_rope(const sl_hf *s, sl_config *c) {
    double share = 0;
    return sl_hf_real(s, "rotary_emb_base", 10000, &c->model_rope_base) || sl_hf_real(s, "rotary_pct", 0.25, &share) ||
                   sl_hf_rope_part(s, share, c)
               ? -1
               : 0;
}

static int from_hf(const sl_hf *s, sl_config *c) {
    bool parallel = false, biases = false;
    if (read_sizes(s, c) || sl_hf_ffn(s, "hidden_act", "gelu", false, c) || read_rope(s, c) ||
        sl_hf_bool(s, "use_parallel_residual", true, &parallel) || sl_hf_bool(s, "attention_bias", true, &biases))
        return -1;
    sl_set_layernorm(c);
    c->model_attention_bias = biases ? SL_ATTENTION_BIAS_ALL : SL_ATTENTION_BIAS_NONE;
    c->model_block = parallel ? SL_BLOCK_PARALLEL : SL_BLOCK_SEQUENTIAL;
    return 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    static const char *const more[] = {"use_parallel_residual", NULL};
    bool parallel = false;
    sl_set_layernorm(c);
    if (sl_ffn_named(sl_gguf_name(k->f), "gelu", false, c) || sl_keys_sizes(k, c) || sl_keys_rope_part(k, c) ||
        sl_keys_bool(k, "use_parallel_residual", true, &parallel) || sl_keys_check(k, more))
        return -1;
    c->model_block = parallel ? SL_BLOCK_PARALLEL : SL_BLOCK_SEQUENTIAL;
    return 0;
}

#define OF_BLOCK(ours, theirs, how, part, parts)                                                                       \
    { "model.layers.*." ours, "gpt_neox.layers.*." theirs, how, part, parts }
static const sl_place hf_places[] = {{"model.embed_tokens", "gpt_neox.embed_in", 0, 0, 0},
                                     {"model.norm", "gpt_neox.final_layer_norm", 0, 0, 0},
                                     {"lm_head", "embed_out", 0, 0, 0},
                                     OF_BLOCK("input_layernorm", "input_layernorm", 0, 0, 0),
                                     OF_BLOCK("post_attention_layernorm", "post_attention_layernorm", 0, 0, 0),
                                     OF_BLOCK("self_attn.q_proj", "attention.query_key_value", SL_PLACE_BY_HEAD, 0, 3),
                                     OF_BLOCK("self_attn.k_proj", "attention.query_key_value", SL_PLACE_BY_HEAD, 1, 3),
                                     OF_BLOCK("self_attn.v_proj", "attention.query_key_value", SL_PLACE_BY_HEAD, 2, 3),
                                     OF_BLOCK("self_attn.o_proj", "attention.dense", 0, 0, 0),
                                     OF_BLOCK("mlp.up_proj", "mlp.dense_h_to_4h", 0, 0, 0),
                                     OF_BLOCK("mlp.down_proj", "mlp.dense_4h_to_h", 0, 0, 0),
                                     {NULL, NULL, 0, 0, 0}};
static const char *const ignored[] = {"*.attention.bias", "*.attention.masked_bias", NULL};

const sl_family sl_family_gpt_neox = {from_hf, from_gguf, hf_places, sl_gguf_fused_places, ignored, NULL, NULL};
