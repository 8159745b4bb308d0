/* Gemma 2 (arXiv 2408.00118): norms before and behind both halves of a block, all with gain 1 + weight; embeddings
 * times sqrt(dim); GELU-gated feed-forward; windows in every other layer; caps on scores and logits. GGUF has the 1
 * added to the weights already. Of all but the caps Gemma 3 is too. */
#include "base/err.h"
#include "families/kind.h"

#include <math.h>

enum { PATTERN = 2, LAYERS = 1024, LARGEST = 46 };
static const double score_cap = 50, logit_cap = 30;
static const char activation[] = "gelu_pytorch_tanh";

/* ---------------------------------------------------------------- of both */

static void set_constants(sl_config *c) {
    c->model_norm_place = SL_PLACE_SANDWICH;
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

static int read_windows(const sl_hf *s, int64_t pattern, sl_config *c) {
    if (sl_hf_get(s, "layer_types"))
        return sl_hf_layer_types(s, c);
    return sl_hf_whole(s, "sliding_window", -1, &c->attention_window) ||
                   sl_hf_whole(s, "sliding_window_pattern", pattern, &pattern) || set_pattern(s->name, pattern, c)
               ? -1
               : 0;
}

int sl_gemma_from_hf(const sl_hf *s, int64_t pattern, sl_config *c) {
    static const char *const off[] = {"use_bidirectional_attention", NULL};
    double scalar = 0;
    if (sl_hf_off(s, off) || sl_hf_sizes(s, true, c) || sl_hf_ffn(s, "hidden_activation", activation, true, c) ||
        sl_hf_bias(s, c) || read_windows(s, pattern, c) || sl_hf_real(s, "query_pre_attn_scalar", 256, &scalar))
        return -1;
    if (!(scalar > 0))
        return sl_fail("%s: query_pre_attn_scalar: a number above 0 is needed", s->name);
    c->attention_scale = 1 / sqrt(scalar);
    set_constants(c);
    return 0;
}

/* Neither the pattern nor the scale need be said. */
int sl_gemma_from_gguf(const sl_gguf_keys *k, int64_t pattern, int64_t largest, sl_config *c) {
    const char *name = sl_gguf_name(k->f);
    if (sl_ffn_named(name, activation, true, c) || sl_keys_sizes(k, c) ||
        sl_keys_whole(k, "attention.sliding_window", -1, &c->attention_window) ||
        sl_keys_whole(k, "attention.sliding_window_pattern", pattern, &pattern) || set_pattern(name, pattern, c) ||
        sl_keys_rope(k, c))
        return -1;
    c->attention_scale =
        1 / sqrt((double)(c->model_layers == largest ? c->model_dim / c->model_heads : sl_config_head_dim(c)));
    set_constants(c);
    return 0;
}

#define OF_BLOCK(part)                                                                                                 \
    { "model.layers.*." part, "model.layers.*." part, SL_PLACE_ADD_ONE, 0, 0 }
const sl_place sl_gemma_hf_places[] = {{"model.norm", "model.norm", SL_PLACE_ADD_ONE, 0, 0},
                                       OF_BLOCK("input_layernorm"),
                                       OF_BLOCK("post_attention_layernorm"),
                                       OF_BLOCK("pre_feedforward_layernorm"),
                                       OF_BLOCK("post_feedforward_layernorm"),
                                       OF_BLOCK("self_attn.q_norm"),
                                       OF_BLOCK("self_attn.k_norm"),
                                       {NULL, NULL, 0, 0, 0}};
const sl_place sl_gemma_gguf_places[] = {
    {"model.layers.*.post_attention_layernorm", "blk.*.post_attention_norm", 0, 0, 0},
    {"model.layers.*.pre_feedforward_layernorm", "blk.*.ffn_norm", 0, 0, 0},
    {"model.layers.*.post_feedforward_layernorm", "blk.*.post_ffw_norm", 0, 0, 0},
    {NULL, NULL, 0, 0, 0}};

/* ---------------------------------------------------------------- Gemma 2 */

/* null is no cap, an absent key the cap of the released models. */
static int read_cap(const sl_hf *s, const char *key, double released, double *cap) {
    return sl_hf_real(s, key, json_object_get(s->v, key) ? 0 : released, cap);
}

static int from_hf(const sl_hf *s, sl_config *c) {
    return sl_gemma_from_hf(s, PATTERN, c) || sl_hf_rope(s, c) ||
                   read_cap(s, "attn_logit_softcapping", score_cap, &c->attention_softcap) ||
                   read_cap(s, "final_logit_softcapping", logit_cap, &c->model_logit_softcap)
               ? -1
               : 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    static const char *const more[] = {"attention.sliding_window", "attention.sliding_window_pattern",
                                       "attn_logit_softcapping", "final_logit_softcapping", NULL};
    return sl_gemma_from_gguf(k, PATTERN, LARGEST, c) ||
                   sl_keys_real(k, "attn_logit_softcapping", score_cap, &c->attention_softcap) ||
                   sl_keys_real(k, "final_logit_softcapping", logit_cap, &c->model_logit_softcap) ||
                   sl_keys_check(k, more)
               ? -1
               : 0;
}

const sl_family sl_family_gemma2 = {from_hf, from_gguf, sl_gemma_hf_places, sl_gemma_gguf_places, NULL, NULL, NULL};
