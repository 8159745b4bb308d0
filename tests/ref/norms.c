#include "ref/model_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- norms: a row for each row of tables/norm.inc. x [rows, dim] -> y; tensors <prefix>.weight, ... w: the
 * weight, or 1 + it. */
static void norm_rmsnorm(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                         ref_c *y) {
    (void)prefix, (void)site;
    ref_rmsnorm(ref_rows(m), m->config->model_dim, x, w, m->config->norm_eps, y);
}

static void norm_layernorm(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                           ref_c *y) {
    (void)site;
    ref_layernorm(ref_rows(m), m->config->model_dim, x, w, m->config->norm_eps, y);
    if (m->config->norm_bias)
        ref_add_row(ref_rows(m), m->config->model_dim, ref_vector(m, prefix, ".bias", m->config->model_dim), y);
}

static void norm_none(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                      ref_c *y) {
    (void)site;
    memcpy(y, x, (size_t)(ref_rows(m) * m->config->model_dim) * sizeof *y);
    ref_scale_channels(ref_rows(m), m->config->model_dim, w, y);
    if (m->config->norm_bias) /* of a layernorm whose division is done (nullified_norm) */
        ref_add_row(ref_rows(m), m->config->model_dim, ref_vector(m, prefix, ".bias", m->config->model_dim), y);
}

static void norm_dyt(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x, ref_c *y) {
    int64_t d = m->config->model_dim;
    (void)site;
    ref_dyt(ref_rows(m), d, x, false, *ref_vector(m, prefix, ".alpha", 1), 0, w,
            m->config->norm_beta ? ref_vector(m, prefix, ".bias", d) : NULL, y);
}

static void norm_derf(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                      ref_c *y) {
    int64_t d = m->config->model_dim;
    (void)site;
    ref_dyt(ref_rows(m), d, x, true, *ref_vector(m, prefix, ".alpha", 1), *ref_vector(m, prefix, ".shift", 1), w,
            m->config->norm_beta ? ref_vector(m, prefix, ".bias", d) : NULL, y);
}

static void norm_gated(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                       ref_c *y);

static const struct {
    const char *name;
    void (*norm)(const ref_model *, const char *prefix, enum site site, const ref_c *w, const ref_c *x, ref_c *y);
} norms[] = {
    {"rmsnorm", norm_rmsnorm}, {"layernorm", norm_layernorm}, {"none", norm_none},
    {"dyt", norm_dyt},         {"derf", norm_derf},           {"gated_norm", norm_gated},
};

static void apply_norm(const ref_model *m, const char *name, const char *prefix, enum site site, const ref_c *w,
                       const ref_c *x, ref_c *y) {
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        if (strcmp(norms[i].name, name) == 0) {
            norms[i].norm(m, prefix, site, w, x, y);
            return;
        }
    ref_die("norm %s has no row in tests/ref/norms.c", name);
}

static void norm_gated(const ref_model *m, const char *prefix, enum site site, const ref_c *w, const ref_c *x,
                       ref_c *y) {
    const sl_config *c = m->config;
    ref_gate_kind kind = {c->norm_rank, c->norm_granularity == SL_GATE_TENSORWISE ? 1 : c->model_dim,
                          sl_choices_gate_outer[c->norm_outer].name, sl_choices_gate_inner[c->norm_inner].name,
                          c->norm_init == SL_GATE_IDENTITY};
    apply_norm(m, sl_choices_base_norm[c->norm_base].name, prefix, site, w, x, y);
    if (site != FINAL || c->norm_gate_final)
        ref_gate(ref_rows(m), c->model_dim, &kind, ref_matrix(m, prefix, ".gate_down.weight", kind.rank, c->model_dim),
                 ref_matrix(m, prefix, ".gate_up.weight", kind.gates, kind.rank), y);
}

/* ---- sink channels replaced at a norm's input (model.sink_nullify) */

/* A running mean, which is named by the first position that it is of, if that is not 0. */
static const ref_c *running_mean(const ref_model *m, const char *prefix, const char *name) {
    char behind[64];
    long long from = m->config->model_sink_nullify_from;
    snprintf(behind, sizeof behind, "%s_from_%lld", name, from);
    return ref_vector(m, prefix, from ? behind : name, m->config->model_dim);
}

/* What stands in channel j. */
static double stand_in(const ref_model *m, const char *prefix, int64_t j) {
    double mean = creal(running_mean(m, prefix, ".channel_mean")[j]);
    switch (m->config->model_sink_nullify_value) {
    case SL_NULLIFY_MEAN: return mean;
    case SL_NULLIFY_RMS: return copysign(sqrt(creal(running_mean(m, prefix, ".channel_mean_square")[j])), mean);
    case SL_NULLIFY_MEAN_OUTPUT: return creal(running_mean(m, prefix, ".channel_mean_output")[j]);
    default: return 0;
    }
}

static void replace_channels(const ref_model *m, const char *prefix, ref_c *x) {
    int64_t d = m->config->model_dim;
    const ref_c *mean = running_mean(m, prefix, ".channel_mean");
    bool *taken = calloc((size_t)d, sizeof *taken);
    for (int64_t k = 0; k < m->config->model_sink_nullify; k++) {
        int64_t most = -1;
        for (int64_t j = 0; j < d; j++)
            if (!taken[j] && creal(mean[j]) != 0 && (most < 0 || fabs(creal(mean[j])) > fabs(creal(mean[most]))))
                most = j;
        if (most < 0)
            break;
        taken[most] = true;
        for (int64_t i = 0; i < ref_rows(m); i++)
            if (i % m->seq >= m->config->model_sink_nullify_from)
                x[i * d + most] = stand_in(m, prefix, most);
    }
    free(taken);
}

/* rows a become (a - mean(b)) r(b) with the statistics of RMSNorm or LayerNorm. */
static void divide_by(const ref_model *m, bool centred, const ref_c *b, ref_c *a) {
    int64_t d = m->config->model_dim;
    for (int64_t i = 0; i < ref_rows(m); i++, a += d, b += d) {
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
    int64_t d = c.model_dim, n = ref_rows(m) * d;
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
        ref_scale_channels(ref_rows(m), d, pre, a);
        ref_scale_channels(ref_rows(m), d, pre, b);
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

ref_c *ref_normed(const ref_model *m, const char *prefix, enum site site, bool nullify, const ref_c *x) {
    int64_t d = m->config->model_dim, n = ref_rows(m) * d;
    ref_c *in = ref_alloc(n), *y = ref_alloc(n), *w = ref_alloc(d);
    const ref_c *pre = m->config->norm_preaffine ? ref_vector(m, prefix, ".pre_affine", d) : NULL;
    memcpy(in, x, (size_t)n * sizeof *in);
    memcpy(w, ref_vector(m, prefix, ".weight", d), (size_t)d * sizeof *w);
    for (int64_t j = 0; m->config->norm_zero_centred && j < d; j++)
        w[j] += 1;
    if (nullify && m->config->model_sink_nullify > 0) {
        nullified_norm(m, prefix, site, w, pre, x, y);
    } else {
        if (pre)
            ref_scale_channels(ref_rows(m), d, pre, in);
        apply_norm(m, sl_choices_norm[m->config->model_norm].name, prefix, site, w, in, y);
    }
    free(in);
    free(w);
    return y;
}
