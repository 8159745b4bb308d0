/* Mamba-2 (arXiv 2405.21060): recurrent blocks without feed-forward, attention or positions. */
#include "base/err.h"
#include "families/kind.h"

#include <string.h>

static int read_sizes(const sl_hf *s, sl_config *c) {
    int64_t heads = 0;
    if (sl_hf_whole(s, "num_hidden_layers", -1, &c->model_layers) ||
        sl_hf_whole(s, "hidden_size", -1, &c->model_dim) || sl_hf_whole(s, "expand", 2, &c->mamba2_expand) ||
        sl_hf_whole(s, "head_dim", 64, &c->mamba2_head_dim) || sl_hf_whole(s, "num_heads", 128, &heads) ||
        sl_hf_whole(s, "state_size", 128, &c->mamba2_state) || sl_hf_whole(s, "n_groups", 8, &c->mamba2_groups) ||
        sl_hf_whole(s, "conv_kernel", 4, &c->mamba2_conv) ||
        sl_hf_whole(s, "max_position_embeddings", c->model_seq, &c->model_seq) ||
        sl_hf_real(s, "layer_norm_epsilon", 1e-5, &c->norm_eps) ||
        sl_hf_bool(s, "tie_word_embeddings", false, &c->model_tie_embeddings))
        return -1;
    if (c->model_dim > 1 << 20 || c->mamba2_expand > 1 << 10 || c->mamba2_head_dim > 1 << 20 || heads > 1 << 20 ||
        heads * c->mamba2_head_dim != c->mamba2_expand * c->model_dim)
        return sl_fail("%s: num_heads: num_heads times head_dim must be expand times hidden_size", s->name);
    return 0;
}

/* Limits on dt, which are [0, infinity] in models that have none. transformers 5 writes infinity as an object; what 4
 * wrote comes as the largest number (foreign.c). */
static int check_limits(const sl_hf *s) {
    const json_t *v = sl_hf_get(s, "time_step_limit"), *low = json_array_get(v, 0), *high = json_array_get(v, 1);
    const char *infinite = json_string_value(json_object_get(high, "__float__"));
    bool none = json_is_number(low) && json_number_value(low) == 0 &&
                ((infinite && !strcmp(infinite, "Infinity")) ||
                 json_number_value(high) > 1e308);
    return !v || none ? 0 : sl_fail("%s: time_step_limit: only [0, infinity] is supported", s->name);
}

static int from_hf(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"use_bias", NULL}, *const on[] = {"use_conv_bias", "rms_norm", NULL};
    const char *act = json_string_value(sl_hf_get(s, "hidden_act"));
    c->model_heads = 1; /* of attention: there is none */
    c->model_rope_base = 0;
    c->model_ffn = 0;
    while (strcmp(sl_choices_mixer[c->model_mixer.of[0]].name, "mamba2") != 0)
        c->model_mixer.of[0]++;
    if (act && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return sl_fail("%s: hidden_act: only \"silu\" is supported", s->name);
    return sl_hf_off(s, off) || sl_hf_on(s, on) || read_sizes(s, c) || check_limits(s) ? -1 : 0;
}

#define OF_BLOCK(ours, theirs)                                                                                         \
    { "model.layers.*." ours, "backbone.layers.*." theirs, 0, 0, 0 }
static const sl_place hf_places[] = {{"model.embed_tokens", "backbone.embeddings", 0, 0, 0},
                                     {"model.norm", "backbone.norm_f", 0, 0, 0},
                                     OF_BLOCK("input_layernorm", "norm"),
                                     OF_BLOCK("mixer", "mixer"), /* A_log, D and dt_bias */
                                     OF_BLOCK("mixer.in_proj", "mixer.in_proj"),
                                     OF_BLOCK("mixer.conv1d", "mixer.conv1d"),
                                     OF_BLOCK("mixer.norm", "mixer.norm"),
                                     OF_BLOCK("mixer.out_proj", "mixer.out_proj"),
                                     {NULL, NULL, 0, 0, 0}};

const sl_family sl_family_mamba2 = {from_hf, NULL, hf_places, NULL, NULL, "backbone.", NULL};
