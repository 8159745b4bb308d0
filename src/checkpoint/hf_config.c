#include "checkpoint/hf_config.h"

#include "base/err.h"
#include "data/synthetic.h"
#include "families/foreign.h"
#include "ops/mixer/mixer.h"

#include <jansson.h>
#include <string.h>

const char *sl_hf_obstacle(const sl_config *c) {
    bool rope_layers = c->model_rope_layers.n > 1 || c->model_rope_layers.of[0] != SL_LAYER_ROPE;
    bool softmax = !strcmp(sl_choices_attention[c->model_attention].name, "softmax");
    const struct {
        bool stands;
        const char *key;
    } obstacle[] = {
        {!(sl_norm_traits[c->model_norm] & SL_NORM_LLAMA), "model.norm"},
        {sl_mixer_first(c, false) >= 0, "model.mixer"},
        {!softmax, "model.attention"},
        {c->attention_gate != SL_ATTENTION_GATE_NONE, "model.attention_opts.gate"},
        {c->attention_window != 0, "model.attention_opts.window"},
        {c->attention_scale != 0, "model.attention_opts.scale"},
        {c->attention_softcap != 0, "model.attention_opts.softcap"},
        {c->model_attention_bias != SL_ATTENTION_BIAS_NONE, "model.attention_bias"},
        {!sl_config_has_ffn(c) || !sl_ffn_gated[c->model_ffn_kind] || !sl_hf_activation[c->model_ffn_kind],
         "model.ffn_kind"},
        {c->model_ffn_bias, "model.ffn_bias"},
        {c->model_head_bias, "model.head_bias"},
        {c->model_experts > 0 && c->model_router_bias, "model.router_bias"},
        {c->model_rope_base <= 0, "model.rope_base"},
        {c->model_rope_dims != 0, "model.rope_dims"},
        {c->model_rope_scaling != SL_ROPE_SCALING_NONE, "model.rope_scaling"},
        {rope_layers, "model.rope_layers"},
        {c->model_learned_positions != 0, "model.learned_positions"},
        {c->model_norm_place != SL_PLACE_PRE, "model.norm_place"},
        {c->norm_preaffine, "model.norm_opts.preaffine"},
        {c->norm_zero_centred, "model.norm_opts.zero_centred"},
        {c->model_qk_norm && c->model_qk_norm_span, "model.qk_norm_span"},
        {c->model_anchors != SL_ANCHORS_NONE, "model.anchors"},
        {c->model_block != SL_BLOCK_SEQUENTIAL, "model.block"},
        {c->model_residual != SL_RESIDUAL_PLAIN, "model.residual"},
        {c->model_embed_scale, "model.embed_scale"},
        {c->model_embed_multiplier != 0, "model.embed_multiplier"},
        {c->model_logit_softcap != 0, "model.logit_softcap"},
        {sl_config_clip(c) != 0, "model.clip"},
        {c->model_sink_nullify != 0, "model.sink_nullify"},
    };
    for (size_t i = 0; i < sizeof obstacle / sizeof *obstacle; i++)
        if (obstacle[i].stands)
            return obstacle[i].key;
    return NULL;
}

static const char *architecture(const sl_config *c) {
    bool known = !sl_hf_obstacle(c);
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
