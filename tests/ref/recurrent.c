#include "ref/model_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Columns from..from + n of x [rows, all], allocated. */
static ref_c *columns(int64_t rows, int64_t all, int64_t from, int64_t n, const ref_c *x) {
    ref_c *y = ref_alloc(rows * n);
    for (int64_t i = 0; i < rows * n; i++)
        y[i] = x[i / n * all + from + i % n];
    return y;
}

static const ref_c *taps(const ref_model *m, const char *prefix, int64_t channels, int64_t width) {
    const sl_tensor *t = ref_tensor(m, prefix, "conv1d.weight");
    if (t->ndim != 3 || t->shape[0] != channels || t->shape[1] != 1 || t->shape[2] != width)
        ref_die("%s is not [%lld, 1, %lld]", t->name, (long long)channels, (long long)width);
    return m->w + t->offset;
}

/* What n matrices give of x [rows, d], side by side: [rows, sum of widths], allocated. Those of width 0 don't exist. */
static ref_c *project_beside(const ref_model *m, const char *prefix, int n, const char *const *names,
                             const int64_t *widths, int64_t d, const ref_c *x) {
    int64_t all = 0, at = 0, rows = ref_rows(m);
    for (int i = 0; i < n; i++)
        all += widths[i];
    ref_c *y = ref_alloc(rows * all);
    for (int i = 0; i < n; at += widths[i++]) {
        ref_c *part = widths[i] ? ref_project(m, prefix, names[i], d, widths[i], x) : NULL;
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
    int64_t rows = ref_rows(m), groups = c->mamba2_groups, span = inner / groups;
    for (int step = 0; step < 2; step++) {
        bool gates = step == (strcmp(place, "before") == 0);
        for (int64_t i = 0; gates && i < rows * inner; i++)
            y[i] *= z[i] / (1 + cexp(-z[i]));
        if (gates || strcmp(place, "none") == 0)
            continue;
        const ref_c *w = ref_vector(m, prefix, "norm.weight", inner);
        for (int64_t i = 0; i < rows * groups; i++)
            ref_rmsnorm(1, span, y + i * span, w + i % groups * span, c->norm_eps, y + i * span);
    }
}

void ref_mamba2_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    int64_t rows = ref_rows(m), d = c->model_dim, inner = c->mamba2_expand * d, bc = c->mamba2_groups * c->mamba2_state;
    int64_t heads = inner / c->mamba2_head_dim, convolved = inner + 2 * bc, all = inner + convolved + heads;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%smixer.", layer);
    ref_c *in = ref_project(m, prefix, "in_proj.weight", d, all, x), *z = columns(rows, all, 0, inner, in);
    ref_c *raw = columns(rows, all, inner, convolved, in), *v = ref_alloc(rows * convolved);
    ref_convolution(rows, m->seq, convolved, c->mamba2_conv, raw, taps(m, prefix, convolved, c->mamba2_conv),
                    ref_vector(m, prefix, "conv1d.bias", convolved), true, v);
    ref_c *vx = columns(rows, convolved, 0, inner, v), *vb = columns(rows, convolved, inner, bc, v);
    ref_c *vc = columns(rows, convolved, inner + bc, bc, v), *dt = columns(rows, all, inner + convolved, heads, in);
    ref_ssd s = {heads,
                 c->mamba2_head_dim,
                 c->mamba2_groups,
                 c->mamba2_state,
                 vx,
                 vb,
                 vc,
                 dt,
                 ref_vector(m, prefix, "dt_bias", heads),
                 ref_vector(m, prefix, "A_log", heads),
                 ref_vector(m, prefix, "D", heads)};
    ref_c *y = ref_alloc(rows * inner);
    ref_ssd_run(rows, m->seq, &s, y);
    mamba2_gate(m, prefix, inner, z, y);
    ref_c *out = ref_project(m, prefix, "out_proj.weight", inner, d, y);
    ref_half_output(m, layer, ATTN, out, h);
    ref_c *used[] = {in, z, raw, v, vx, vb, vc, dt, y, out};
    for (int i = 0; i < 10; i++)
        free(used[i]);
}

/* norm(o) gate(z) of each head, or less of it. */
static void gdn_gate(const ref_model *m, const char *prefix, sl_gdn_sizes n, const ref_c *z, ref_c *o) {
    const sl_config *c = m->config;
    const char *gate = sl_choices_gdn_gate[c->gdn_gate].name;
    int64_t rows = ref_rows(m);
    if (c->gdn_norm)
        ref_rmsnorm(rows * n.heads, n.value_dim, o, ref_vector(m, prefix, "norm.weight", n.value_dim), c->norm_eps, o);
    for (int64_t i = 0; strcmp(gate, "none") != 0 && i < rows * n.heads * n.value_dim; i++)
        o[i] *= (strcmp(gate, "silu") == 0 ? z[i] : 1) / (1 + cexp(-z[i]));
}

/* What a relative of gdn has: the delta rule, and the decay that its name stands for. */
static void gdn_family(const ref_model *m, const char *layer, const char *mixer, const ref_c *x, ref_c *h) {
    const sl_config *c = m->config;
    sl_gdn_sizes n = sl_config_gdn(c);
    bool rule = strcmp(mixer, "gdn") == 0 || strcmp(mixer, "deltanet") == 0;
    bool softplus = strcmp(mixer, "gdn") == 0, reads = softplus || strcmp(mixer, "gla") == 0;
    int64_t rows = ref_rows(m), d = c->model_dim, keys = n.key_heads * n.key_dim, values = n.heads * n.value_dim;
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
            log_decay[i] = -cexp(ref_vector(m, prefix, "A_log", n.heads)[head]) *
                           clog(1 + cexp(to_decay + ref_vector(m, prefix, "dt_bias", n.heads)[head]));
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
    ref_c *out = ref_project(m, prefix, "out_proj.weight", values, d, o);
    ref_half_output(m, layer, ATTN, out, h);
    ref_c *used[] = {in, raw, qkv, log_decay, beta, o, q, k, v, zs, out};
    for (int i = 0; i < 11; i++)
        free(used[i]);
}
void ref_gdn_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    gdn_family(m, layer, "gdn", x, h);
}
void ref_deltanet_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    gdn_family(m, layer, "deltanet", x, h);
}
void ref_gla_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    gdn_family(m, layer, "gla", x, h);
}
void ref_retnet_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    gdn_family(m, layer, "retnet", x, h);
}
