/* Qwen3-Next: Gated DeltaNet (arXiv 2412.06464) in three layers of four, in the fourth attention with a
 * gate (arXiv 2505.06708), norms of queries and keys and a rotary embedding of a quarter of each head. Norms are stored
 * as their distance from 1, but not that of the recurrence's output. A mixture, in every layer or in none, has a shared
 * expert behind a gate of its own. */
#include "base/err.h"
#include "families/kind.h"

#include <string.h>

enum { INTERVAL = 4, HEAD_DIM = 256, KV_HEADS = 2, EXPERTS = 512, TOP = 10, EXPERT_FFN = 512, LAYERS = 1024 };

static uint8_t mixer_named(const char *name) {
    uint8_t i = 0;
    while (strcmp(sl_choices_mixer[i].name, name) != 0)
        i++;
    return i;
}

/* layer_types, or every full_attention_interval-th layer. */
static int read_layers(const sl_hf *s, sl_config *c) {
    const uint8_t gdn = mixer_named("gdn"), full = mixer_named("softmax");
    const json_t *types = sl_hf_get(s, "layer_types");
    int64_t interval = 0;
    uint8_t of[LAYERS];
    if (sl_hf_whole(s, "full_attention_interval", INTERVAL, &interval))
        return -1;
    if (interval < 1 || c->model_layers > LAYERS)
        return sl_fail("%s: full_attention_interval: 1 or more is needed, of at most %d layers", s->name, LAYERS);
    if (types && (!json_is_array(types) || json_array_size(types) != (size_t)c->model_layers))
        return sl_fail("%s: layer_types: a list of num_hidden_layers kinds is needed", s->name);
    for (int64_t i = 0; i < c->model_layers; i++) {
        const char *told = json_string_value(json_array_get(types, (size_t)i));
        const char *type = types ? told : (i + 1) % interval ? "linear_attention" : "full_attention";
        bool linear = type && !strcmp(type, "linear_attention");
        if (!linear && (!type || strcmp(type, "full_attention") != 0))
            return sl_fail("%s: layer_types: only \"full_attention\" and \"linear_attention\" are supported", s->name);
        of[i] = linear ? gdn : full;
    }
    return sl_list_of_layers(s->name, of, c->model_layers, &c->model_mixer);
}

/* Layers that have a mixture: every decoder_sparse_step-th that mlp_only_layers does not name. */
static int64_t count_sparse(const sl_hf *s, int64_t step, int64_t layers) {
    const json_t *layer;
    bool dense[LAYERS] = {false};
    int64_t n = 0;
    size_t i;
    json_array_foreach(sl_hf_get(s, "mlp_only_layers"), i, layer) {
        int64_t at = json_is_integer(layer) ? json_integer_value(layer) : -1;
        if (at >= 0 && at < layers)
            dense[at] = true;
    }
    for (int64_t l = 0; l < layers; l++)
        n += !dense[l] && (l + 1) % step == 0;
    return n;
}

/* The shared expert is several times as wide as one of the others, as ours are. Behind read_layers. */
static int read_shared(const sl_hf *s, sl_config *c) {
    int64_t width = 0;
    if (sl_hf_whole(s, "shared_expert_intermediate_size", EXPERT_FFN, &width))
        return -1;
    if (c->model_expert_ffn < 1 || width < 1 || width % c->model_expert_ffn != 0)
        return sl_fail("%s: shared_expert_intermediate_size = %lld is not a multiple of moe_intermediate_size = %lld, "
                       "which is needed", s->name, (long long)width, (long long)c->model_expert_ffn);
    c->model_shared_experts = width / c->model_expert_ffn;
    c->model_shared_expert_gate = true;
    return 0;
}

/* Behind read_layers. */
static int read_experts(const sl_hf *s, sl_config *c) {
    int64_t experts = 0, step = 1;
    if (sl_hf_whole(s, "num_experts", EXPERTS, &experts) || sl_hf_whole(s, "decoder_sparse_step", 1, &step))
        return -1;
    if (step < 1)
        return sl_fail("%s: decoder_sparse_step: 1 or more is needed", s->name);
    int64_t sparse = experts ? count_sparse(s, step, c->model_layers) : 0;
    if (sparse == 0)
        return 0;
    if (sparse < c->model_layers)
        return sl_fail("%s: decoder_sparse_step, mlp_only_layers: only mixtures in every layer, or in none, are "
                       "supported", s->name);
    c->model_experts = experts;
    return sl_qwen_experts(s, TOP, EXPERT_FFN, true, c) || read_shared(s, c) ? -1 : 0;
}

static int read_recurrence(const sl_hf *s, sl_config *c) {
    if (sl_hf_whole(s, "linear_num_value_heads", 32, &c->gdn_heads) ||
        sl_hf_whole(s, "linear_num_key_heads", 16, &c->gdn_key_heads) ||
        sl_hf_whole(s, "linear_key_head_dim", 128, &c->gdn_key_dim) ||
        sl_hf_whole(s, "linear_value_head_dim", 128, &c->gdn_value_dim) ||
        sl_hf_whole(s, "linear_conv_kernel_dim", 4, &c->gdn_conv))
        return -1;
    if (c->gdn_heads < 1 || c->gdn_key_heads < 1 || c->gdn_key_dim < 1 || c->gdn_value_dim < 1)
        return sl_fail("%s: linear_num_key_heads, linear_num_value_heads, linear_key_head_dim, linear_value_head_dim: "
                       "1 or more is needed", s->name);
    return c->gdn_conv > 1 ? 0 : sl_fail("%s: linear_conv_kernel_dim: 2 or more is needed", s->name);
}

static int from_hf(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"attention_bias", NULL};
    c->norm_zero_centred = true;
    c->model_qk_norm = true;
    c->attention_gate = SL_ATTENTION_GATE_ELEMENTWISE;
    /* The convolution has the activation of the feed-forward. */
    const char *act = json_string_value(sl_hf_get(s, "hidden_act"));
    if (act && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return sl_fail("%s: hidden_act: only \"silu\" is supported", s->name);
    return sl_hf_off(s, off) || sl_hf_sizes(s, false, c) ||
                   sl_hf_whole(s, "head_dim", HEAD_DIM, &c->model_head_dim) ||
                   sl_hf_whole(s, "num_key_value_heads", KV_HEADS, &c->model_kv_heads) ||
                   sl_hf_ffn(s, "hidden_act", "silu", true, c) || sl_hf_rope_part(s, 0.25, c) || read_layers(s, c) ||
                   read_recurrence(s, c) || read_experts(s, c)
               ? -1
               : 0;
}

int64_t sl_gdn_group(const sl_config *c, int part, int parts) {
    sl_gdn_sizes n = sl_config_gdn(c);
    int64_t heads = n.heads / n.key_heads;
    bool gates = parts == 2; /* b and a; else q, k, v and z */
    return gates ? heads : part < 2 ? n.key_dim : heads * n.value_dim;
}

#define OF_BLOCK(ours, theirs, how, part, parts)                                                                       \
    { "model.layers.*." ours, "model.layers.*." theirs, how, part, parts }
#define QKVZ(ours, part) OF_BLOCK(ours, "linear_attn.in_proj_qkvz", SL_PLACE_BY_KEY_HEAD, part, 4)
#define BA(ours, part) OF_BLOCK(ours, "linear_attn.in_proj_ba", SL_PLACE_BY_KEY_HEAD, part, 2)
#define SHARED(name) OF_BLOCK("mlp.shared_experts." name, "mlp.shared_expert." name, 0, 0, 0)
static const sl_place hf_places[] = {
    {"model.norm", "model.norm", SL_PLACE_CENTRED, 0, 0},
    OF_BLOCK("input_layernorm", "input_layernorm", SL_PLACE_CENTRED, 0, 0),
    OF_BLOCK("post_attention_layernorm", "post_attention_layernorm", SL_PLACE_CENTRED, 0, 0),
    OF_BLOCK("self_attn.q_norm", "self_attn.q_norm", SL_PLACE_ADD_ONE, 0, 0),
    OF_BLOCK("self_attn.k_norm", "self_attn.k_norm", SL_PLACE_ADD_ONE, 0, 0),
    OF_BLOCK("self_attn.q_proj", "self_attn.q_proj", SL_PLACE_BY_HEAD, 0, 2),
    OF_BLOCK("self_attn.gate_proj", "self_attn.q_proj", SL_PLACE_BY_HEAD, 1, 2),
    QKVZ("linear_attn.q_proj", 0),
    QKVZ("linear_attn.k_proj", 1),
    QKVZ("linear_attn.v_proj", 2),
    QKVZ("linear_attn.z_proj", 3),
    BA("linear_attn.b_proj", 0),
    BA("linear_attn.a_proj", 1),
    SHARED("gate_proj"),
    SHARED("up_proj"),
    SHARED("down_proj"),
    {NULL, NULL, 0, 0, 0}};
static const char *const ignored[] = {"mtp.*", NULL}; /* layers that predict further tokens, which transformers drops */

const sl_family sl_family_qwen3_next = {from_hf, NULL, hf_places, NULL, ignored, NULL, NULL};
