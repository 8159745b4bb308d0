/* Gemma 3, text (arXiv 2503.19786): norms before and behind both halves of a block, one on each query and key head, all
 * with gain 1 + weight; embeddings times sqrt(dim); GELU-gated feed-forward; windows in all layers but every sixth,
 * each kind with a rotary base of its own. GGUF has the 1 added to the weights already. */
#include "base/err.h"
#include "families/kind.h"

#include <math.h>
#include <string.h>

enum { PATTERN = 6, LAYERS = 1024 };
static const double base_window = 10000, base_full = 1e6;
static const char activation[] = "gelu_pytorch_tanh";

static void set_constants(sl_config *c) {
    c->model_norm_place = SL_PLACE_SANDWICH;
    c->model_qk_norm = true;
    c->model_embed_multiplier = sqrt((double)c->model_dim);
}

/* Every `pattern`-th layer sees all. */
static int set_pattern(const char *name, int64_t pattern, sl_config *c) {
    uint8_t of[LAYERS];
    if (pattern < 1 || c->model_layers > LAYERS)
        return sl_fail("%s: sliding_window_pattern: 1 or more is needed, of at most %d layers", name, LAYERS);
    for (int64_t i = 0; i < c->model_layers; i++)
        of[i] = (i + 1) % pattern ? SL_LAYER_WINDOW : SL_LAYER_FULL;
    return sl_list_of_layers(name, of, c->model_layers, &c->attention_window_layers);
}

/* transformers 5 has an object for each kind of layer, 4 keys of its own for the windows. */
static int read_rope(const sl_hf *s, sl_config *c) {
    const json_t *v = sl_hf_get(s, "rope_parameters");
    const json_t *window = json_object_get(v, "sliding_attention"), *full = json_object_get(v, "full_attention");
    const sl_hf in = {window, s->name};
    static const char *const off[] = {"factor", NULL};
    double base = 0, local = 0;
    if (v && !full)
        return sl_fail("%s: rope_parameters: full_attention is missing", s->name);
    return sl_hf_real(s, "rope_theta", base_full, &base) ||
                   sl_hf_rope_object(s, v ? full : sl_hf_get(s, "rope_scaling"), base, 1, c) ||
                   sl_hf_real(s, "rope_local_base_freq", base_window, &local) ||
                   sl_hf_real(&in, "rope_theta", local, &c->model_rope_base_window) || sl_hf_off(&in, off)
               ? -1
               : 0;
}

static int read_windows(const sl_hf *s, sl_config *c) {
    int64_t pattern = 0;
    if (sl_hf_get(s, "layer_types"))
        return sl_hf_layer_types(s, c);
    return sl_hf_whole(s, "sliding_window", -1, &c->attention_window) ||
                   sl_hf_whole(s, "sliding_window_pattern", PATTERN, &pattern) || set_pattern(s->name, pattern, c)
               ? -1
               : 0;
}

static int from_hf(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"attn_logit_softcapping", "final_logit_softcapping",
                                      "use_bidirectional_attention", NULL};
    double scalar = 0;
    if (sl_hf_off(s, off) || sl_hf_sizes(s, true, c) || sl_hf_ffn(s, "hidden_activation", activation, true, c) ||
        sl_hf_bias(s, c) || read_windows(s, c) || read_rope(s, c) ||
        sl_hf_real(s, "query_pre_attn_scalar", 256, &scalar))
        return -1;
    if (!(scalar > 0))
        return sl_fail("%s: query_pre_attn_scalar: a number above 0 is needed", s->name);
    c->attention_scale = 1 / sqrt(scalar);
    set_constants(c);
    return 0;
}

/* Neither the pattern nor the base of windows need be said; the scale is not: of the largest model, of 62 layers, it
 * goes by dim / heads, of all others by the width of a head. */
static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    static const char *const more[] = {"attention.sliding_window", "attention.sliding_window_pattern",
                                       "rope.freq_base_swa", NULL};
    int64_t pattern = 0;
    if (sl_ffn_named(sl_gguf_name(k->f), activation, true, c) || sl_keys_sizes(k, c) ||
        sl_keys_whole(k, "attention.sliding_window", -1, &c->attention_window) ||
        sl_keys_whole(k, "attention.sliding_window_pattern", PATTERN, &pattern) ||
        set_pattern(sl_gguf_name(k->f), pattern, c) || sl_keys_rope(k, c) ||
        sl_keys_real(k, "rope.freq_base_swa", base_window, &c->model_rope_base_window) || sl_keys_check(k, more))
        return -1;
    c->attention_scale =
        1 / sqrt((double)(c->model_layers == 62 ? c->model_dim / c->model_heads : sl_config_head_dim(c)));
    set_constants(c);
    return 0;
}

static const sl_place hf_places[] = {
    {"model.norm", "model.norm", SL_PLACE_ADD_ONE, 0, 0},
    {"model.layers.*.input_layernorm", "model.layers.*.input_layernorm", SL_PLACE_ADD_ONE, 0, 0},
    {"model.layers.*.post_attention_layernorm", "model.layers.*.post_attention_layernorm", SL_PLACE_ADD_ONE, 0, 0},
    {"model.layers.*.pre_feedforward_layernorm", "model.layers.*.pre_feedforward_layernorm", SL_PLACE_ADD_ONE, 0, 0},
    {"model.layers.*.post_feedforward_layernorm", "model.layers.*.post_feedforward_layernorm", SL_PLACE_ADD_ONE, 0, 0},
    {"model.layers.*.self_attn.q_norm", "model.layers.*.self_attn.q_norm", SL_PLACE_ADD_ONE, 0, 0},
    {"model.layers.*.self_attn.k_norm", "model.layers.*.self_attn.k_norm", SL_PLACE_ADD_ONE, 0, 0},
    {NULL, NULL, 0, 0, 0}};
static const sl_place gguf_places[] = {
    {"model.layers.*.post_attention_layernorm", "blk.*.post_attention_norm", 0, 0, 0},
    {"model.layers.*.pre_feedforward_layernorm", "blk.*.ffn_norm", 0, 0, 0},
    {"model.layers.*.post_feedforward_layernorm", "blk.*.post_ffw_norm", 0, 0, 0},
    {NULL, NULL, 0, 0, 0}};

const sl_family sl_family_gemma3 = {from_hf, from_gguf, hf_places, gguf_places, NULL, NULL};
