/* Gated DeltaNet (arXiv 2412.06464) as Qwen3-Next has it, and its relatives, which are it without a part. Tensors are
 * behind model.layers.N.linear_attn:
 *   [z | q | k | v | b | a] = x [W_z | W_q | W_k | W_v | W_b | W_a],  q, k, v = silu(conv(q, k, v)),
 *   o = delta(q, k, v, b, a),  (norm(o) silu(z)) W_out
 * Nothing has positions. */
#include "ops/mixer/convolution.h"
#include "ops/mixer/delta.h"
#include "ops/mixer/gate_norm.h"
#include "ops/mixer/mixer.h"
#include "ops/norm/norm.h"
#include "ops/ops.h"

#include <stdio.h>

/* What remains of a mixer of the family. */
typedef struct {
    enum sl_delta_decay decay;
    bool rule;
} kind;

static sl_delta delta_of(const sl_config *c, kind k) {
    sl_gdn_sizes n = sl_config_gdn(c);
    return (sl_delta){.key_heads = n.key_heads, .heads = n.heads, .key_dim = n.key_dim, .value_dim = n.value_dim,
                      .first = c->gdn_gate == SL_GDN_GATE_NONE ? 0 : n.heads * n.value_dim, .decay = k.decay,
                      .rule = k.rule, .unit = k.rule || c->gdn_unit == SL_GDN_UNIT_ALL,
                      .negative = c->gdn_negative};
}

/* Their gates and norm's place; of no gate and no norm there is no operation. */
static sl_buf build_gate(sl_program *b, sl_scope at, const char *prefix, sl_buf o, sl_buf rows, int64_t value_dim) {
    static const enum sl_gate_norm_gate gates[] = {[SL_GDN_GATE_SILU] = SL_GATE_NORM_SILU,
                                                   [SL_GDN_GATE_SIGMOID] = SL_GATE_NORM_SIGMOID,
                                                   [SL_GDN_GATE_NONE] = SL_GATE_NORM_OPEN};
    const sl_config *c = b->config;
    if (!c->gdn_norm && c->gdn_gate == SL_GDN_GATE_NONE)
        return o;
    return sl_build_gate_norm(b, at, prefix, o, c->gdn_gate == SL_GDN_GATE_NONE ? SL_NONE : rows,
                              &(sl_gate_norm){.place = c->gdn_norm ? SL_GATE_NORM_BEFORE : SL_GATE_NORM_OFF,
                                              .gate = gates[c->gdn_gate], .span = value_dim, .shared = true,
                                              .eps = (float)c->norm_eps});
}

/* Declares the matrices of a row's parts, one behind the other; returns the first. */
static int declare_in(sl_program *b, sl_scope at, const char *prefix, const sl_delta *d) {
    int64_t keys = d->key_heads * d->key_dim, values = d->heads * d->value_dim, b_rows = d->rule ? d->heads : 0;
    const struct {
        const char *name;
        int64_t rows;
    } parts[] = {{"z_proj.weight", d->first},
                 {"q_proj.weight", keys},
                 {"k_proj.weight", keys},
                 {"v_proj.weight", values},
                 {"b_proj.weight", b_rows},
                 {"a_proj.weight", sl_delta_columns(d) - 2 * keys - values - b_rows}};
    int first = SL_NONE;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].rows == 0)
            continue;
        int w = sl_build_matrix(b, at, prefix, parts[i].name, parts[i].rows, b->config->model_dim,
                                SL_MATRIX_LINEAR | (first == SL_NONE ? 0 : SL_MATRIX_JOINED));
        first = first == SL_NONE ? w : first;
    }
    return first;
}

static sl_buf build(sl_program *b, const sl_mixer_site *s, kind k) {
    const sl_config *c = b->config;
    sl_delta d = delta_of(c, k);
    int64_t values = d.heads * d.value_dim, all = d.first + sl_delta_columns(&d);
    char prefix[64];
    sl_scope at = {(int)s->layer, SL_HALF_ATTN, SL_PART_in, SL_ROLE_SELF};
    snprintf(prefix, sizeof prefix, "model.layers.%lld.linear_attn", (long long)s->layer);
    int in = declare_in(b, at, prefix, &d);
    sl_buf rows = sl_build_linear(b, at, s->in, c->model_dim, all, in, SL_NONE, SL_NONE);
    at.part = SL_PART_conv;
    if (c->gdn_conv > 1)
        sl_build_convolution(b, at, prefix, rows,
                             &(sl_convolution){.first = d.first, .channels = 2 * d.key_heads * d.key_dim + values,
                                               .width = c->gdn_conv, .silu = true});
    at.part = SL_PART_core;
    sl_buf o = sl_build_delta(b, at, prefix, rows, &d);
    at.part = SL_PART_gate;
    o = build_gate(b, at, prefix, o, rows, d.value_dim);
    at.part = SL_PART_out;
    int out = sl_build_matrix(b, at, prefix, "out_proj.weight", c->model_dim, values,
                              SL_MATRIX_OUTPUT | SL_MATRIX_LINEAR);
    return sl_build_linear(b, at, o, values, c->model_dim, out, SL_NONE, s->residual);
}

/* Of a number of state forward 5: S = decay S + u k, o += S q; the rule's S k is 2 more; twice as many back. */
static double flops(const sl_config *c, kind k) {
    sl_delta d = delta_of(c, k);
    return (k.rule ? 21 : 15) * (double)(d.heads * d.value_dim * d.key_dim);
}

static const sl_block_layer layers[] = {{SL_HALF_ATTN, SL_PART_in, SL_NORM_ATTN, true},
                                        {SL_HALF_ATTN, SL_PART_out, -1, true},
                                        {.part = SL_PART_none}};

static int64_t reach(const sl_config *c) { return c->gdn_conv; }

#define MEMBER(member, ...)                                                                                            \
    static sl_buf build_##member(sl_program *b, const sl_mixer_site *s) { return build(b, s, (kind){__VA_ARGS__}); }  \
    static double flops_##member(const sl_config *c, int64_t seq) {                                                   \
        (void)seq;                                                                                                     \
        return flops(c, (kind){__VA_ARGS__});                                                                          \
    }                                                                                                                  \
    const sl_mixer sl_mixer_##member = {.name = #member, .build = build_##member, .flops = flops_##member,            \
                                        .layers = layers, .recurrence = &sl_delta_recurrence, .reach = reach};
MEMBER(gdn, SL_DELTA_SOFTPLUS, true)
MEMBER(deltanet, SL_DELTA_NO_DECAY, true)
MEMBER(gla, SL_DELTA_SIGMOID, false)
MEMBER(retnet, SL_DELTA_FIXED, false)
