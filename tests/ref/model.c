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

/* The same and, where the configuration has it, the bias <prefix>.bias. */
static ref_c *linear(const ref_model *m, const char *prefix, const char *name, bool biased, int64_t in, int64_t out,
                     const ref_c *x) {
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    ref_c *y = project(m, prefix, weight, in, out, x);
    if (biased)
        ref_add_row(rows_of(m), out, vector(m, prefix, bias, out), y);
    return y;
}

/* ---- norms: a row for each row of tables/norm.inc. x [rows, dim] -> y; tensors <prefix>.weight, ... w: the
 * weight, or 1 + it. */
enum site { ATTN, FFN, FINAL };

static void norm_rmsnorm(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                         ref_c *y) {
    (void)prefix, (void)site;
    ref_rmsnorm(rows_of(m), m->config->model_dim, x, w, m->config->norm_eps, y);
}

static void norm_layernorm(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                           ref_c *y) {
    (void)site;
    ref_layernorm(rows_of(m), m->config->model_dim, x, w, m->config->norm_eps, y);
    if (m->config->norm_bias)
        ref_add_row(rows_of(m), m->config->model_dim, vector(m, prefix, ".bias", m->config->model_dim), y);
}

static void norm_none(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                      ref_c *y) {
    (void)site;
    memcpy(y, x, (size_t)(rows_of(m) * m->config->model_dim) * sizeof *y);
    ref_scale_channels(rows_of(m), m->config->model_dim, w, y);
    if (m->config->norm_bias) /* of a layernorm whose division is done (nullified_norm) */
        ref_add_row(rows_of(m), m->config->model_dim, vector(m, prefix, ".bias", m->config->model_dim), y);
}

static void norm_dyt(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                     ref_c *y) {
    int64_t d = m->config->model_dim;
    (void)site;
    ref_dyt(rows_of(m), d, x, false, *vector(m, prefix, ".alpha", 1), 0, w,
            m->config->norm_beta ? vector(m, prefix, ".bias", d) : NULL, y);
}

static void norm_derf(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                      ref_c *y) {
    int64_t d = m->config->model_dim;
    (void)site;
    ref_dyt(rows_of(m), d, x, true, *vector(m, prefix, ".alpha", 1), *vector(m, prefix, ".shift", 1), w,
            m->config->norm_beta ? vector(m, prefix, ".bias", d) : NULL, y);
}

static void norm_gated(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                       ref_c *y);

static const struct {
    const char *name;
    void (*norm)(const ref_model *, const char *prefix, enum site site, const ref_c *w, const ref_c *x, ref_c *y);
} norms[] = {
    {"rmsnorm", norm_rmsnorm},
    {"layernorm", norm_layernorm},
    {"none", norm_none},
    {"dyt", norm_dyt},
    {"derf", norm_derf},
    {"gated_norm", norm_gated},
};

static void apply_norm(const ref_model *m, const char *name, const char *prefix, enum site site, const ref_c *w,
                       const ref_c *x, ref_c *y) {
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        if (strcmp(norms[i].name, name) == 0) {
            norms[i].norm(m, prefix, site, w, x, y);
            return;
        }
    die("norm %s has no row in tests/ref/model.c", name);
}

/* ---- attention kinds */

/* What a list has for the layer whose tensors are named <prefix>... */
static int of_layer(const sl_choice_list *list, const char *prefix) {
    return list->of[atoi(prefix + strlen("model.layers.")) % list->n];
}

ref_attend ref_model_attend(const ref_model *m, const char *prefix) {
    const sl_config *c = m->config;
    int64_t kv = sl_config_kv_heads(c), hd = sl_config_head_dim(c);
    ref_attend a = {.kind = sl_choices_attention[c->model_attention].name, .scale = c->attention_scale,
                    .softcap = c->attention_softcap};
    if (of_layer(&c->attention_window_layers, prefix) == SL_LAYER_WINDOW)
        a.window = c->attention_window;
    if (strcmp(a.kind, "sink_logit") == 0)
        a.sinks = vector(m, prefix, "sinks", c->model_heads);
    if (strcmp(a.kind, "k_bias") == 0 || strcmp(a.kind, "kv_bias") == 0)
        a.key = matrix(m, prefix, "bias_k", kv, hd);
    if (strcmp(a.kind, "kv_bias") == 0)
        a.value = matrix(m, prefix, "bias_v", kv, hd);
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
    ref_c *g = project(m, prefix, name, m->config->model_dim, n / group, x);
    ref_attention_gate(rows_of(m), n, group, m->config->attention_gate_floor, g, y);
    free(g);
}

static void norm_gated(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                       ref_c *y) {
    const sl_config *c = m->config;
    ref_gate_kind kind = {c->norm_rank, c->norm_granularity == SL_GATE_TENSORWISE ? 1 : c->model_dim,
                          sl_choices_gate_outer[c->norm_outer].name, sl_choices_gate_inner[c->norm_inner].name,
                          c->norm_init == SL_GATE_IDENTITY};
    apply_norm(m, sl_choices_base_norm[c->norm_base].name, prefix, site, w, x, y);
    if (site != FINAL || c->norm_gate_final)
        ref_gate(rows_of(m), c->model_dim, &kind, matrix(m, prefix, ".gate_down.weight", kind.rank, c->model_dim),
                 matrix(m, prefix, ".gate_up.weight", kind.gates, kind.rank), y);
}

/* ---- sink channels replaced at a norm's input (model.sink_nullify) */

/* What stands in channel j. */
static double stand_in(const ref_model *m, const char *prefix, int64_t j) {
    int64_t d = m->config->model_dim;
    double mean = creal(vector(m, prefix, ".channel_mean", d)[j]);
    switch (m->config->model_sink_nullify_value) {
    case SL_NULLIFY_MEAN: return mean;
    case SL_NULLIFY_RMS: return copysign(sqrt(creal(vector(m, prefix, ".channel_mean_square", d)[j])), mean);
    case SL_NULLIFY_MEAN_OUTPUT: return creal(vector(m, prefix, ".channel_mean_output", d)[j]);
    default: return 0;
    }
}

static void replace_channels(const ref_model *m, const char *prefix, ref_c *x) {
    int64_t d = m->config->model_dim;
    const ref_c *mean = vector(m, prefix, ".channel_mean", d);
    bool *taken = calloc((size_t)d, sizeof *taken);
    for (int64_t k = 0; k < m->config->model_sink_nullify; k++) {
        int64_t most = -1;
        for (int64_t j = 0; j < d; j++)
            if (!taken[j] && creal(mean[j]) != 0 && (most < 0 || fabs(creal(mean[j])) > fabs(creal(mean[most]))))
                most = j;
        if (most < 0)
            break;
        taken[most] = true;
        for (int64_t i = 0; i < rows_of(m); i++)
            x[i * d + most] = stand_in(m, prefix, most);
    }
    free(taken);
}

/* rows a become (a - mean(b)) r(b) with the statistics of RMSNorm or LayerNorm. */
static void divide_by(const ref_model *m, bool centred, const ref_c *b, ref_c *a) {
    int64_t d = m->config->model_dim;
    for (int64_t i = 0; i < rows_of(m); i++, a += d, b += d) {
        ref_c mean = 0, square = 0;
        for (int64_t j = 0; centred && j < d; j++)
            mean += b[j] / (double)d;
        for (int64_t j = 0; j < d; j++)
            square += (b[j] - mean) * (b[j] - mean) / (double)d;
        for (int64_t j = 0; j < d; j++)
            a[j] = (a[j] - mean) / csqrt(square + m->config->norm_eps);
    }
}

static int choice(const sl_choice *list, const char *name) {
    int i = 0;
    while (strcmp(list[i].name, name) != 0)
        i++;
    return i;
}

/* The norm of x with sink channels replaced in what is normalised, a, and what the statistics are of, b: division by
 * hand, and then a norm that does not divide. Without statistics there is only a. */
static void nullified_norm(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *pre,
                           const ref_c *x, ref_c *y) {
    sl_config c = *m->config;
    ref_model with = *m;
    int64_t d = c.model_dim, n = rows_of(m) * d;
    bool gated = strcmp(sl_choices_norm[c.model_norm].name, "gated_norm") == 0;
    const char *base = gated ? sl_choices_base_norm[c.norm_base].name : sl_choices_norm[c.model_norm].name;
    bool centred = strcmp(base, "layernorm") == 0, divides = centred || strcmp(base, "rmsnorm") == 0;
    ref_c *a = ref_alloc(n), *b = ref_alloc(n);
    memcpy(a, x, (size_t)n * sizeof *a);
    memcpy(b, x, (size_t)n * sizeof *b);
    bool behind = c.model_sink_nullify_value == SL_NULLIFY_MEAN_OUTPUT; /* the division */
    if (c.model_sink_nullify_mode != SL_NULLIFY_DENOMINATOR && !behind)
        replace_channels(m, prefix, a);
    if (c.model_sink_nullify_mode != SL_NULLIFY_OUTPUT)
        replace_channels(m, prefix, b);
    if (pre) {
        ref_scale_channels(rows_of(m), d, pre, a);
        ref_scale_channels(rows_of(m), d, pre, b);
    }
    if (divides) {
        divide_by(m, centred, b, a);
        if (behind)
            replace_channels(m, prefix, a);
        c.model_norm = gated ? c.model_norm : choice(sl_choices_norm, "none");
        c.norm_base = choice(sl_choices_base_norm, "none");
        with.config = &c;
    }
    apply_norm(&with, sl_choices_norm[c.model_norm].name, prefix, site, w, a, y);
    free(a);
    free(b);
}

static ref_c *normed(const ref_model *m, const char *prefix, enum site site, bool nullify, const ref_c *x) {
    int64_t d = m->config->model_dim, n = rows_of(m) * d;
    ref_c *in = ref_alloc(n), *y = ref_alloc(n), *w = ref_alloc(d);
    const ref_c *pre = m->config->norm_preaffine ? vector(m, prefix, ".pre_affine", d) : NULL;
    memcpy(in, x, (size_t)n * sizeof *in);
    memcpy(w, vector(m, prefix, ".weight", d), (size_t)d * sizeof *w);
    for (int64_t j = 0; m->config->norm_zero_centred && j < d; j++)
        w[j] += 1;
    if (nullify && m->config->model_sink_nullify > 0) {
        nullified_norm(m, prefix, site, w, pre, x, y);
    } else {
        if (pre)
            ref_scale_channels(rows_of(m), d, pre, in);
        apply_norm(m, sl_choices_norm[m->config->model_norm].name, prefix, site, w, in, y);
    }
    free(in);
    free(w);
    return y;
}

/* ---- the two halves of a block; both change h */

/* Input of a half: the norm before it, or h itself. */
static ref_c *half_input(const ref_model *m, const char *layer, enum site site, const ref_c *h) {
    char norm[128];
    const char *name = site == ATTN                                        ? "input_layernorm"
                       : m->config->model_norm_place == SL_PLACE_SANDWICH ? "pre_feedforward_layernorm"
                                                                           : "post_attention_layernorm";
    snprintf(norm, sizeof norm, "%s%s", layer, name);
    if (m->config->model_norm_place != SL_PLACE_POST && m->config->model_norm_place != SL_PLACE_OUTPUT)
        return normed(m, norm, site, true, h);
    ref_c *x = ref_alloc(rows_of(m) * m->config->model_dim);
    memcpy(x, h, (size_t)(rows_of(m) * m->config->model_dim) * sizeof *x);
    return x;
}

/* h = what h and the output of the half become. */
static void half_output(const ref_model *m, const char *layer, enum site site, const ref_c *out, ref_c *h) {
    int64_t n = rows_of(m) * m->config->model_dim;
    bool between = site == ATTN && sl_config_has_ffn(m->config) && m->config->model_block != SL_BLOCK_SEQUENTIAL;
    double most = between ? 0 : sl_config_clip(m->config);
    char norm[128];
    snprintf(norm, sizeof norm, "%s%s", layer,
             site == ATTN ? "post_attention_layernorm" : "post_feedforward_layernorm");
    ref_c *x = NULL;
    if (m->config->model_norm_place == SL_PLACE_SANDWICH || m->config->model_norm_place == SL_PLACE_OUTPUT)
        x = normed(m, norm, site, false, out);
    ref_add(n, x ? x : out, h);
    for (int64_t k = 0; most > 0 && k < n; k++)
        if (fabs(creal(h[k])) > most) {
            ref_c slope = m->config->model_clip_backward == SL_CLIP_THROUGH ? I * cimag(h[k]) : 0;
            h[k] = copysign(most, creal(h[k])) + slope; /* an imaginary part is a derivative (ref/ops.h) */
        }
    free(x);
    if (m->config->model_norm_place != SL_PLACE_POST)
        return;
    x = normed(m, norm, site, true, h);
    memcpy(h, x, (size_t)n * sizeof *h);
    free(x);
}

/* windowed: of a layer with a window */
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

enum { Q, K, V, GATE, PARTS };
static const char *const part_names[] = {"q", "k", "v", "gate"};

static int64_t heads_of(const sl_config *c, int part) {
    return part == K || part == V ? sl_config_kv_heads(c) : c->model_heads;
}

static bool has_part(const sl_config *c, int part) {
    return part != GATE || c->attention_gate == SL_ATTENTION_GATE_ELEMENTWISE;
}

/* s as an anchor of that part: normed, or as it is. */
static ref_c *anchor_of(const ref_model *m, int part, bool norm, const ref_c *s) {
    int64_t hd = sl_config_head_dim(m->config), heads = rows_of(m) * heads_of(m->config, part);
    char name[32];
    ref_c *a = ref_alloc(heads * hd);
    snprintf(name, sizeof name, "%s_norm.weight", part_names[part]);
    memcpy(a, s, (size_t)(heads * hd) * sizeof *a);
    if (norm && m->config->anchors_norm)
        ref_rmsnorm(heads, hd, a, vector(m, "model.anchors.", name, hd), m->config->norm_eps, a);
    return a;
}

static void external_anchors(const ref_model *m, const ref_c *h) {
    const sl_config *c = m->config;
    for (int part = Q; part < PARTS; part++) {
        char name[32];
        snprintf(name, sizeof name, "%s_proj.weight", part_names[part]);
        if (!has_part(c, part))
            continue;
        ref_c *s = project(m, "model.anchors.", name, c->model_dim, heads_of(c, part) * sl_config_head_dim(c), h);
        m->anchor[part] = anchor_of(m, part, true, s);
        free(s);
    }
}

/* The factors of the terms, [rows, 2, parts]; NULL: all are 1. */
static ref_c *anchor_factors(const ref_model *m, const char *prefix, const ref_c *x) {
    const sl_config *c = m->config;
    int64_t n = 2 * (has_part(c, GATE) ? 4 : 3), rows = rows_of(m);
    if (!c->anchors_dynamic)
        return NULL;
    ref_c *hidden = project(m, prefix, "anchor_factors.down_proj.weight", c->model_dim, 16, x);
    ref_ffn(SL_FFN_gelu, rows * 16, hidden, NULL, hidden);
    ref_c *f = project(m, prefix, "anchor_factors.up_proj.weight", 16, n, hidden);
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
    const ref_c *c1 = vector(m, prefix, part == GATE ? "gate_anchor_coef" : "anchor_coef", n) + first;
    const ref_c *c2 = vector(m, prefix, part == GATE ? "gate_own_coef" : "own_coef", n) + first;
    for (int64_t i = 0; i < rows_of(m) * heads * hd; i++) {
        int64_t j = i % (heads * hd), at = scalar ? 0 : headwise ? j / hd : j;
        const ref_c *f = factors ? factors + i / (heads * hd) * 2 * parts + part : NULL;
        s[i] = (f ? f[0] : 1) * c1[at] * m->anchor[part][i] + (f ? f[parts] : 1) * c2[at] * s[i];
    }
}

/* x: what the half reads */
static void attention_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim, hd = sl_config_head_dim(c);
    int64_t heads = c->model_heads, kv_heads = sl_config_kv_heads(c);
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%sself_attn.", layer);
    bool bias = c->model_attention_bias != SL_ATTENTION_BIAS_NONE;
    ref_c *q = linear(m, prefix, "q_proj", bias, d, heads * hd, x);
    ref_c *k = linear(m, prefix, "k_proj", bias, d, kv_heads * hd, x);
    ref_c *v = linear(m, prefix, "v_proj", bias, d, kv_heads * hd, x);
    ref_c *gate = has_part(c, GATE) ? project(m, prefix, "gate_proj.weight", d, heads * hd, x) : NULL;
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
        ref_rmsnorm(rows * heads / qs, qs * hd, q, vector(m, prefix, "q_norm.weight", qs * hd), c->norm_eps, q);
        ref_rmsnorm(rows * kv_heads / ks, ks * hd, k, vector(m, prefix, "k_norm.weight", ks * hd), c->norm_eps, k);
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
    ref_c *out = linear(m, prefix, "o_proj", c->model_attention_bias == SL_ATTENTION_BIAS_ALL, heads * hd, d, mix);
    half_output(m, layer, ATTN, out, h);
    ref_c *all[] = {q, k, v, gate, mix, out};
    for (int i = 0; i < 6; i++)
        free(all[i]);
}

/* The toy of tests/mixer. */
static void mean_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    int64_t rows = rows_of(m), d = m->config->model_dim;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%smean.", layer);
    ref_c *y = ref_alloc(rows * d);
    ref_c *v = project(m, prefix, "v_proj.weight", d, d, x);
    const sl_tensor *t = lookup(m, prefix, "mix");
    if (t->ndim != 3 || t->shape[0] != d || t->shape[1] != 1 || t->shape[2] != 2)
        die("%s is not [%lld, 1, 2]", t->name, (long long)d);
    const ref_c *w = m->w + t->offset;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < d; j++) {
            ref_c sum = 0;
            for (int64_t s = i / m->seq * m->seq; s <= i; s++)
                sum += v[s * d + j];
            y[i * d + j] = w[2 * j] * v[i * d + j] + w[2 * j + 1] * sum / (double)(i % m->seq + 1);
        }
    ref_c *out = project(m, prefix, "o_proj.weight", d, d, y);
    half_output(m, layer, ATTN, out, h);
    ref_c *all[] = {v, y, out};
    for (int i = 0; i < 3; i++)
        free(all[i]);
}

/* Columns from..from + n of x [rows, all], allocated. */
static ref_c *columns(int64_t rows, int64_t all, int64_t from, int64_t n, const ref_c *x) {
    ref_c *y = ref_alloc(rows * n);
    for (int64_t i = 0; i < rows * n; i++)
        y[i] = x[i / n * all + from + i % n];
    return y;
}

static const ref_c *taps(const ref_model *m, const char *prefix, int64_t channels, int64_t width) {
    const sl_tensor *t = lookup(m, prefix, "conv1d.weight");
    if (t->ndim != 3 || t->shape[0] != channels || t->shape[1] != 1 || t->shape[2] != width)
        die("%s is not [%lld, 1, %lld]", t->name, (long long)channels, (long long)width);
    return m->w + t->offset;
}

/* What n matrices give of x [rows, d], side by side: [rows, sum of widths], allocated. Those of width 0 don't exist. */
static ref_c *project_beside(const ref_model *m, const char *prefix, int n, const char *const *names,
                             const int64_t *widths, int64_t d, const ref_c *x) {
    int64_t all = 0, at = 0, rows = rows_of(m);
    for (int i = 0; i < n; i++)
        all += widths[i];
    ref_c *y = ref_alloc(rows * all);
    for (int i = 0; i < n; at += widths[i++]) {
        ref_c *part = widths[i] ? project(m, prefix, names[i], d, widths[i], x) : NULL;
        for (int64_t j = 0; j < rows * widths[i]; j++)
            y[j / widths[i] * all + at + j % widths[i]] = part[j];
        free(part);
    }
    return y;
}

/* y silu(z), and the norm of each group's channels before or after it. */
static void mamba2_gate(const ref_model *m, const char *prefix, int64_t inner, const ref_c *z, ref_c *y) {
    const sl_config *c = m->config;
    const char *place = sl_choices_mamba2_norm[c->mamba2_norm].name;
    int64_t rows = rows_of(m), groups = c->mamba2_groups, span = inner / groups;
    for (int step = 0; step < 2; step++) {
        bool gates = step == (strcmp(place, "before") == 0);
        for (int64_t i = 0; gates && i < rows * inner; i++)
            y[i] *= z[i] / (1 + cexp(-z[i]));
        if (gates || strcmp(place, "none") == 0)
            continue;
        const ref_c *w = vector(m, prefix, "norm.weight", inner);
        for (int64_t i = 0; i < rows * groups; i++)
            ref_rmsnorm(1, span, y + i * span, w + i % groups * span, c->norm_eps, y + i * span);
    }
}

static void mamba2_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim, inner = c->mamba2_expand * d, bc = c->mamba2_groups * c->mamba2_state;
    int64_t heads = inner / c->mamba2_head_dim, convolved = inner + 2 * bc, all = inner + convolved + heads;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%smixer.", layer);
    ref_c *in = project(m, prefix, "in_proj.weight", d, all, x), *z = columns(rows, all, 0, inner, in);
    ref_c *raw = columns(rows, all, inner, convolved, in), *v = ref_alloc(rows * convolved);
    ref_convolution(rows, m->seq, convolved, c->mamba2_conv, raw, taps(m, prefix, convolved, c->mamba2_conv),
                    vector(m, prefix, "conv1d.bias", convolved), true, v);
    ref_c *vx = columns(rows, convolved, 0, inner, v), *vb = columns(rows, convolved, inner, bc, v);
    ref_c *vc = columns(rows, convolved, inner + bc, bc, v), *dt = columns(rows, all, inner + convolved, heads, in);
    ref_ssd s = {heads, c->mamba2_head_dim, c->mamba2_groups, c->mamba2_state, vx, vb, vc, dt,
                 vector(m, prefix, "dt_bias", heads), vector(m, prefix, "A_log", heads), vector(m, prefix, "D", heads)};
    ref_c *y = ref_alloc(rows * inner);
    ref_ssd_run(rows, m->seq, &s, y);
    mamba2_gate(m, prefix, inner, z, y);
    ref_c *out = project(m, prefix, "out_proj.weight", inner, d, y);
    half_output(m, layer, ATTN, out, h);
    ref_c *used[] = {in, z, raw, v, vx, vb, vc, dt, y, out};
    for (int i = 0; i < 10; i++)
        free(used[i]);
}

/* norm(o) gate(z) of each head, or less of it. */
static void gdn_gate(const ref_model *m, const char *prefix, sl_gdn_sizes n, const ref_c *z, ref_c *o) {
    const sl_config *c = m->config;
    const char *gate = sl_choices_gdn_gate[c->gdn_gate].name;
    int64_t rows = rows_of(m);
    if (c->gdn_norm)
        ref_rmsnorm(rows * n.heads, n.value_dim, o, vector(m, prefix, "norm.weight", n.value_dim), c->norm_eps, o);
    for (int64_t i = 0; strcmp(gate, "none") != 0 && i < rows * n.heads * n.value_dim; i++)
        o[i] *= (strcmp(gate, "silu") == 0 ? z[i] : 1) / (1 + cexp(-z[i]));
}

/* What a relative of gdn has: the delta rule, and the decay that its name stands for. */
static void gdn_family(const ref_model *m, const char *layer, const char *mixer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    sl_gdn_sizes n = sl_config_gdn(c);
    bool rule = strcmp(mixer, "gdn") == 0 || strcmp(mixer, "deltanet") == 0;
    bool softplus = strcmp(mixer, "gdn") == 0, reads = softplus || strcmp(mixer, "gla") == 0;
    int64_t rows = rows_of(m), d = c->model_dim, keys = n.key_heads * n.key_dim, values = n.heads * n.value_dim;
    int64_t z = strcmp(sl_choices_gdn_gate[c->gdn_gate].name, "none") == 0 ? 0 : values, mixed = 2 * keys + values;
    int64_t b = z + mixed, a = b + (rule ? n.heads : 0), all = a + (reads ? n.heads : 0);
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%slinear_attn.", layer);
    static const char *const names[] = {"z_proj.weight", "q_proj.weight", "k_proj.weight",
                                        "v_proj.weight", "b_proj.weight", "a_proj.weight"};
    const int64_t widths[] = {z, keys, keys, values, a - b, all - a};
    ref_c *in = project_beside(m, prefix, 6, names, widths, d, x), *raw = columns(rows, all, z, mixed, in);
    ref_c *qkv = columns(rows, all, z, mixed, in);
    ref_c *log_decay = ref_alloc(rows * n.heads), *beta = ref_alloc(rows * n.heads), *o = ref_alloc(rows * values);
    if (c->gdn_conv > 1)
        ref_convolution(rows, m->seq, mixed, c->gdn_conv, raw, taps(m, prefix, mixed, c->gdn_conv), NULL, true, qkv);
    for (int64_t i = 0; i < rows * n.heads; i++) {
        int64_t row = i / n.heads * all, head = i % n.heads;
        ref_c to_decay = reads ? in[row + a + head] : 0;
        if (rule)
            beta[i] = (c->gdn_negative ? 2 : 1) / (1 + cexp(-in[row + b + head]));
        if (softplus)
            log_decay[i] = -cexp(vector(m, prefix, "A_log", n.heads)[head]) *
                           clog(1 + cexp(to_decay + vector(m, prefix, "dt_bias", n.heads)[head]));
        else if (reads)
            log_decay[i] = -clog(1 + cexp(-to_decay)) / 16;
        else
            log_decay[i] = rule ? 0 : log(1 - pow(2, (double)(-5 - head)));
    }
    ref_c *q = columns(rows, mixed, 0, keys, qkv), *k = columns(rows, mixed, keys, keys, qkv);
    ref_c *v = columns(rows, mixed, 2 * keys, values, qkv), *zs = columns(rows, all, 0, z, in);
    ref_delta s = {n.heads, n.key_heads, n.key_dim, n.value_dim, rule, rule || c->gdn_unit, q, k, v, log_decay, beta};
    ref_delta_run(rows, m->seq, &s, o);
    gdn_gate(m, prefix, n, zs, o);
    ref_c *out = project(m, prefix, "out_proj.weight", values, d, o);
    half_output(m, layer, ATTN, out, h);
    ref_c *used[] = {in, raw, qkv, log_decay, beta, o, q, k, v, zs, out};
    for (int i = 0; i < 11; i++)
        free(used[i]);
}
static void gdn_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    gdn_family(m, layer, "gdn", x, h);
}
static void deltanet_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    gdn_family(m, layer, "deltanet", x, h);
}
static void gla_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    gdn_family(m, layer, "gla", x, h);
}
static void retnet_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    gdn_family(m, layer, "retnet", x, h);
}

/* Sequence mixers: a row for each of tables/mixer.inc. */
static const struct {
    const char *name;
    void (*block)(const ref_model *, const char *layer, const ref_c *x, ref_c *h);
} mixers[] = {{"softmax", attention_block}, {"mean", mean_block}, {"mamba2", mamba2_block},
              {"gdn", gdn_block}, {"deltanet", deltanet_block}, {"gla", gla_block}, {"retnet", retnet_block}};

static void mixer_block(const ref_model *m, int64_t i, const char *layer, const ref_c *x, ref_c *h) {
    const char *name = sl_choices_mixer[sl_config_mixer(m->config, i)].name;
    for (size_t k = 0; k < sizeof mixers / sizeof *mixers; k++)
        if (strcmp(mixers[k].name, name) == 0) {
            mixers[k].block(m, layer, x, h);
            return;
        }
    die("mixer %s has no row in tests/ref/model.c", name);
}

/* One expert's (or the shared ones') gated feed-forward of width f, times weight[i, at] of stride `experts`, added to
 * sum. */
static void add_expert(const ref_model *m, const char *prefix, int64_t f, const ref_c *x, const ref_c *weight,
                       int64_t experts, ref_c *sum) {
    int64_t rows = rows_of(m), d = m->config->model_dim;
    bool biased = m->config->model_ffn_bias;
    ref_c *gate = linear(m, prefix, "gate_proj", biased, d, f, x), *up = linear(m, prefix, "up_proj", biased, d, f, x);
    ref_ffn(m->config->model_ffn_kind, rows * f, gate, up, up);
    ref_c *out = linear(m, prefix, "down_proj", biased, f, d, up);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < d; j++)
            sum[i * d + j] += out[i * d + j] * (weight ? weight[i * experts] : 1);
    ref_c *all[] = {gate, up, out};
    for (int i = 0; i < 3; i++)
        free(all[i]);
}

/* Returns the router's losses times their coefficients. */
static ref_c experts_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim, experts = c->model_experts, top = c->model_experts_per_token;
    int64_t parts = top + c->model_shared_experts, f = c->model_expert_ffn ? c->model_expert_ffn : c->model_ffn / parts;
    const char *balance = sl_choices_balance[c->model_balance].name;
    char prefix[128];
    ref_c *weight = ref_alloc(rows * experts), *out = ref_alloc(rows * d), aux, z;
    snprintf(prefix, sizeof prefix, "%smlp.", layer);
    ref_c *logits = linear(m, prefix, "gate", c->model_router_bias, d, experts, x);
    snprintf(prefix, sizeof prefix, "%smlp.gate.", layer);
    const ref_c *bias = strcmp(balance, "bias") == 0 ? vector(m, prefix, "e_score_correction_bias", experts) : NULL;
    double share = c->model_expert_capacity * (double)(rows * top) / (double)experts;
    ref_route(rows, experts, top, strcmp(sl_choices_router[c->model_router].name, "sigmoid") == 0, logits, bias,
              share > 0 ? (int64_t)ceil(share) : rows, weight, &aux, &z);
    for (int64_t e = 0; e < experts; e++) {
        snprintf(prefix, sizeof prefix, "%smlp.experts.%lld.", layer, (long long)e);
        add_expert(m, prefix, f, x, weight + e, experts, out);
    }
    snprintf(prefix, sizeof prefix, "%smlp.shared_experts.", layer);
    if (c->model_shared_experts)
        add_expert(m, prefix, c->model_shared_experts * f, x, NULL, 0, out);
    half_output(m, layer, FFN, out, h);
    free(out);
    free(weight);
    free(logits);
    return (strcmp(balance, "aux") == 0 ? c->model_balance_coef * aux : 0) + c->model_router_z_loss * z;
}

static void ffn_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim, f = c->model_ffn;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%smlp.", layer);
    ref_c *up = linear(m, prefix, "up_proj", c->model_ffn_bias, d, f, x), *gate = NULL;
    if (sl_ffn_gated[c->model_ffn_kind])
        gate = linear(m, prefix, "gate_proj", c->model_ffn_bias, d, f, x);
    ref_ffn(c->model_ffn_kind, rows * f, gate ? gate : up, gate ? up : NULL, up);
    ref_c *out = linear(m, prefix, "down_proj", c->model_ffn_bias, f, d, up);
    half_output(m, layer, FFN, out, h);
    ref_c *all[] = {up, gate, out};
    for (int i = 0; i < 3; i++)
        free(all[i]);
}

/* Changes h, and adds the router's losses. */
static void block(const ref_model *m, int64_t i, const char *layer, ref_c *h, ref_c *router_loss) {
    const sl_config *c = m->config;
    bool parallel = c->model_block != SL_BLOCK_SEQUENTIAL, shared = c->model_block == SL_BLOCK_PARALLEL_SHARED;
    ref_c *x = half_input(m, layer, ATTN, h), *y = NULL;
    if (sl_config_has_ffn(c) && parallel)
        y = shared ? NULL : half_input(m, layer, FFN, h);
    mixer_block(m, i, layer, x, h);
    if (sl_config_has_ffn(c) && !parallel)
        y = half_input(m, layer, FFN, h);
    if (c->model_experts > 0)
        *router_loss += experts_block(m, layer, shared ? x : y, h);
    else if (sl_config_has_ffn(c))
        ffn_block(m, layer, shared ? x : y, h);
    free(x);
    free(y);
}

/* ---- Attention Residuals */

/* The scores a[n] of a row's sources are lowered by what is psi[n] more than its mean there. */
static void couple(const ref_model *m, const char *prefix, int n, const ref_c *psi, ref_c *a) {
    ref_c beta = clog(1 + cexp(*vector(m, prefix, ".coupling", 1))), mean = 0;
    beta = creal(beta) < 10 ? beta : 10;
    for (int i = 0; i < n; i++)
        mean += psi[i] / (double)n;
    for (int i = 0; i < n; i++)
        a[i] -= beta * (psi[i] - mean);
}

/* Of n sources [rows, dim], into h; psi [rows, n]: their null evidence, or NULL. */
static void mixture(const ref_model *m, const char *prefix, int n, ref_c *const *source, const ref_c *psi, ref_c *h) {
    const sl_config *c = m->config;
    int64_t d = c->model_dim;
    const ref_c *query = vector(m, prefix, ".query", d), zero = 0;
    ref_c *a = ref_alloc(n), *key = ref_alloc(d);
    ref_attend softmax = {.kind = "softmax"};
    for (int64_t r = 0; r < rows_of(m); r++) {
        for (int i = 0; i < n; i++) {
            memcpy(key, source[i] + r * d, (size_t)d * sizeof *key);
            if (c->residual_key_norm)
                ref_rmsnorm(1, d, key, vector(m, prefix, ".norm.weight", d), c->norm_eps, key);
            ref_linear(1, d, 1, key, query, a + i);
        }
        if (psi)
            couple(m, prefix, n, psi + r * n, a);
        ref_attention_weights(&softmax, n, c->residual_softmax == SL_DEPTH_SOFTMAX1 ? &zero : NULL, a);
        for (int64_t j = 0; j < d; j++) {
            h[r * d + j] = 0;
            for (int i = 0; i < n; i++)
                h[r * d + j] += a[i] * source[i][r * d + j];
        }
    }
    free(a), free(key);
}

/* psi [rows, 1 + sources of done halves], allocated: of a source the mean over its halves of what their layer's
 * attention has left unused, unused[layer][row]. */
static ref_c *evidence(const ref_model *m, int halves, int64_t done, ref_c *const *unused) {
    int64_t block = m->config->residual_block, n = 1 + (done + block - 1) / block;
    ref_c *psi = ref_alloc(rows_of(m) * n);
    for (int64_t k = 0; k < done; k++) {
        int64_t source = k / block, first = source * block, end = first + block < done ? first + block : done;
        for (int64_t r = 0; r < rows_of(m); r++)
            psi[r * n + 1 + source] += unused[k / halves][r] / (double)(end - first);
    }
    return psi;
}

/* Of n states [rows, dim], the newest last, into h. psi [n]: rows of null evidence, or NULL. */
static void mixture_of_states(const ref_model *m, const char *prefix, int n, ref_c *const *state, ref_c *const *psi,
                              ref_c *h) {
    const sl_config *c = m->config;
    int64_t d = c->model_dim, r = d / 4 < 64 ? 64 : d / 4;
    const ref_c *wq = matrix(m, prefix, ".to_query.weight", r, d), zero = 0;
    const ref_c *wk = matrix(m, prefix, ".from_query.weight", d, r);
    ref_c recency = *vector(m, prefix, ".recency", 1), *a = ref_alloc(n), *of_row = ref_alloc(n);
    ref_c *q = ref_alloc(r), *u = ref_alloc(d);
    ref_attend softmax = {.kind = "softmax"};
    for (int64_t t = 0; t < rows_of(m); t++) {
        ref_linear(1, d, r, state[n - 1] + t * d, wq, q);
        ref_linear(1, r, d, q, wk, u);
        for (int i = 0; i < n; i++) {
            ref_linear(1, d, 1, state[i] + t * d, u, a + i);
            a[i] = a[i] / sqrt((double)r) + recency * (double)i / (double)(n - 1);
            of_row[i] = psi && psi[i] ? psi[i][t] : 0;
        }
        if (psi)
            couple(m, prefix, n, of_row, a);
        for (int i = 0; i < n; i++)
            a[i] = fabs(creal(a[i])) > 50 ? copysign(50, creal(a[i])) : a[i];
        ref_attention_weights(&softmax, n, c->residual_softmax == SL_DEPTH_SOFTMAX1 ? &zero : NULL, a);
        for (int64_t j = 0; j < d; j++) {
            h[t * d + j] = 0;
            for (int i = 0; i < n; i++)
                h[t * d + j] += a[i] * state[i][t * d + j];
        }
    }
    free(a), free(of_row), free(q), free(u);
}

/* h: the embedding, then what the final norm reads. Sources of layer i: the embedding, what layers 0..i-1 have ended
 * with, what the attention has given, and the feed-forward. */
static void residuals_of_states(const ref_model *given, ref_c *h, ref_c *router_loss) {
    ref_model with = *given, *m = &with;
    const sl_config *c = m->config;
    int64_t values = rows_of(m) * c->model_dim, layers = c->model_layers;
    ref_c **state = calloc((size_t)layers + 3, sizeof *state), **psi = calloc((size_t)layers + 3, sizeof *psi);
    for (int64_t i = 0; i < layers; i++) {
        char layer[64], prefix[96];
        snprintf(layer, sizeof layer, "model.layers.%lld.", (long long)i);
        state[i] = ref_alloc(values);
        memcpy(state[i], h, (size_t)values * sizeof *h);
        m->null = psi[i + 1] = ref_alloc(rows_of(m));
        for (enum site site = ATTN; site <= (sl_config_has_ffn(c) ? FFN : ATTN); site++) {
            int n = (int)i + 1 + site;
            ref_c *x = half_input(m, layer, site, h), *sum = state[n] = ref_alloc(values);
            memcpy(sum, h, (size_t)values * sizeof *h);
            if (site == ATTN)
                mixer_block(m, i, layer, x, sum);
            else if (c->model_experts > 0)
                *router_loss += experts_block(m, layer, x, sum);
            else
                ffn_block(m, layer, x, sum);
            psi[n] = psi[i + 1];
            snprintf(prefix, sizeof prefix, "%s%s", layer, site == ATTN ? "attn_residual" : "mlp_residual");
            mixture_of_states(m, prefix, n + 1, state, c->model_residual == SL_RESIDUAL_OASIS ? psi : NULL, h);
            free(x);
        }
        free(state[i + 1]), free(state[i + 2]);
        state[i + 1] = state[i + 2] = NULL;
    }
    for (int64_t i = 0; i < layers; i++)
        free(state[i]), free(psi[i + 1]);
    free(state), free(psi);
}

/* h: the embedding, then what the final norm reads. The last source is the sum of its block so far. */
static void attention_residuals(const ref_model *given, ref_c *h, ref_c *router_loss) {
    ref_model with = *given, *m = &with;
    const sl_config *c = m->config;
    int64_t values = rows_of(m) * c->model_dim, n = 1, layers = c->model_layers;
    int halves = sl_config_has_ffn(c) ? 2 : 1;
    bool oasis = c->model_residual == SL_RESIDUAL_OASIS;
    ref_c **unused = calloc((size_t)layers, sizeof *unused), *psi;
    for (int64_t i = 0; i < layers; i++)
        unused[i] = ref_alloc(rows_of(m));
    ref_c **source = calloc((size_t)(1 + halves * c->model_layers), sizeof *source);
    source[0] = ref_alloc(values);
    memcpy(source[0], h, (size_t)values * sizeof *h);
    for (int64_t k = 0; k < halves * c->model_layers; k++) {
        enum site site = k % halves ? FFN : ATTN;
        char layer[64], prefix[96];
        snprintf(layer, sizeof layer, "model.layers.%lld.", (long long)(k / halves));
        snprintf(prefix, sizeof prefix, "%s%s", layer, site == ATTN ? "attn_residual" : "mlp_residual");
        psi = oasis ? evidence(m, halves, k, unused) : NULL;
        mixture(m, prefix, (int)n, source, psi, h);
        free(psi);
        m->null = unused[k / halves];
        if (k % c->residual_block == 0)
            source[n++] = ref_alloc(values);
        ref_c *x = half_input(m, layer, site, h);
        if (site == ATTN)
            mixer_block(m, k / halves, layer, x, source[n - 1]);
        else if (c->model_experts > 0)
            *router_loss += experts_block(m, layer, x, source[n - 1]);
        else
            ffn_block(m, layer, x, source[n - 1]);
        free(x);
    }
    psi = oasis ? evidence(m, halves, halves * layers, unused) : NULL;
    mixture(m, "model.final_residual", (int)n, source, psi, h);
    free(psi);
    for (int64_t i = 0; i < layers; i++)
        free(unused[i]);
    free(unused);
    while (n > 0)
        free(source[--n]);
    free(source);
}

static ref_c evaluate(const ref_model *m, const int32_t *in, const int32_t *target, ref_c *token_loss,
                      ref_c *logits, ref_c *router_loss) {
    ref_c *anchor[PARTS] = {NULL};
    ref_model with = *m;
    with.anchor = anchor;
    m = &with;
    const sl_config *c = m->config;
    int64_t rows = rows_of(m), d = c->model_dim;
    ref_c *h = ref_alloc(rows * d);
    *router_loss = 0;
    ref_embedding(rows, d, in, matrix(m, "model.embed_tokens", ".weight", m->vocab, d), h);
    for (int64_t i = 0; c->model_embed_multiplier > 0 && i < rows * d; i++)
        h[i] *= c->model_embed_multiplier;
    if (c->model_embed_scale)
        for (int64_t i = 0; i < rows * d; i++)
            h[i] *= *vector(m, "model.embed_scale", "", 1);
    if (c->model_learned_positions > 0) {
        const ref_c *p = matrix(m, "model.embed_positions", ".weight", c->model_learned_positions, d);
        for (int64_t i = 0; i < rows; i++)
            ref_add(d, p + i % m->seq * d, h + i * d);
    }
    if (c->model_anchors == SL_ANCHORS_EXTERNAL)
        external_anchors(m, h);
    if (c->model_residual != SL_RESIDUAL_PLAIN)
        (c->residual_form == SL_DEPTH_STATES ? residuals_of_states : attention_residuals)(m, h, router_loss);
    for (int64_t i = 0; c->model_residual == SL_RESIDUAL_PLAIN && i < c->model_layers; i++) {
        char layer[64];
        snprintf(layer, sizeof layer, "model.layers.%lld.", (long long)i);
        block(m, i, layer, h, router_loss);
    }
    ref_c *x = normed(m, "model.norm", FINAL, c->model_sink_nullify_final, h);
    const char *head = c->model_tie_embeddings ? "model.embed_tokens" : "lm_head";
    ref_c *lg = project(m, head, ".weight", d, m->vocab, x), *loss = ref_alloc(rows);
    if (c->model_head_bias)
        ref_add_row(rows, m->vocab, vector(m, "lm_head", ".bias", m->vocab), lg);
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
    ref_c *all[] = {h, x, lg, loss, anchor[Q], anchor[K], anchor[V], anchor[GATE]};
    for (int i = 0; i < 8; i++)
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
