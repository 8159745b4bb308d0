#include "ref/model_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ref_c logistic(ref_c x) { return 1 / (1 + cexp(-x)); }

ref_c *ref_shifted(const ref_model *m, const char *prefix, const char *name, const ref_c *x) {
    int64_t d = m->config->model_dim, rows = ref_rows(m);
    const ref_c *mu = ref_vector(m, prefix, name, d);
    ref_c *y = ref_alloc(rows * d);
    for (int64_t i = 0; i < rows * d; i++) {
        ref_c before = i / d % m->seq ? x[i - d] : 0;
        y[i] = x[i] + (before - x[i]) * mu[i % d];
    }
    return y;
}

/* Second times f of first times x shifted, plus a vector if there is one. */
typedef struct {
    const char *shift, *first, *second, *vector;
    int64_t rank;
    char squash; /* t: tanh, s: sigmoid, 0: none */
} low;
static ref_c *low_rank(const ref_model *m, const char *prefix, const low *how, const ref_c *x) {
    int64_t d = m->config->model_dim, rows = ref_rows(m);
    ref_c *shifted = ref_shifted(m, prefix, how->shift, x);
    ref_c *h = ref_project(m, prefix, how->first, d, how->rank, shifted);
    for (int64_t i = 0; how->squash && i < rows * how->rank; i++)
        h[i] = how->squash == 't' ? 2 * logistic(2 * h[i]) - 1 : logistic(h[i]);
    ref_c *y = ref_project(m, prefix, how->second, how->rank, d, h);
    if (how->vector)
        ref_add_row(rows, d, ref_vector(m, prefix, how->vector, d), y);
    free(shifted), free(h);
    return y;
}

static ref_c *project_shifted(const ref_model *m, const char *prefix, const char *shift, const char *name,
                              const ref_c *x) {
    ref_c *shifted = ref_shifted(m, prefix, shift, x);
    ref_c *y = ref_project(m, prefix, name, m->config->model_dim, m->config->model_dim, shifted);
    free(shifted);
    return y;
}

/* Of one head, rows `all` apart: s = s diag(w) - (s kappa) (kappa a)^T + v k^T, y = s r. */
typedef struct {
    const ref_c *r, *w, *k, *kappa, *a, *v;
} recurrence;
static void run_head(int64_t rows, int64_t seq, int64_t n, int64_t all, const recurrence *in, ref_c *y) {
    ref_c *s = ref_alloc(n * n);
    for (int64_t t = 0; t < rows; t++)
        for (int64_t c = 0; c < n; c++) {
            int64_t at = t * all;
            ref_c held = 0, sum = 0;
            for (int64_t j = 0; j < n; j++) {
                s[c * n + j] = t % seq ? s[c * n + j] : 0;
                held += s[c * n + j] * in->kappa[at + j];
            }
            for (int64_t j = 0; j < n; j++) {
                s[c * n + j] = s[c * n + j] * in->w[at + j] - held * in->kappa[at + j] * in->a[at + j] +
                               in->v[at + c] * in->k[at + j];
                sum += s[c * n + j] * in->r[at + j];
            }
            y[at + c] = sum;
        }
    free(s);
}

/* y = (groupnorm(y) + <r k, r_k> v) g */
static void finish(const ref_model *m, const char *prefix, int64_t n, const recurrence *in, const ref_c *g, ref_c *y) {
    int64_t d = m->config->model_dim, rows = ref_rows(m);
    const ref_c *weight = ref_vector(m, prefix, "ln_x.weight", d), *bias = ref_vector(m, prefix, "ln_x.bias", d);
    const ref_c *r_k = ref_vector(m, prefix, "r_k", d);
    for (int64_t at = 0; at < rows * d; at += n) {
        int64_t head = at % d;
        ref_c bonus = 0;
        ref_layernorm(1, n, y + at, weight + head, 64e-5, y + at);
        for (int64_t j = 0; j < n; j++)
            bonus += in->r[at + j] * in->k[at + j] * r_k[head + j];
        for (int64_t j = 0; j < n; j++)
            y[at + j] = (y[at + j] + bias[head + j] + bonus * in->v[at + j]) * g[at + j];
    }
}

void ref_rwkv7_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h) {
    sl_rwkv7_sizes z = sl_config_rwkv7(m->config);
    int64_t d = m->config->model_dim, rows = ref_rows(m), n = z.head_dim;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%satt.", layer);
    ref_c *r = project_shifted(m, prefix, "x_r", "receptance.weight", x);
    ref_c *k = project_shifted(m, prefix, "x_k", "key.weight", x), *v = project_shifted(m, prefix, "x_v",
                                                                                      "value.weight", x);
    ref_c *w = low_rank(m, prefix, &(low){"x_w", "w1.weight", "w2.weight", "w0", z.decay_rank, 't'}, x);
    ref_c *a = low_rank(m, prefix, &(low){"x_a", "a1.weight", "a2.weight", "a0", z.rate_rank, 0}, x);
    ref_c *g = low_rank(m, prefix, &(low){"x_g", "g1.weight", "g2.weight", NULL, z.gate_rank, 's'}, x);
    if (!*m->values) {
        *m->values = ref_alloc(rows * d);
        memcpy(*m->values, v, (size_t)(rows * d) * sizeof *v);
    } else {
        ref_c *share = low_rank(m, prefix, &(low){"x_v", "v1.weight", "v2.weight", "v0", z.value_rank, 0}, x);
        for (int64_t i = 0; i < rows * d; i++)
            v[i] += ((*m->values)[i] - v[i]) * logistic(share[i]);
        free(share);
    }
    const ref_c *k_k = ref_vector(m, prefix, "k_k", d), *k_a = ref_vector(m, prefix, "k_a", d);
    ref_c *kappa = ref_alloc(rows * d), *y = ref_alloc(rows * d);
    for (int64_t i = 0; i < rows * d; i++) {
        a[i] = logistic(a[i]);
        w[i] = cexp(-exp(-.5) * logistic(w[i]));
        kappa[i] = k[i] * k_k[i % d];
        k[i] *= 1 + (a[i] - 1) * k_a[i % d];
    }
    for (int64_t at = 0; at < rows * d; at += n) {
        ref_c square = 0;
        for (int64_t j = 0; j < n; j++)
            square += kappa[at + j] * kappa[at + j];
        for (int64_t j = 0; j < n; j++)
            kappa[at + j] /= csqrt(square);
    }
    for (int64_t c = 0; c < d; c += n)
        run_head(rows, m->seq, n, d, &(recurrence){r + c, w + c, k + c, kappa + c, a + c, v + c}, y + c);
    finish(m, prefix, n, &(recurrence){r, w, k, kappa, a, v}, g, y);
    ref_c *out = ref_project(m, prefix, "output.weight", d, d, y);
    ref_half_output(m, layer, ATTN, out, h);
    ref_c *used[] = {r, k, v, w, a, g, kappa, y, out};
    for (int i = 0; i < 9; i++)
        free(used[i]);
}
