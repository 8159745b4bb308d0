#include "probe/dump_internal.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"

#include <fcntl.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

const sl_measure_info sl_dump_table[] = {
    {"residual", "residual stream h_0..h_L, [window, position, channel]"},
    {"norms", "norm outputs, gate included, [window, position, channel]"},
    {"gates", "gate values of gated norms, [window, position, channel]"},
    {"qkv", "queries, keys (behind norm and rotary) and values, [window, position, head, channel]"},
    {"attention", "attention probabilities, [window, head, query, key]; large"},
    {"attention_output", "input of the output projection, [window, position, channel]"},
    {"down_input", "input of the down projection, [window, position, channel]"},
    {"statistics", "the probe's figures: statistics.json, and its arrays over layers"},
    {NULL, NULL},
};

/* What an array holds, and so where it comes from. */
enum {
    KIND_DONE, /* already written */
    KIND_TOKENS,
    KIND_RESIDUAL,
    KIND_NORM_ATTN, KIND_NORM_FFN,
    KIND_GATE_ATTN, KIND_GATE_FFN,
    KIND_Q, KIND_K, KIND_V,
    KIND_ATTENTION,
    KIND_OUTPUT, KIND_HIDDEN
};

/* ---- the list of arrays */

static char *path_of(const char *folder, const char *what, int layer) {
    char name[64];
    if (layer < 0)
        snprintf(name, sizeof name, "%s.npy", what);
    else
        snprintf(name, sizeof name, "%s.%03d.npy", what, layer);
    size_t n = strlen(folder) + strlen(name) + 2;
    char *path = malloc(n);
    if (path)
        snprintf(path, n, "%s/%s", folder, name);
    return path;
}

dump_array *dump_append(sl_dump *d, const char *what, int layer, const char *descr, const char *unit,
                        const char *const *axes, const int64_t *shape) {
    if (d->arrays == d->capacity) {
        int capacity = d->capacity ? 2 * d->capacity : 64;
        dump_array *grown = realloc(d->array, (size_t)capacity * sizeof *grown);
        if (!grown)
            return sl_fail("out of memory for the dump"), NULL;
        d->array = grown;
        d->capacity = capacity;
    }
    dump_array *a = &d->array[d->arrays];
    *a = (dump_array){.path = path_of(d->o.folder, what, layer), .what = what, .layer = layer, .descr = descr,
                      .unit = unit, .writer = {.fd = -1}};
    if (!a->path)
        return sl_fail("out of memory for the dump"), NULL;
    a->file = a->path + strlen(d->o.folder) + 1;
    for (; a->ndim < DUMP_DIMS && axes[a->ndim]; a->ndim++) {
        a->axes[a->ndim] = axes[a->ndim];
        a->shape[a->ndim] = shape[a->ndim];
    }
    d->arrays++;
    return a;
}

static int add(sl_dump *d, int kind, const char *what, int64_t layer, const char *unit, const char *const axes[],
               const int64_t *shape) {
    dump_array *a = dump_append(d, what, (int)layer, kind == KIND_TOKENS ? "<i4" : "<f4", unit, axes, shape);
    if (a)
        a->kind = kind;
    return a ? 0 : -1;
}

/* Rows of `width` columns. */
static int add_rows(sl_dump *d, int kind, const char *what, int64_t layer, const char *unit, int64_t width) {
    static const char *const axes[DUMP_DIMS] = {"window", "position", "channel", NULL};
    return add(d, kind, what, layer, unit, axes, (int64_t[DUMP_DIMS]){d->o.windows, d->shape.seq, width});
}

static int add_heads(sl_dump *d, int kind, const char *what, int64_t layer, int64_t heads) {
    static const char *const axes[DUMP_DIMS] = {"window", "position", "head", "channel"};
    return add(d, kind, what, layer, "activation", axes,
               (int64_t[DUMP_DIMS]){d->o.windows, d->shape.seq, heads, d->shape.head_dim});
}

static bool wants(const sl_dump *d, enum sl_dump_what w) { return d->o.what >> w & 1; }

static int plan_norms(sl_dump *d, int64_t layer) {
    static const char *const norm[] = {"norm_attn", "norm_ffn"}, *const gate[] = {"gate_attn", "gate_ffn"};
    bool final = layer == d->shape.layers;
    int rc = 0;
    for (int w = 0; w < 2; w++) {
        if (wants(d, SL_DUMP_NORMS) && sl_model_tap_width(d->model, (int)layer, SL_TAP_ATTN_NORM_IN + w))
            rc |= add_rows(d, KIND_NORM_ATTN + w, final ? "norm_final" : norm[w], layer, "activation", d->shape.dim);
        if (wants(d, SL_DUMP_GATES) && sl_model_tap_width(d->model, (int)layer, SL_TAP_ATTN_GATE_IN + w))
            rc |= add_rows(d, KIND_GATE_ATTN + w, final ? "gate_final" : gate[w], layer, "gate value", d->shape.dim);
    }
    return rc;
}

static int plan_block(sl_dump *d, int64_t layer) {
    static const char *const axes[DUMP_DIMS] = {"window", "head", "query", "key"};
    const sl_shape *s = &d->shape;
    int64_t out = sl_model_tap_width(d->model, (int)layer, SL_TAP_OUT_IN),
            hidden = sl_model_tap_width(d->model, (int)layer, SL_TAP_DOWN_IN);
    bool attends = sl_model_attends(d->model, (int)layer);
    int rc = 0;
    if (wants(d, SL_DUMP_QKV) && attends)
        rc |= add_heads(d, KIND_Q, "q", layer, s->heads) | add_heads(d, KIND_K, "k", layer, s->kv_heads) |
              add_heads(d, KIND_V, "v", layer, s->kv_heads);
    if (wants(d, SL_DUMP_ATTENTION) && attends)
        rc |= add(d, KIND_ATTENTION, "attention", layer, "probability", axes,
                  (int64_t[DUMP_DIMS]){d->o.windows, d->heads, s->seq, s->seq});
    if (wants(d, SL_DUMP_OUTPUT) && out)
        rc |= add_rows(d, KIND_OUTPUT, "attention_output", layer, "activation", out);
    if (wants(d, SL_DUMP_HIDDEN) && hidden)
        rc |= add_rows(d, KIND_HIDDEN, "down_input", layer, "activation", hidden);
    return rc;
}

static int plan(sl_dump *d) {
    static const char *const axes[DUMP_DIMS] = {"window", "position", NULL, NULL};
    int rc = add(d, KIND_TOKENS, "tokens", -1, "token id", axes, (int64_t[DUMP_DIMS]){d->o.windows, d->shape.seq});
    for (int64_t i = 0; i <= d->shape.layers && rc == 0; i++) {
        if (d->o.layer && !d->o.layer[i])
            continue;
        if (wants(d, SL_DUMP_RESIDUAL))
            rc |= add_rows(d, KIND_RESIDUAL, "residual", i, "activation", d->shape.dim);
        rc |= plan_norms(d, i);
        if (i < d->shape.layers)
            rc |= plan_block(d, i);
    }
    return rc;
}

/* ---- room */

/* The folder that `folder` is to be made in. */
static void parent_of(const char *folder, char *parent, size_t size) {
    snprintf(parent, size, "%s", folder);
    char *slash = strrchr(parent, '/');
    while (slash && slash > parent && !slash[1]) { /* at the end */
        *slash = 0;
        slash = strrchr(parent, '/');
    }
    if (!slash)
        snprintf(parent, size, ".");
    else
        slash[slash == parent] = 0;
}

static int check_room(const sl_dump *d) {
    char parent[PATH_MAX];
    struct statvfs disk;
    double bytes = 0;
    for (int i = 0; i < d->arrays; i++) {
        int64_t n = sl_npy_bytes(d->array[i].descr, d->array[i].ndim, d->array[i].shape);
        if (n < 0)
            return sl_fail("%s would be too large; give fewer --windows", d->array[i].file);
        bytes += (double)n;
    }
    parent_of(d->o.folder, parent, sizeof parent);
    if (statvfs(parent, &disk) < 0)
        return sl_fail_errno("cannot make a folder in", parent);
    double room = (double)disk.f_bavail * (double)disk.f_frsize;
    if (bytes > .98 * room)
        return sl_fail(
            "the dump would take %.3g GB and %s has room for %.3g GB; give fewer --what, --layers, --heads or "
            "--windows",
            bytes / 1e9, parent, room / 1e9);
    return 0;
}

/* All files are open at once. */
static int check_files(const sl_dump *d) {
    struct rlimit limit;
    rlim_t needed = (rlim_t)d->arrays + 64;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= needed)
        return 0;
    rlim_t had = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max != RLIM_INFINITY && limit.rlim_max < needed ? limit.rlim_max : needed;
    if (limit.rlim_cur >= needed && setrlimit(RLIMIT_NOFILE, &limit) == 0)
        return 0;
    return sl_fail("the dump has %d files and %lld may be open at once; give fewer --what or --layers, or raise "
                   "`ulimit -n`", d->arrays, (long long)had);
}

/* ---- making it */

static int make_folder(sl_dump *d) {
    if (sl_sys.mkdir(d->o.folder, 0777) == 0) {
        d->made = true;
        return 0;
    }
    if (errno == EEXIST)
        return sl_fail("%s is already there; give another --dump, or remove it", d->o.folder);
    return sl_fail_errno("cannot make folder", d->o.folder);
}

static int allocate(sl_dump *d) {
    const sl_shape *s = &d->shape;
    int64_t n = s->batch * s->seq * s->dim;
    for (int i = 0; i < d->arrays; i++) {
        const dump_array *a = &d->array[i];
        int64_t one = a->kind == KIND_ATTENTION ? s->seq * s->seq
                                                : s->batch * s->seq * a->shape[2] * (a->ndim == 4 ? a->shape[3] : 1);
        n = a->ndim > 2 && one > n ? one : n;
    }
    d->data = sl_alloc((size_t)n * sizeof(float), "the dump");
    d->rows = sl_alloc((size_t)sl_threads() * (size_t)sl_attention_thread_floats(s->seq) * sizeof(float), "the dump");
    return d->data && d->rows ? 0 : -1;
}

static int open_files(sl_dump *d) {
    for (int i = 0; i < d->arrays; i++) {
        dump_array *a = &d->array[i];
        if (sl_npy_begin(&a->writer, a->path, a->descr, a->ndim, a->shape))
            return -1;
    }
    return 0;
}

sl_dump *sl_dump_create(const sl_model *m, const sl_dump_options *o) {
    sl_dump *d = calloc(1, sizeof *d);
    struct stat there;
    if (!d)
        return sl_fail("out of memory for the dump"), NULL;
    *d = (sl_dump){.model = m, .o = *o, .shape = sl_model_shape(m)};
    for (int64_t h = 0; h < d->shape.heads; h++)
        d->heads += !o->head || o->head[h];
    if (lstat(o->folder, &there) == 0)
        sl_fail("%s is already there; give another --dump, or remove it", o->folder);
    else if (!plan(d) && !check_room(d) && !check_files(d) && !allocate(d) && !make_folder(d) && !open_files(d))
        return d;
    sl_dump_free(d);
    return NULL;
}

/* ---- adding */

static int put_attention(sl_dump *d, dump_array *f) {
    sl_attention_rows a = sl_probe_attention_rows(d->model, f->layer);
    const sl_kernels *k = sl_kernels_select((enum sl_isa)sl_model_config(d->model)->isa);
    for (int64_t w = 0; w < a.windows; w++)
        for (int64_t h = 0; h < a.heads; h++) {
            if (d->o.head && !d->o.head[h])
                continue;
            sl_probe_attention_map(k, &a, w, h, d->data, d->rows);
            if (sl_writer_put(&f->writer, d->data, (size_t)(a.seq * a.seq) * sizeof *d->data))
                return -1;
        }
    return 0;
}

/* Queries, keys or values without the gaps between their rows. */
static const float *gather(sl_dump *d, const dump_array *f) {
    sl_qkv_tap tap = sl_model_qkv(d->model, f->layer);
    const float *x = f->kind == KIND_Q ? tap.q : f->kind == KIND_K ? tap.k : tap.v;
    int64_t width = f->shape[2] * f->shape[3];
    for (int64_t t = 0; x && t < d->shape.batch * d->shape.seq; t++)
        memcpy(d->data + t * width, x + t * tap.ld, (size_t)width * sizeof *x);
    return x ? d->data : NULL;
}

/* The last pass's part of an array. */
static const void *data_of(sl_dump *d, const dump_array *f, const int32_t *tokens) {
    switch (f->kind) {
    case KIND_TOKENS:
        return tokens;
    case KIND_RESIDUAL:
        return sl_model_residual(d->model, f->layer);
    case KIND_NORM_ATTN:
    case KIND_NORM_FFN:
        return sl_model_norm_output(d->model, f->layer, f->kind - KIND_NORM_ATTN);
    case KIND_GATE_ATTN:
    case KIND_GATE_FFN:
        return sl_model_norm_gate(d->model, f->layer, f->kind - KIND_GATE_ATTN, d->data) ? d->data : NULL;
    case KIND_OUTPUT:
    case KIND_HIDDEN:
        return sl_model_tap(d->model, f->layer, f->kind == KIND_OUTPUT ? SL_TAP_OUT_IN : SL_TAP_DOWN_IN, d->data)
                   ? d->data
                   : NULL;
    default:
        return gather(d, f);
    }
}

int sl_dump_add(sl_dump *d, const sl_model *m, const int32_t *tokens) {
    if (m != d->model || d->added + d->shape.batch > d->o.windows)
        return sl_fail("the dump was made for another model, or fewer windows");
    if (sl_model_check_taps(m))
        return -1;
    for (int i = 0; i < d->arrays; i++) {
        dump_array *f = &d->array[i];
        if (f->kind == KIND_ATTENTION) {
            if (put_attention(d, f))
                return -1;
            continue;
        }
        const void *x = data_of(d, f, tokens);
        int64_t bytes = sl_npy_bytes(f->descr, f->ndim, f->shape) / d->o.windows * d->shape.batch;
        if (!x || sl_writer_put(&f->writer, x, (size_t)bytes))
            return -1;
    }
    d->added += d->shape.batch;
    return 0;
}

/* ---- the end */

int sl_dump_finish(sl_dump *d, const json_t *statistics, int *files, int64_t *bytes) {
    if (d->added != d->o.windows)
        return sl_fail("the dump was made for %lld windows and got %lld", (long long)d->o.windows,
                       (long long)d->added);
    for (int i = 0; i < d->arrays; i++) {
        if (sl_writer_finish(&d->array[i].writer, NULL))
            return -1;
        d->array[i].kind = KIND_DONE;
    }
    if ((wants(d, SL_DUMP_STATISTICS) && dump_statistics(d, statistics)) || dump_manifest(d) ||
        sl_fsync_dir(d->o.folder))
        return -1;
    *files = d->arrays;
    *bytes = 0;
    for (int i = 0; i < d->arrays; i++)
        *bytes += sl_npy_bytes(d->array[i].descr, d->array[i].ndim, d->array[i].shape);
    d->finished = true;
    return 0;
}

static void remove_file(const sl_dump *d, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", d->o.folder, name);
    sl_sys.unlinkat(AT_FDCWD, path, 0);
}

void sl_dump_free(sl_dump *d) {
    if (!d)
        return;
    for (int i = 0; i < d->arrays; i++) {
        if (d->array[i].writer.fd >= 0)
            sl_writer_abandon(&d->array[i].writer);
        if (d->made && !d->finished)
            sl_sys.unlinkat(AT_FDCWD, d->array[i].path, 0);
        free(d->array[i].path);
    }
    if (d->made && !d->finished) {
        remove_file(d, "statistics.json");
        remove_file(d, "manifest.json");
        sl_sys.rmdir(d->o.folder);
    }
    sl_free(d->data);
    sl_free(d->rows);
    free(d->array);
    free(d);
}
