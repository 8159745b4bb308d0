#include "ref/model_parts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ref_die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "reference model: ");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}

int64_t ref_rows(const ref_model *m) { return m->batch * m->seq; }

const sl_tensor *ref_tensor(const ref_model *m, const char *prefix, const char *name) {
    char full[256];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    int i = sl_params_find(m->table, full);
    if (i < 0)
        ref_die("the parameter table has no %s", full);
    return m->table->tensor + i;
}

const ref_c *ref_vector(const ref_model *m, const char *prefix, const char *name, int64_t n) {
    const sl_tensor *t = ref_tensor(m, prefix, name);
    if (t->ndim != 1 || t->shape[0] != n)
        ref_die("%s is not a vector of %lld", t->name, (long long)n);
    return m->w + t->offset;
}

const ref_c *ref_matrix(const ref_model *m, const char *prefix, const char *name, int64_t out, int64_t in) {
    const sl_tensor *t = ref_tensor(m, prefix, name);
    if (t->ndim != 2 || t->shape[0] != out || t->shape[1] != in)
        ref_die("%s is not a matrix [%lld, %lld]", t->name, (long long)out, (long long)in);
    return m->w + t->offset;
}

/* x [rows, in] times a named matrix, allocated. */
ref_c *ref_project(const ref_model *m, const char *prefix, const char *name, int64_t in, int64_t out, const ref_c *x) {
    ref_c *y = ref_alloc(ref_rows(m) * out);
    ref_linear(ref_rows(m), in, out, x, ref_matrix(m, prefix, name, out, in), y);
    return y;
}

/* The same and, where the configuration has it, the bias <prefix>.bias. */
ref_c *ref_affine(const ref_model *m, const char *prefix, const char *name, bool biased, int64_t in, int64_t out,
                  const ref_c *x) {
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    ref_c *y = ref_project(m, prefix, weight, in, out, x);
    if (biased)
        ref_add_row(ref_rows(m), out, ref_vector(m, prefix, bias, out), y);
    return y;
}

/* ---- the two halves of a block; both change h */

/* Input of a half: the norm before it, or h itself. */
ref_c *ref_half_input(const ref_model *m, const char *layer, enum site site, const ref_c *h) {
    char norm[128];
    const char *name = site == ATTN                                       ? "input_layernorm"
                       : m->config->model_norm_place == SL_PLACE_SANDWICH ? "pre_feedforward_layernorm"
                                                                          : "post_attention_layernorm";
    snprintf(norm, sizeof norm, "%s%s", layer, name);
    if (m->config->model_norm_place != SL_PLACE_POST && m->config->model_norm_place != SL_PLACE_OUTPUT)
        return ref_normed(m, norm, site, true, h);
    ref_c *x = ref_alloc(ref_rows(m) * m->config->model_dim);
    memcpy(x, h, (size_t)(ref_rows(m) * m->config->model_dim) * sizeof *x);
    return x;
}

/* h = what h and the output of the half become. */
void ref_half_output(const ref_model *m, const char *layer, enum site site, const ref_c *out, ref_c *h) {
    int64_t n = ref_rows(m) * m->config->model_dim;
    bool between = site == ATTN && sl_config_has_ffn(m->config) && m->config->model_block != SL_BLOCK_SEQUENTIAL;
    double most = between ? 0 : sl_config_clip(m->config);
    char norm[128];
    snprintf(norm, sizeof norm, "%s%s", layer,
             site == ATTN ? "post_attention_layernorm" : "post_feedforward_layernorm");
    ref_c *x = NULL;
    if (m->config->model_norm_place == SL_PLACE_SANDWICH || m->config->model_norm_place == SL_PLACE_OUTPUT)
        x = ref_normed(m, norm, site, false, out);
    ref_add(n, x ? x : out, h);
    for (int64_t k = 0; most > 0 && k < n; k++)
        if (fabs(creal(h[k])) > most) {
            ref_c slope = m->config->model_clip_backward == SL_CLIP_THROUGH ? I * cimag(h[k]) : 0;
            h[k] = copysign(most, creal(h[k])) + slope; /* an imaginary part is a derivative (ref/ops.h) */
        }
    free(x);
    if (m->config->model_norm_place != SL_PLACE_POST)
        return;
    x = ref_normed(m, norm, site, true, h);
    memcpy(h, x, (size_t)n * sizeof *h);
    free(x);
}

/* windowed: of a layer with a window */
/* Sequence mixers: a row for each of tables/mixer.inc. */
static const struct {
    const char *name;
    void (*block)(const ref_model *, const char *layer, const ref_c *x, ref_c *h);
} mixers[] = {{"softmax", ref_attention_block}, {"mean", ref_mean_block},         {"mamba2", ref_mamba2_block},
              {"gdn", ref_gdn_block},           {"deltanet", ref_deltanet_block}, {"gla", ref_gla_block},
              {"retnet", ref_retnet_block},     {"rwkv7", ref_rwkv7_block}};

void ref_mixer(const ref_model *m, int64_t i, const char *layer, const ref_c *x, ref_c *h) {
    const char *name = sl_choices_mixer[sl_config_mixer(m->config, i)].name;
    for (size_t k = 0; k < sizeof mixers / sizeof *mixers; k++)
        if (strcmp(mixers[k].name, name) == 0) {
            mixers[k].block(m, layer, x, h);
            return;
        }
    ref_die("mixer %s has no row in tests/ref/model.c", name);
}

/* One expert's (or the shared ones') gated feed-forward of width f, times weight[i, at] of stride `experts`, added to
 * sum. */
static void add_expert(const ref_model *m, const char *prefix, int64_t f, const ref_c *x, const ref_c *weight,
                       int64_t experts, ref_c *sum) {
    int64_t rows = ref_rows(m), d = m->config->model_dim;
    bool biased = m->config->model_ffn_bias;
    ref_c *gate = ref_affine(m, prefix, "gate_proj", biased, d, f, x),
          *up = ref_affine(m, prefix, "up_proj", biased, d, f, x);
    ref_ffn(m->config->model_ffn_kind, rows * f, gate, up, up);
    ref_c *out = ref_affine(m, prefix, "down_proj", biased, f, d, up);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < d; j++)
            sum[i * d + j] += out[i * d + j] * (weight ? weight[i * experts] : 1);
    ref_c *all[] = {gate, up, out};
    for (int i = 0; i < 3; i++)
        free(all[i]);
}

/* The shared experts, behind a gate if there is one, added to out. */
static void add_shared(const ref_model *m, const char *layer, int64_t f, const ref_c *x, ref_c *out) {
    const sl_config *c = m->config;
    int64_t rows = ref_rows(m);
    char prefix[128];
    ref_c *weight = NULL;
    snprintf(prefix, sizeof prefix, "%smlp.", layer);
    if (c->model_shared_expert_gate) {
        ref_c *gate = ref_project(m, prefix, "shared_expert_gate.weight", c->model_dim, 1, x);
        weight = ref_alloc(rows);
        for (int64_t i = 0; i < rows; i++)
            weight[i] = 1;
        ref_attention_gate(rows, 1, 1, 0, gate, weight);
        free(gate);
    }
    snprintf(prefix, sizeof prefix, "%smlp.shared_experts.", layer);
    add_expert(m, prefix, c->model_shared_experts * f, x, weight, 1, out);
    free(weight);
}

/* Returns the router's losses times their coefficients. */
static ref_c experts_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = ref_rows(m), d = c->model_dim, experts = c->model_experts, top = c->model_experts_per_token;
    int64_t parts = top + c->model_shared_experts, f = c->model_expert_ffn ? c->model_expert_ffn : c->model_ffn / parts;
    const char *balance = sl_choices_balance[c->model_balance].name;
    char prefix[128];
    ref_c *weight = ref_alloc(rows * experts), *out = ref_alloc(rows * d), aux, z;
    snprintf(prefix, sizeof prefix, "%smlp.", layer);
    ref_c *logits = ref_affine(m, prefix, "gate", c->model_router_bias, d, experts, x);
    snprintf(prefix, sizeof prefix, "%smlp.gate.", layer);
    const ref_c *bias = strcmp(balance, "bias") == 0 ? ref_vector(m, prefix, "e_score_correction_bias", experts) : NULL;
    double share = c->model_expert_capacity * (double)(rows * top) / (double)experts;
    ref_route(rows, experts, top, strcmp(sl_choices_router[c->model_router].name, "sigmoid") == 0, logits, bias,
              share > 0 ? (int64_t)ceil(share) : rows, weight, &aux, &z);
    for (int64_t e = 0; e < experts; e++) {
        snprintf(prefix, sizeof prefix, "%smlp.experts.%lld.", layer, (long long)e);
        add_expert(m, prefix, f, x, weight + e, experts, out);
    }
    if (c->model_shared_experts)
        add_shared(m, layer, f, x, out);
    ref_half_output(m, layer, FFN, out, h);
    free(out);
    free(weight);
    free(logits);
    return (strcmp(balance, "aux") == 0 ? c->model_balance_coef * aux : 0) + c->model_router_z_loss * z;
}

static void dense_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = ref_rows(m), d = c->model_dim, f = c->model_ffn;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%smlp.", layer);
    ref_c *up = ref_affine(m, prefix, "up_proj", c->model_ffn_bias, d, f, x), *gate = NULL;
    if (sl_ffn_gated[c->model_ffn_kind])
        gate = ref_affine(m, prefix, "gate_proj", c->model_ffn_bias, d, f, x);
    ref_ffn(c->model_ffn_kind, rows * f, gate ? gate : up, gate ? up : NULL, up);
    ref_c *out = ref_affine(m, prefix, "down_proj", c->model_ffn_bias, f, d, up);
    ref_half_output(m, layer, FFN, out, h);
    ref_c *all[] = {up, gate, out};
    for (int i = 0; i < 3; i++)
        free(all[i]);
}

ref_c ref_ffn_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    ref_c router_loss = 0, *shifted = NULL;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%smlp.", layer);
    if (m->config->model_ffn_shift)
        x = shifted = ref_shifted(m, prefix, "x_k", x);
    if (m->config->model_experts > 0)
        router_loss = experts_block(m, layer, x, h);
    else
        dense_block(m, layer, x, h);
    free(shifted);
    return router_loss;
}

/* Changes h, and adds the router's losses. */
static void block(const ref_model *m, int64_t i, const char *layer, ref_c *h, ref_c *router_loss) {
    const sl_config *c = m->config;
    bool parallel = c->model_block != SL_BLOCK_SEQUENTIAL, shared = c->model_block == SL_BLOCK_PARALLEL_SHARED;
    ref_c *x = ref_half_input(m, layer, ATTN, h), *y = NULL;
    if (sl_config_has_ffn(c) && parallel)
        y = shared ? NULL : ref_half_input(m, layer, FFN, h);
    ref_mixer(m, i, layer, x, h);
    if (sl_config_has_ffn(c) && !parallel)
        y = ref_half_input(m, layer, FFN, h);
    if (sl_config_has_ffn(c))
        *router_loss += ref_ffn_block(m, layer, shared ? x : y, h);
    free(x);
    free(y);
}

static ref_c evaluate(const ref_model *m, const int32_t *in, const int32_t *target, ref_c *token_loss, ref_c *logits,
                      ref_c *router_loss) {
    ref_c *anchor[PARTS] = {NULL}, *values = NULL;
    ref_model with = *m;
    with.anchor = anchor;
    with.values = &values;
    m = &with;
    const sl_config *c = m->config;
    int64_t rows = ref_rows(m), d = c->model_dim;
    ref_c *h = ref_alloc(rows * d);
    *router_loss = 0;
    ref_embedding(rows, d, in, ref_matrix(m, "model.embed_tokens", ".weight", m->vocab, d), h);
    for (int64_t i = 0; c->model_embed_multiplier > 0 && i < rows * d; i++)
        h[i] *= c->model_embed_multiplier;
    if (c->model_embed_scale)
        for (int64_t i = 0; i < rows * d; i++)
            h[i] *= *ref_vector(m, "model.embed_scale", "", 1);
    if (c->model_learned_positions > 0) {
        const ref_c *p = ref_matrix(m, "model.embed_positions", ".weight", c->model_learned_positions, d);
        for (int64_t i = 0; i < rows; i++)
            ref_add(d, p + i % m->seq * d, h + i * d);
    }
    if (c->model_anchors == SL_ANCHORS_EXTERNAL)
        ref_external_anchors(m, h);
    if (c->model_residual != SL_RESIDUAL_PLAIN)
        (c->residual_form == SL_DEPTH_STATES ? ref_residuals_of_states : ref_attention_residuals)(m, h, router_loss);
    for (int64_t i = 0; c->model_residual == SL_RESIDUAL_PLAIN && i < c->model_layers; i++) {
        char layer[64];
        snprintf(layer, sizeof layer, "model.layers.%lld.", (long long)i);
        block(m, i, layer, h, router_loss);
    }
    ref_c *x = ref_normed(m, "model.norm", FINAL, c->model_sink_nullify_final, h);
    const char *head = c->model_tie_embeddings ? "model.embed_tokens" : "lm_head";
    ref_c *lg = ref_project(m, head, ".weight", d, m->vocab, x), *loss = ref_alloc(rows);
    if (c->model_head_bias)
        ref_add_row(rows, m->vocab, ref_vector(m, "lm_head", ".bias", m->vocab), lg);
    ref_softcap(rows * m->vocab, c->model_logit_softcap, lg);
    ref_cross_entropy(rows, m->vocab, lg, target, loss);
    ref_c sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < rows; i++) {
        sum += loss[i];
        n += target[i] >= 0;
    }
    if (token_loss)
        memcpy(token_loss, loss, (size_t)rows * sizeof *loss);
    if (logits)
        memcpy(logits, lg, (size_t)(rows * m->vocab) * sizeof *lg);
    ref_c *all[] = {h, x, lg, loss, anchor[Q], anchor[K], anchor[V], anchor[GATE], values};
    for (int i = 0; i < 9; i++)
        free(all[i]);
    return sum / (double)n;
}

ref_c ref_model_loss(const ref_model *m, const int32_t *in, const int32_t *target, ref_c *token_loss, ref_c *logits) {
    ref_c router_loss;
    return evaluate(m, in, target, token_loss, logits, &router_loss);
}

ref_c ref_model_objective(const ref_model *m, const int32_t *in, const int32_t *target) {
    ref_c router_loss, loss = evaluate(m, in, target, NULL, NULL, &router_loss);
    return loss + router_loss;
}

ref_c *ref_from_float(int64_t n, const float *w) {
    ref_c *z = ref_alloc(n);
    for (int64_t i = 0; i < n; i++)
        z[i] = w[i];
    return z;
}

double ref_model_slope(const ref_model *m, const int32_t *in, const int32_t *target, const double *direction) {
    ref_model stepped = *m;
    ref_c *w = ref_alloc(m->table->floats);
    for (int64_t i = 0; i < m->table->floats; i++)
        w[i] = m->w[i] + I * (REF_STEP * direction[i]);
    stepped.w = w;
    double slope = cimag(ref_model_objective(&stepped, in, target)) / REF_STEP;
    free(w);
    return slope;
}
