#include "quant/calibrate.h"

#include "base/err.h"
#include "eval/windows.h"
#include "ops/quant/quantise.h"
#include "quant/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const sl_clip_info sl_clip_table[] = {
    [SL_CLIP_ABSMAX] = {"absmax", "all that calibration saw"},
    [SL_CLIP_PERCENTILE] = {"percentile", "the share --percentile of it"},
    [SL_CLIP_MSE] = {"mse", "the part of the range with the least squared error, in steps of 2 %"},
    [SL_CLIP_TOKEN] = {"token",
                       "token-wise clipping (arXiv 2209.13325): one quantile of the tokens' extremes for all places, "
                       "with the least change of the logits"},
    {NULL, NULL}};

struct sl_calibration {
    int points;
    sl_scope *scope;
    sl_seen **seen;
};

void sl_calibration_free(sl_calibration *c) {
    if (!c)
        return;
    for (int i = 0; c->seen && i < c->points; i++)
        sl_seen_free(c->seen[i]);
    free(c->scope), free(c->seen);
    free(c);
}

static sl_calibration *new_calibration(const sl_model *m, int64_t windows) {
    sl_calibration *c = calloc(1, sizeof *c);
    sl_quant_place p;
    int n = 0;
    while (sl_model_quant_place(m, n, &p))
        n++;
    if (c) {
        c->scope = calloc((size_t)n + 1, sizeof *c->scope);
        c->seen = calloc((size_t)n + 1, sizeof *c->seen);
    }
    if (!c || !c->scope || !c->seen) {
        sl_calibration_free(c);
        sl_fail("out of memory for calibration");
        return NULL;
    }
    for (c->points = 0; c->points < n; c->points++) {
        sl_model_quant_place(m, c->points, &p);
        c->scope[c->points] = p.point->scope;
        if (!(c->seen[c->points] = sl_seen_new(p.point->dim, windows * (p.point->rows / sl_model_shape(m).batch)))) {
            sl_calibration_free(c);
            return NULL;
        }
    }
    return c;
}

static sl_seen *seen_of(const sl_calibration *c, sl_scope scope) {
    for (int i = 0; i < c->points; i++)
        if (sl_scope_same(c->scope[i], scope))
            return c->seen[i];
    return NULL;
}

const sl_seen *sl_calibration_at(const sl_calibration *c, sl_scope scope) { return seen_of(c, scope); }

int sl_calibration_check(const sl_dataset *d, int64_t windows) {
    int64_t have = sl_dataset_windows(d, SL_TRAIN);
    if (have == 0)
        return sl_fail_usage("data.val_fraction=1 leaves nothing to calibrate on; lower it");
    return windows <= have
               ? 0
               : sl_fail_usage("--calibration %lld: the training text has only %lld windows; ask for fewer, or give a "
                               "longer text",
                               (long long)windows, (long long)have);
}

/* ---- passes over the calibration windows */

static int each_batch(sl_model *m, const sl_dataset *d, int64_t windows, sl_batch_fn fn, void *ctx) {
    return sl_each_batch(m, d, (sl_windows){SL_TRAIN, windows, SL_FILL_WINDOWS, 0}, fn, ctx);
}

static int observe_batch(void *ctx, sl_model *m, const sl_batch *b) {
    (void)ctx;
    return sl_model_forward(m, b->in, NULL, NULL, NULL);
}

/* Points the observer's places at what they add to. */
static void attach(const sl_calibration *c, sl_model *m) {
    sl_quant_place p;
    for (int i = 0; sl_model_quant_place(m, i, &p); i++)
        p.state->seen = seen_of(c, p.point->scope);
}

sl_calibration *sl_calibrate(sl_model *observer, const sl_dataset *d, int64_t windows) {
    if (sl_calibration_check(d, windows) < 0)
        return NULL;
    sl_calibration *c = new_calibration(observer, windows);
    if (!c)
        return NULL;
    attach(c, observer);
    if (each_batch(observer, d, windows, observe_batch, NULL) < 0) {
        sl_calibration_free(c);
        return NULL;
    }
    return c;
}

/* ---- ranges */

static void set_percentile(const sl_quant_place *p, const sl_seen *s, double percentile) {
    double share = percentile / 100;
    if (p->point->range == SL_RANGE_AFFINE) {
        sl_quant_set_range(p, (float)fmin(0, sl_seen_quantile(s, (1 - share) / 2, false)),
                           (float)fmax(0, sl_seen_quantile(s, (1 + share) / 2, false)));
    } else {
        float amax = (float)sl_seen_quantile(s, share, true);
        sl_quant_set_range(p, -amax, amax);
    }
}

static void end_trials(const sl_calibration *c) {
    for (int i = 0; i < c->points; i++) {
        free(c->seen[i]->trial);
        c->seen[i]->trial = NULL;
    }
}

/* Room for the trials. */
static int begin_trials(const sl_calibration *c, sl_model *observer) {
    attach(c, observer);
    for (int i = 0; i < c->points; i++)
        if (!(c->seen[i]->trial = calloc(SL_CLIP_TRIALS, sizeof *c->seen[i]->trial)))
            return sl_fail("out of memory for calibration");
    return 0;
}

static void set_best_trial(const sl_quant_place *p, const sl_seen *s) {
    int best = 0;
    for (int i = 1; i < SL_CLIP_TRIALS; i++)
        if (s->trial[i] < s->trial[best])
            best = i;
    float share = sl_quant_trial_share(best);
    sl_quant_set_range(p, s->lo * share, s->hi * share);
}

static int set_mse(const sl_calibration *c, const sl_clip_options *o, const sl_dataset *d, sl_model *m,
                   sl_model *observer) {
    sl_quant_place p;
    int rc = begin_trials(c, observer) < 0 ? -1 : each_batch(observer, d, o->windows, observe_batch, NULL);
    for (int i = 0; rc == 0 && sl_model_quant_place(m, i, &p); i++)
        if (sl_range_is_static(p.point->range))
            set_best_trial(&p, seen_of(c, p.point->scope));
    end_trials(c);
    return rc;
}

/* ---- token-wise clipping */

static int ascending(const void *x, const void *y) {
    float a = *(const float *)x, b = *(const float *)y;
    return (a > b) - (a < b);
}

static float quantile(const float *sorted, int64_t n, double p) {
    double at = p * (double)(n - 1);
    int64_t i = (int64_t)at;
    return i + 1 < n ? (float)(sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i])) : sorted[n - 1];
}

static void set_token_ratio(const sl_calibration *c, sl_model *m, double ratio) {
    sl_quant_place p;
    for (int i = 0; sl_model_quant_place(m, i, &p); i++) {
        const sl_seen *s = sl_calibration_at(c, p.point->scope);
        if (sl_range_is_static(p.point->range))
            sl_quant_set_range(&p, fminf(0, quantile(s->row_lo, s->rows, 1 - ratio)),
                               fmaxf(0, quantile(s->row_hi, s->rows, ratio)));
    }
}

typedef struct {
    sl_model *plain;
    float *logits, *want;
    double sum; /* of squared differences */
} comparison;

static int compare_batch(void *ctx, sl_model *m, const sl_batch *b) {
    comparison *t = ctx;
    sl_shape s = sl_model_shape(m);
    if (sl_model_logits(m, b->in, t->logits) < 0 || sl_model_logits(t->plain, b->in, t->want) < 0)
        return -1;
    for (int64_t i = 0; i < s.batch * s.seq * s.vocab; i++)
        t->sum += ((double)t->logits[i] - t->want[i]) * ((double)t->logits[i] - t->want[i]);
    return 0;
}

/* The published search: steps of .01 down to .9 with 8 bits, of .03 down to .1 with 4. */
static int search(const sl_calibration *c, const sl_clip_options *o, const sl_dataset *d, sl_model *m, comparison *t,
                  int bits, double *ratio) {
    double step = bits == 8 ? 0.01 : 0.03, best = INFINITY;
    int steps = bits == 8 ? 10 : 30;
    for (int i = 0; i < steps; i++) {
        t->sum = 0;
        set_token_ratio(c, m, 1 - step * i);
        if (each_batch(m, d, o->windows, compare_batch, t) < 0)
            return -1;
        if (t->sum < best)
            best = t->sum, *ratio = 1 - step * i;
    }
    set_token_ratio(c, m, *ratio);
    return 0;
}

static int set_token(const sl_calibration *c, const sl_clip_options *o, const sl_dataset *d, sl_model *m,
                     sl_model *plain, double *ratio) {
    sl_shape s = sl_model_shape(m);
    size_t bytes = (size_t)(s.batch * s.seq * s.vocab) * sizeof(float);
    comparison t = {.plain = plain, .logits = malloc(bytes), .want = malloc(bytes)};
    for (int i = 0; i < c->points; i++) {
        qsort(c->seen[i]->row_lo, (size_t)c->seen[i]->rows, sizeof(float), ascending);
        qsort(c->seen[i]->row_hi, (size_t)c->seen[i]->rows, sizeof(float), ascending);
    }
    sl_quant_place first;
    int bits = sl_model_quant_place(m, 0, &first) ? sl_formats[first.point->q.format].bits : 8;
    int rc = t.logits && t.want ? search(c, o, d, m, &t, bits, ratio) : sl_fail("out of memory for logits");
    free(t.logits), free(t.want);
    return rc;
}

int sl_calibration_apply(const sl_calibration *c, const sl_clip_options *o, const sl_dataset *d, sl_model *m,
                         sl_model *observer, sl_model *plain, double *ratio) {
    sl_quant_place p;
    *ratio = NAN;
    if (o->clip == SL_CLIP_MSE)
        return set_mse(c, o, d, m, observer);
    if (o->clip == SL_CLIP_TOKEN)
        return set_token(c, o, d, m, plain, ratio);
    for (int i = 0; sl_model_quant_place(m, i, &p); i++) {
        const sl_seen *s = sl_calibration_at(c, p.point->scope);
        if (!sl_range_is_static(p.point->range))
            continue;
        if (o->clip == SL_CLIP_PERCENTILE)
            set_percentile(&p, s, o->percentile);
        else
            sl_quant_set_range(&p, s->lo, s->hi);
    }
    return 0;
}
