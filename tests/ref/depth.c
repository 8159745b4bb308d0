#include "ref/model_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Attention Residuals */

/* The scores a[n] of a row's sources are lowered by what is psi[n] more than its mean there. */
static void couple(const ref_model *m, const char *prefix, int n, const ref_c *psi, ref_c *a) {
    ref_c beta = clog(1 + cexp(*ref_vector(m, prefix, ".coupling", 1))), mean = 0;
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
    const ref_c *query = ref_vector(m, prefix, ".query", d), zero = 0;
    ref_c *a = ref_alloc(n), *key = ref_alloc(d);
    ref_attend softmax = {.kind = "softmax"};
    for (int64_t r = 0; r < ref_rows(m); r++) {
        for (int i = 0; i < n; i++) {
            memcpy(key, source[i] + r * d, (size_t)d * sizeof *key);
            if (c->residual_key_norm)
                ref_rmsnorm(1, d, key, ref_vector(m, prefix, ".norm.weight", d), c->norm_eps, key);
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
    ref_c *psi = ref_alloc(ref_rows(m) * n);
    for (int64_t k = 0; k < done; k++) {
        int64_t source = k / block, first = source * block, end = first + block < done ? first + block : done;
        for (int64_t r = 0; r < ref_rows(m); r++)
            psi[r * n + 1 + source] += unused[k / halves][r] / (double)(end - first);
    }
    return psi;
}

/* Of n states [rows, dim], the newest last, into h. psi [n]: rows of null evidence, or NULL. */
static void mixture_of_states(const ref_model *m, const char *prefix, int n, ref_c *const *state, ref_c *const *psi,
                              ref_c *h) {
    const sl_config *c = m->config;
    int64_t d = c->model_dim, r = d / 4 < 64 ? 64 : d / 4;
    const ref_c *wq = ref_matrix(m, prefix, ".to_query.weight", r, d), zero = 0;
    const ref_c *wk = ref_matrix(m, prefix, ".from_query.weight", d, r);
    ref_c recency = *ref_vector(m, prefix, ".recency", 1), *a = ref_alloc(n), *of_row = ref_alloc(n);
    ref_c *q = ref_alloc(r), *u = ref_alloc(d);
    ref_attend softmax = {.kind = "softmax"};
    for (int64_t t = 0; t < ref_rows(m); t++) {
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
void ref_residuals_of_states(const ref_model *given, ref_c *h, ref_c *router_loss) {
    ref_model with = *given, *m = &with;
    const sl_config *c = m->config;
    int64_t values = ref_rows(m) * c->model_dim, layers = c->model_layers;
    ref_c **state = calloc((size_t)layers + 3, sizeof *state), **psi = calloc((size_t)layers + 3, sizeof *psi);
    for (int64_t i = 0; i < layers; i++) {
        char layer[64], prefix[96];
        snprintf(layer, sizeof layer, "model.layers.%lld.", (long long)i);
        state[i] = ref_alloc(values);
        memcpy(state[i], h, (size_t)values * sizeof *h);
        m->null = psi[i + 1] = ref_alloc(ref_rows(m));
        for (enum site site = ATTN; site <= (sl_config_has_ffn(c) ? FFN : ATTN); site++) {
            int n = (int)i + 1 + site;
            ref_c *x = ref_half_input(m, layer, site, h), *sum = state[n] = ref_alloc(values);
            memcpy(sum, h, (size_t)values * sizeof *h);
            if (site == ATTN)
                ref_mixer(m, i, layer, x, sum);
            else
                *router_loss += ref_ffn_block(m, layer, x, sum);
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
void ref_attention_residuals(const ref_model *given, ref_c *h, ref_c *router_loss) {
    ref_model with = *given, *m = &with;
    const sl_config *c = m->config;
    int64_t values = ref_rows(m) * c->model_dim, n = 1, layers = c->model_layers;
    int halves = sl_config_has_ffn(c) ? 2 : 1;
    bool oasis = c->model_residual == SL_RESIDUAL_OASIS;
    ref_c **unused = calloc((size_t)layers, sizeof *unused), *psi;
    for (int64_t i = 0; i < layers; i++)
        unused[i] = ref_alloc(ref_rows(m));
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
        ref_c *x = ref_half_input(m, layer, site, h);
        if (site == ATTN)
            ref_mixer(m, k / halves, layer, x, source[n - 1]);
        else
            *router_loss += ref_ffn_block(m, layer, x, source[n - 1]);
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
