#include "checkpoint/hf_config.h"

#include "base/err.h"
#include "base/text.h"
#include "data/synthetic.h"
#include "ops/mixer/mixer.h"

#include <jansson.h>
#include <string.h>

/* ---------------------------------------------------------------- writing */

/* What hidden_act calls the function of each feed-forward kind. Llama and Qwen3 are gated, whichever it is. */
static const char *const hidden_act[] = {
#define FFN(name, gated, act, hf, help) hf,
#include "simd/ffn.inc"
#undef FFN
};

static const char *architecture(const sl_config *c) {
    bool rope_layers = c->model_rope_layers.n > 1 || c->model_rope_layers.of[0] != SL_LAYER_ROPE;
    bool known = sl_norm_traits[c->model_norm] & SL_NORM_LLAMA && sl_mixer_first(c, false) < 0 &&
                 !strcmp(sl_choices_attention[c->model_attention].name, "softmax") &&
                 c->attention_gate == SL_ATTENTION_GATE_NONE && c->attention_window == 0 &&
                 sl_config_has_ffn(c) && sl_ffn_gated[c->model_ffn_kind] && c->model_rope_base > 0 &&
                 c->model_norm_place == SL_PLACE_PRE && !c->norm_preaffine && !c->norm_zero_centred &&
                 !c->model_embed_scale && sl_config_clip(c) == 0 && c->model_sink_nullify == 0 &&
                 c->model_attention_bias == SL_ATTENTION_BIAS_NONE && !c->model_ffn_bias && !c->model_head_bias &&
                 c->model_rope_dims == 0 && c->model_rope_scaling == SL_ROPE_SCALING_NONE && c->attention_scale == 0 &&
                 c->model_embed_multiplier == 0 && !rope_layers && c->model_learned_positions == 0 &&
                 c->attention_softcap == 0 && c->model_logit_softcap == 0 &&
                 c->model_block == SL_BLOCK_SEQUENTIAL && !(c->model_qk_norm && c->model_qk_norm_span);
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
    bool known = c->data_bos && (task || !strcmp(c->data_tokenizer, "bytes"));
    json_t *v =
        json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:i, s:s, s:b, s:b, s:o, s:n, s:n, "
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
                  "hidden_act", sl_config_has_ffn(c) ? hidden_act[c->model_ffn_kind] : "silu", "attention_bias", 0,
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

/* ---------------------------------------------------------------- reading */

typedef struct {
    const json_t *v;
    const char *name;
} source;

static const char *const must_be_off[] = {"attention_bias", "mlp_bias", "use_sliding_window"};
static const char *const must_be_absent[] = {"rope_scaling", "quantization_config"};

static int whole(const source *s, const char *key, int64_t fallback, int64_t *out) {
    const json_t *v = json_object_get(s->v, key);
    if ((!v || json_is_null(v)) && fallback >= 0) {
        *out = fallback;
        return 0;
    }
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return sl_fail("%s: %s: a whole number is needed", s->name, key);
    *out = json_integer_value(v);
    return 0;
}

static int number(const source *s, const json_t *v, const char *key, double fallback, double *out) {
    *out = v && !json_is_null(v) ? json_number_value(v) : fallback;
    if (v && !json_is_null(v) && !json_is_number(v))
        return sl_fail("%s: %s: a number is needed", s->name, key);
    return 0;
}

/* Every layer is a mixture; weights are scaled to sum 1 exactly where ours are. */
static int read_experts(const source *s, sl_config *c) {
    const json_t *scaled = json_object_get(s->v, "norm_topk_prob"), *dense = json_object_get(s->v, "mlp_only_layers");
    /* transformers 4 writes num_experts, transformers 5 num_local_experts. */
    const char *experts = json_object_get(s->v, "num_experts") ? "num_experts" : "num_local_experts";
    int64_t step = 1;
    if (whole(s, experts, -1, &c->model_experts) < 0 ||
        whole(s, "num_experts_per_tok", -1, &c->model_experts_per_token) < 0 ||
        whole(s, "moe_intermediate_size", -1, &c->model_expert_ffn) < 0 ||
        whole(s, "decoder_sparse_step", 1, &step) < 0)
        return -1;
    if (c->model_experts == 0 || c->model_expert_ffn == 0 || step != 1 || json_array_size(dense) > 0)
        return sl_fail("%s: num_experts, moe_intermediate_size, decoder_sparse_step, mlp_only_layers: only mixtures in "
                       "every layer are supported", s->name);
    if (json_is_true(scaled) != (c->model_experts_per_token > 1))
        return sl_fail("%s: norm_topk_prob: only true is supported (false with one expert a token)", s->name);
    return 0;
}

static int read_architecture(const source *s, sl_config *c) {
    char quoted[SL_QUOTE_CHARS];
    const json_t *list = json_object_get(s->v, "architectures");
    const char *arch = json_string_value(json_array_get(list, 0));
    bool moe = arch && !strcmp(arch, "Qwen3MoeForCausalLM");
    if (!arch || (!moe && strcmp(arch, "LlamaForCausalLM") && strcmp(arch, "Qwen3ForCausalLM")))
        return sl_fail("%s: architectures: %s is not supported; LlamaForCausalLM, Qwen3ForCausalLM and "
                       "Qwen3MoeForCausalLM are",
                       s->name, arch ? sl_quote(quoted, arch) : "none given, which");
    const char *type = json_string_value(json_object_get(s->v, "model_type"));
    const char *its = moe ? "qwen3_moe" : *arch == 'Q' ? "qwen3" : "llama";
    if (type && strcmp(type, its))
        return sl_fail("%s: model_type: %s, but %s is a %s", s->name, sl_quote(quoted, type), arch, its);
    c->model_qk_norm = *arch == 'Q';
    return moe ? read_experts(s, c) : 0;
}

/* transformers 4 writes rope_theta and rope_scaling, transformers 5 both within rope_parameters. */
static int read_rope(const source *s, sl_config *c) {
    const json_t *rope = json_object_get(s->v, "rope_parameters"), *base = NULL;
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    if (type && strcmp(type, "default"))
        return sl_fail("%s: rope_parameters.rope_type: only \"default\" is supported", s->name);
    base = json_object_get(rope, "rope_theta");
    if (!base)
        base = json_object_get(s->v, "rope_theta");
    double partial;
    if (number(s, base, "rope_theta", 10000, &c->model_rope_base) < 0 ||
        number(s, json_object_get(s->v, "partial_rotary_factor"), "partial_rotary_factor", 1,
               &partial) < 0)
        return -1;
    if (partial != 1)
        return sl_fail("%s: partial_rotary_factor: only 1 is supported", s->name);
    if (!(c->model_rope_base > 0 && c->model_rope_base <= 1e9))
        return sl_fail("%s: rope_theta: a number above 0 and up to 1e9 is needed", s->name);
    return 0;
}

static int refuse_unsupported(const source *s) {
    for (size_t i = 0; i < sizeof must_be_off / sizeof *must_be_off; i++) {
        const json_t *v = json_object_get(s->v, must_be_off[i]);
        if (v && !json_is_false(v) && !json_is_null(v))
            return sl_fail("%s: %s is not supported; only false is", s->name, must_be_off[i]);
    }
    for (size_t i = 0; i < sizeof must_be_absent / sizeof *must_be_absent; i++) {
        const json_t *v = json_object_get(s->v, must_be_absent[i]);
        if (v && !json_is_null(v))
            return sl_fail("%s: %s is not supported; only models without it are", s->name,
                           must_be_absent[i]);
    }
    const json_t *types = json_object_get(s->v, "layer_types"), *type;
    size_t i;
    json_array_foreach(types, i, type) {
        const char *t = json_string_value(type);
        if (!t || strcmp(t, "full_attention"))
            return sl_fail("%s: layer_types: only \"full_attention\" is supported", s->name);
    }
    return 0;
}

static int read_activation(const source *s, sl_config *c) {
    const char *act = json_string_value(json_object_get(s->v, "hidden_act"));
    if (!act)
        return 0;
    for (c->model_ffn_kind = 0; c->model_ffn_kind < SL_FFN_KINDS; c->model_ffn_kind++)
        if (sl_ffn_gated[c->model_ffn_kind] &&
            !strcmp(hidden_act[c->model_ffn_kind], strcmp(act, "swish") ? act : "silu"))
            return 0;
    char quoted[SL_QUOTE_CHARS], list[256] = "";
    for (size_t i = 0; i < SL_FFN_KINDS; i++)
        if (sl_ffn_gated[i])
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s\"%s\"", i ? ", " : "", hidden_act[i]);
    return sl_fail("%s: hidden_act: %s is not supported; %s are", s->name, sl_quote(quoted, act), list);
}

static int read_fields(const source *s, sl_config *c) {
    const json_t *tie = json_object_get(s->v, "tie_word_embeddings");
    c->model_tie_embeddings = json_is_true(tie);
    if (tie && !json_is_boolean(tie))
        return sl_fail("%s: tie_word_embeddings: true or false is needed", s->name);
    if (read_architecture(s, c) < 0 || refuse_unsupported(s) < 0 || read_activation(s, c) < 0 ||
        read_rope(s, c) < 0 ||
        whole(s, "num_hidden_layers", -1, &c->model_layers) < 0 ||
        whole(s, "hidden_size", -1, &c->model_dim) < 0 ||
        whole(s, "intermediate_size", -1, &c->model_ffn) < 0 ||
        whole(s, "num_attention_heads", -1, &c->model_heads) < 0 ||
        whole(s, "num_key_value_heads", 0, &c->model_kv_heads) < 0 ||
        whole(s, "head_dim", 0, &c->model_head_dim) < 0 ||
        whole(s, "max_position_embeddings", c->model_seq, &c->model_seq) < 0)
        return -1;
    return number(s, json_object_get(s->v, "rms_norm_eps"), "rms_norm_eps", 1e-6, &c->norm_eps);
}

/* What our own parser checks as it reads. */
static int check_values(const source *s, const sl_config *c) {
    if (sl_config_check_ranges(c, s->name))
        return -1;
    if (c->norm_eps < 0 || c->norm_eps > 1)
        return sl_fail("%s: rms_norm_eps: a number from 0 to 1 is needed", s->name);
    return 0;
}

/* 0 where it is not given: no table has that many rows. */
static int read_vocab(const source *s, int64_t *vocab) {
    if (whole(s, "vocab_size", 0, vocab) < 0)
        return -1;
    *vocab = *vocab ? *vocab : -1;
    return 0;
}

int sl_hf_config_parse(const void *text, size_t n, const char *name, sl_config *c, int64_t *vocab) {
    json_error_t e;
    source s = {json_loadb(text, n, JSON_REJECT_DUPLICATES, &e), name};
    sl_config_defaults(c);
    int rc;
    if (!json_is_object(s.v))
        rc = sl_fail("%s:%d: not a JSON object with unique keys", name, e.line);
    else
        rc = read_fields(&s, c) < 0 ? -1 : read_vocab(&s, vocab);
    json_decref((json_t *)(uintptr_t)s.v);
    if (rc < 0 || check_values(&s, c) < 0)
        return -1;
    return sl_config_check(c) < 0 ? sl_fail_prefix("%s", name) : 0;
}
