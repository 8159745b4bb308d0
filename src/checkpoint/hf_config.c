#include "checkpoint/hf_config.h"

#include "base/err.h"
#include "data/synthetic.h"
#include "families/foreign.h"
#include "ops/mixer/mixer.h"

#include <jansson.h>
#include <string.h>

/* What models of transformers a configuration may be of. */
enum { LLAMA = 1, MAMBA2 = 2 };
#define MAMBA2_CLASS "Mamba2ForCausalLM"

static bool is_mamba2(const sl_config *c) {
    bool is = true;
    for (int64_t i = 0; i < c->model_layers; i++)
        is = is && !strcmp(sl_mixer_of(c, i)->name, "mamba2");
    return is;
}

const char *sl_hf_obstacle(const sl_config *c) {
    bool rope_layers = c->model_rope_layers.n > 1 || c->model_rope_layers.of[0] != SL_LAYER_ROPE;
    bool softmax = !strcmp(sl_choices_attention[c->model_attention].name, "softmax");
    const struct {
        bool stands;
        const char *key;
        unsigned of;
    } obstacle[] = {
        {!(sl_norm_traits[c->model_norm] & SL_NORM_LLAMA), "model.norm", LLAMA | MAMBA2},
        {sl_mixer_first(c, false) >= 0, "model.mixer", LLAMA},
        {!softmax, "model.attention", LLAMA},
        {c->attention_gate != SL_ATTENTION_GATE_NONE, "model.attention_opts.gate", LLAMA},
        {c->attention_window != 0, "model.attention_opts.window", LLAMA},
        {c->attention_scale != 0, "model.attention_opts.scale", LLAMA},
        {c->attention_softcap != 0, "model.attention_opts.softcap", LLAMA},
        {c->model_attention_bias != SL_ATTENTION_BIAS_NONE, "model.attention_bias", LLAMA},
        {!sl_config_has_ffn(c) || !sl_ffn_gated[c->model_ffn_kind] || !sl_hf_activation[c->model_ffn_kind],
         "model.ffn_kind", LLAMA},
        {c->model_ffn_bias, "model.ffn_bias", LLAMA},
        {c->model_head_bias, "model.head_bias", LLAMA | MAMBA2},
        {c->model_experts > 0 && c->model_router_bias, "model.router_bias", LLAMA},
        {c->model_rope_base <= 0, "model.rope_base", LLAMA},
        {c->model_rope_dims != 0, "model.rope_dims", LLAMA},
        {c->model_rope_scaling != SL_ROPE_SCALING_NONE, "model.rope_scaling", LLAMA},
        {rope_layers, "model.rope_layers", LLAMA},
        {c->model_learned_positions != 0, "model.learned_positions", LLAMA | MAMBA2},
        {c->model_norm_place != SL_PLACE_PRE, "model.norm_place", LLAMA | MAMBA2},
        {c->norm_preaffine, "model.norm_opts.preaffine", LLAMA | MAMBA2},
        {c->norm_zero_centred, "model.norm_opts.zero_centred", LLAMA | MAMBA2},
        {c->model_qk_norm && c->model_qk_norm_span, "model.qk_norm_span", LLAMA},
        {c->model_anchors != SL_ANCHORS_NONE, "model.anchors", LLAMA},
        {c->model_block != SL_BLOCK_SEQUENTIAL, "model.block", LLAMA},
        {c->model_residual != SL_RESIDUAL_PLAIN, "model.residual", LLAMA | MAMBA2},
        {c->model_embed_scale, "model.embed_scale", LLAMA | MAMBA2},
        {c->model_embed_multiplier != 0, "model.embed_multiplier", LLAMA | MAMBA2},
        {c->model_logit_softcap != 0, "model.logit_softcap", LLAMA | MAMBA2},
        {sl_config_clip(c) != 0, "model.clip", LLAMA | MAMBA2},
        {c->model_sink_nullify != 0, "model.sink_nullify", LLAMA | MAMBA2},
        {sl_config_has_ffn(c), "model.ffn", MAMBA2},
        {c->mamba2_norm != SL_MAMBA2_NORM_AFTER, "model.mamba2_opts.norm", MAMBA2},
    };
    unsigned kind = is_mamba2(c) ? MAMBA2 : LLAMA;
    for (size_t i = 0; i < sizeof obstacle / sizeof *obstacle; i++)
        if (obstacle[i].stands && obstacle[i].of & kind)
            return obstacle[i].key;
    return NULL;
}

/* Of a checkpoint, whose tensors have our names: those of Llama. */
static const char *architecture(const sl_config *c) {
    bool known = !sl_hf_obstacle(c) && !is_mamba2(c);
    /* Qwen3-MoE routes by a softmax and has neither bias nor shared experts. */
    bool qwen3_moe = c->model_qk_norm && c->model_router == SL_ROUTER_SOFTMAX && c->model_shared_experts == 0 &&
                     c->model_balance != SL_BALANCE_BIAS;
    if (c->model_experts)
        return known && qwen3_moe ? "Qwen3MoeForCausalLM" : "SinklabForCausalLM";
    return !known             ? "SinklabForCausalLM"
           : c->model_qk_norm ? "Qwen3ForCausalLM"
                              : "LlamaForCausalLM";
}

/* Qwen3-MoE's keys, of our other mixtures too. */
static json_t *expert_keys(const sl_config *c) {
    if (c->model_experts == 0)
        return json_object();
    return json_pack("{s:I, s:I, s:I, s:b, s:f, s:i, s:[]}", "num_experts", (json_int_t)c->model_experts,
                     "num_experts_per_tok", (json_int_t)c->model_experts_per_token, "moe_intermediate_size",
                     (json_int_t)sl_config_expert_ffn(c), "norm_topk_prob", c->model_experts_per_token > 1,
                     "router_aux_loss_coef", c->model_balance == SL_BALANCE_AUX ? c->model_balance_coef : 0,
                     "decoder_sparse_step", 1, "mlp_only_layers");
}

char *sl_hf_config_text(const sl_config *c, int32_t vocab) {
    const char *arch = architecture(c);
    /* Of a BPE vocabulary the tokenizer.json knows the BOS; the byte tokenizer's is 256, a synthetic task's the last
     * id. */
    bool task = sl_synthetic_named(c->data_corpus);
    bool known = c->data_bos && sl_bos_is_own(c) && (task || (vocab == 257 && !strcmp(c->data_tokenizer, "bytes")));
    json_t *v =
        json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:i, s:s?, s:b, s:b, s:o, s:n, s:n, "
                  "s:f, s:s}",
                  "architectures", arch, "model_type",
                  *arch == 'L'       ? "llama"
                  : *arch != 'Q'     ? "sinklab"
                  : c->model_experts ? "qwen3_moe"
                                     : "qwen3",
                  "hidden_size", (json_int_t)c->model_dim, "intermediate_size",
                  (json_int_t)(sl_config_has_ffn(c) ? c->model_ffn : 0), "num_hidden_layers",
                  (json_int_t)c->model_layers, "num_attention_heads", (json_int_t)c->model_heads, "num_key_value_heads",
                  (json_int_t)sl_config_kv_heads(c), "head_dim", (json_int_t)sl_config_head_dim(c),
                  "max_position_embeddings", (json_int_t)c->model_seq, "rms_norm_eps", c->norm_eps, "rope_theta",
                  c->model_rope_base, "tie_word_embeddings", (int)c->model_tie_embeddings, "vocab_size", (int)vocab,
                  "hidden_act", sl_config_has_ffn(c) ? sl_hf_activation[c->model_ffn_kind] : "silu", "attention_bias",
                  0,
                  "mlp_bias", 0, "bos_token_id", known ? json_integer(task ? vocab - 1 : 256) : json_null(),
                  "eos_token_id", "pad_token_id", "initializer_range", c->model_init_std, "torch_dtype", "float32");
    json_t *more = expert_keys(c);
    if (json_object_update(v, more)) {
        json_decref(v);
        v = NULL;
    }
    json_decref(more);
    char *text = v ? json_dumps(v, JSON_INDENT(2)) : NULL;
    json_decref(v);
    if (!text)
        sl_fail("out of memory for config.json");
    return text;
}

/* transformers' defaults where a key is not ours: no limits on dt, no biases but the convolution's. */
static char *mamba2_text(const sl_config *c, int32_t vocab) {
    int64_t inner = c->mamba2_expand * c->model_dim;
    json_t *v = json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:i, s:b, s:b, s:s, s:I, "
                          "s:n, s:n, s:n, s:f, s:s}",
                          "architectures", MAMBA2_CLASS, "model_type", "mamba2", "hidden_size",
                          (json_int_t)c->model_dim, "num_hidden_layers", (json_int_t)c->model_layers, "expand",
                          (json_int_t)c->mamba2_expand, "head_dim", (json_int_t)c->mamba2_head_dim, "num_heads",
                          (json_int_t)(inner / c->mamba2_head_dim), "state_size", (json_int_t)c->mamba2_state,
                          "n_groups", (json_int_t)c->mamba2_groups, "conv_kernel", (json_int_t)c->mamba2_conv,
                          "layer_norm_epsilon", c->norm_eps, "tie_word_embeddings", (int)c->model_tie_embeddings,
                          "vocab_size", (int)vocab, "use_bias", 0, "use_conv_bias", 1, "hidden_act", "silu",
                          "max_position_embeddings", (json_int_t)c->model_seq, "bos_token_id", "eos_token_id",
                          "pad_token_id", "initializer_range", c->model_init_std, "torch_dtype", "float32");
    char *text = v ? json_dumps(v, JSON_INDENT(2)) : NULL;
    json_decref(v);
    if (!text)
        sl_fail("out of memory for config.json");
    return text;
}

char *sl_hf_export_text(const sl_config *c, int32_t vocab) {
    return is_mamba2(c) ? mamba2_text(c, vocab) : sl_hf_config_text(c, vocab);
}

const char *sl_hf_export_name(const sl_config *c, const char *ours, char buf[SL_FOREIGN_NAME_CHARS]) {
    return is_mamba2(c) ? sl_foreign_name(MAMBA2_CLASS, ours, buf) : ours;
}
