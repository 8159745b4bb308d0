#include "ref/model_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a list has for the layer whose tensors are named <prefix>... */
static int of_layer(const sl_choice_list *list, const char *prefix) {
    return list->of[atoi(prefix + strlen("model.layers.")) % list->n];
}

ref_attend ref_model_attend(const ref_model *m, const char *prefix) {
    const sl_config *c = m->config;
    int64_t kv = sl_config_kv_heads(c), hd = sl_config_head_dim(c);
    ref_attend a = {.kind = sl_choices_attention[c->model_attention].name,
                    .scale = c->attention_scale,
                    .softcap = c->attention_softcap};
    if (of_layer(&c->attention_window_layers, prefix) == SL_LAYER_WINDOW)
        a.window = c->attention_window;
    if (strcmp(a.kind, "sink_logit") == 0)
        a.sinks = ref_vector(m, prefix, "sinks", c->model_heads);
    if (strcmp(a.kind, "k_bias") == 0 || strcmp(a.kind, "kv_bias") == 0)
        a.key = ref_matrix(m, prefix, "bias_k", kv, hd);
    if (strcmp(a.kind, "kv_bias") == 0)
        a.value = ref_matrix(m, prefix, "bias_v", kv, hd);
    if (strcmp(a.kind, "sigmoid") == 0)
        a.a = -c->attention_sigmoid_bias * log((double)c->model_seq);
    if (strcmp(a.kind, "clipped_softmax") == 0) {
        a.b = -c->attention_clip_alpha / (double)c->model_seq;
        a.a = c->attention_clip_zeta - a.b;
    }
    return a;
}

/* y [rows, n] gated from x, one gate value for `group` elements, where the configured gate is this one. */
static void attention_gate(const ref_model *m, const char *prefix, const char *gate, const char *name, int64_t n,
                           int64_t group, const ref_c *x, ref_c *y) {
    if (strcmp(sl_choices_attention_gate[m->config->attention_gate].name, gate) != 0)
        return;
    ref_c *g = ref_project(m, prefix, name, m->config->model_dim, n / group, x);
    ref_attention_gate(ref_rows(m), n, group, m->config->attention_gate_floor, g, y);
    free(g);
}

static ref_rotary rotary_of(const ref_model *m, bool windowed) {
    const sl_config *c = m->config;
    ref_rotary r = {.dims = c->model_rope_dims, .base = c->model_rope_base};
    if (windowed && c->model_rope_base_window > 0) {
        r.base = c->model_rope_base_window;
        return r;
    }
    r.scaling = sl_choices_rope_scaling[c->model_rope_scaling].name;
    r.factor = c->rope_scaling_factor, r.low = c->rope_scaling_low, r.high = c->rope_scaling_high;
    r.original = (double)c->rope_scaling_original;
    r.fast = c->rope_scaling_beta_fast, r.slow = c->rope_scaling_beta_slow, r.whole = c->rope_scaling_truncate;
    r.growth = c->rope_scaling_attention_factor;
    if (r.growth == 0)
        r.growth = 1 + log(r.factor) / 10;
    return r;
}

/* ---- anchors (arXiv 2601.08131), which every layer of attention mixes into its own */

static const char *const part_names[] = {"q", "k", "v", "gate"};

static int64_t heads_of(const sl_config *c, int part) {
    return part == K || part == V ? sl_config_kv_heads(c) : c->model_heads;
}

static bool has_part(const sl_config *c, int part) {
    return part != GATE || c->attention_gate == SL_ATTENTION_GATE_ELEMENTWISE;
}

/* s as an anchor of that part: normed, or as it is. */
static ref_c *anchor_of(const ref_model *m, int part, bool norm, const ref_c *s) {
    int64_t hd = sl_config_head_dim(m->config), heads = ref_rows(m) * heads_of(m->config, part);
    char name[32];
    ref_c *a = ref_alloc(heads * hd);
    snprintf(name, sizeof name, "%s_norm.weight", part_names[part]);
    memcpy(a, s, (size_t)(heads * hd) * sizeof *a);
    if (norm && m->config->anchors_norm)
        ref_rmsnorm(heads, hd, a, ref_vector(m, "model.anchors.", name, hd), m->config->norm_eps, a);
    return a;
}

void ref_external_anchors(const ref_model *m, const ref_c *h) {
    const sl_config *c = m->config;
    for (int part = Q; part < PARTS; part++) {
        char name[32];
        snprintf(name, sizeof name, "%s_proj.weight", part_names[part]);
        if (!has_part(c, part))
            continue;
        ref_c *s = ref_project(m, "model.anchors.", name, c->model_dim, heads_of(c, part) * sl_config_head_dim(c), h);
        m->anchor[part] = anchor_of(m, part, true, s);
        free(s);
    }
}

/* The factors of the terms, [rows, 2, parts]; NULL: all are 1. */
static ref_c *anchor_factors(const ref_model *m, const char *prefix, const ref_c *x) {
    const sl_config *c = m->config;
    int64_t n = 2 * (has_part(c, GATE) ? 4 : 3), rows = ref_rows(m);
    if (!c->anchors_dynamic)
        return NULL;
    ref_c *hidden = ref_project(m, prefix, "anchor_factors.down_proj.weight", c->model_dim, 16, x);
    ref_ffn(SL_FFN_gelu, rows * 16, hidden, NULL, hidden);
    ref_c *f = ref_project(m, prefix, "anchor_factors.up_proj.weight", 16, n, hidden);
    for (int64_t i = 0; i < rows * n; i++)
        f[i] = 1 / (1 + cexp(-f[i]));
    free(hidden);
    return f;
}

/* s = f1 c1 anchor + f2 c2 s */
static void mix_anchor(const ref_model *m, const char *prefix, int part, const ref_c *factors, ref_c *s) {
    const sl_config *c = m->config;
    int64_t hd = sl_config_head_dim(c), heads = heads_of(c, part), parts = has_part(c, GATE) ? 4 : 3, first = 0, n = 0;
    const char *each = sl_choices_anchor_coefficients[c->anchors_coefficients].name;
    bool scalar = strcmp(each, "scalar") == 0, headwise = strcmp(each, "headwise") == 0;
    for (int p = part == GATE ? GATE : Q; p <= (part == GATE ? GATE : V); p++) {
        first = p == part ? n : first;
        n += scalar ? 1 : headwise ? heads_of(c, p) : heads_of(c, p) * hd;
    }
    const ref_c *c1 = ref_vector(m, prefix, part == GATE ? "gate_anchor_coef" : "anchor_coef", n) + first;
    const ref_c *c2 = ref_vector(m, prefix, part == GATE ? "gate_own_coef" : "own_coef", n) + first;
    for (int64_t i = 0; i < ref_rows(m) * heads * hd; i++) {
        int64_t j = i % (heads * hd), at = scalar ? 0 : headwise ? j / hd : j;
        const ref_c *f = factors ? factors + i / (heads * hd) * 2 * parts + part : NULL;
        s[i] = (f ? f[0] : 1) * c1[at] * m->anchor[part][i] + (f ? f[parts] : 1) * c2[at] * s[i];
    }
}

/* x: what the half reads */
void ref_attention_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = ref_rows(m), d = c->model_dim, hd = sl_config_head_dim(c);
    int64_t heads = c->model_heads, kv_heads = sl_config_kv_heads(c);
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%sself_attn.", layer);
    bool bias = c->model_attention_bias != SL_ATTENTION_BIAS_NONE;
    ref_c *q = ref_affine(m, prefix, "q_proj", bias, d, heads * hd, x);
    ref_c *k = ref_affine(m, prefix, "k_proj", bias, d, kv_heads * hd, x);
    ref_c *v = ref_affine(m, prefix, "v_proj", bias, d, kv_heads * hd, x);
    ref_c *gate = has_part(c, GATE) ? ref_project(m, prefix, "gate_proj.weight", d, heads * hd, x) : NULL;
    ref_c *own[] = {q, k, v, gate};
    bool anchors = c->model_anchors != SL_ANCHORS_NONE, gives = anchors && !m->anchor[Q];
    ref_c *factors = anchors && !gives ? anchor_factors(m, prefix, x) : NULL;
    for (int part = Q; anchors && !gives && part < PARTS; part++)
        if (has_part(c, part))
            mix_anchor(m, prefix, part, factors, own[part]);
    free(factors);
    ref_attend how = ref_model_attend(m, prefix);
    if (c->model_qk_norm) {
        bool whole = c->model_qk_norm_span == SL_SPAN_PROJECTION;
        int64_t qs = whole ? heads : 1, ks = whole ? kv_heads : 1;
        ref_rmsnorm(rows * heads / qs, qs * hd, q, ref_vector(m, prefix, "q_norm.weight", qs * hd), c->norm_eps, q);
        ref_rmsnorm(rows * kv_heads / ks, ks * hd, k, ref_vector(m, prefix, "k_norm.weight", ks * hd), c->norm_eps, k);
    }
    for (int part = Q; gives && part < PARTS; part++)
        if (has_part(c, part))
            m->anchor[part] = anchor_of(m, part, !c->model_qk_norm || part > K, own[part]);
    if (c->model_rope_base != 0 && of_layer(&c->model_rope_layers, prefix) == SL_LAYER_ROPE) {
        ref_rotary r = rotary_of(m, how.window > 0);
        ref_rope(rows, m->seq, heads, hd, &r, q);
        ref_rope(rows, m->seq, kv_heads, hd, &r, k);
    }
    ref_c *mix = ref_alloc(rows * heads * hd);
    attention_gate(m, prefix, "value", "v_gate_proj.weight", kv_heads * hd, 1, x, v);
    ref_attention(rows, m->seq, heads, kv_heads, hd, &how, q, k, v, mix, m->null);
    if (gate)
        ref_attention_gate(rows, heads * hd, 1, c->attention_gate_floor, gate, mix);
    attention_gate(m, prefix, "headwise", "gate_proj.weight", heads * hd, hd, x, mix);
    ref_c *out = ref_affine(m, prefix, "o_proj", c->model_attention_bias == SL_ATTENTION_BIAS_ALL, heads * hd, d, mix);
    ref_half_output(m, layer, ATTN, out, h);
    ref_c *all[] = {q, k, v, gate, mix, out};
    for (int i = 0; i < 6; i++)
        free(all[i]);
}

/* The toy of tests/mixer. */
void ref_mean_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    int64_t rows = ref_rows(m), d = m->config->model_dim;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%smean.", layer);
    ref_c *y = ref_alloc(rows * d);
    ref_c *v = ref_project(m, prefix, "v_proj.weight", d, d, x);
    const sl_tensor *t = ref_tensor(m, prefix, "mix");
    if (t->ndim != 3 || t->shape[0] != d || t->shape[1] != 1 || t->shape[2] != 2)
        ref_die("%s is not [%lld, 1, 2]", t->name, (long long)d);
    const ref_c *w = m->w + t->offset;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < d; j++) {
            ref_c sum = 0;
            for (int64_t s = i / m->seq * m->seq; s <= i; s++)
                sum += v[s * d + j];
            y[i * d + j] = w[2 * j] * v[i * d + j] + w[2 * j + 1] * sum / (double)(i % m->seq + 1);
        }
    ref_c *out = ref_project(m, prefix, "o_proj.weight", d, d, y);
    ref_half_output(m, layer, ATTN, out, h);
    ref_c *all[] = {v, y, out};
    for (int i = 0; i < 3; i++)
        free(all[i]);
}
