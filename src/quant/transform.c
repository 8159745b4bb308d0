#include "quant/transform.h"

#include "base/err.h"
#include "ops/quant/rotate.h"
#include "quant/layers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sl_transform_check(const sl_config *c, const sl_quant_options *o) {
    const char *fold = o->smooth >= 0 ? "SmoothQuant" : o->migrate ? "gamma migration" : NULL;
    if (o->smooth >= 0 && o->rotate)
        return sl_fail_usage(
            "--smooth and --rotate do the same work, and rotation undoes what smoothing folded; give one");
    if (o->kv && sl_mixer_first(c, true) < 0)
        return sl_fail_usage(
            "--kv rounds keys and values, and no block of this checkpoint has any: its mixer is %s; leave it out",
            sl_mixer_of(c, 0)->name);
    if (fold && (c->model_norm_place == SL_PLACE_POST || c->model_norm_place == SL_PLACE_OUTPUT))
        return sl_fail_usage(
            "%s folds into the norm before a block, and this checkpoint has model.norm_place=%s: its blocks read "
            "the stream itself; use --rotate or neither",
            fold, sl_choices_norm_place[c->model_norm_place].name);
    if (fold && c->model_block == SL_BLOCK_PARALLEL_SHARED)
        return sl_fail_usage("%s folds into the norm of one half of a block, and with model.block=parallel_shared both "
                             "read one; use --rotate or neither",
                             fold);
    return 0;
}

/* ---- what a norm's output is divided by */

static float *values(const sl_params *p, const char *prefix, const char *name) {
    char full[160];
    snprintf(full, sizeof full, "%s.%s", prefix, name);
    int i = sl_params_find(p, full);
    return i < 0 ? NULL : p->w + p->tensor[i].offset;
}

/* Columns of w [rows, n] times factor[n]. */
static void scale_columns(float *w, int64_t rows, int64_t n, const double *factor) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++)
            w[i * n + j] = (float)(w[i * n + j] * factor[j]);
}

static void scale_readers(sl_params *p, int64_t block, int half, const double *factor) {
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        int64_t its;
        const sl_block_layer *l = sl_block_layer_of(t, &its);
        if (l && its == block && l->norm == half)
            scale_columns(p->w + t->offset, t->shape[0], t->shape[1], factor);
    }
}

static double gain_of(const sl_config *c, const float *weight, int64_t j) {
    return c->norm_zero_centred ? 1.0 + (double)weight[j] : (double)weight[j];
}

/* Divides the norm's output by factor[dim], and multiplies what reads it. Where a factor is 0 (a weight of 0,
 * migrated) the layers behind read nothing there, and the weight becomes 1. */
static int divide_norm(const sl_config *c, sl_params *p, int64_t block, int half, const double *factor) {
    char prefix[96];
    int64_t d = c->model_dim;
    sl_block_norm_prefix(c, block, half, prefix);
    float *weight = values(p, prefix, "weight"), *bias = values(p, prefix, "bias"),
          *down = values(p, prefix, "gate_down.weight");
    for (int64_t j = 0; j < d; j++)
        if (bias && factor[j] == 0 && bias[j] != 0)
            return sl_fail("%s.weight is 0 at channel %lld and its bias is not: it cannot move into the next layer",
                           prefix, (long long)j);
    for (int64_t j = 0; j < d; j++) {
        double gain = factor[j] == 0 ? 1 : gain_of(c, weight, j) / factor[j];
        weight[j] = (float)(c->norm_zero_centred ? gain - 1 : gain);
        if (bias && factor[j] != 0)
            bias[j] = (float)(bias[j] / factor[j]);
    }
    if (down)
        scale_columns(down, c->norm_rank, d, factor);
    scale_readers(p, block, half, factor);
    return 0;
}

static int out_of_memory(void) { return sl_fail("out of memory for a transformation"); }

typedef int (*norm_fn)(const sl_config *c, sl_params *p, int64_t block, int half, double *factor, void *ctx);

/* fn for each norm before a half of a block, with room for its dim factors. */
static int each_norm(const sl_config *c, sl_params *p, norm_fn fn, void *ctx) {
    double *factor = malloc((size_t)c->model_dim * sizeof *factor);
    int rc = factor ? 0 : out_of_memory();
    for (int64_t i = 0; rc == 0 && i < c->model_layers; i++)
        for (int half = SL_NORM_ATTN; rc == 0 && half <= SL_NORM_FFN; half++)
            if (half == SL_NORM_ATTN || sl_config_has_ffn(c))
                rc = fn(c, p, i, half, factor, ctx);
    free(factor);
    return rc;
}

static int migrate(const sl_config *c, sl_params *p, int64_t block, int half, double *factor, void *ctx) {
    char prefix[96];
    (void)ctx;
    sl_block_norm_prefix(c, block, half, prefix);
    const float *weight = values(p, prefix, "weight");
    for (int64_t j = 0; j < c->model_dim; j++)
        factor[j] = gain_of(c, weight, j);
    return divide_norm(c, p, block, half, factor);
}

int sl_migrate_gamma(const sl_config *c, sl_params *p) { return each_norm(c, p, migrate, NULL); }

/* ---- SmoothQuant */

typedef struct {
    double alpha;
    const float *(*channel_max)(void *ctx, int64_t layer, bool ffn);
    void *ctx;
} smoothing;

/* max |W_j| over the linear layers that read the norm. */
static void weight_max(const sl_params *p, int64_t block, int half, int64_t d, double *max) {
    memset(max, 0, (size_t)d * sizeof *max);
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        const float *w = p->w + t->offset;
        int64_t its;
        const sl_block_layer *l = sl_block_layer_of(t, &its);
        for (int64_t k = 0; l && l->linear && its == block && l->norm == half && k < t->size; k++)
            max[k % d] = fmax(max[k % d], fabs((double)w[k]));
    }
}

static int smooth(const sl_config *c, sl_params *p, int64_t block, int half, double *factor, void *ctx) {
    const smoothing *s = ctx;
    const float *x = s->channel_max(s->ctx, block, half == SL_NORM_FFN);
    if (!x)
        return -1;
    weight_max(p, block, half, c->model_dim, factor);
    for (int64_t j = 0; j < c->model_dim; j++)
        factor[j] = fmax(pow(x[j], s->alpha) / pow(fmax(factor[j], 1e-5), 1 - s->alpha), 1e-5);
    return divide_norm(c, p, block, half, factor);
}

int sl_smooth(const sl_config *c, sl_params *p, double alpha,
              const float *(*channel_max)(void *ctx, int64_t layer, bool ffn), void *ctx) {
    return each_norm(c, p, smooth, &(smoothing){alpha, channel_max, ctx});
}

/* ---- rotation */

/* Rows of w [rows, n] become R row; columns: w [n, cols] becomes R w. scratch: 2n doubles. */
static void rotate_rows(const sl_rotation *r, float *w, int64_t rows, int64_t n, double *scratch) {
    for (int64_t i = 0; i < rows; i++)
        sl_rotate_row(r, w + i * n, w + i * n, scratch);
}

static void rotate_columns(const sl_rotation *r, float *w, int64_t n, int64_t cols, double *scratch) {
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < n; i++)
            scratch[i] = w[i * cols + j];
        sl_rotate(r, scratch, scratch + n);
        for (int64_t i = 0; i < n; i++)
            w[i * cols + j] = (float)scratch[i];
    }
}

/* The rows of a layer's matrix, for its own rotation of what it reads. */
static int rotate_input(sl_params *p, const sl_tensor *t, const sl_block_layer *l, int64_t block, uint64_t seed,
                        double *scratch) {
    sl_scope scope = sl_scope_as(sl_block_layer_scope(l, block), SL_ROLE_ROTATE);
    sl_rotation *r = sl_rotation_new(seed, scope, t->shape[1]);
    if (!r)
        return -1;
    rotate_rows(r, p->w + t->offset, t->shape[0], t->shape[1], scratch);
    sl_rotation_free(r);
    return 0;
}

/* A tensor's part in rotating the stream itself: what writes to it and what reads it. */
static void rotate_stream(sl_params *p, const sl_tensor *t, const sl_rotation *r, double *scratch) {
    int64_t block;
    const sl_block_layer *l = sl_block_layer_of(t, &block);
    bool reads = l ? l->norm >= 0
                   : !strcmp(t->name, "model.embed_tokens.weight") || !strcmp(t->name, "lm_head.weight");
    if (reads)
        rotate_rows(r, p->w + t->offset, t->shape[0], t->shape[1], scratch);
    else if (l)
        rotate_columns(r, p->w + t->offset, t->shape[0], t->shape[1], scratch);
}

/* The final norm's weight moves into the head, so that it commutes too. */
static void migrate_final(const sl_config *c, sl_params *p) {
    float *weight = values(p, "model.norm", "weight"), *head = values(p, "lm_head", "weight");
    int i = sl_params_find(p, "lm_head.weight");
    for (int64_t k = 0; k < p->tensor[i].size; k++)
        head[k] = (float)(head[k] * gain_of(c, weight, k % c->model_dim));
    for (int64_t j = 0; j < c->model_dim; j++)
        weight[j] = c->norm_zero_centred ? 0 : 1;
}

static int fold_stream(const sl_config *c, sl_params *p, uint64_t seed, double *scratch) {
    sl_rotation *r = sl_rotation_new(seed, (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_stream}, c->model_dim);
    if (!r || sl_migrate_gamma(c, p) < 0) {
        sl_rotation_free(r);
        return -1;
    }
    migrate_final(c, p);
    for (int i = 0; i < p->count; i++)
        rotate_stream(p, &p->tensor[i], r, scratch);
    sl_rotation_free(r);
    return 0;
}

static int64_t widest(const sl_params *p) {
    int64_t n = 1;
    for (int i = 0; i < p->count; i++)
        for (int k = 0; k < p->tensor[i].ndim; k++)
            n = p->tensor[i].shape[k] > n ? p->tensor[i].shape[k] : n;
    return n;
}

int sl_rotate_weights(const sl_config *c, sl_params *p, uint64_t seed) {
    double *scratch = malloc((size_t)(2 * widest(p)) * sizeof *scratch);
    bool folds = sl_rotation_folds(c);
    int rc = !scratch ? out_of_memory() : folds ? fold_stream(c, p, seed, scratch) : 0;
    for (int i = 0; rc == 0 && i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        int64_t block;
        const sl_block_layer *l = sl_block_layer_of(t, &block);
        if (l && l->linear && (l->norm < 0 || !folds))
            rc = rotate_input(p, t, l, block, seed, scratch);
    }
    free(scratch);
    return rc;
}
