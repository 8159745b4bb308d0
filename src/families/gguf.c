/* Keys and names that GGUF files of Llama's kin share. */
#include "base/err.h"
#include "base/text.h"
#include "families/kind.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { KEY_CHARS = 128 };

static const char *full_key(char buf[KEY_CHARS], const sl_gguf_keys *k, const char *key) {
    snprintf(buf, KEY_CHARS, "%s.%s", k->architecture, key);
    return buf;
}

int sl_keys_whole(const sl_gguf_keys *k, const char *key, int64_t fallback, int64_t *v) {
    char full[KEY_CHARS];
    *v = fallback;
    if (sl_gguf_whole(k->f, full_key(full, k, key), v))
        return -1;
    if (*v >= 0)
        return 0;
    return sl_gguf_has(k->f, full) ? sl_fail("%s: key %s is negative", sl_gguf_name(k->f), full)
                                   : sl_fail("%s: key %s is missing", sl_gguf_name(k->f), full);
}

int sl_keys_real(const sl_gguf_keys *k, const char *key, double fallback, double *v) {
    char full[KEY_CHARS];
    *v = fallback;
    if (sl_gguf_real(k->f, full_key(full, k, key), v))
        return -1;
    return !isnan(*v) ? 0 : sl_fail("%s: key %s is missing", sl_gguf_name(k->f), full);
}

int sl_keys_bool(const sl_gguf_keys *k, const char *key, bool fallback, bool *v) {
    char full[KEY_CHARS];
    *v = fallback;
    return sl_gguf_bool(k->f, full_key(full, k, key), v);
}

static int read_heads(const sl_gguf_keys *k, sl_config *c) {
    int64_t width = 0;
    if (sl_keys_whole(k, "attention.head_count", -1, &c->model_heads) ||
        sl_keys_whole(k, "attention.head_count_kv", 0, &c->model_kv_heads) ||
        sl_keys_whole(k, "attention.key_length", 0, &c->model_head_dim))
        return -1;
    if (c->model_heads == 0)
        return sl_fail("%s: key %s.attention.head_count is 0", sl_gguf_name(k->f), k->architecture);
    if (sl_keys_whole(k, "attention.value_length", sl_config_head_dim(c), &width))
        return -1;
    return width == sl_config_head_dim(c)
               ? 0
               : sl_fail("%s: key %s.attention.value_length: only values as wide as keys are supported",
                         sl_gguf_name(k->f), k->architecture);
}

static void find_biases(const sl_gguf *f, sl_config *c) {
    c->model_attention_bias = sl_gguf_find(f, "blk.0.attn_output.bias") ? SL_ATTENTION_BIAS_ALL
                              : sl_gguf_find(f, "blk.0.attn_q.bias")    ? SL_ATTENTION_BIAS_QKV
                                                                        : SL_ATTENTION_BIAS_NONE;
    c->model_ffn_bias = sl_gguf_find(f, "blk.0.ffn_down.bias") != NULL;
}

static int read_epsilon(const sl_gguf_keys *k, sl_config *c) {
    const char *key = c->norm_bias ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    if (sl_keys_real(k, key, NAN, &c->norm_eps))
        return -1;
    return c->norm_eps >= 0 && c->norm_eps <= 1
               ? 0
               : sl_fail("%s: key %s.%s: a number from 0 to 1 is needed", sl_gguf_name(k->f), k->architecture, key);
}

int sl_keys_experts(const sl_gguf_keys *k, sl_config *c) {
    if (sl_keys_whole(k, "expert_count", -1, &c->model_experts) ||
        sl_keys_whole(k, "expert_used_count", -1, &c->model_experts_per_token) ||
        sl_keys_whole(k, "feed_forward_length", -1, &c->model_expert_ffn) ||
        sl_keys_whole(k, "expert_feed_forward_length", c->model_expert_ffn, &c->model_expert_ffn))
        return -1;
    /* The weights of the chosen are scaled to sum 1, as ours are, unless it is one alone. */
    return c->model_experts > 0 && c->model_expert_ffn > 0 && c->model_experts_per_token > 1
               ? 0
               : sl_fail("%s: keys %s.expert_count, expert_feed_forward_length, expert_used_count: some experts are "
                         "needed, and more than one for a token",
                         sl_gguf_name(k->f), k->architecture);
}

int sl_keys_sizes(const sl_gguf_keys *k, sl_config *c) {
    int64_t experts;
    c->model_tie_embeddings = !sl_gguf_find(k->f, "output.weight");
    find_biases(k->f, c);
    if (sl_keys_whole(k, "block_count", -1, &c->model_layers) ||
        sl_keys_whole(k, "embedding_length", -1, &c->model_dim) ||
        sl_keys_whole(k, "feed_forward_length", -1, &c->model_ffn) || read_heads(k, c) ||
        sl_keys_whole(k, "context_length", c->model_seq, &c->model_seq) ||
        sl_keys_whole(k, "expert_count", 0, &experts) || read_epsilon(k, c))
        return -1;
    return experts == c->model_experts
               ? 0
               : sl_fail("%s: key %s.expert_count: mixtures of experts are not supported in this architecture",
                         sl_gguf_name(k->f), k->architecture);
}

/* ---------------------------------------------------------------- rotary embedding */

/* The divisor of the i-th frequency of `head` under llama3 scaling (families/hf.c: the source of the formula is
 * model.rope_scaling's). */
static double llama3_divisor(const sl_config *c, int64_t head, int64_t i) {
    double wave = 2 * M_PI * pow(c->model_rope_base, 2.0 * (double)i / (double)head);
    double fits = (double)c->rope_scaling_original / wave;
    if (fits <= c->rope_scaling_low)
        return c->rope_scaling_factor;
    if (fits >= c->rope_scaling_high)
        return 1;
    double blend = (fits - c->rope_scaling_low) / (c->rope_scaling_high - c->rope_scaling_low);
    return 1 / ((1 - blend) / c->rope_scaling_factor + blend);
}

/* Files of Llama 3.1 and later have only these divisors, not what they were made from; of all that it could be, the
 * constants of those models are tried (arXiv 2407.21783), which are our defaults. */
static int read_factors(const sl_gguf_keys *k, sl_config *c) {
    const sl_gguf_tensor *t = sl_gguf_find(k->f, "rope_freqs.weight");
    int64_t head = sl_config_head_dim(c), n = head / 2;
    float divisor[512];
    if (!t)
        return 0;
    if (t->ndim != 1 || t->shape[0] != n || n > 512 || !t->type->floats)
        return sl_fail("%s: tensor rope_freqs.weight: half as many values as a head has channels are needed",
                       sl_gguf_name(k->f));
    t->type->floats(sl_gguf_data(k->f, t), n, divisor);
    c->model_rope_scaling = SL_ROPE_SCALING_LLAMA3;
    c->rope_scaling_factor = divisor[n - 1];
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(divisor[i] - llama3_divisor(c, head, i)) <= 1e-5 * divisor[i]) || divisor[i] < 1)
            return sl_fail("%s: tensor rope_freqs.weight: other than Llama 3's scaling is not supported",
                           sl_gguf_name(k->f));
    return 0;
}

static int read_yarn(const sl_gguf_keys *k, sl_config *c) {
    return sl_keys_whole(k, "rope.scaling.original_context_length", -1, &c->rope_scaling_original) ||
                   sl_keys_real(k, "rope.scaling.yarn_beta_fast", 32, &c->rope_scaling_beta_fast) ||
                   sl_keys_real(k, "rope.scaling.yarn_beta_slow", 1, &c->rope_scaling_beta_slow)
               ? -1
               : 0;
}

static int read_scaling(const sl_gguf_keys *k, sl_config *c) {
    char full[KEY_CHARS], quoted[SL_QUOTE_CHARS], text[SL_QUOTE_CHARS];
    sl_gguf_string type = {NULL, 0};
    if (sl_gguf_text(k->f, full_key(full, k, "rope.scaling.type"), &type))
        return -1;
    if (!type.p || sl_gguf_is(type, "none"))
        return read_factors(k, c);
    snprintf(text, sizeof text, "%.*s", (int)(type.n < 64 ? type.n : 64), type.p);
    bool yarn = sl_gguf_is(type, "yarn");
    if (!yarn && !sl_gguf_is(type, "linear"))
        return sl_fail("%s: key %s: %s is not supported; none, linear and yarn are", sl_gguf_name(k->f), full,
                       sl_quote(quoted, text));
    c->model_rope_scaling = yarn ? SL_ROPE_SCALING_YARN : SL_ROPE_SCALING_LINEAR;
    if (sl_keys_real(k, "rope.scaling.factor", NAN, &c->rope_scaling_factor))
        return -1;
    return yarn ? read_yarn(k, c) : 0;
}

int sl_keys_rope_part(const sl_gguf_keys *k, sl_config *c) {
    int64_t head = sl_config_head_dim(c), turned = 0;
    if (sl_keys_real(k, "rope.freq_base", 10000, &c->model_rope_base) ||
        sl_keys_whole(k, "rope.dimension_count", head, &turned))
        return -1;
    if (!(c->model_rope_base > 0 && c->model_rope_base <= 1e9))
        return sl_fail("%s: key %s.rope.freq_base: a number above 0 and up to 1e9 is needed", sl_gguf_name(k->f),
                       k->architecture);
    if (turned < 1 || turned > head)
        return sl_fail("%s: key %s.rope.dimension_count: 1 to the %" PRId64 " channels of a head are needed",
                       sl_gguf_name(k->f), k->architecture, head);
    c->model_rope_dims = turned < head ? turned : 0;
    return read_scaling(k, c);
}

int sl_keys_rope(const sl_gguf_keys *k, sl_config *c) {
    if (sl_keys_rope_part(k, c))
        return -1;
    return c->model_rope_dims == 0 ? 0
                                   : sl_fail("%s: key %s.rope.dimension_count: only whole heads are supported",
                                             sl_gguf_name(k->f), k->architecture);
}

/* ---------------------------------------------------------------- keys */

static bool named(const char *const *list, const char *key) {
    for (; list && *list; list++)
        if (!strcmp(*list, key))
            return true;
    return false;
}

int sl_keys_check(const sl_gguf_keys *k, const char *const *more) {
    static const char *const known[] = {
        "block_count", "embedding_length", "feed_forward_length", "context_length", "attention.head_count",
        "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
        "attention.layer_norm_epsilon", "expert_count", "expert_used_count", "rope.freq_base", "rope.dimension_count",
        "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
        "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
        /* They change nothing: */
        "vocab_size", "tensor_data_layout", "rope.scaling.finetuned", NULL};
    size_t n = strlen(k->architecture);
    const char *key;
    for (int i = 0; (key = sl_gguf_key(k->f, i)); i++)
        if (!strncmp(key, k->architecture, n) && key[n] == '.' && !named(known, key + n + 1) &&
            !named(more, key + n + 1))
            return sl_fail("%s: key %s is not known: what it changes is not computed here", sl_gguf_name(k->f), key);
    return 0;
}

/* ---------------------------------------------------------------- names */

#define OF_MODEL(ours, theirs)                                                                                         \
    { ours, theirs, 0, 0, 0 }
#define OF_BLOCK(ours, theirs)                                                                                         \
    { "model.layers.*." ours, "blk.*." theirs, 0, 0, 0 }
#define OF_EXPERT(ours, theirs)                                                                                        \
    { "model.layers.*.mlp.experts.*." ours, "blk.*." theirs, SL_PLACE_STACKED, 0, 0 }

const sl_place sl_gguf_places[] = {OF_MODEL("model.embed_tokens", "token_embd"),
                                   OF_MODEL("model.embed_positions", "position_embd"),
                                   OF_MODEL("model.norm", "output_norm"),
                                   OF_MODEL("lm_head", "output"),
                                   OF_BLOCK("input_layernorm", "attn_norm"),
                                   OF_BLOCK("self_attn.q_proj", "attn_q"),
                                   OF_BLOCK("self_attn.k_proj", "attn_k"),
                                   OF_BLOCK("self_attn.v_proj", "attn_v"),
                                   OF_BLOCK("self_attn.o_proj", "attn_output"),
                                   OF_BLOCK("self_attn.q_norm", "attn_q_norm"),
                                   OF_BLOCK("self_attn.k_norm", "attn_k_norm"),
                                   OF_BLOCK("post_attention_layernorm", "ffn_norm"),
                                   OF_BLOCK("mlp.gate_proj", "ffn_gate"),
                                   OF_BLOCK("mlp.up_proj", "ffn_up"),
                                   OF_BLOCK("mlp.down_proj", "ffn_down"),
                                   OF_BLOCK("mlp.gate", "ffn_gate_inp"),
                                   OF_EXPERT("gate_proj", "ffn_gate_exps"),
                                   OF_EXPERT("up_proj", "ffn_up_exps"),
                                   OF_EXPERT("down_proj", "ffn_down_exps"),
                                   {NULL, NULL, 0, 0, 0}};

#define OF_FUSED(ours, part)                                                                                           \
    { "model.layers.*.self_attn." ours, "blk.*.attn_qkv", 0, part, 3 }

const sl_place sl_gguf_fused_places[] = {
    OF_FUSED("q_proj", 0), OF_FUSED("k_proj", 1), OF_FUSED("v_proj", 2), {NULL, NULL, 0, 0, 0}};
