#include "ref/variants.h"

#include "base/err.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Norms beyond the plain row of each of the table: what they change in a configuration, as for sinklab's command
 * line. */
static const struct {
    const char *name, *changes[7];
} special[] = {
    {"gated identity final", {"norm=gated_norm", "norm_opts.init=identity", "norm_opts.gate_final=true"}},
    {"gated none", {"norm=gated_norm", "norm_opts.base=none", "norm_opts.gate_final=true"}},
    {"gated relu", {"norm=gated_norm", "norm_opts.inner=relu"}},
    {"gated tanh", {"norm=gated_norm", "norm_opts.outer=tanh"}},
    {"gated silu identity", {"norm=gated_norm", "norm_opts.outer=silu", "norm_opts.init=identity"}},
    {"gated identity-activation layernorm",
     {"norm=gated_norm", "norm_opts.outer=identity", "norm_opts.base=layernorm"}},
    {"gated tensorwise",
     {"norm=gated_norm", "norm_opts.granularity=tensorwise", "norm_opts.gate_final=true", "norm_opts.init=identity"}},
    {"gated tensorwise tanh identity",
     {"norm=gated_norm", "norm_opts.granularity=tensorwise", "norm_opts.outer=tanh", "norm_opts.init=identity",
      "norm_opts.preaffine=true"}},
    {"preaffine", {"norm_opts.preaffine=true"}},
    {"preaffine layernorm", {"norm=layernorm", "norm_opts.preaffine=true", "norm_opts.zero_centred=true"}},
    {"gated preaffine", {"norm=gated_norm", "norm_opts.preaffine=true"}},
    {"dyt embed scale", {"norm=dyt", "norm_opts.beta=false", "embed_scale=true"}},
    {"gated dyt", {"norm=gated_norm", "norm_opts.base=dyt", "norm_opts.gate_final=true"}},
    {"derf preaffine", {"norm=derf", "norm_opts.preaffine=true", "norm_opts.zero_centred=true"}},
    {"post", {"norm_place=post"}},
    {"post dyt gated", {"norm_place=post", "norm=gated_norm", "norm_opts.base=dyt"}},
    {"post, values gated", {"norm_place=post", "attention_opts.gate=value"}},
    {"post, heads gated", {"norm_place=post", "attention_opts.gate=headwise", "attention_opts.gate_floor=0.5"}},
    {"sandwich", {"norm_place=sandwich"}},
    {"sandwich, outputs gated", {"norm_place=sandwich", "attention_opts.gate=elementwise"}},
    {"sandwich gated preaffine", {"norm_place=sandwich", "norm=gated_norm", "norm_opts.preaffine=true"}},
    {"clip", {"clip=0.5"}},
    {"clip through", {"clip=0.5", "clip_backward=through"}},
    {"clip sandwich", {"clip=0.25", "clip_baseline=3", "norm_place=sandwich"}},
    {"nullify", {"sink_nullify=2"}},
    {"nullify mean layernorm",
     {"sink_nullify=2", "sink_nullify_value=mean", "norm=layernorm", "sink_nullify_final=true"}},
    {"nullify output", {"sink_nullify=3", "sink_nullify_mode=output", "sink_nullify_value=mean"}},
    {"nullify output layernorm",
     {"sink_nullify=1", "sink_nullify_mode=output", "norm=layernorm", "sink_nullify_final=true"}},
    {"nullify denominator", {"sink_nullify=2", "sink_nullify_mode=denominator", "sink_nullify_value=mean"}},
    {"nullify denominator layernorm preaffine",
     {"sink_nullify=2", "sink_nullify_mode=denominator", "norm=layernorm", "norm_opts.preaffine=true",
      "sink_nullify_final=true", "norm_opts.zero_centred=true"}},
    {"nullify output gated preaffine post",
     {"sink_nullify=2", "sink_nullify_mode=output", "norm=gated_norm", "norm_opts.preaffine=true",
      "sink_nullify_value=mean", "norm_place=post"}},
    {"nullify output dyt sandwich", {"sink_nullify=2", "sink_nullify_mode=output", "norm=dyt", "norm_place=sandwich"}},
    {"nullify denominator sandwich", {"sink_nullify=1", "sink_nullify_mode=denominator", "norm_place=sandwich"}},
    {"nullify from 2, layernorm preaffine",
     {"sink_nullify=2", "sink_nullify_from=2", "norm=layernorm", "norm_opts.preaffine=true"}},
    {"nullify output from 1", {"sink_nullify=3", "sink_nullify_from=1", "sink_nullify_mode=output",
                               "sink_nullify_value=mean", "sink_nullify_final=true"}},
    {"nullify denominator from 3, layernorm preaffine",
     {"sink_nullify=2", "sink_nullify_from=3", "sink_nullify_mode=denominator", "sink_nullify_value=mean",
      "norm=layernorm", "norm_opts.preaffine=true"}},
    {"nullify from 1, dyt", {"sink_nullify=2", "sink_nullify_from=1", "sink_nullify_mode=output", "norm=dyt"}},
    {"zero-centred", {"norm_opts.zero_centred=true"}},
    {"zero-centred none", {"norm=none", "norm_opts.zero_centred=true"}},
};
enum { SPECIALS = sizeof special / sizeof *special };

static int norms(void) {
    int n = 0;
    while (sl_choices_norm[n].name)
        n++;
    return n;
}

static void change(sl_config *c, const char *assignment) {
    char text[128];
    snprintf(text, sizeof text, "model.%s", assignment);
    if (sl_config_override(c, text) != 0) {
        fprintf(stderr, "reference variants: %s\n", sl_error());
        abort();
    }
}

/* Norm i: the rows of the table, then the special ones. */
static bool set_norm(int i, sl_config *c, const char **name) {
    if (i < norms()) {
        c->model_norm = i;
        *name = sl_choices_norm[i].name;
        return true;
    }
    i -= norms();
    if (i >= SPECIALS)
        return false;
    *name = special[i].name;
    for (int k = 0; special[i].changes[k]; k++)
        change(c, special[i].changes[k]);
    return true;
}

enum { OPTION_QK_NORM = 1, OPTION_GQA = 2, OPTION_TIED = 4, OPTIONS = 8 };

static bool build(int norm, int ffn, int options, ref_variant *v) {
    const char *name;
    sl_config *c = &v->config;
    sl_config_defaults(c);
    c->norm_eps = 0.01;
    if (!set_norm(norm, c, &name))
        return false;
    c->model_ffn_kind = ffn;
    c->model_qk_norm = options & OPTION_QK_NORM;
    c->model_tie_embeddings = options & OPTION_TIED;
    c->precision = SL_PRECISION_FP32;
    snprintf(v->name, sizeof v->name, "%s %s%s%s%s", name, sl_choices_ffn[ffn].name,
             options & OPTION_QK_NORM ? " qk_norm" : "", options & OPTION_GQA ? " gqa" : "",
             options & OPTION_TIED ? " tied" : "");
    return true;
}

/* How many norms with options of their own there are behind those of the table. */
static int specials(void) {
    ref_variant v;
    int n = 0;
    while (build(norms() + n, 0, 0, &v))
        n++;
    return n;
}

/* Attention variant i over the plain rest: each kind without and with a window, then each gate, plain and with a floor,
 * a window and another kind. False past the last. */
static bool attend(int i, ref_variant *v) {
    int kinds = SL_ATTENTION_KINDS, kind = i / 2 % kinds, gate = 0, gates = 0, on = i % 2;
    while (sl_choices_attention_gate[gates].name)
        gates++;
    if (i >= 2 * kinds) {
        gate = 1 + (i - 2 * kinds) / 2;
        kind = on ? gate : 0;
    }
    if (gate >= gates)
        return false;
    build(0, 0, 0, v);
    sl_config *c = &v->config;
    c->model_attention = kind;
    c->attention_gate = gate;
    c->attention_gate_floor = on ? 0.5 : 0;
    c->attention_window = on ? 3 : 0;
    c->attention_clip_alpha = 0.5;
    c->attention_clip_zeta = 1.1;
    snprintf(v->name, sizeof v->name, "%s, gate %s%s", sl_choices_attention[kind].name,
             sl_choices_attention_gate[gate].name, on ? ", window, floor, gqa" : "");
    return true;
}

bool ref_variant_tiny(int i, ref_variant *v) {
    /* All combinations of feed-forward and options with the first norm, four with each other of the table, one with
     * each special one, which depends neither on how many norms there are nor on how many feed-forwards. */
    enum { ALL = SL_FFN_KINDS * OPTIONS, PICKED = 5 * OPTIONS, SOME = 4, FIRST = 20 };
    int k = i - 1, table = ALL + SOME * (norms() - 1);
    bool plain = i == 0;
    int norm = plain || k < ALL ? 0 : k < table ? 1 + (k - ALL) / SOME : norms() + k - table;
    int pick = plain ? 0 : k < ALL ? k : 7 * (k < table ? k - ALL + PICKED : FIRST + k - table) % PICKED;
    int options = pick % OPTIONS;
    if (k >= table + specials()) {
        options = (k - table - specials()) % 2 ? OPTION_GQA : 0;
        if (!attend(k - table - specials(), v))
            return false;
    } else {
        build(norm, plain ? SL_FFN_NONE : pick / OPTIONS, options, v);
    }
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
    /* The table's norms with all other options on and off, every other special one with either, then attention. */
    int table = 2 * norms(), rest = --i - table, picked = (specials() + 1) / 2;
    bool on = rest < 0 ? i % 2 : rest % 2;
    if (rest < picked)
        build(rest < 0 ? i / 2 : norms() + 2 * rest, i % SL_FFN_KINDS, on ? OPTIONS - 1 : 0, v);
    else if (!attend(rest - picked, v))
        return false;
    sl_config *c = &v->config;
    if (c->attention_window)
        c->attention_window = 70;
    c->model_layers = 2;
    c->model_dim = 70;
    c->model_heads = 6;
    c->model_kv_heads = on ? 2 : 6;
    c->model_head_dim = 14;
    c->model_ffn = 149;
    c->norm_rank = 16;
    v->vocab = 157;
    v->batch = c->train_batch = 2;
    v->seq = c->model_seq = 131;
    return true;
}

static const struct {
    const char *name;
    int64_t experts, top, ffn, shared;
    int router, balance;
    double z, capacity;
    int place;
    double clip;
    bool gate; /* of the shared experts */
} mixtures[] = {
    {"softmax, aux and z", 4, 2, 9, 0, SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0.3, 0, SL_PLACE_PRE, 0, false},
    {"sigmoid, bias, shared", 5, 3, 8, 2, SL_ROUTER_SIGMOID, SL_BALANCE_BIAS, 0, 0, SL_PLACE_PRE, 0, false},
    {"sigmoid, aux, one expert a token", 3, 1, 11, 0, SL_ROUTER_SIGMOID, SL_BALANCE_AUX, 0, 0, SL_PLACE_PRE, 0, false},
    {"softmax, bias, capacity, shared", 4, 2, 7, 1, SL_ROUTER_SOFTMAX, SL_BALANCE_BIAS, 0.2, 0.8,
     SL_PLACE_PRE, 0, false},
    {"softmax, one expert a token, capacity", 6, 1, 5, 0, SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0, 1,
     SL_PLACE_PRE, 0, false},
    {"every expert for every token", 3, 3, 10, 0, SL_ROUTER_SOFTMAX, SL_BALANCE_NONE, 0, 0, SL_PLACE_PRE, 0, false},
    {"post, gated shared", 4, 2, 9, 1, SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0.1, 0, SL_PLACE_POST, 0, true},
    {"post, capacity", 5, 2, 8, 0, SL_ROUTER_SIGMOID, SL_BALANCE_BIAS, 0, 1, SL_PLACE_POST, 0, false},
    {"sandwich, shared, clip", 4, 2, 7, 2, SL_ROUTER_SIGMOID, SL_BALANCE_AUX, 0, 0, SL_PLACE_SANDWICH, 0.75, false},
    {"sandwich", 5, 1, 6, 0, SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0, 0, SL_PLACE_SANDWICH, 0, false},
    {"large, softmax, gated shared", 7, 2, 261, 1, SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0.1, 0, SL_PLACE_PRE, 0, true},
    {"large, sigmoid", 70, 4, 101, 0, SL_ROUTER_SIGMOID, SL_BALANCE_AUX, 0, 1.2, SL_PLACE_PRE, 0, false},
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
    c->model_shared_expert_gate = mixtures[i].gate;
    c->model_router = mixtures[i].router;
    c->model_balance = mixtures[i].balance;
    c->model_balance_coef = 0.5;
    c->model_router_z_loss = mixtures[i].z;
    c->model_expert_capacity = mixtures[i].capacity;
    c->model_norm_place = mixtures[i].place;
    c->model_clip = mixtures[i].clip;
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

/* A variant that changes keys, as for sinklab's command line. */
typedef struct {
    const char *name, *changes[11];
} changed;

/* Options that models made elsewhere have: what they change, as for sinklab's command line. */
static const changed options[] = {
    {"qkv bias", {"attention_bias=qkv"}},
    {"all biases", {"attention_bias=all", "ffn_bias=true", "head_bias=true"}},
    {"all biases, gelu, tied", {"attention_bias=all", "ffn_bias=true", "head_bias=true", "ffn_kind=gelu",
                                "tie_embeddings=true", "kv_heads=1"}},
    {"biases, sandwich", {"attention_bias=all", "ffn_bias=true", "norm_place=sandwich", "attention_opts.gate=value"}},
    {"partial rope", {"rope_dims=2", "attention_opts.scale=0.7"}},
    {"linear rope, multiplier", {"rope_scaling=linear", "rope_scaling_opts.factor=2.5", "embed_multiplier=1.5"}},
    {"llama3 rope", {"rope_scaling=llama3", "rope_scaling_opts.factor=3", "rope_scaling_opts.original=40",
                     "rope_scaling_opts.low_freq_factor=0.8", "rope_scaling_opts.high_freq_factor=5",
                     "embed_multiplier=0.7", "embed_scale=true"}},
    {"yarn rope", {"rope_scaling=yarn", "rope_scaling_opts.factor=3", "rope_scaling_opts.original=90",
                   "rope_scaling_opts.beta_fast=8", "rope_base=100"}},
    {"yarn rope between pairs", {"rope_scaling=yarn", "rope_scaling_opts.original=70", "rope_scaling_opts.beta_fast=6",
                                 "rope_scaling_opts.beta_slow=0.5", "rope_scaling_opts.truncate=false",
                                 "rope_scaling_opts.attention_factor=1.3", "rope_base=50", "rope_dims=4"}},
    {"window and full layers", {"attention_opts.window=3", "attention_opts.window_layers=[window, full]",
                                "rope_base_window=20", "rope_scaling=linear", "kv_heads=1"}},
    {"layers without rope", {"rope_layers=[none, rope]", "attention=sink_logit", "attention_opts.scale=0.2"}},
    {"layernorm bias", {"norm=layernorm", "norm_opts.bias=true"}},
    {"layernorm bias, gated, preaffine", {"norm=gated_norm", "norm_opts.base=layernorm", "norm_opts.bias=true",
                                          "norm_opts.preaffine=true", "norm_opts.zero_centred=true"}},
    {"layernorm bias, nullify", {"norm=layernorm", "norm_opts.bias=true", "sink_nullify=2",
                                 "sink_nullify_mode=output", "sink_nullify_value=mean"}},
    {"layernorm bias, nullify denominator", {"norm=layernorm", "norm_opts.bias=true", "sink_nullify=1",
                                             "sink_nullify_mode=denominator", "sink_nullify_final=true"}},
    {"nullify denominator rms", {"sink_nullify=2", "sink_nullify_mode=denominator", "sink_nullify_value=rms"}},
    {"nullify both rms dyt", {"sink_nullify=2", "sink_nullify_value=rms", "norm=dyt"}},
    {"nullify mean output", {"sink_nullify=3", "sink_nullify_mode=output", "sink_nullify_value=mean_output"}},
    {"nullify mean output layernorm preaffine",
     {"sink_nullify=2", "sink_nullify_mode=output", "sink_nullify_value=mean_output", "norm=layernorm",
      "norm_opts.bias=true", "norm_opts.preaffine=true"}},
    {"nullify denominator rms from 2, bias", {"sink_nullify=2", "sink_nullify_from=2", "sink_nullify_mode=denominator",
                                              "sink_nullify_value=rms", "norm=layernorm", "norm_opts.bias=true"}},
    {"nullify mean output from 1, gated",
     {"sink_nullify=2", "sink_nullify_from=1", "sink_nullify_mode=output", "sink_nullify_value=mean_output",
      "norm=gated_norm", "norm_opts.base=layernorm"}},
    {"learned positions", {"learned_positions=140", "rope_base=0", "embed_multiplier=2"}},
    /* softmax1: without RoPE softmax does not see a bias of the keys */
    {"gpt2", {"attention=softmax1", "norm=layernorm", "norm_opts.bias=true", "learned_positions=131", "rope_base=0",
              "attention_bias=all", "ffn_bias=true", "ffn_kind=gelu_tanh", "tie_embeddings=true"}},
    {"score cap", {"attention_opts.softcap=0.8", "kv_heads=1"}},
    {"score cap, window, sink", {"attention_opts.softcap=1.5", "attention=sink_logit", "attention_opts.window=3"}},
    {"logit cap", {"logit_softcap=1.2", "head_bias=true"}},
    {"gemma2", {"attention_opts.softcap=2", "logit_softcap=1.5", "norm_place=sandwich", "norm_opts.zero_centred=true",
                "ffn_kind=geglu_tanh", "embed_multiplier=2.8", "attention_opts.window=4", "tie_embeddings=true",
                "attention_opts.window_layers=[window, full]"}},
    {"parallel", {"block=parallel", "clip=0.7"}},
    {"parallel shared", {"block=parallel_shared", "kv_heads=1"}},
    {"parallel, no feed-forward", {"block=parallel", "ffn_kind=none"}},
    {"parallel experts", {"block=parallel_shared", "experts=3", "expert_ffn=7"}},
    {"biased experts, shared, capacity", {"experts=4", "expert_ffn=7", "shared_experts=1", "ffn_bias=true",
                                          "router_bias=true", "router_z_loss=0.3", "balance_coef=0.5",
                                          "expert_capacity=0.9"}},
    {"gated shared experts", {"experts=4", "expert_ffn=7", "shared_experts=2", "shared_expert_gate=true"}},
    {"gated shared experts, biases, sandwich", {"experts=3", "expert_ffn=9", "shared_experts=1", "ffn_bias=true",
                                                "shared_expert_gate=true", "norm_place=sandwich", "clip=0.7"}},
    {"gated shared experts, parallel, gated norm", {"experts=3", "expert_ffn=130", "shared_experts=1",
                                                    "shared_expert_gate=true", "block=parallel_shared",
                                                    "norm=gated_norm"}},
    {"biased experts, sigmoid, one a token", {"experts=5", "experts_per_token=1", "expert_ffn=9", "ffn_bias=true",
                                              "router=sigmoid", "router_bias=true", "balance=bias",
                                              "norm_place=sandwich", "ffn_kind=geglu"}},
    {"gpt-oss", {"attention=sink_logit", "attention_bias=all", "attention_opts.window=3",
                 "attention_opts.window_layers=[window, full]", "experts=5", "experts_per_token=3", "expert_ffn=130",
                 "ffn_kind=swiglu_clamped", "ffn_bias=true", "router_bias=true"}},
    {"parallel shared, gated, nullify", {"block=parallel_shared", "norm=gated_norm", "sink_nullify=1",
                                         "norm_opts.preaffine=true"}},
    {"positions, experts, sandwich", {"learned_positions=150", "experts=3", "expert_ffn=7", "attention_bias=all",
                                      "norm_place=sandwich", "norm=dyt", "embed_multiplier=3"}},
    {"output, gated, score cap", {"norm_place=output", "norm=gated_norm", "norm_opts.base=dyt",
                                  "attention_opts.softcap=1", "attention_opts.gate=headwise", "clip=0.9"}},
    {"neox", {"block=parallel", "norm=layernorm", "norm_opts.bias=true", "rope_dims=2", "attention_bias=all",
              "ffn_bias=true", "ffn_kind=gelu", "head_bias=true"}},
    {"output", {"norm_place=output"}},
    {"olmo2", {"norm_place=output", "qk_norm=true", "qk_norm_span=projection", "kv_heads=1"}},
    {"projection norm", {"qk_norm=true", "qk_norm_span=projection", "attention_bias=qkv"}},
};

/* The i-th of n rows at the tiny size, then at the middle one. */
static bool of_rows(int i, int n, const changed *row, int64_t layers, ref_variant *v) {
    bool middle = i >= n;
    if (i >= 2 * n)
        return false;
    build(0, 0, 0, v);
    sl_config *c = &v->config;
    snprintf(v->name, sizeof v->name, "%s%s", row[i % n].name, middle ? ", middle" : "");
    c->model_layers = layers;
    c->model_dim = middle ? 70 : 8;
    c->model_heads = middle ? 6 : 2;
    c->model_head_dim = middle ? 14 : 4;
    c->model_ffn = middle ? 149 : 11;
    c->norm_rank = 3;
    c->model_rope_base = 100;
    v->vocab = middle ? 157 : 11;
    v->batch = c->train_batch = 2;
    v->seq = c->model_seq = middle ? 131 : 5;
    for (int k = 0; row[i % n].changes[k]; k++)
        change(c, row[i % n].changes[k]);
    return true;
}

bool ref_variant_elsewhere(int i, ref_variant *v) {
    return of_rows(i, sizeof options / sizeof *options, options, 2, v);
}

/* What reads across layers, likewise: attention over depth, anchors. Three layers: blocks of sources are of one half,
 * of some, of all, and the last is short; of two layers that mix an anchor, one adds to the other's gradients. */
static const changed across[] = {
    {"attnres", {"residual=attnres"}},
    {"attnres, blocks of 2, no key norm", {"residual=attnres", "residual_opts.block=2",
                                           "residual_opts.key_norm=false"}},
    {"attnres, blocks of 4, softmax1", {"residual=attnres", "residual_opts.block=4",
                                        "residual_opts.softmax=softmax1", "attention=softmax1", "kv_heads=1"}},
    {"attnres, one block, sandwich, gated", {"residual=attnres", "residual_opts.block=6", "norm_place=sandwich",
                                             "norm=gated_norm", "attention_opts.gate=elementwise"}},
    {"attnres, blocks of 3, output, layernorm", {"residual=attnres", "residual_opts.block=3", "norm_place=output",
                                                 "norm=layernorm", "attention_bias=all"}},
    {"attnres, experts, tied", {"residual=attnres", "residual_opts.block=2", "experts=3", "expert_ffn=7",
                                "shared_experts=1", "balance=none", "tie_embeddings=true"}},
    {"attnres, no feed-forward, softmax1", {"residual=attnres", "ffn_kind=none", "residual_opts.softmax=softmax1",
                                            "embed_scale=true"}},
    {"oasis", {"residual=oasis", "attention=softmax1", "residual_opts.coupling=0.54"}},
    {"oasis, blocks of 3, softmax1", {"residual=oasis", "attention=softmax1", "residual_opts.block=3", "kv_heads=1",
                                      "residual_opts.softmax=softmax1", "residual_opts.coupling=1.5",
                                      "attention_opts.window=3"}},
    {"oasis, no feed-forward, score cap", {"residual=oasis", "attention=softmax1", "ffn_kind=none",
                                           "residual_opts.block=2", "attention_opts.softcap=1.5",
                                           "residual_opts.key_norm=false", "residual_opts.coupling=0.54"}},
    {"oasis, experts, sandwich", {"residual=oasis", "attention=softmax1", "experts=3", "expert_ffn=7", "balance=none",
                                  "norm_place=sandwich", "attention_opts.gate=headwise"}},
    {"oasis, states", {"residual=oasis", "attention=softmax1", "residual_opts.form=states",
                       "residual_opts.coupling=0.54"}},
    {"oasis, states, softmax1, experts, sandwich", {"residual=oasis", "attention=softmax1", "experts=3", "expert_ffn=7",
                                                    "residual_opts.form=states", "residual_opts.softmax=softmax1",
                                                    "norm_place=sandwich", "balance=none"}},
    {"oasis, states, no feed-forward, tied", {"residual=oasis", "attention=softmax1", "residual_opts.form=states",
                                              "ffn_kind=none", "tie_embeddings=true", "kv_heads=1"}},
    {"attnres, states, post, clip", {"residual=attnres", "residual_opts.form=states", "norm_place=post", "clip=2",
                                     "residual_opts.softmax=softmax1"}},
    {"attnres, nullify, positions, dyt", {"residual=attnres", "residual_opts.block=2", "sink_nullify=2", "norm=dyt",
                                          "learned_positions=131", "rope_base=0"}},
    {"attnres, anchors", {"residual=attnres", "anchors=external", "anchors_opts.dynamic=true"}},
    {"attnres, blocks of 2, internal anchors", {"residual=attnres", "residual_opts.block=2", "anchors=internal"}},
    {"anchors: external", {"anchors=external"}},
    {"anchors: external, headwise, qk_norm, gqa", {"anchors=external", "anchors_opts.coefficients=headwise",
                                                   "qk_norm=true", "kv_heads=1"}},
    {"anchors: external, elementwise, gate, no norm", {"anchors=external", "anchors_opts.coefficients=elementwise",
                                                       "anchors_opts.norm=false",
                                                       "attention_opts.gate=elementwise"}},
    {"anchors: external, dynamic, gate, sink", {"anchors=external", "anchors_opts.dynamic=true",
                                                "attention=sink_logit", "attention_opts.gate=elementwise",
                                                "attention_opts.gate_floor=0.3"}},
    {"anchors: external, dynamic, headwise, output", {"anchors=external", "anchors_opts.dynamic=true",
                                                      "norm_place=output", "anchors_opts.coefficients=headwise",
                                                      "learned_positions=131", "rope_base=0",
                                                      "attention=softmax1"}},
    {"anchors: external, experts, sandwich, biases", {"anchors=external", "experts=3", "expert_ffn=7",
                                                      "balance=none", "norm_place=sandwich", "attention_bias=all",
                                                      "embed_multiplier=1.5"}},
    {"anchors: internal", {"anchors=internal"}},
    {"anchors: internal, qk_norm of projections", {"anchors=internal", "qk_norm=true", "qk_norm_span=projection",
                                                   "anchors_opts.coefficients=headwise", "kv_heads=1"}},
    {"anchors: internal, gate, elementwise", {"anchors=internal", "anchors_opts.coefficients=elementwise",
                                              "norm_place=post", "attention_opts.gate=elementwise",
                                              "attention=relu"}},
    {"anchors: internal, dynamic, gate, qk_norm", {"anchors=internal", "anchors_opts.dynamic=true", "qk_norm=true",
                                                   "anchors_opts.coefficients=elementwise",
                                                   "attention_opts.gate=elementwise", "norm=gated_norm"}},
    {"anchors: internal, no norm, window, parallel", {"anchors=internal", "anchors_opts.norm=false",
                                                      "block=parallel", "attention_opts.window=3",
                                                      "attention=k_bias", "tie_embeddings=true"}},
};

bool ref_variant_across(int i, ref_variant *v) { return of_rows(i, sizeof across / sizeof *across, across, 3, v); }

/* What they change, as for sinklab's command line; layers, and positions of a window. */
static const struct {
    const char *name;
    int64_t layers, seq;
    const char *changes[8];
} mixers[] = {
    {"beside attention", 3, 5, {"mixer=[gdn, mamba2, softmax]", "mamba2_opts.head_dim=8", "mamba2_opts.state=3"}},
    {"mamba2", 2, 5, {"mixer=mamba2", "mamba2_opts.expand=3", "mamba2_opts.head_dim=4", "mamba2_opts.state=5",
                      "mamba2_opts.groups=2"}},
    {"gdn", 2, 5, {"mixer=gdn", "gdn_opts.heads=4", "gdn_opts.key_heads=2", "gdn_opts.key_dim=5",
                   "gdn_opts.value_dim=9"}},
    {"deltanet, negative, sigmoid gate", 2, 5, {"mixer=deltanet", "gdn_opts.negative=true", "gdn_opts.gate=sigmoid",
                                                "gdn_opts.key_dim=9", "gdn_opts.norm=false", "gdn_opts.conv=1"}},
    {"gla, no gate, post", 2, 5, {"mixer=gla", "gdn_opts.key_dim=7", "gdn_opts.gate=none", "gdn_opts.key_heads=1",
                                  "gdn_opts.unit=all", "norm_place=post"}},
    {"retnet, no norm and gate, experts", 2, 5, {"mixer=retnet", "gdn_opts.gate=none", "gdn_opts.norm=false",
                                                 "gdn_opts.conv=2", "experts=3", "expert_ffn=5"}},
    {"gdn, chunks", 1, 131, {"mixer=gdn", "gdn_opts.key_dim=12", "gdn_opts.value_dim=20", "gdn_opts.conv=3"}},
    {"mamba2, norm before, chunks", 1, 70, {"mixer=mamba2", "mamba2_opts.head_dim=8", "mamba2_opts.state=24",
                                            "mamba2_opts.norm=before", "mamba2_opts.conv=2"}},
    {"mamba2, no norm, 130 states", 1, 66, {"mixer=mamba2", "mamba2_opts.head_dim=16", "mamba2_opts.state=130",
                                            "mamba2_opts.norm=none"}},
    {"deltanet, 40 keys", 1, 67, {"mixer=deltanet", "gdn_opts.key_dim=40", "gdn_opts.value_dim=37",
                                  "gdn_opts.heads=1"}},
    {"gla, 72 keys", 1, 65, {"mixer=gla", "gdn_opts.key_dim=72", "gdn_opts.heads=3", "gdn_opts.key_heads=1"}},
    {"rwkv7, its channel mix", 3, 5, {"mixer=rwkv7", "rwkv7_opts.head_dim=4", "rwkv7_opts.decay_rank=3",
                                      "rwkv7_opts.rate_rank=2", "rwkv7_opts.value_rank=5", "rwkv7_opts.gate_rank=4",
                                      "ffn_shift=true"}},
    {"rwkv7, chunks, sandwich", 2, 67, {"mixer=[softmax, rwkv7]", "rwkv7_opts.head_dim=8", "rwkv7_opts.decay_rank=3",
                                        "rwkv7_opts.rate_rank=2", "rwkv7_opts.gate_rank=4", "norm_place=sandwich"}},
    {"gdn, 256 heads", 1, 2, {"mixer=gdn", "gdn_opts.heads=256", "gdn_opts.key_heads=2", "gdn_opts.key_dim=130",
                              "gdn_opts.value_dim=9"}}, /* blocks that have two slices of a head each */
};

bool ref_variant_mixer(int i, ref_variant *v) {
    if (i >= (int)(sizeof mixers / sizeof *mixers))
        return false;
    build(0, 0, 0, v);
    sl_config *c = &v->config;
    snprintf(v->name, sizeof v->name, "mixer: %s", mixers[i].name);
    c->model_layers = mixers[i].layers;
    c->model_dim = 8;
    c->model_heads = 2;
    c->model_head_dim = 4;
    c->model_ffn = 11;
    c->model_rope_base = 100;
    v->vocab = 11;
    v->batch = c->train_batch = 2;
    v->seq = c->model_seq = mixers[i].seq;
    for (int k = 0; mixers[i].changes[k]; k++)
        change(c, mixers[i].changes[k]);
    return true;
}

void ref_randomise(sl_params *p, uint64_t seed) {
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = p->tensor + i;
        sl_rng r = sl_rng_make(seed, SL_STREAM_TEST, sl_hash64(t->name, strlen(t->name)));
        bool embedding = strstr(t->name, "embed_tokens") != NULL;
        double std = embedding ? 0.5 : t->ndim == 1 ? 0.3 : 1.2 / sqrt((double)(t->size / t->shape[0]));
        double mean = t->ndim == 1 && t->init != SL_INIT_ZEROS;
        bool square = strstr(t->name, "_square") != NULL;
        for (int64_t k = 0; k < t->size; k++) {
            double value = mean + std * sl_rng_normal(&r);
            p->w[t->offset + k] = (float)(square ? fabs(value) : value);
        }
    }
}

void ref_random_tokens(int64_t n, int32_t vocab, uint64_t seed, int32_t *token) {
    sl_rng r = sl_rng_make(seed, SL_STREAM_TEST, 0);
    for (int64_t i = 0; i < n; i++)
        token[i] = (int32_t)sl_rng_below(&r, (uint64_t)vocab);
}
