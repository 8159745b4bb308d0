/* gpt-oss (arXiv 2508.10925): a mixture of experts in every layer, with biases and a clamped SwiGLU; a learned logit
 * that joins each head's softmax; windows in every other layer, from the first one on; YaRN. Matrices of experts are
 * stacked, and MXFP4 or plain numbers. */
#include "base/err.h"
#include "families/kind.h"

enum { LAYERS = 1024 };

/* What every one has. The weights of the chosen are a softmax over their scores alone, as ours scaled to sum 1 are,
 * but for a single one, which is not scaled. */
static int set_parts(const char *name, sl_config *c) {
    c->model_attention = SL_ATTENTION_sink_logit;
    c->model_ffn_kind = SL_FFN_swiglu_clamped;
    c->model_ffn_bias = true;
    c->model_router_bias = true;
    return c->model_experts_per_token > 1 ? 0 : sl_fail("%s: at least 2 experts a token are supported", name);
}

static int set_windows(const char *name, sl_config *c) {
    uint8_t of[LAYERS];
    if (c->model_layers > LAYERS)
        return sl_fail("%s: at most %d layers are supported", name, LAYERS);
    for (int64_t i = 0; i < c->model_layers; i++)
        of[i] = i % 2 ? SL_LAYER_FULL : SL_LAYER_WINDOW;
    return sl_list_of_layers(name, of, c->model_layers, &c->attention_window_layers);
}

static int read_experts(const sl_hf *s, sl_config *c) {
    double alpha = 0, limit = 0;
    if (sl_hf_ffn(s, "hidden_act", "silu", true, c) ||
        sl_hf_whole(s, "num_local_experts", -1, &c->model_experts) ||
        sl_hf_whole(s, "num_experts_per_tok", -1, &c->model_experts_per_token) ||
        sl_hf_real(s, "swiglu_alpha", 1.702, &alpha) || sl_hf_real(s, "swiglu_limit", 7, &limit))
        return -1;
    c->model_expert_ffn = c->model_ffn;
    if (c->model_ffn_kind != SL_FFN_swiglu)
        return sl_fail("%s: hidden_act: only \"silu\" is supported", s->name);
    if (alpha != 1.702 || limit != 7)
        return sl_fail("%s: swiglu_alpha, swiglu_limit: only 1.702 and 7 are supported", s->name);
    return c->model_experts > 0 ? 0 : sl_fail("%s: num_local_experts: 1 or more is needed", s->name);
}

static int read_attention(const sl_hf *s, sl_config *c) {
    bool biased;
    if (sl_hf_bool(s, "attention_bias", true, &biased))
        return -1;
    c->model_attention_bias = biased ? SL_ATTENTION_BIAS_ALL : SL_ATTENTION_BIAS_NONE;
    if (sl_hf_get(s, "layer_types"))
        return sl_hf_layer_types(s, c);
    return sl_hf_whole(s, "sliding_window", -1, &c->attention_window) || set_windows(s->name, c) ? -1 : 0;
}

/* The class scales positions where the file says nothing of it. */
static int read_rope(const sl_hf *s, sl_config *c) {
    if (!sl_hf_get(s, "rope_parameters") && !sl_hf_get(s, "rope_scaling"))
        return sl_fail("%s: rope_scaling or rope_parameters is needed", s->name);
    c->model_rope_base = 150000;
    return sl_hf_rope(s, c);
}

static int from_hf(const sl_hf *s, sl_config *c) {
    return sl_hf_sizes(s, false, c) || read_experts(s, c) || read_attention(s, c) || read_rope(s, c) ||
                   set_parts(s->name, c)
               ? -1
               : 0;
}

/* That YaRN's limits are no whole pairs here, GGUF files do not say. */
static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    static const char *const more[] = {"attention.sliding_window", "expert_feed_forward_length", NULL};
    if (sl_keys_experts(k, c) || sl_keys_sizes(k, c) || sl_keys_rope(k, c) ||
        sl_keys_whole(k, "attention.sliding_window", -1, &c->attention_window) || set_windows(sl_gguf_name(k->f), c) ||
        sl_keys_check(k, more))
        return -1;
    c->rope_scaling_truncate = false;
    return set_parts(sl_gguf_name(k->f), c);
}

/* Gate and up are the even and odd rows of one matrix. */
enum { STACKED = SL_PLACE_WHOLE | SL_PLACE_STACKED, MIXED = STACKED | SL_PLACE_INTERLEAVED };
#define OF_EXPERT(ours, theirs, how, part, parts)                                                                      \
    { "model.layers.*.mlp.experts.*." ours, "model.layers.*.mlp.experts." theirs, how, part, parts }
static const sl_place hf_places[] = {
    {"model.layers.*.mlp.gate", "model.layers.*.mlp.router", 0, 0, 0},
    OF_EXPERT("gate_proj.weight", "gate_up_proj", MIXED | SL_PLACE_TRANSPOSED, 0, 2),
    OF_EXPERT("gate_proj.weight", "gate_up_proj_blocks", MIXED | SL_PLACE_MXFP4, 0, 2),
    OF_EXPERT("gate_proj.bias", "gate_up_proj_bias", MIXED, 0, 2),
    OF_EXPERT("up_proj.weight", "gate_up_proj", MIXED | SL_PLACE_TRANSPOSED, 1, 2),
    OF_EXPERT("up_proj.weight", "gate_up_proj_blocks", MIXED | SL_PLACE_MXFP4, 1, 2),
    OF_EXPERT("up_proj.bias", "gate_up_proj_bias", MIXED, 1, 2),
    OF_EXPERT("down_proj.weight", "down_proj", STACKED | SL_PLACE_TRANSPOSED, 0, 0),
    OF_EXPERT("down_proj.weight", "down_proj_blocks", STACKED | SL_PLACE_MXFP4, 0, 0),
    OF_EXPERT("down_proj.bias", "down_proj_bias", STACKED, 0, 0),
    {NULL, NULL, 0, 0, 0}};
static const sl_place gguf_places[] = {
    {"model.layers.*.post_attention_layernorm", "blk.*.post_attention_norm", 0, 0, 0},
    {"model.layers.*.self_attn.sinks", "blk.*.attn_sinks.weight", SL_PLACE_WHOLE, 0, 0},
    {NULL, NULL, 0, 0, 0}};

const sl_family sl_family_gpt_oss = {from_hf, from_gguf, hf_places, gguf_places, NULL, NULL, "mxfp4"};
