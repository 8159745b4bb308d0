#include "checkpoint/hf_config.h"

#include "base/err.h"
#include "data/synthetic.h"
#include "families/foreign.h"
#include "ops/mixer/mixer.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

/* What models of transformers a configuration may be of. */
enum { LLAMA = 1, MAMBA2 = 2, NEXT = 4, ALL = LLAMA | MAMBA2 | NEXT };
#define MAMBA2_CLASS "Mamba2ForCausalLM"
#define NEXT_CLASS "Qwen3NextForCausalLM"

static int64_t layers_with(const sl_config *c, const char *mixer) {
    int64_t n = 0;
    for (int64_t i = 0; i < c->model_layers; i++)
        n += !strcmp(sl_mixer_of(c, i)->name, mixer);
    return n;
}

/* The one whose layers it has, whatever else it is. */
static unsigned kind_of(const sl_config *c) {
    int64_t gdn = layers_with(c, "gdn");
    if (layers_with(c, "mamba2") == c->model_layers)
        return MAMBA2;
    return gdn > 0 && gdn + layers_with(c, "softmax") == c->model_layers ? NEXT : LLAMA;
}

const char *sl_hf_obstacle(const sl_config *c) {
    bool rope_layers = c->model_rope_layers.n > 1 || c->model_rope_layers.of[0] != SL_LAYER_ROPE;
    bool full = layers_with(c, "softmax") > 0;
    bool silu = sl_config_has_ffn(c) && sl_ffn_gated[c->model_ffn_kind] && sl_hf_activation[c->model_ffn_kind] &&
                !strcmp(sl_hf_activation[c->model_ffn_kind], "silu");
    bool softmax = !strcmp(sl_choices_attention[c->model_attention].name, "softmax");
    const struct {
        bool stands;
        const char *key;
        unsigned of;
    } obstacle[] = {
        {!(sl_norm_traits[c->model_norm] & SL_NORM_LLAMA), "model.norm", ALL},
        {sl_mixer_first(c, false) >= 0, "model.mixer", LLAMA},
        {!softmax, "model.attention", LLAMA | NEXT},
        {c->attention_gate != SL_ATTENTION_GATE_NONE, "model.attention_opts.gate", LLAMA},
        {c->attention_window != 0, "model.attention_opts.window", LLAMA | NEXT},
        {c->attention_scale != 0, "model.attention_opts.scale", LLAMA | NEXT},
        {c->attention_softcap != 0, "model.attention_opts.softcap", LLAMA | NEXT},
        {c->model_attention_bias != SL_ATTENTION_BIAS_NONE, "model.attention_bias", LLAMA | NEXT},
        {!sl_config_has_ffn(c) || !sl_ffn_gated[c->model_ffn_kind] || !sl_hf_activation[c->model_ffn_kind],
         "model.ffn_kind", LLAMA},
        {c->model_ffn_shift, "model.ffn_shift", ALL},
        {c->model_ffn_bias, "model.ffn_bias", LLAMA | NEXT},
        {c->model_head_bias, "model.head_bias", ALL},
        {c->model_experts > 0 && c->model_router_bias, "model.router_bias", LLAMA | NEXT},
        {c->model_experts > 0 && c->model_router != SL_ROUTER_SOFTMAX, "model.router", NEXT},
        {c->model_experts > 0 && c->model_balance == SL_BALANCE_BIAS, "model.balance", NEXT},
        {c->model_experts > 0 && c->model_shared_experts == 0, "model.shared_experts=0", NEXT},
        {c->model_experts > 0 && !c->model_shared_expert_gate, "model.shared_expert_gate=false", NEXT},
        {c->model_rope_base <= 0, "model.rope_base", LLAMA | NEXT},
        {c->model_rope_dims != 0, "model.rope_dims", LLAMA},
        {c->model_rope_scaling != SL_ROPE_SCALING_NONE, "model.rope_scaling", LLAMA | NEXT},
        {rope_layers, "model.rope_layers", LLAMA | NEXT},
        {c->model_learned_positions != 0, "model.learned_positions", ALL},
        {c->model_norm_place != SL_PLACE_PRE, "model.norm_place", ALL},
        {c->norm_preaffine, "model.norm_opts.preaffine", ALL},
        {c->norm_zero_centred, "model.norm_opts.zero_centred", LLAMA | MAMBA2},
        {c->model_qk_norm && c->model_qk_norm_span, "model.qk_norm_span", LLAMA | NEXT},
        {c->model_anchors != SL_ANCHORS_NONE, "model.anchors", LLAMA | NEXT},
        {c->model_block != SL_BLOCK_SEQUENTIAL, "model.block", LLAMA | NEXT},
        {c->model_residual != SL_RESIDUAL_PLAIN, "model.residual", ALL},
        {c->model_embed_scale, "model.embed_scale", ALL},
        {c->model_embed_multiplier != 0, "model.embed_multiplier", ALL},
        {c->model_logit_softcap != 0, "model.logit_softcap", ALL},
        {sl_config_clip(c) != 0, "model.clip", ALL},
        {c->model_sink_nullify != 0, "model.sink_nullify", ALL},
        {full && c->attention_gate != SL_ATTENTION_GATE_ELEMENTWISE, "model.attention_opts.gate", NEXT},
        {full && c->attention_gate_floor != 0, "model.attention_opts.gate_floor", NEXT},
        {full && !c->model_qk_norm, "model.qk_norm", NEXT},
        {!silu, "model.ffn_kind", NEXT},
        {!c->gdn_norm, "model.gdn_opts.norm", NEXT},
        {c->gdn_gate != SL_GDN_GATE_SILU, "model.gdn_opts.gate", NEXT},
        {c->gdn_negative, "model.gdn_opts.negative", NEXT},
        {c->gdn_conv == 1, "model.gdn_opts.conv", NEXT},
        {sl_config_has_ffn(c), "model.ffn", MAMBA2},
        {c->mamba2_norm != SL_MAMBA2_NORM_AFTER, "model.mamba2_opts.norm", MAMBA2},
    };
    unsigned kind = kind_of(c);
    for (size_t i = 0; i < sizeof obstacle / sizeof *obstacle; i++)
        if (obstacle[i].stands && obstacle[i].of & kind)
            return obstacle[i].key;
    return NULL;
}

const char *sl_hf_export_obstacle(const sl_config *c) {
    return c->model_experts > 0 && kind_of(c) != NEXT ? "model.experts" : sl_hf_obstacle(c);
}

/* Of a checkpoint, whose tensors have our names: those of Llama. */
static const char *architecture(const sl_config *c) {
    bool known = !sl_hf_obstacle(c) && kind_of(c) == LLAMA;
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

/* The text of v and of what is more or otherwise in `more`; both go. */
static char *dump(json_t *v, json_t *more) {
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
    return dump(v, expert_keys(c));
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
    return dump(v, json_object());
}

/* Mixtures in all layers or none. */
static json_t *next_experts(const sl_config *c) {
    json_t *v = expert_keys(c);
    if (c->model_experts == 0 || !json_object_set_new(v, "shared_expert_intermediate_size",
                                                      json_integer(c->model_shared_experts * sl_config_expert_ffn(c))))
        return v;
    json_decref(v);
    return NULL;
}

/* A pattern of "linear_attention" and "full_attention". */
static json_t *next_layers(const sl_config *c) {
    json_t *list = json_array();
    for (int64_t i = 0; i < c->model_layers; i++)
        json_array_append_new(list, json_string(strcmp(sl_mixer_of(c, i)->name, "gdn") ? "full_attention"
                                                                                       : "linear_attention"));
    return list;
}

/* What transformers multiplies the width of a head by, and cuts off to whole channels. */
static double rope_share(const sl_config *c) {
    int64_t dims = sl_config_rope_dims(c), width = sl_config_head_dim(c);
    double share = (double)dims / (double)width;
    return (int64_t)(share * (double)width) < dims ? nextafter(share, 1) : share;
}

static char *next_text(const sl_config *c, int32_t vocab) {
    sl_gdn_sizes n = sl_config_gdn(c);
    double share = rope_share(c);
    json_t *v = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:{s:s, s:f, s:f}, s:f, s:f, s:b, s:i, s:s, s:b, s:I, "
        "s:I, s:I, s:I, s:I, s:o, s:i, s:n, s:n, s:n, s:f, s:s}",
        "architectures", NEXT_CLASS, "model_type", "qwen3_next", "hidden_size", (json_int_t)c->model_dim,
        "intermediate_size", (json_int_t)c->model_ffn, "num_hidden_layers", (json_int_t)c->model_layers,
        "num_attention_heads", (json_int_t)c->model_heads, "num_key_value_heads", (json_int_t)sl_config_kv_heads(c),
        "head_dim", (json_int_t)sl_config_head_dim(c), "max_position_embeddings", (json_int_t)c->model_seq,
        "rms_norm_eps", c->norm_eps, "rope_parameters", "rope_type", "default", "rope_theta", c->model_rope_base,
        "partial_rotary_factor", share, "rope_theta", c->model_rope_base, "partial_rotary_factor", share,
        "tie_word_embeddings", (int)c->model_tie_embeddings, "vocab_size", (int)vocab, "hidden_act", "silu",
        "attention_bias", 0, "linear_conv_kernel_dim", (json_int_t)c->gdn_conv, "linear_num_key_heads",
        (json_int_t)n.key_heads, "linear_num_value_heads", (json_int_t)n.heads, "linear_key_head_dim",
        (json_int_t)n.key_dim, "linear_value_head_dim", (json_int_t)n.value_dim, "layer_types", next_layers(c),
        "num_experts", 0, "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", c->model_init_std,
        "torch_dtype", "float32");
    return dump(v, next_experts(c));
}

/* The kinds of models that have other names in transformers than in our checkpoints. */
static const struct {
    unsigned kind;
    const char *architecture;
    char *(*text)(const sl_config *c, int32_t vocab);
} renamed[] = {{MAMBA2, MAMBA2_CLASS, mamba2_text}, {NEXT, NEXT_CLASS, next_text}};
enum { RENAMED = sizeof renamed / sizeof *renamed };

char *sl_hf_export_text(const sl_config *c, int32_t vocab) {
    for (int i = 0; i < RENAMED; i++)
        if (renamed[i].kind == kind_of(c))
            return renamed[i].text(c, vocab);
    return sl_hf_config_text(c, vocab);
}

const char *sl_hf_export_class(const sl_config *c) {
    for (int i = 0; i < RENAMED; i++)
        if (renamed[i].kind == kind_of(c))
            return renamed[i].architecture;
    return architecture(c);
}
