#include "session/quantize.h"

#include "base/err.h"
#include "eval/windows.h"
#include "base/text.h"
#include "base/threads.h"
#include "quant/export.h"
#include "quant/keep.h"
#include "quant/transform.h"
#include "session/lists.h"
#include "session/load.h"
#include "session/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* ---- figures: value, change from fp32, and the interval of the change */

typedef struct {
    double value, change, low, high;
} figure;

static json_t *figure_json(figure f) {
    return json_pack("{s:o, s:o, s:o, s:o}", "value", real(f.value), "change", real(f.change), "low", real(f.low),
                     "high", real(f.high));
}

static figure loss_of(const sl_quant_result *x, double unit) {
    double c = x->change.mean, h = x->change.half;
    return (figure){x->loss.mean * unit, c * unit, (c - h) * unit, (c + h) * unit};
}

static figure perplexity_of(const sl_quant_result *x, double reference) {
    double c = x->change.mean, h = x->change.half, base = exp(reference);
    return (figure){exp(x->loss.mean), base * expm1(c), base * expm1(c - h), base * expm1(c + h)};
}

static double bits(const sl_quant_report *t) { return t->bytes_per_token > 0 ? 1 / log(2) / t->bytes_per_token : NAN; }

static json_t *error_json(const sl_quant_error *e) {
    return json_pack("{s:f, s:f, s:f}", "relative", sl_quant_error_relative(e), "cosine", sl_quant_error_cosine(e),
                     "max", e->max);
}

static json_t *errors_json(const sl_quant_result *x) {
    json_t *list = json_array();
    for (int i = 0; i < x->rows; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "layer", x->row[i].layer < 0 ? json_string("head") : json_integer(x->row[i].layer));
        json_object_set_new(o, "tensor", json_string(sl_quant_class_names[x->row[i].class]));
        json_object_update_new(o, error_json(&x->row[i].error));
        json_array_append_new(list, o);
    }
    return list;
}

/* ---- collecting */

static void begin(sl_quant_report *t, sl_interval reference, int64_t windows) {
    t->reference = reference;
    t->windows = windows;
    t->results = json_array();
}

void sl_quant_report_free(sl_quant_report *t) { json_decref(t->results); }

static json_t *window_losses(const sl_quant_report *t, const sl_quant_result *x) {
    json_t *list = json_array();
    for (int64_t i = 0; i < t->windows; i++)
        json_array_append_new(list, real(x->window_loss[i]));
    return list;
}

static int add(sl_quant_report *t, const sl_quant_result *x) {
    if (!isfinite(x->loss.mean))
        return sl_fail("%s: the loss is not a number; the checkpoint is broken or was diverging", x->scheme->name);
    json_t *o =
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:f}", "scheme", x->scheme->name, "loss", figure_json(loss_of(x, 1)),
                  "perplexity", figure_json(perplexity_of(x, t->reference.mean)), "bits_per_byte",
                  figure_json(loss_of(x, bits(t))), "errors", errors_json(x), "seconds", x->seconds);
    if (!o)
        return sl_fail("out of memory for the result");
    if (x->weights.xx > 0)
        json_object_set_new(o, "weights", error_json(&x->weights));
    if (isfinite(x->clip_ratio))
        json_object_set_new(o, "clip_ratio", json_real(x->clip_ratio));
    if (t->each_window)
        json_object_set_new(o, "window_loss", window_losses(t, x));
    json_array_append_new(t->results, o);
    return 0;
}

const char *sl_quant_report_rotation(const sl_quant_report *t) {
    return !t->plan.options.rotate ? NULL : sl_rotation_folds(&t->config) ? "folded" : "online";
}

static json_t *calibration_json(const sl_quant_report *t) {
    const sl_clip_options *c = &t->plan.clip;
    json_t *o = json_pack("{s:I, s:s}", "windows", (json_int_t)c->windows, "clip", sl_clip_table[c->clip].name);
    if (c->clip == SL_CLIP_PERCENTILE)
        json_object_set_new(o, "percentile", json_real(c->percentile));
    return o;
}

static json_t *header(const sl_quant_report *t) {
    const sl_quant_options *o = &t->plan.options;
    double loss = t->reference.mean;
    json_t *fp32 = json_pack("{s:o, s:o, s:o}", "loss", real(loss), "perplexity", real(exp(loss)), "bits_per_byte",
                             real(loss * bits(t)));
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:b, s:s?, s:b, s:b, s:b, s:o, s:b, s:o}", "checkpoint", t->dir,
                     "corpus", t->config.data_corpus, "windows", (json_int_t)t->windows, "tokens",
                     (json_int_t)(t->windows * t->config.model_seq), "fp32", fp32, "smooth",
                     o->smooth >= 0 ? json_real(o->smooth) : json_null(), "migrate", o->migrate, "rotate",
                     sl_quant_report_rotation(t), "head", o->head, "embedding", o->embedding, "kv", o->kv, "keep",
                     sl_keep_json(o), "real", o->real, "calibration",
                     t->calibrates ? calibration_json(t) : json_null());
}

json_t *sl_quant_report_json(const sl_quant_report *t) {
    json_t *o = header(t);
    if (!o) {
        sl_fail("out of memory for the result");
        return NULL;
    }
    if (t->several)
        json_object_set(o, "grid", t->results);
    else
        json_object_update(o, json_array_get(t->results, 0));
    return o;
}

/* ---- what is asked for */

typedef struct {
    const sl_quantize_options *o;
    uint64_t schemes; /* bits 1 << sl_scheme_at()'s number, of which there are fewer than 64 */
    sl_quant_report *report;
} work;

/* The first chosen scheme from number *i on, and the number behind it; NULL: there is none. */
static const sl_scheme *next_scheme(const work *q, int *i) {
    while (*i < sl_schemes())
        if (q->schemes >> (*i)++ & 1)
            return sl_scheme_at(*i - 1);
    return NULL;
}

static int find_clip(const char *name, enum sl_clip *clip) {
    char quoted[SL_QUOTE_CHARS];
    for (int i = 0; i < SL_CLIPS; i++)
        if (strcmp(name, sl_clip_table[i].name) == 0) {
            *clip = (enum sl_clip)i;
            return 0;
        }
    return sl_fail_usage("quantize: --clip takes absmax, percentile, mse or token, not %s", sl_quote(quoted, name));
}

enum { KINDS = 32 }; /* most kinds of layers; of sl_list_names() */

static void kept_kinds(sl_measure_info table[KINDS + 1], char name[KINDS][SL_SCOPE_CHARS]) {
    memset(table, 0, (KINDS + 1) * sizeof *table);
    for (int i = 0; i < KINDS && sl_keep_name(i, name[i]); i++)
        table[i].name = name[i];
}

void sl_quantize_keep_help(char *text, size_t size) {
    char name[SL_SCOPE_CHARS];
    size_t n = strlen(text);
    n += (size_t)snprintf(text + n, size - n, "\nKinds of layers that --keep takes:");
    for (int i = 0; n < size && sl_keep_name(i, name); i++)
        n += (size_t)snprintf(text + n, size - n, "%s %s", i ? "," : "", name);
    if (n < size)
        snprintf(text + n, size - n, ".");
}

static int find_kept(const char *list, sl_quant_options *o) {
    sl_measure_info table[KINDS + 1];
    char name[KINDS][SL_SCOPE_CHARS];
    unsigned bits = 0;
    kept_kinds(table, name);
    if (sl_list_names("quantize: --keep", list, table, &bits) < 0)
        return -1;
    for (int i = 0; table[i].name; i++)
        if (bits >> i & 1)
            sl_keep_add(o, i);
    return 0;
}

/* What only some schemes have. */
static int check_scheme(const work *q, const sl_scheme *s) {
    const sl_quant_options *o = &q->report->plan.options;
    if (q->o->clip && !sl_range_is_static(s->range))
        return sl_fail_usage(
            "quantize: %s takes no scale from calibration, so that --clip has nothing to do; it goes with the -static "
            "and -affine schemes",
            s->name);
    if (o->kv && s->range == SL_RANGE_NONE)
        return sl_fail_usage("quantize: %s leaves activations as they are, and --kv rounds keys and values like them",
                             s->name);
    if (o->real && !sl_scheme_is_integer(s))
        return sl_fail_usage(
            "quantize: --real multiplies integers, and %s has other numbers or a scale for groups of columns; it goes "
            "with w8a8-*, w4a8-channel-* and w4a4-channel-*",
            s->name);
    return 0;
}

/* Names with commas between. */
static int find_schemes(work *q, const char *list) {
    char name[SL_LIST_WORD_CHARS];
    while (sl_list_word(&list, name)) {
        const sl_scheme *s = sl_scheme_find(name);
        if (!s || check_scheme(q, s) < 0)
            return -1;
        for (int i = 0; i < sl_schemes(); i++)
            q->schemes |= (uint64_t)(sl_scheme_at(i) == s) << i;
    }
    return 0;
}

static int check_flags(work *q) {
    sl_quant_plan *p = &q->report->plan;
    if (!q->o->scheme == !q->o->grid)
        return sl_fail_usage("quantize: give --scheme LIST or --grid (--list has the names)");
    if (q->o->clip && find_clip(q->o->clip, &p->clip.clip) < 0)
        return -1;
    if (q->o->keep && find_kept(q->o->keep, &p->options) < 0)
        return -1;
    if (!isnan(q->o->percentile) && p->clip.clip != SL_CLIP_PERCENTILE)
        return sl_fail_usage("quantize: --percentile goes with --clip percentile");
    p->clip.percentile = isnan(q->o->percentile) ? 99.9 : q->o->percentile;
    p->clip.windows = q->o->calibration;
    if (q->o->grid && (p->options.real || p->options.kv))
        return sl_fail_usage("quantize: --%s goes with --scheme, not with --grid", p->options.real ? "real" : "kv");
    if (q->o->grid)
        q->schemes = ~(uint64_t)0;
    else if (find_schemes(q, q->o->scheme) < 0)
        return -1;
    q->report->several = q->schemes & (q->schemes - 1);
    if (q->report->several && p->export_to)
        return sl_fail_usage("quantize: --export writes one model; give --scheme with one name");
    return 0;
}

static bool calibrates(const work *q) {
    const sl_scheme *s;
    for (int i = 0; (s = next_scheme(q, &i));)
        if (sl_range_is_static(s->range))
            return true;
    return false;
}

static int run_schemes(work *q, sl_quant_run *r) {
    const sl_scheme *s;
    int rc = 0;
    begin(q->report, sl_quant_run_reference(r), sl_quant_run_windows(r));
    for (int i = 0; rc == 0 && (s = next_scheme(q, &i));) {
        sl_quant_result x = {0};
        rc = sl_quant_run_scheme(r, s, &x);
        if (rc == 0)
            rc = add(q->report, &x);
        sl_quant_result_free(&x);
    }
    return rc;
}

/* ---- an exported model: it knows its scheme */

static int run_import(work *q, const char *path, const sl_open_options *keys) {
    sl_quant_report *t = q->report;
    bool real = t->plan.options.real;
    sl_quant_result x = {0};
    snprintf(t->dir, sizeof t->dir, "%s", path);
    if (sl_quant_export_read(t->dir, &t->config, &t->vocab, &t->plan.options) < 0)
        return -1;
    t->config.device = SL_DEVICE_CPU; /* as sl_load_config() */
    if (sl_config_change(&t->config, keys, t->dir) ||
        sl_threads_start((int)t->config.threads, (enum sl_pin)t->config.pin) ||
        sl_load_corpus(q->o->corpus, &t->config))
        return -1;
    t->plan.options.real = real;
    sl_dataset *d = check_scheme(q, t->plan.options.scheme) < 0 ? NULL : sl_open_data(&t->config, t->dir, t->vocab);
    int rc = d ? sl_quant_run_import(&t->config, t->dir, t->vocab, d, &t->plan.options, &t->plan.windows,
                                     t->plan.skip, &x) : -1;
    t->bytes_per_token = d ? sl_dataset_bytes_per_token(d, SL_VAL) : 0;
    begin(t, (sl_interval){NAN, NAN, 0}, t->plan.windows);
    if (rc == 0)
        rc = add(t, &x);
    sl_quant_result_free(&x);
    sl_dataset_close(d);
    return rc;
}

/* What may be said of an exported model, and what not. */
static int check_import_flags(const work *q) {
    const sl_quant_plan *p = &q->report->plan;
    const char *flag = q->o->scheme             ? "scheme"
                       : q->o->grid             ? "grid"
                       : q->o->clip             ? "clip"
                       : p->options.smooth >= 0 ? "smooth"
                       : p->options.migrate     ? "migrate"
                       : p->options.rotate      ? "rotate"
                       : p->options.head        ? "head"
                       : p->options.embedding   ? "embedding"
                       : p->options.kv          ? "kv"
                       : q->o->keep             ? "keep"
                       : p->export_to           ? "export"
                                                : NULL;
    return flag ? sl_fail_usage("quantize: --%s: the folder holds an exported model, which is quantised already", flag)
                : 0;
}

/* ---- a checkpoint */

static int run(work *q, const char *path, const sl_open_options *keys) {
    sl_quant_report *t = q->report;
    if (sl_load_config(path, keys, 0.5, &t->config, t->dir, &t->vocab) ||
        sl_load_corpus(q->o->corpus, &t->config))
        return -1;
    sl_dataset *d = sl_open_data(&t->config, t->dir, t->vocab);
    t->bytes_per_token = d ? sl_dataset_bytes_per_token(d, SL_VAL) : 0;
    t->calibrates = d && (calibrates(q) || t->plan.options.smooth >= 0);
    sl_quant_run *r = NULL;
    while (d && !(r = sl_quant_run_open(&t->config, t->dir, t->vocab, d, &t->plan, calibrates(q))) &&
           sl_load_moved_on(t->dir))
        ;
    int rc = r ? run_schemes(q, r) : -1;
    sl_quant_run_close(r);
    sl_dataset_close(d);
    return rc;
}

static void take_options(sl_quant_plan *p, const sl_quantize_options *o) {
    p->options = (sl_quant_options){.smooth = o->smooth, .migrate = o->migrate, .rotate = o->rotate,
                                    .seed = o->rotation_seed, .head = o->head, .embedding = o->embedding, .kv = o->kv,
                                    .real = o->real};
    p->windows = o->windows, p->skip = o->skip < 0 ? SL_SPREAD : o->skip;
    p->export_to = o->export_to;
}

/* The command line looks at them itself, as it reads them. */
static int check_ranges(const sl_quantize_options *o) {
    if (!(o->smooth <= 1) || (!isnan(o->percentile) && !(o->percentile >= 50 && o->percentile <= 100)) ||
        o->calibration < 1 || o->windows < 0)
        return sl_fail_usage("quantize: smooth goes up to 1, percentile from 50 to 100, calibration takes windows from "
                             "1 on, and windows are 0 (all) or more");
    return 0;
}

int sl_quantize(const char *path, const sl_quantize_options *o, const sl_open_options *keys, sl_quant_report *t) {
    *t = (sl_quant_report){.results = NULL};
    work q = {.o = o, .report = t};
    take_options(&t->plan, o);
    t->each_window = o->each_window;
    if (check_ranges(o))
        return -1;
    if (sl_quant_is_export(path))
        return check_import_flags(&q) < 0 ? -1 : run_import(&q, path, keys);
    return check_flags(&q) < 0 ? -1 : run(&q, path, keys);
}

char *sl_quantize_json(const char *path, const sl_quantize_options *o, const sl_open_options *keys) {
    sl_quant_report t;
    json_t *all = sl_quantize(path, o, keys, &t) < 0 ? NULL : sl_quant_report_json(&t);
    char *text = sl_figures_text(all);
    sl_quant_report_free(&t);
    return text;
}
