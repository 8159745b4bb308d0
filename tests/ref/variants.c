#include "ref/variants.h"

#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    int norm;
    int init; /* SL_GATE_* */
    bool gate_final;
} norm_choice;

/* Choice i of norms, false past the last. */
static bool pick_norm(int i, norm_choice *out) {
    for (int n = 0; sl_choices_norm[n].name; n++) {
        bool gated = strncmp(sl_choices_norm[n].name, "gated_", 6) == 0;
        int choices = gated ? 2 : 1;
        if (i < choices) {
            *out = (norm_choice){n, i ? SL_GATE_IDENTITY : SL_GATE_HALF, i != 0};
            return true;
        }
        i -= choices;
    }
    return false;
}

enum { OPTION_QK_NORM = 1, OPTION_GQA = 2, OPTION_TIED = 4, OPTIONS = 8 };

static bool build(int norm, int ffn, int options, ref_variant *v) {
    norm_choice choice;
    if (!pick_norm(norm, &choice))
        return false;
    sl_config *c = &v->config;
    sl_config_defaults(c);
    c->model_norm = choice.norm;
    c->norm_init = choice.init;
    c->norm_gate_final = choice.gate_final;
    c->norm_eps = 0.01;
    c->model_ffn_kind = ffn;
    c->model_qk_norm = options & OPTION_QK_NORM;
    c->model_tie_embeddings = options & OPTION_TIED;
    c->precision = SL_PRECISION_FP32;
    snprintf(v->name, sizeof v->name, "%s%s %s%s%s%s", sl_choices_norm[choice.norm].name,
             choice.gate_final ? " identity, final gate" : "",
             sl_choices_ffn[ffn].name,
             options & OPTION_QK_NORM ? " qk_norm" : "", options & OPTION_GQA ? " gqa" : "",
             options & OPTION_TIED ? " tied" : "");
    return true;
}

bool ref_variant_tiny(int i, ref_variant *v) {
    bool plain = i == 0;
    int options = plain ? 0 : (i - 1) % OPTIONS, kinds = plain ? 0 : (i - 1) / OPTIONS;
    if (!build(kinds / SL_FFN_KINDS, plain ? SL_FFN_NONE : kinds % SL_FFN_KINDS, options, v))
        return false;
    sl_config *c = &v->config;
    if (plain)
        snprintf(v->name, sizeof v->name, "attention only, no positions");
    c->model_layers = 2;
    c->model_dim = 8;
    c->model_heads = 2;
    c->model_kv_heads = options & OPTION_GQA ? 1 : 2;
    c->model_ffn = 11;
    c->norm_rank = 3;
    c->model_rope_base = plain ? 0 : 100;
    v->vocab = 11;
    v->batch = c->train_batch = 2;
    v->seq = c->model_seq = 5;
    return true;
}

/* A vocabulary so wide that the head takes the rows in two chunks. */
static void wide(ref_variant *v) {
    build(0, 0, 0, v);
    snprintf(v->name, sizeof v->name, "wide vocabulary");
    sl_config *c = &v->config;
    c->model_layers = 1;
    c->model_dim = 12;
    c->model_heads = 1;
    c->model_ffn = 16;
    v->vocab = 17001;
    v->batch = c->train_batch = 2;
    v->seq = c->model_seq = 131;
}

bool ref_variant_middle(int i, ref_variant *v) {
    if (i == 0)
        return wide(v), true;
    bool on = --i % 2;
    if (!build(i / 2, i % SL_FFN_KINDS, on ? OPTIONS - 1 : 0, v))
        return false;
    sl_config *c = &v->config;
    c->model_layers = 2;
    c->model_dim = 70;
    c->model_heads = 6;
    c->model_kv_heads = on ? 2 : 6;
    c->model_head_dim = 14;
    c->model_ffn = 261;
    c->norm_rank = 16;
    v->vocab = 301;
    v->batch = c->train_batch = 3;
    v->seq = c->model_seq = 131;
    return true;
}

static const struct {
    const char *name;
    int64_t experts, top, ffn, shared;
    int router, balance;
    double z, capacity;
} mixtures[] = {
    {"softmax, aux and z", 4, 2, 9, 0, SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0.3, 0},
    {"sigmoid, bias, shared", 5, 3, 8, 2, SL_ROUTER_SIGMOID, SL_BALANCE_BIAS, 0, 0},
    {"sigmoid, aux, one expert a token", 3, 1, 11, 0, SL_ROUTER_SIGMOID, SL_BALANCE_AUX, 0, 0},
    {"softmax, bias, capacity, shared", 4, 2, 7, 1, SL_ROUTER_SOFTMAX, SL_BALANCE_BIAS, 0.2, 0.8},
    {"softmax, one expert a token, capacity", 6, 1, 5, 0, SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0, 1},
    {"every expert for every token", 3, 3, 10, 0, SL_ROUTER_SOFTMAX, SL_BALANCE_NONE, 0, 0},
    {"large, softmax", 7, 2, 421, 1, SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0.1, 0},
    {"large, sigmoid", 70, 4, 133, 0, SL_ROUTER_SIGMOID, SL_BALANCE_AUX, 0, 1.2},
};

bool ref_variant_moe(int i, ref_variant *v) {
    if (i >= (int)(sizeof mixtures / sizeof *mixtures))
        return false;
    bool large = mixtures[i].ffn > 100;
    build(i % 2 ? 0 : 1, i % 3, i % 3 ? 0 : OPTION_QK_NORM, v); /* the first three kinds are gated */
    sl_config *c = &v->config;
    snprintf(v->name, sizeof v->name, "experts: %s", mixtures[i].name);
    c->model_experts = mixtures[i].experts;
    c->model_experts_per_token = mixtures[i].top;
    c->model_expert_ffn = mixtures[i].ffn;
    c->model_shared_experts = mixtures[i].shared;
    c->model_router = mixtures[i].router;
    c->model_balance = mixtures[i].balance;
    c->model_balance_coef = 0.5;
    c->model_router_z_loss = mixtures[i].z;
    c->model_expert_capacity = mixtures[i].capacity;
    c->model_layers = 2;
    c->model_dim = large ? 70 : 8;
    c->model_heads = 2;
    c->model_head_dim = large ? 14 : 4;
    c->model_rope_base = 100;
    v->vocab = large ? 151 : 11;
    v->batch = c->train_batch = 2;
    v->seq = c->model_seq = large ? 131 : 5;
    return true;
}

void ref_randomise(sl_params *p, uint64_t seed) {
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = p->tensor + i;
        sl_rng r = sl_rng_make(seed, SL_STREAM_TEST, sl_hash64(t->name, strlen(t->name)));
        bool embedding = strstr(t->name, "embed_tokens") != NULL;
        double std = embedding ? 0.5 : t->ndim == 1 ? 0.3 : 1.2 / sqrt((double)t->shape[1]);
        double mean = t->ndim == 1;
        for (int64_t k = 0; k < t->size; k++)
            p->w[t->offset + k] = (float)(mean + std * sl_rng_normal(&r));
    }
}

void ref_random_tokens(int64_t n, int32_t vocab, uint64_t seed, int32_t *token) {
    sl_rng r = sl_rng_make(seed, SL_STREAM_TEST, 0);
    for (int64_t i = 0; i < n; i++)
        token[i] = (int32_t)sl_rng_below(&r, (uint64_t)vocab);
}
