#include "ref/model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "reference model: ");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}

static int64_t rows_of(const ref_model *m) { return m->batch * m->seq; }

static const sl_tensor *lookup(const ref_model *m, const char *prefix, const char *name) {
    char full[256];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    int i = sl_params_find(m->table, full);
    if (i < 0)
        die("the parameter table has no %s", full);
    return m->table->tensor + i;
}

static const ref_c *vector(const ref_model *m, const char *prefix, const char *name, int64_t n) {
    const sl_tensor *t = lookup(m, prefix, name);
    if (t->ndim != 1 || t->shape[0] != n)
        die("%s is not a vector of %lld", t->name, (long long)n);
    return m->w + t->offset;
}

static const ref_c *matrix(const ref_model *m, const char *prefix, const char *name, int64_t out,
                           int64_t in) {
    const sl_tensor *t = lookup(m, prefix, name);
    if (t->ndim != 2 || t->shape[0] != out || t->shape[1] != in)
        die("%s is not a matrix [%lld, %lld]", t->name, (long long)out, (long long)in);
    return m->w + t->offset;
}

/* x [rows, in] times a named matrix, allocated. */
static ref_c *project(const ref_model *m, const char *prefix, const char *name, int64_t in,
                      int64_t out, const ref_c *x) {
    ref_c *y = ref_alloc(rows_of(m) * out);
    ref_linear(rows_of(m), in, out, x, matrix(m, prefix, name, out, in), y);
    return y;
}

/* ---- norms: a row for each row of ops/norm.inc. x [rows, dim] -> y; tensors <prefix>.weight, ...
 */
static void norm_rmsnorm(const ref_model *m, const char *prefix, bool final, const ref_c *x,
                         ref_c *y) {
    (void) final;
    int64_t d = m->config->model_dim;
    ref_rmsnorm(rows_of(m), d, x, vector(m, prefix, ".weight", d), m->config->norm_eps, y);
}

static void norm_layernorm(const ref_model *m, const char *prefix, bool final, const ref_c *x,
                           ref_c *y) {
    (void) final;
    int64_t d = m->config->model_dim;
    ref_layernorm(rows_of(m), d, x, vector(m, prefix, ".weight", d), m->config->norm_eps, y);
}

static void norm_gated(const ref_model *m, const char *prefix, bool final, const ref_c *x,
                       ref_c *y) {
    int64_t d = m->config->model_dim, r = m->config->norm_rank;
    norm_rmsnorm(m, prefix, final, x, y);
    if (!final || m->config->norm_gate_final)
        ref_gate(rows_of(m), d, r, matrix(m, prefix, ".gate_down.weight", r, d),
                 matrix(m, prefix, ".gate_up.weight", d, r),
                 m->config->norm_init == SL_GATE_IDENTITY ? 2 : 1, y);
}

static const struct {
    const char *name;
    void (*norm)(const ref_model *, const char *prefix, bool final, const ref_c *x, ref_c *y);
} norms[] = {
    {"rmsnorm", norm_rmsnorm},
    {"layernorm", norm_layernorm},
    {"gated_norm", norm_gated},
};

static ref_c *normed(const ref_model *m, const char *prefix, bool final, const ref_c *x) {
    const char *name = sl_choices_norm[m->config->model_norm].name;
    ref_c *y = ref_alloc(rows_of(m) * m->config->model_dim);
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        if (strcmp(norms[i].name, name) == 0) {
            norms[i].norm(m, prefix, final, x, y);
            return y;
        }
    die("norm %s has no row in tests/ref/model.c", name);
}

/* ---- the two halves of a block; both add to h */
static void attention_block(const ref_model *m, const char *layer, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim, hd = sl_config_head_dim(c);
    int64_t heads = c->model_heads, kv_heads = sl_config_kv_heads(c);
    char prefix[128], norm[128];
    snprintf(norm, sizeof norm, "%sinput_layernorm", layer);
    snprintf(prefix, sizeof prefix, "%sself_attn.", layer);
    ref_c *x = normed(m, norm, false, h);
    ref_c *q = project(m, prefix, "q_proj.weight", d, heads * hd, x);
    ref_c *k = project(m, prefix, "k_proj.weight", d, kv_heads * hd, x);
    ref_c *v = project(m, prefix, "v_proj.weight", d, kv_heads * hd, x);
    if (c->model_qk_norm) {
        ref_rmsnorm(rows * heads, hd, q, vector(m, prefix, "q_norm.weight", hd), c->norm_eps, q);
        ref_rmsnorm(rows * kv_heads, hd, k, vector(m, prefix, "k_norm.weight", hd), c->norm_eps, k);
    }
    if (c->model_rope_base != 0) {
        ref_rope(rows, m->seq, heads, hd, c->model_rope_base, q);
        ref_rope(rows, m->seq, kv_heads, hd, c->model_rope_base, k);
    }
    ref_c *mix = ref_alloc(rows * heads * hd);
    ref_attention(rows, m->seq, heads, kv_heads, hd, q, k, v, mix);
    ref_c *out = project(m, prefix, "o_proj.weight", heads * hd, d, mix);
    ref_add(rows * d, out, h);
    ref_c *all[] = {x, q, k, v, mix, out};
    for (int i = 0; i < 6; i++)
        free(all[i]);
}

/* One expert's (or the shared ones') gated feed-forward of width f, times weight[i, at] of stride `experts`, added to h. */
static void add_expert(const ref_model *m, const char *prefix, int64_t f, const ref_c *x, const ref_c *weight,
                       int64_t experts, ref_c *h) {
    int64_t rows = rows_of(m), d = m->config->model_dim;
    ref_c *gate = project(m, prefix, "gate_proj.weight", d, f, x), *up = project(m, prefix, "up_proj.weight", d, f, x);
    ref_ffn(m->config->model_ffn_kind, rows * f, gate, up, up);
    ref_c *out = project(m, prefix, "down_proj.weight", f, d, up);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < d; j++)
            h[i * d + j] += out[i * d + j] * (weight ? weight[i * experts] : 1);
    ref_c *all[] = {gate, up, out};
    for (int i = 0; i < 3; i++)
        free(all[i]);
}

/* Returns the router's losses times their coefficients. */
static ref_c experts_block(const ref_model *m, const char *layer, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim, experts = c->model_experts, top = c->model_experts_per_token;
    int64_t parts = top + c->model_shared_experts, f = c->model_expert_ffn ? c->model_expert_ffn : c->model_ffn / parts;
    const char *balance = sl_choices_balance[c->model_balance].name;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%spost_attention_layernorm", layer);
    ref_c *x = normed(m, prefix, false, h), *weight = ref_alloc(rows * experts), aux, z;
    snprintf(prefix, sizeof prefix, "%smlp.gate.", layer);
    ref_c *logits = project(m, prefix, "weight", d, experts, x);
    const ref_c *bias = strcmp(balance, "bias") == 0 ? vector(m, prefix, "e_score_correction_bias", experts) : NULL;
    double share = c->model_expert_capacity * (double)(rows * top) / (double)experts;
    ref_route(rows, experts, top, strcmp(sl_choices_router[c->model_router].name, "sigmoid") == 0, logits, bias,
              share > 0 ? (int64_t)ceil(share) : rows, weight, &aux, &z);
    for (int64_t e = 0; e < experts; e++) {
        snprintf(prefix, sizeof prefix, "%smlp.experts.%lld.", layer, (long long)e);
        add_expert(m, prefix, f, x, weight + e, experts, h);
    }
    snprintf(prefix, sizeof prefix, "%smlp.shared_experts.", layer);
    if (c->model_shared_experts)
        add_expert(m, prefix, c->model_shared_experts * f, x, NULL, 0, h);
    free(x);
    free(weight);
    free(logits);
    return (strcmp(balance, "aux") == 0 ? c->model_balance_coef * aux : 0) + c->model_router_z_loss * z;
}

static void ffn_block(const ref_model *m, const char *layer, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim, f = c->model_ffn;
    char prefix[128], norm[128];
    snprintf(norm, sizeof norm, "%spost_attention_layernorm", layer);
    snprintf(prefix, sizeof prefix, "%smlp.", layer);
    ref_c *x = normed(m, norm, false, h);
    static const bool gated[] = {
#define FFN(name, gated, ...) gated,
#include "simd/ffn.inc"
#undef FFN
    };
    ref_c *up = project(m, prefix, "up_proj.weight", d, f, x), *gate = NULL;
    if (gated[c->model_ffn_kind])
        gate = project(m, prefix, "gate_proj.weight", d, f, x);
    ref_ffn(c->model_ffn_kind, rows * f, gate ? gate : up, gate ? up : NULL, up);
    ref_c *out = project(m, prefix, "down_proj.weight", f, d, up);
    ref_add(rows * d, out, h);
    ref_c *all[] = {x, up, gate, out};
    for (int i = 0; i < 4; i++)
        free(all[i]);
}

static ref_c evaluate(const ref_model *m, const int32_t *in, const int32_t *target, ref_c *token_loss,
                      ref_c *logits, ref_c *router_loss) {
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim;
    ref_c *h = ref_alloc(rows * d);
    *router_loss = 0;
    ref_embedding(rows, d, in, matrix(m, "model.embed_tokens", ".weight", m->vocab, d), h);
    for (int64_t i = 0; i < c->model_layers; i++) {
        char layer[64];
        snprintf(layer, sizeof layer, "model.layers.%lld.", (long long)i);
        attention_block(m, layer, h);
        if (c->model_experts > 0)
            *router_loss += experts_block(m, layer, h);
        else if (sl_config_has_ffn(c))
            ffn_block(m, layer, h);
    }
    ref_c *x = normed(m, "model.norm", true, h);
    const char *head = c->model_tie_embeddings ? "model.embed_tokens" : "lm_head";
    ref_c *lg = project(m, head, ".weight", d, m->vocab, x), *loss = ref_alloc(rows);
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
    ref_c *all[] = {h, x, lg, loss};
    for (int i = 0; i < 4; i++)
        free(all[i]);
    return sum / (double)n;
}

ref_c ref_model_loss(const ref_model *m, const int32_t *in, const int32_t *target,
                     ref_c *token_loss, ref_c *logits) {
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

double ref_model_slope(const ref_model *m, const int32_t *in, const int32_t *target,
                       const double *direction) {
    ref_model stepped = *m;
    ref_c *w = ref_alloc(m->table->floats);
    for (int64_t i = 0; i < m->table->floats; i++)
        w[i] = m->w[i] + I * (REF_STEP * direction[i]);
    stepped.w = w;
    double slope = cimag(ref_model_objective(&stepped, in, target)) / REF_STEP;
    free(w);
    return slope;
}
