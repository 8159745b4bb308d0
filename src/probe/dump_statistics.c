/* The statistics and the manifest of a dump. */
#include "probe/dump_internal.h"

#include "base/err.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int write_json(const sl_dump *d, const char *name, const json_t *o) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", d->o.folder, name) >= (int)sizeof path)
        return sl_fail("%s: the path is too long", d->o.folder);
    char *text = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    sl_writer w;
    int rc = text ? 0 : sl_fail("out of memory for %s", path);
    rc = rc || sl_writer_open(&w, path) || sl_writer_put(&w, text, strlen(text)) || sl_writer_put(&w, "\n", 1) ||
                 sl_writer_finish(&w, NULL)
             ? -1
             : 0;
    free(text);
    return rc;
}

/* An array of numbers under `key` in each of the first objects of `layers`: as rows of one float64 array; null: NaN. */
static int stack(sl_dump *d, const json_t *layers, const char *key, const char *what, const char *axis,
                 const char *unit) {
    size_t rows = 0, cols = json_array_size(json_object_get(json_array_get(layers, 0), key));
    while (cols && json_array_size(json_object_get(json_array_get(layers, rows), key)) == cols)
        rows++;
    if (rows == 0)
        return 0;
    double *x = malloc(rows * cols * sizeof *x);
    if (!x)
        return sl_fail("out of memory for the dump");
    for (size_t i = 0; i < rows * cols; i++) {
        const json_t *v = json_array_get(json_object_get(json_array_get(layers, i / cols), key), i % cols);
        x[i] = json_is_number(v) ? json_number_value(v) : NAN;
    }
    const char *const axes[DUMP_DIMS] = {"layer", axis, NULL, NULL};
    const dump_array *a =
        dump_append(d, what, -1, "<f8", unit, axes, (int64_t[DUMP_DIMS]){(int64_t)rows, (int64_t)cols});
    int rc = a ? sl_npy_write(a->path, a->descr, a->ndim, a->shape, x) : -1;
    free(x);
    return rc;
}

/* The final norm's weights: of the last layer alone. */
static int final_weights(sl_dump *d, const json_t *layers) {
    json_t *last = json_pack("[O]", json_array_get(layers, json_array_size(layers) - 1));
    int rc = last ? stack(d, last, "norm_weight_final", "norm_weight_final", "channel", "weight")
                  : sl_fail("out of memory for the dump");
    json_decref(last);
    return rc;
}

int dump_statistics(sl_dump *d, const json_t *statistics) {
    static const struct {
        const char *key, *what, *axis, *unit;
    } table[] = {{"channel_mean_abs", "channel_mean_abs", "channel", "activation, mean |h| without token 0"},
                 {"norm_weight_attn", "norm_weight_attn", "channel", "weight"},
                 {"norm_weight_ffn", "norm_weight_ffn", "channel", "weight"},
                 {"att0", "att0", "head", "probability"},
                 {"entropy", "attention_entropy", "head", "nats"},
                 {"value_norm_ratios", "value_norm_ratio", "kv head", "ratio"}};
    const json_t *layers = json_object_get(statistics, "layers");
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (stack(d, layers, table[i].key, table[i].what, table[i].axis, table[i].unit))
            return -1;
    const json_t *contribution = json_object_get(json_object_get(statistics, "measures"), "contribution");
    if (final_weights(d, layers) || stack(d, contribution, "head", "contribution", "head", "share"))
        return -1;
    return write_json(d, "statistics.json", statistics);
}

static json_t *describe(const dump_array *a) {
    json_t *shape = json_array(), *axes = json_array();
    for (int i = 0; i < a->ndim; i++) {
        json_array_append_new(shape, json_integer(a->shape[i]));
        json_array_append_new(axes, json_string(a->axes[i]));
    }
    const char *dtype = strcmp(a->descr, "<i4") == 0 ? "int32" : strcmp(a->descr, "<f4") == 0 ? "float32" : "float64";
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:s, s:s}", "file", a->file, "what", a->what, "layer",
                     a->layer < 0 ? json_null() : json_integer(a->layer), "shape", shape, "axes", axes, "dtype", dtype,
                     "unit", a->unit);
}

/* A path need not be UTF-8, which JSON is. */
static json_t *text(const char *s) {
    json_t *o = json_string(s);
    return o ? o : json_null();
}

int dump_manifest(sl_dump *d) {
    json_t *arrays = json_array(), *heads = json_array();
    int rc = 0;
    for (int i = 0; i < d->arrays; i++)
        rc |= json_array_append_new(arrays, describe(&d->array[i]));
    for (int64_t h = 0; h < d->shape.heads; h++)
        if (!d->o.head || d->o.head[h])
            rc |= json_array_append_new(heads, json_integer(h));
    json_t *o =
        json_pack("{s:i, s:o, s:o, s:I, s:I, s:I, s:o, s:o}", "version", 1, "checkpoint", text(d->o.checkpoint),
                  "corpus", text(d->o.corpus), "windows", (json_int_t)d->o.windows, "seq", (json_int_t)d->shape.seq,
                  "layers", (json_int_t)d->shape.layers, "attention_heads", heads, "arrays", arrays);
    rc = rc || !o ? sl_fail("out of memory for the dump") : write_json(d, "manifest.json", o);
    json_decref(o);
    return rc;
}
