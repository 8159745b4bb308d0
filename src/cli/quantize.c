/* sinklab quantize: a checkpoint with weights and activations rounded as a scheme says. */
#include "base/err.h"
#include "base/text.h"
#include "base/threads.h"
#include "cli/args.h"
#include "session/load.h"
#include "cli/quantize_report.h"
#include "cli/verbs.h"
#include "quant/export.h"
#include "quant/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *scheme_name, *clip_name, *corpus, *bos;
    bool list, grid, json;
    double percentile;
    int64_t calibration;
    const sl_scheme *scheme; /* NULL: the grid */
    sl_quant_report report;
} quantize;

static int print_list(void) {
    char text[SL_SCHEME_HELP];
    for (int i = 0; i < sl_schemes(); i++) {
        sl_scheme_describe(sl_scheme_at(i), text);
        printf("%-20s  %s\n", sl_scheme_at(i)->name, text);
    }
    return 0;
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

/* What only some schemes have. */
static int check_scheme(const quantize *q) {
    const sl_scheme *s = q->scheme;
    const sl_quant_options *o = &q->report.plan.options;
    if (q->clip_name && !sl_range_is_static(s->range))
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

static int check_flags(quantize *q) {
    sl_quant_plan *p = &q->report.plan;
    if (!q->scheme_name == !q->grid)
        return sl_fail_usage("quantize: give --scheme NAME or --grid (--list has the names)");
    if (q->clip_name && find_clip(q->clip_name, &p->clip.clip) < 0)
        return -1;
    if (!isnan(q->percentile) && p->clip.clip != SL_CLIP_PERCENTILE)
        return sl_fail_usage("quantize: --percentile goes with --clip percentile");
    p->clip.percentile = isnan(q->percentile) ? 99.9 : q->percentile;
    p->clip.windows = q->calibration;
    if (q->grid && p->export_to)
        return sl_fail_usage("quantize: --export writes one model; give --scheme with it, not --grid");
    if (q->grid)
        return p->options.real || p->options.kv
                   ? sl_fail_usage("quantize: --%s goes with one --scheme, not with --grid",
                                   p->options.real ? "real" : "kv")
                   : 0;
    if (!(q->scheme = sl_scheme_find(q->scheme_name)))
        return -1;
    return check_scheme(q);
}

static int set_corpus(sl_config *c, const char *corpus) {
    if (strlen(corpus) >= sizeof c->data_corpus)
        return sl_fail_usage("--corpus: a path of %zu bytes; at most %zu fit", strlen(corpus),
                             sizeof c->data_corpus - 1);
    strcpy(c->data_corpus, corpus);
    return 0;
}

static bool calibrates(const quantize *q) { return q->grid || sl_range_is_static(q->scheme->range); }

static int run_schemes(quantize *q, sl_quant_run *r) {
    int n = q->grid ? sl_schemes() : 1, rc = 0;
    sl_quant_report_begin(&q->report, sl_quant_run_reference(r), sl_quant_run_windows(r));
    for (int i = 0; rc == 0 && i < n; i++) {
        sl_quant_result x = {0};
        rc = sl_quant_run_scheme(r, q->grid ? sl_scheme_at(i) : q->scheme, &x);
        if (rc == 0)
            rc = sl_quant_report_add(&q->report, &x);
        sl_quant_result_free(&x);
    }
    return rc < 0 ? -1 : sl_quant_report_print(&q->report, q->grid, q->json);
}

/* ---- an exported model: it knows its scheme */

static int run_import(quantize *q, const sl_args *args) {
    sl_quant_report *t = &q->report;
    bool real = t->plan.options.real;
    sl_quant_result x = {0};
    snprintf(t->dir, sizeof t->dir, "%s", args->positional[0]);
    if (sl_quant_export_read(t->dir, &t->config, &t->vocab, &t->plan.options) < 0)
        return -1;
    t->config.device = SL_DEVICE_CPU; /* as sl_load_config() */
    sl_open_options keys = sl_args_open(args, q->bos);
    if (sl_config_change(&t->config, &keys, t->dir) ||
        sl_threads_start((int)t->config.threads, (enum sl_pin)t->config.pin) ||
        (q->corpus && set_corpus(&t->config, q->corpus) < 0))
        return -1;
    t->plan.options.real = real;
    q->scheme = t->plan.options.scheme;
    sl_dataset *d = check_scheme(q) < 0 ? NULL : sl_open_data(&t->config, t->dir, t->vocab);
    int rc = d ? sl_quant_run_import(&t->config, t->dir, t->vocab, d, &t->plan.options, &t->plan.windows, &x) : -1;
    t->bytes_per_token = d ? sl_dataset_bytes_per_token(d, SL_VAL) : 0;
    sl_quant_report_begin(t, (sl_interval){NAN, NAN, 0}, t->plan.windows);
    if (rc == 0)
        rc = sl_quant_report_add(t, &x) < 0 ? -1 : sl_quant_report_print(t, false, q->json);
    sl_quant_result_free(&x);
    sl_quant_report_free(t);
    sl_dataset_close(d);
    return rc;
}

/* What may be said of an exported model, and what not. */
static int check_import_flags(const quantize *q) {
    const sl_quant_plan *p = &q->report.plan;
    const char *flag = q->scheme_name           ? "scheme"
                       : q->grid                ? "grid"
                       : q->clip_name           ? "clip"
                       : p->options.smooth >= 0 ? "smooth"
                       : p->options.migrate     ? "migrate"
                       : p->options.rotate      ? "rotate"
                       : p->options.head        ? "head"
                       : p->options.embedding   ? "embedding"
                       : p->options.kv          ? "kv"
                       : p->export_to           ? "export"
                                                : NULL;
    return flag ? sl_fail_usage("quantize: --%s: the folder holds an exported model, which is quantised already", flag)
                : 0;
}

/* ---- a checkpoint */

static int run(quantize *q, const sl_args *args) {
    sl_quant_report *t = &q->report;
    if (sl_args_load(args, q->bos, 0.5, &t->config, t->dir, &t->vocab) ||
        (q->corpus && set_corpus(&t->config, q->corpus) < 0))
        return -1;
    sl_dataset *d = sl_open_data(&t->config, t->dir, t->vocab);
    t->bytes_per_token = d ? sl_dataset_bytes_per_token(d, SL_VAL) : 0;
    t->calibrates = d && (calibrates(q) || t->plan.options.smooth >= 0);
    sl_quant_run *r = NULL;
    while (d && !(r = sl_quant_run_open(&t->config, t->dir, t->vocab, d, &t->plan, calibrates(q))) &&
           sl_load_moved_on(t->dir))
        ;
    int rc = r ? run_schemes(q, r) : -1;
    sl_quant_report_free(t);
    sl_quant_run_close(r);
    sl_dataset_close(d);
    return rc;
}

int sl_verb_quantize(int argc, char **argv) {
    quantize q = {.percentile = NAN, .calibration = 64};
    sl_quant_plan *p = &q.report.plan;
    p->options.smooth = -1;
    p->windows = 128;
    int64_t seed = 1;
    const sl_flag flags[] = {
        SL_FLAG_STR("scheme", "NAME", &q.scheme_name, "how weights and activations are rounded"),
        SL_FLAG_BOOL("list", &q.list, "print the schemes, and do nothing else"),
        SL_FLAG_BOOL("grid", &q.grid, "all schemes, one after the other"),
        SL_FLAG_REAL("smooth", "ALPHA", &p->options.smooth, 0, 1, "SmoothQuant first (arXiv 2211.10438)"),
        SL_FLAG_BOOL("migrate", &p->options.migrate, "gamma migration first (arXiv 2209.13325)"),
        SL_FLAG_BOOL("rotate", &p->options.rotate, "randomised Hadamard rotation first (QuaRot, arXiv 2404.00456)"),
        SL_FLAG_INT("rotation-seed", "N", &seed, 0, 9007199254740991, "of the rotation's signs; default 1"),
        SL_FLAG_INT("calibration", "N", &q.calibration, 1, 1e9,
                    "windows of the training text for static scales and SmoothQuant; default 64"),
        SL_FLAG_STR(
            "clip", "HOW", &q.clip_name,
            "range of static scales: absmax (default), percentile, mse (least squared error), token (token-wise "
            "clipping, arXiv 2209.13325)"),
        SL_FLAG_REAL("percentile", "P", &q.percentile, 50, 100, "of --clip percentile; default 99.9"),
        SL_FLAG_BOOL("head", &p->options.head, "round the head and its input too"),
        SL_FLAG_BOOL("embedding", &p->options.embedding, "round the embeddings too"),
        SL_FLAG_BOOL("kv", &p->options.kv, "round keys and values too, as they would be cached"),
        SL_FLAG_BOOL("real", &p->options.real, "multiply integers on the int8 unit: the same bits, faster"),
        SL_FLAG_STR(
            "export", "DIR", &p->export_to,
            "write the quantised model to this new folder (src/quant/export.h); `sinklab quantize DIR` evaluates it"),
        SL_FLAG_STR("corpus", "C", &q.corpus, "calibrate and evaluate on this corpus; default: the one trained on"),
        SL_FLAG_BOS(&q.bos),
        SL_FLAG_INT("windows", "N", &p->windows, 0, 1e12,
                    "validation windows, from the first one; 0 = all; default 128"),
        SL_FLAG_BOOL("json", &q.json, "print one JSON object"),
        SL_FLAG_END};
    const sl_verb_spec spec = {
        .verb = "quantize",
        .operands = "CHECKPOINT --scheme NAME | --grid [key=value ...]",
        .about =
            "Evaluates a checkpoint with weights and activations rounded to few bits: every linear layer of the blocks "
            "reads rounded inputs and multiplies rounded weights, as hardware for these formats would; norms, their "
            "gates, attention, routers and the residual stream stay fp32. Loss, perplexity and bits per byte come with "
            "their change from fp32 and its 95 % interval over validation windows (paired), and the error of what is "
            "rounded by layer and class of tensor. Calibration takes windows of the training text only.\n"
            "A folder that --export wrote is evaluated as it is, without a scheme.",
        .flags = flags,
        .min_positionals = 0,
        .max_positionals = 1,
        .overrides = true,
        .examples = "sinklab quantize --list\n"
                    "sinklab quantize runs/baseline --scheme w8a8-channel-static\n"
                    "sinklab quantize runs/gated --scheme nvfp4-token --smooth 0.5 --json\n"
                    "sinklab quantize runs/gated --grid --rotate --calibration 128\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (q.list)
        return print_list();
    if (args.positionals == 0)
        return sl_fail_usage("quantize: an argument is missing: sinklab quantize %s", spec.operands);
    p->options.seed = (uint64_t)seed;
    if (sl_quant_is_export(args.positional[0]))
        return check_import_flags(&q) < 0 ? -1 : run_import(&q, &args);
    return check_flags(&q) < 0 ? -1 : run(&q, &args);
}
