/* config.json of transformers. */
#include "base/err.h"
#include "base/text.h"
#include "families/foreign.h"
#include "families/kind.h"

#include <string.h>

const char *const sl_hf_activation[] = {
#define FFN(name, gated, act, other, hf, help) hf,
#include "simd/ffn.inc"
#undef FFN
};

const json_t *sl_hf_get(const sl_hf *s, const char *key) {
    const json_t *v = json_object_get(s->v, key);
    return json_is_null(v) ? NULL : v;
}

int sl_hf_whole(const sl_hf *s, const char *key, int64_t fallback, int64_t *v) {
    const json_t *x = sl_hf_get(s, key);
    if (x ? !json_is_integer(x) || json_integer_value(x) < 0 : fallback < 0)
        return sl_fail("%s: %s: a whole number is needed", s->name, key);
    *v = x ? json_integer_value(x) : fallback;
    return 0;
}

int sl_hf_real(const sl_hf *s, const char *key, double fallback, double *v) {
    const json_t *x = sl_hf_get(s, key);
    if (x && !json_is_number(x))
        return sl_fail("%s: %s: a number is needed", s->name, key);
    *v = x ? json_number_value(x) : fallback;
    return 0;
}

int sl_hf_bool(const sl_hf *s, const char *key, bool fallback, bool *v) {
    const json_t *x = sl_hf_get(s, key);
    if (x && !json_is_boolean(x))
        return sl_fail("%s: %s: true or false is needed", s->name, key);
    *v = x ? json_is_true(x) : fallback;
    return 0;
}

int sl_hf_off(const sl_hf *s, const char *const *keys) {
    for (; *keys; keys++) {
        const json_t *x = sl_hf_get(s, *keys);
        if (x && !json_is_false(x) && !(json_is_number(x) && json_number_value(x) == 0))
            return sl_fail("%s: %s is not supported; only models without it are", s->name, *keys);
    }
    return 0;
}

int sl_hf_on(const sl_hf *s, const char *const *keys) {
    for (; *keys; keys++) {
        const json_t *x = sl_hf_get(s, *keys);
        if (x && !json_is_true(x))
            return sl_fail("%s: %s: only true is supported", s->name, *keys);
    }
    return 0;
}

int sl_hf_sizes(const sl_hf *s, bool tied, sl_config *c) {
    if (sl_hf_whole(s, "num_hidden_layers", -1, &c->model_layers) || sl_hf_whole(s, "hidden_size", -1, &c->model_dim) ||
        sl_hf_whole(s, "intermediate_size", -1, &c->model_ffn) ||
        sl_hf_whole(s, "num_attention_heads", -1, &c->model_heads) ||
        sl_hf_whole(s, "num_key_value_heads", 0, &c->model_kv_heads) ||
        sl_hf_whole(s, "head_dim", 0, &c->model_head_dim) ||
        sl_hf_whole(s, "max_position_embeddings", c->model_seq, &c->model_seq) ||
        sl_hf_bool(s, "tie_word_embeddings", tied, &c->model_tie_embeddings) ||
        sl_hf_real(s, "rms_norm_eps", 1e-6, &c->norm_eps))
        return -1;
    return c->norm_eps >= 0 && c->norm_eps <= 1 ? 0
                                                : sl_fail("%s: rms_norm_eps: a number from 0 to 1 is needed", s->name);
}

int sl_ffn_named(const char *where, const char *act, bool gated, sl_config *c) {
    act = !strcmp(act, "swish") ? "silu" : !strcmp(act, "gelu_new") ? "gelu_pytorch_tanh" : act;
    for (c->model_ffn_kind = 0; c->model_ffn_kind < SL_FFN_KINDS; c->model_ffn_kind++)
        if (sl_ffn_gated[c->model_ffn_kind] == gated && sl_hf_activation[c->model_ffn_kind] &&
            !strcmp(sl_hf_activation[c->model_ffn_kind], act))
            return 0;
    char quoted[SL_QUOTE_CHARS], list[256] = "";
    for (size_t i = 0; i < SL_FFN_KINDS; i++)
        if (sl_ffn_gated[i] == gated && sl_hf_activation[i])
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s\"%s\"", *list ? ", " : "",
                     sl_hf_activation[i]);
    return sl_fail("%s: %s is not supported; %s are", where, sl_quote(quoted, act), list);
}

int sl_hf_ffn(const sl_hf *s, const char *key, const char *fallback, bool gated, sl_config *c) {
    const json_t *v = sl_hf_get(s, key);
    char where[SL_CONFIG_STR];
    if (v && !json_is_string(v))
        return sl_fail("%s: %s: the name of a function is needed", s->name, key);
    snprintf(where, sizeof where, "%s: %s", s->name, key);
    return sl_ffn_named(where, v ? json_string_value(v) : fallback, gated, c);
}

void sl_set_layernorm(sl_config *c) {
    for (c->model_norm = 0; strcmp(sl_choices_norm[c->model_norm].name, "layernorm") != 0;)
        c->model_norm++;
    c->norm_bias = true;
    c->model_attention_bias = SL_ATTENTION_BIAS_ALL;
    c->model_ffn_bias = true;
}

int sl_hf_bias(const sl_hf *s, sl_config *c) {
    bool attention = false;
    if (sl_hf_bool(s, "attention_bias", false, &attention) || sl_hf_bool(s, "mlp_bias", false, &c->model_ffn_bias))
        return -1;
    c->model_attention_bias = attention ? SL_ATTENTION_BIAS_ALL : SL_ATTENTION_BIAS_NONE;
    return 0;
}

/* ---------------------------------------------------------------- layers */

int sl_list_of_layers(const char *name, const uint8_t *of, int64_t layers, sl_choice_list *list) {
    for (int64_t n = 1; n <= SL_LIST_MOST; n++) {
        int64_t i = 0;
        while (i < layers && of[i] == of[i % n])
            i++;
        if (i < layers)
            continue;
        list->n = (uint8_t)n;
        memcpy(list->of, of, (size_t)(n < layers ? n : layers));
        return 0;
    }
    return sl_fail("%s: the kinds of its layers repeat after no %d or fewer", name, SL_LIST_MOST);
}

int sl_hf_layer_types(const sl_hf *s, sl_config *c) {
    const json_t *types = sl_hf_get(s, "layer_types"), *type;
    uint8_t of[1024];
    size_t i, windows = 0;
    if (!types)
        return 0;
    if (!json_is_array(types) || json_array_size(types) != (size_t)c->model_layers || c->model_layers > 1024)
        return sl_fail("%s: layer_types: a list of num_hidden_layers kinds is needed", s->name);
    json_array_foreach(types, i, type) {
        const char *t = json_string_value(type);
        if (!t || (strcmp(t, "full_attention") != 0 && strcmp(t, "sliding_attention") != 0))
            return sl_fail("%s: layer_types: only \"full_attention\" and \"sliding_attention\" are supported", s->name);
        of[i] = *t == 'f' ? SL_LAYER_FULL : SL_LAYER_WINDOW;
        windows += *t == 's';
    }
    if (windows == 0)
        return 0;
    if (sl_hf_whole(s, "sliding_window", -1, &c->attention_window))
        return -1;
    if (c->attention_window < 1)
        return sl_fail("%s: sliding_window: 1 or more is needed", s->name);
    return sl_list_of_layers(s->name, of, c->model_layers, &c->attention_window_layers);
}

/* ---------------------------------------------------------------- rotary embedding */

static int read_llama3(const sl_hf *s, sl_config *c) {
    return sl_hf_real(s, "low_freq_factor", 1, &c->rope_scaling_low) ||
                   sl_hf_real(s, "high_freq_factor", 4, &c->rope_scaling_high) ||
                   sl_hf_whole(s, "original_max_position_embeddings", -1, &c->rope_scaling_original)
               ? -1
               : 0;
}

static int read_yarn(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"mscale", "mscale_all_dim", NULL};
    return sl_hf_off(s, off) || sl_hf_real(s, "beta_fast", 32, &c->rope_scaling_beta_fast) ||
                   sl_hf_real(s, "beta_slow", 1, &c->rope_scaling_beta_slow) ||
                   sl_hf_bool(s, "truncate", true, &c->rope_scaling_truncate) ||
                   sl_hf_real(s, "attention_factor", 0, &c->rope_scaling_attention_factor) ||
                   sl_hf_whole(s, "original_max_position_embeddings", -1, &c->rope_scaling_original)
               ? -1
               : 0;
}

static int read_scaling(const sl_hf *s, const char *type, sl_config *c) {
    static const struct {
        const char *type;
        int scaling;
        int (*read)(const sl_hf *s, sl_config *c); /* what it has besides the factor; or NULL */
    } known[] = {{"linear", SL_ROPE_SCALING_LINEAR, NULL},
                 {"llama3", SL_ROPE_SCALING_LLAMA3, read_llama3},
                 {"yarn", SL_ROPE_SCALING_YARN, read_yarn}};
    char quoted[SL_QUOTE_CHARS];
    if (!strcmp(type, "default"))
        return 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(type, known[i].type) != 0)
            continue;
        c->model_rope_scaling = known[i].scaling;
        if (sl_hf_real(s, "factor", 0, &c->rope_scaling_factor) || (known[i].read && known[i].read(s, c)))
            return -1;
        return c->rope_scaling_factor >= 1 ? 0 : sl_fail("%s: rope factor: a number from 1 on is needed", s->name);
    }
    return sl_fail("%s: rope_type: %s is not supported; \"default\", \"linear\", \"llama3\" and \"yarn\" are", s->name,
                   sl_quote(quoted, type));
}

static int check_base(const sl_hf *s, double base) {
    return base > 0 && base <= 1e9 ? 0 : sl_fail("%s: rope_theta: a number above 0 and up to 1e9 is needed", s->name);
}

int sl_hf_rope_object(const sl_hf *s, const json_t *v, double base, double share, sl_config *c) {
    const sl_hf in = {v, s->name};
    const char *type = json_string_value(sl_hf_get(&in, sl_hf_get(&in, "rope_type") ? "rope_type" : "type"));
    if (v && !json_is_object(v))
        return sl_fail("%s: rope_scaling, rope_parameters: an object is needed", s->name);
    if (sl_hf_real(&in, "rope_theta", base, &c->model_rope_base) || check_base(s, c->model_rope_base) ||
        sl_hf_real(&in, "partial_rotary_factor", share, &share))
        return -1;
    if (!(share > 0 && share <= 1))
        return sl_fail("%s: partial_rotary_factor, rotary_pct: a number above 0 and up to 1 is needed", s->name);
    c->model_rope_dims = share < 1 && c->model_heads > 0 ? (int64_t)(share * (double)sl_config_head_dim(c)) : 0;
    if (share < 1 && c->model_heads > 0 && c->model_rope_dims == 0)
        return sl_fail("%s: partial_rotary_factor, rotary_pct: less than a channel of a head", s->name);
    if (!type && sl_hf_get(&in, "factor"))
        return sl_fail("%s: rope_scaling: a factor without rope_type", s->name);
    return type ? read_scaling(&in, type, c) : 0;
}

int sl_hf_rope_part(const sl_hf *s, double share, sl_config *c) {
    const json_t *v = sl_hf_get(s, "rope_parameters");
    double base = 0;
    return sl_hf_real(s, "rope_theta", c->model_rope_base, &base) ||
                   sl_hf_real(s, "partial_rotary_factor", share, &share) ||
                   sl_hf_rope_object(s, v ? v : sl_hf_get(s, "rope_scaling"), base, share, c)
               ? -1
               : 0;
}

int sl_hf_rope(const sl_hf *s, sl_config *c) {
    if (sl_hf_rope_part(s, 1, c))
        return -1;
    return c->model_rope_dims == 0 ? 0 : sl_fail("%s: partial_rotary_factor: only 1 is supported", s->name);
}
