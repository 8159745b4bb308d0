#include "quant/run.h"

#include "base/clock.h"
#include "base/err.h"
#include "quant/export.h"
#include "quant/layers.h"
#include "quant/transform.h"
#include "eval/evaluate.h"
#include "eval/windows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BATCH = 16 };

struct sl_quant_run {
    sl_config config; /* fp32 */
    int32_t vocab;
    const sl_dataset *data;
    sl_quant_plan plan;
    sl_model *plain;  /* the checkpoint; its weights become the transformed ones only for what has their operations */
    float *weights;   /* transformed, in the layout of every model of this configuration */
    double *reference; /* [windows] */
    sl_calibration *calibration;
};

static size_t weight_bytes(const sl_quant_run *r) { return (size_t)sl_model_params(r->plain)->floats * sizeof(float); }

static sl_quant_options options_for(const sl_quant_run *r, const sl_scheme *s, bool observe) {
    sl_quant_options o = r->plan.options;
    o.scheme = s;
    o.observe = observe;
    o.errors = !observe;
    return o;
}

static int give_weights(const sl_quant_run *r, sl_model *m, const float *w) {
    memcpy(sl_model_params(m)->w, w, weight_bytes(r));
    return sl_model_params_written(m);
}

/* A model with the transformed weights. */
static sl_model *build(const sl_quant_run *r, const sl_quant_options *o, int64_t batch) {
    sl_model *m = sl_model_create_quantised(&r->config, r->vocab, batch, r->config.model_seq, o);
    if (m && give_weights(r, m, r->weights) == 0)
        return m;
    sl_model_free(m);
    return NULL;
}

static int64_t most_batch(const sl_quant_run *r) {
    return r->config.train_batch < MOST_BATCH ? r->config.train_batch : MOST_BATCH;
}
static int64_t batch_for(const sl_quant_run *r, int64_t windows) { return sl_quant_batch(windows, most_batch(r)); }

/* ---- transformations */

static sl_calibration *observe(const sl_quant_run *r, const sl_quant_options *o) {
    int64_t windows = r->plan.clip.windows;
    sl_model *m = sl_calibration_check(r->data, windows) < 0 ? NULL : build(r, o, batch_for(r, windows));
    sl_calibration *c = m ? sl_calibrate(m, r->data, windows) : NULL;
    sl_model_free(m);
    return c;
}

typedef struct {
    const sl_config *config;
    sl_calibration *seen;
} observed;

/* What a layer that reads the norm has seen of it. */
static const float *channel_max(void *ctx, int64_t layer, bool ffn) {
    const observed *o = ctx;
    const sl_block_layer *l;
    for (int i = 0; (l = sl_block_reader(o->config, layer, ffn ? SL_NORM_FFN : SL_NORM_ATTN, i)); i++) {
        const sl_seen *s = sl_calibration_at(o->seen, sl_block_layer_scope(l, layer));
        if (s)
            return s->channel;
    }
    sl_fail("SmoothQuant: no linear layer of block %lld, whose mixer is %s, reads the norm of its %s; use --rotate or "
            "neither", (long long)layer, sl_mixer_of(o->config, layer)->name, ffn ? "feed-forward" : "mixer");
    return NULL;
}

static int smooth(sl_quant_run *r, const sl_params *p) {
    sl_quant_options o = {.observe = true, .smooth = -1};
    sl_calibration *c = observe(r, &o);
    sl_params view = *p;
    view.w = r->weights;
    observed seen = {&r->config, c};
    int rc = c ? sl_smooth(&r->config, &view, r->plan.options.smooth, channel_max, &seen) : -1;
    sl_calibration_free(c);
    return rc;
}

static int transform(sl_quant_run *r) {
    const sl_quant_options *o = &r->plan.options;
    sl_params view = *sl_model_params(r->plain);
    if (!(r->weights = malloc(weight_bytes(r))))
        return sl_fail("out of memory for the weights");
    if (sl_model_read_params(r->plain) < 0)
        return -1;
    memcpy(r->weights, view.w, weight_bytes(r));
    view.w = r->weights;
    if (o->migrate && sl_migrate_gamma(&r->config, &view) < 0)
        return -1;
    if (o->smooth >= 0 && smooth(r, &view) < 0)
        return -1;
    return o->rotate ? sl_rotate_weights(&r->config, &view, o->seed) : 0;
}

/* ---- opening */

static int load(sl_quant_run *r, const char *dir) {
    const sl_config *c = &r->config;
    int64_t batch = batch_for(r, r->plan.windows);
    r->plain = sl_model_create(c, r->vocab, batch, c->model_seq, 0);
    if (!r->plain || sl_model_load(r->plain, dir, NULL) < 0)
        return -1;
    return sl_measure_states(r->plain, r->data);
}

static int prepare(sl_quant_run *r, const char *dir, bool calibrates) {
    r->plan.windows = sl_val_windows(r->data, r->plan.windows, r->plan.skip);
    if (r->plan.windows < 0)
        return -1;
    r->reference = calloc((size_t)r->plan.windows, sizeof *r->reference);
    if (!r->reference)
        return sl_fail("out of memory for losses");
    if (sl_transform_check(&r->config, &r->plan.options) < 0 ||
        sl_quant_weights_check(&r->config, &r->plan.options) < 0 || load(r, dir) < 0 ||
        sl_quant_window_losses(r->plain, r->data, r->plan.windows, r->plan.skip, r->reference) < 0 || transform(r) < 0)
        return -1;
    sl_quant_options o = options_for(r, NULL, true);
    return calibrates && !(r->calibration = observe(r, &o)) ? -1 : 0;
}

sl_quant_run *sl_quant_run_open(const sl_config *c, const char *dir, int32_t vocab, const sl_dataset *d,
                                const sl_quant_plan *plan, bool calibrates) {
    sl_quant_run *r = calloc(1, sizeof *r);
    if (!r) {
        sl_fail("out of memory for quantisation");
        return NULL;
    }
    *r = (sl_quant_run){.config = *c, .vocab = vocab, .data = d, .plan = *plan};
    r->config.precision = SL_PRECISION_FP32;
    if (prepare(r, dir, calibrates) == 0)
        return r;
    sl_quant_run_close(r);
    return NULL;
}

void sl_quant_run_close(sl_quant_run *r) {
    if (!r)
        return;
    sl_model_free(r->plain);
    sl_calibration_free(r->calibration);
    free(r->weights), free(r->reference);
    free(r);
}

sl_interval sl_quant_run_reference(const sl_quant_run *r) {
    return sl_mean_interval(r->plan.windows, r->reference, NULL);
}
int64_t sl_quant_run_windows(const sl_quant_run *r) { return r->plan.windows; }

/* ---- a scheme */

/* Ranges that need passes are found by models of the calibration's own batches. */
static int find_ranges(sl_quant_run *r, const sl_scheme *s, sl_model *m, double *ratio) {
    sl_quant_options o = options_for(r, s, true);
    enum sl_clip clip = r->plan.clip.clip;
    int64_t batch = batch_for(r, r->plan.clip.windows);
    sl_model *observer = clip == SL_CLIP_MSE ? build(r, &o, batch) : NULL, *plain = NULL;
    int rc = clip == SL_CLIP_MSE && !observer ? -1 : 0;
    if (rc == 0 && clip == SL_CLIP_TOKEN) {
        plain = sl_model_create(&r->config, r->vocab, batch, r->config.model_seq, 0);
        rc = plain ? give_weights(r, plain, sl_model_params(r->plain)->w) : -1;
    }
    if (rc == 0)
        rc = sl_calibration_apply(r->calibration, &r->plan.clip, r->data, m, observer, plain, ratio);
    sl_model_free(observer), sl_model_free(plain);
    return rc;
}

static void copy_ranges(const sl_model *from, sl_model *to) {
    sl_quant_place p, q;
    for (int i = 0; sl_model_quant_place(to, i, &p) && sl_model_quant_place(from, i, &q); i++)
        if (sl_range_is_static(p.point->range))
            p.state->range = q.state->range;
}

static int set_ranges(sl_quant_run *r, const sl_scheme *s, const sl_quant_weights *w, sl_model *m, double *ratio) {
    *ratio = NAN;
    if (!sl_range_is_static(s->range))
        return 0;
    sl_quant_options o = options_for(r, s, false);
    sl_model *same = build(r, &o, batch_for(r, r->plan.clip.windows));
    int rc = same && sl_quant_weights_apply(w, same) == 0 ? find_ranges(r, s, same, ratio) : -1;
    if (rc == 0)
        copy_ranges(same, m);
    sl_model_free(same);
    return rc;
}

sl_model *sl_quant_run_model(sl_quant_run *r, const sl_scheme *s, sl_quant_weights **w, double *clip_ratio) {
    sl_quant_options o = options_for(r, s, false);
    sl_model *m = build(r, &o, batch_for(r, r->plan.windows));
    *w = m ? sl_quant_weights_new(sl_model_params(m), &o) : NULL;
    if (*w && sl_quant_weights_round(*w, sl_model_kernels(m), sl_model_params(m)) == 0 &&
        sl_quant_weights_apply(*w, m) == 0 && set_ranges(r, s, *w, m, clip_ratio) == 0)
        return m;
    sl_quant_weights_free(*w);
    sl_model_free(m);
    *w = NULL;
    return NULL;
}

/* Errors by layer and class: several places of one class (the norms before attention and feed-forward) are taken
 * together. */
static int collect_errors(const sl_model *m, sl_quant_result *x) {
    sl_quant_place p;
    int n = 0;
    while (sl_model_quant_place(m, n, &p))
        n++;
    if (!(x->row = calloc((size_t)n + 1, sizeof *x->row)))
        return sl_fail("out of memory for errors");
    for (int i = 0; sl_model_quant_place(m, i, &p); i++) {
        int at = 0, layer = p.point->scope.layer;
        while (at < x->rows && (x->row[at].layer != layer || x->row[at].class != p.point->class))
            at++;
        if (at == x->rows)
            x->row[x->rows++] = (sl_quant_row){.layer = layer, .class = p.point->class};
        sl_quant_error_fold(&x->row[at].error, 1, &p.state->error);
    }
    return 0;
}

int sl_quant_run_scheme(sl_quant_run *r, const sl_scheme *s, sl_quant_result *x) {
    sl_quant_weights *w;
    *x = (sl_quant_result){.scheme = s, .window_loss = calloc((size_t)r->plan.windows, sizeof *x->window_loss)};
    if (!x->window_loss)
        return sl_fail("out of memory for losses");
    sl_model *m = sl_quant_run_model(r, s, &w, &x->clip_ratio);
    if (!m)
        return -1;
    sl_quant_weights_error(w, sl_model_params(m), r->weights, &x->weights);
    double start = sl_now();
    int rc = sl_quant_window_losses(m, r->data, r->plan.windows, r->plan.skip, x->window_loss);
    x->seconds = sl_now() - start;
    x->loss = sl_mean_interval(r->plan.windows, x->window_loss, NULL);
    x->change = sl_mean_interval(r->plan.windows, x->window_loss, r->reference);
    if (rc == 0)
        rc = collect_errors(m, x);
    sl_quant_options o = options_for(r, s, false);
    if (rc == 0 && r->plan.export_to)
        rc = sl_quant_export(r->plan.export_to, &o, w, m);
    sl_quant_weights_free(w);
    sl_model_free(m);
    return rc;
}

/* Evaluates a model that was read from a file. */
static int evaluate_import(sl_model *m, const sl_dataset *d, int64_t windows, int64_t skip, sl_quant_result *x) {
    double *loss = calloc((size_t)windows, sizeof *loss), start = sl_now();
    int rc = loss ? sl_quant_window_losses(m, d, windows, skip, loss) : sl_fail("out of memory for losses");
    x->seconds = sl_now() - start;
    x->loss = sl_mean_interval(windows, loss, NULL);
    x->window_loss = loss;
    return rc < 0 ? -1 : collect_errors(m, x);
}

int sl_quant_run_import(const sl_config *c, const char *dir, int32_t vocab, const sl_dataset *d,
                        const sl_quant_options *o, int64_t *windows, int64_t skip, sl_quant_result *x) {
    sl_quant_run r = {.config = *c, .plan = {.windows = *windows}};
    *x = (sl_quant_result){.scheme = o->scheme, .change = {NAN, NAN, 0}, .clip_ratio = NAN};
    sl_quant_options with = *o;
    with.errors = true;
    *windows = sl_val_windows(d, *windows, skip);
    if (*windows < 0)
        return -1;
    sl_model *m = sl_model_create_quantised(c, vocab, batch_for(&r, *windows), c->model_seq, &with);
    int rc = m ? sl_quant_import(dir, &with, m) : -1;
    if (rc == 0)
        rc = evaluate_import(m, d, *windows, skip, x);
    sl_model_free(m);
    return rc;
}

void sl_quant_result_free(sl_quant_result *x) {
    free(x->row);
    free(x->window_loss);
    x->row = NULL;
    x->window_loss = NULL;
}
