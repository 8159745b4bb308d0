#include "cli/quantize_report.h"

#include "quant/keep.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int print_json(const sl_quant_report *t) {
    json_t *o = sl_quant_report_json(t);
    if (!o)
        return -1;
    json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(o);
    return 0;
}

/* ---- tables */

static double number(const json_t *o, const char *key) {
    const json_t *x = json_object_get(o, key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

static void print_figure(const char *title, const json_t *f) {
    if (isfinite(number(f, "value")))
        printf("%-16s %12.6g", title, number(f, "value"));
    if (isfinite(number(f, "change")))
        printf("   change from fp32 %+.4g  [%+.4g, %+.4g]", number(f, "change"), number(f, "low"), number(f, "high"));
    if (isfinite(number(f, "value")))
        putchar('\n');
}

static void print_kept(const sl_quant_options *o) {
    char name[SL_SCOPE_CHARS];
    int n = 0;
    for (int i = 0; sl_keep_name(i, name); i++)
        if (sl_keep_has(o, i))
            printf("%s%s", n++ ? ", " : "kept in fp32: ", name);
    if (n)
        putchar('\n');
}

static void print_header(const sl_quant_report *t) {
    const sl_quant_options *o = &t->plan.options;
    printf("%s: %lld validation windows of %s", t->dir, (long long)t->windows, t->config.data_corpus);
    if (isfinite(t->reference.mean))
        printf("; fp32 loss %.6f", t->reference.mean);
    putchar('\n');
    if (t->calibrates)
        printf("calibration: %lld windows of the training text, %s\n", (long long)t->plan.clip.windows,
               sl_clip_table[t->plan.clip.clip].name);
    print_kept(o);
    if (o->smooth >= 0)
        printf("SmoothQuant, alpha %g\n", o->smooth);
    if (o->migrate)
        puts("gamma migration");
    if (o->rotate)
        printf("rotation, %s\n", sl_quant_report_rotation(t));
    putchar('\n');
}

static void print_errors(const json_t *list) {
    size_t i;
    json_t *e;
    printf("\nError of what is rounded, |Q(x) - x|/|x|, x.Q(x)/|x||Q(x)|, max|Q(x) - x|:\n\n%5s %-14s %9s %9s %9s\n",
           "layer", "tensor", "relative", "cosine", "max");
    json_array_foreach(list, i, e) {
        const json_t *layer = json_object_get(e, "layer");
        if (json_is_integer(layer))
            printf("%5lld", (long long)json_integer_value(layer));
        else
            printf("%5s", json_string_value(layer));
        printf(" %-14s %9.4g %9.6f %9.4g\n", json_string_value(json_object_get(e, "tensor")), number(e, "relative"),
               number(e, "cosine"), number(e, "max"));
    }
}

static void print_one(const json_t *o) {
    printf("%s\n", json_string_value(json_object_get(o, "scheme")));
    print_figure("loss", json_object_get(o, "loss"));
    print_figure("perplexity", json_object_get(o, "perplexity"));
    print_figure("bits per byte", json_object_get(o, "bits_per_byte"));
    if (json_object_get(o, "weights"))
        printf("%-16s %12.4g   relative error, cosine %.6f\n", "weights",
               number(json_object_get(o, "weights"), "relative"), number(json_object_get(o, "weights"), "cosine"));
    if (isfinite(number(o, "clip_ratio")))
        printf("%-16s %12.4g   quantile of the tokens' extremes\n", "clip", number(o, "clip_ratio"));
    if (json_array_size(json_object_get(o, "errors")))
        print_errors(json_object_get(o, "errors"));
}

/* Relative error of a class over all layers: the largest. */
static double worst(const json_t *o, enum sl_quant_class class) {
    const json_t *list = json_object_get(o, "errors");
    double most = NAN;
    size_t i;
    json_t *e;
    json_array_foreach(list, i, e) {
        if (strcmp(json_string_value(json_object_get(e, "tensor")), sl_quant_class_names[class]) == 0)
            most = fmax(most, number(e, "relative"));
    }
    return most;
}

static void print_cell(int width, const char *format, double x) {
    char text[32] = "-";
    if (isfinite(x))
        snprintf(text, sizeof text, format, x);
    printf(" %*s", width, text);
}

static void print_all(const json_t *results) {
    size_t i;
    json_t *o;
    printf("%-20s %9s %10s %22s %8s  %s\n%-20s %9s %10s %22s %8s  %8s %8s %8s\n", "", "", "change of", "95 % interval",
           "", "largest relative error of a layer", "scheme", "loss", "loss", "of the change", "bits/B", "norm", "attn",
           "down");
    json_array_foreach(results, i, o) {
        const json_t *loss = json_object_get(o, "loss");
        char interval[48];
        snprintf(interval, sizeof interval, "[%+.4g, %+.4g]", number(loss, "low"), number(loss, "high"));
        printf("%-20s %9.5f %+10.4g %22s", json_string_value(json_object_get(o, "scheme")), number(loss, "value"),
               number(loss, "change"), interval);
        print_cell(8, "%.4f", number(json_object_get(o, "bits_per_byte"), "value"));
        putchar(' ');
        for (int c = SL_QUANT_POST_NORM; c <= SL_QUANT_DOWN_IN; c++)
            print_cell(8, "%.4f", worst(o, (enum sl_quant_class)c));
        putchar('\n');
    }
}

/* ---- the ranges of activations side by side */

static const char *const range_names[] = {"static", "affine", "window", "token"};
enum { RANGES = 4 };

/* The scheme's name without its range, if it ends in one: its number; else -1. */
static int split_name(const char *name, char *base, size_t size) {
    const char *dash = strrchr(name, '-');
    for (int i = 0; dash && i < RANGES; i++)
        if (strcmp(dash + 1, range_names[i]) == 0) {
            snprintf(base, size, "%.*s", (int)(dash - name), name);
            return i;
        }
    return -1;
}

static const json_t *result_named(const json_t *results, const char *base, int range) {
    char name[96];
    size_t i;
    json_t *o;
    snprintf(name, sizeof name, "%s-%s", base, range_names[range]);
    json_array_foreach(results, i, o) {
        if (strcmp(json_string_value(json_object_get(o, "scheme")), name) == 0)
            return o;
    }
    return NULL;
}

static void print_ranges(const json_t *results) {
    char base[64], last[64] = "";
    size_t i;
    json_t *o;
    printf("\nChange of the loss by the range of activations:\n\n%-20s", "");
    for (int r = 0; r < RANGES; r++)
        printf(" %10s", range_names[r]);
    putchar('\n');
    json_array_foreach(results, i, o) {
        if (split_name(json_string_value(json_object_get(o, "scheme")), base, sizeof base) < 0 ||
            strcmp(base, last) == 0)
            continue;
        strcpy(last, base);
        printf("%-20s", base);
        for (int r = 0; r < RANGES; r++) {
            const json_t *x = result_named(results, base, r);
            print_cell(10, "%+.4g", x ? number(json_object_get(x, "loss"), "change") : NAN);
        }
        putchar('\n');
    }
}

int sl_quant_report_print(const sl_quant_report *t, bool json) {
    if (json)
        return print_json(t);
    print_header(t);
    if (!t->several) {
        print_one(json_array_get(t->results, 0));
        return 0;
    }
    print_all(t->results);
    print_ranges(t->results);
    return 0;
}
