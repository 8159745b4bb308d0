#include "io/tensors.h"

#include "base/err.h"
#include "base/text.h"
#include "io/file.h"
#include "io/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static_assert(SL_TENSORS_DIMS == sizeof((sl_st_tensor *)0)->shape / sizeof(int64_t), "a view holds every shape");

enum { PATH = 4608, SHARDS = 4096, SUFFIX = 64 };
#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

typedef struct {
    char path[PATH];
    sl_st_file *file;
} shard;

struct sl_tensors {
    char name[PATH];
    sl_gguf **gguf; /* the parts of a GGUF file, the first one with its keys; or */
    shard *shard;   /* by name */
    int parts, shards;
    sl_tensor_view *view; /* by name */
    int count;
};

static int join(char out[PATH], const char *folder, const char *name) {
    int n = snprintf(out, PATH, "%s/%s", folder, name);
    return n < 0 || n >= PATH ? sl_fail("path too long: %.200s...", folder) : 0;
}

/* ---------------------------------------------------------------- views */

static int compare_views(const void *a, const void *b) {
    return strcmp(((const sl_tensor_view *)a)->name, ((const sl_tensor_view *)b)->name);
}

static int allocate(sl_tensors *t, int count) {
    t->view = calloc((size_t)count + 1, sizeof *t->view);
    return t->view ? 0 : sl_fail("%s: out of memory for %d tensors", t->name, count);
}

static void add_shard_views(sl_tensors *t, const shard *s) {
    for (int i = 0; i < sl_st_count(s->file); i++) {
        const sl_st_tensor *from = sl_st_at(s->file, i);
        sl_tensor_view *v = &t->view[t->count++];
        *v = (sl_tensor_view){.name = from->name,
                              .file = s->path,
                              .type = sl_dtype_name(from->dtype),
                              .ndim = from->ndim,
                              .data = sl_st_data(s->file, from),
                              .floats = sl_dtype_floats(from->dtype)};
        memcpy(v->shape, from->shape, sizeof v->shape);
        v->row_bytes = sl_dtype_size(from->dtype) * (v->ndim ? v->shape[v->ndim - 1] : 1);
    }
}

static void add_gguf_views(sl_tensors *t, const sl_gguf *f) {
    for (int i = 0; i < sl_gguf_count(f); i++) {
        const sl_gguf_tensor *from = sl_gguf_at(f, i);
        sl_tensor_view *v = &t->view[t->count++];
        *v = (sl_tensor_view){.name = from->name,
                              .file = sl_gguf_name(f),
                              .type = from->type->name,
                              .ndim = from->ndim,
                              .data = sl_gguf_data(f, from),
                              .floats = from->type->floats};
        memcpy(v->shape, from->shape, sizeof from->shape);
        v->row_bytes = v->shape[v->ndim - 1] / from->type->values * from->type->bytes;
    }
}

/* By name, each once. */
static int sort_views(sl_tensors *t) {
    qsort(t->view, (size_t)t->count, sizeof *t->view, compare_views);
    for (int i = 1; i < t->count; i++)
        if (!strcmp(t->view[i - 1].name, t->view[i].name))
            return sl_fail("%s: tensor %s is in %s too", t->view[i - 1].file, t->view[i].name, t->view[i].file);
    return 0;
}

/* ---------------------------------------------------------------- the index */

/* A file of the folder itself. */
static bool stays_inside(const char *name) {
    for (const char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || (unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    return *name && *name != '.';
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files that the index names, each once and sorted; their number, or -1. *list is to be freed. */
static int list_files(const sl_tensors *t, const json_t *map, const char ***list) {
    char quoted[SL_QUOTE_CHARS];
    size_t n = json_object_size(map), files = 0, kept = 0;
    const char *tensor;
    json_t *v;
    if (!json_is_object(map) || n == 0)
        return sl_fail("%s: weight_map: an object {tensor: file} is needed", t->name);
    if (!(*list = calloc(n, sizeof **list)))
        return sl_fail("%s: out of memory for %zu names", t->name, n);
    json_object_foreach((json_t *)(uintptr_t)map, tensor, v) {
        const char *file = json_string_value(v);
        if (!file || !stays_inside(file))
            return sl_fail("%s: weight_map: tensor %s: %s is not the name of a file in the folder", t->name,
                           sl_quote(quoted, tensor), file ? "what it has" : "a number or list");
        (*list)[files++] = file;
    }
    qsort(*list, files, sizeof **list, compare_names);
    for (size_t i = 0; i < files; i++)
        if (i == 0 || strcmp((*list)[i], (*list)[kept - 1]) != 0)
            (*list)[kept++] = (*list)[i];
    return kept <= SHARDS ? (int)kept
                          : sl_fail("%s: weight_map names %zu files; at most %d are read", t->name, kept, SHARDS);
}

static int open_shards(sl_tensors *t, const char *folder, const char *const *name, int n) {
    if (!(t->shard = calloc((size_t)n, sizeof *t->shard)))
        return sl_fail("%s: out of memory for %d files", t->name, n);
    for (int i = 0; i < n; i++, t->shards++)
        if (join(t->shard[i].path, folder, name[i]) || !(t->shard[i].file = sl_st_open(t->shard[i].path)))
            return -1;
    return 0;
}

static int add_shards(sl_tensors *t) {
    int count = 0;
    for (int i = 0; i < t->shards; i++)
        count += sl_st_count(t->shard[i].file);
    if (allocate(t, count))
        return -1;
    for (int i = 0; i < t->shards; i++)
        add_shard_views(t, &t->shard[i]);
    return sort_views(t);
}

/* Index and files tell of the same tensors, each in the same file. */
static int check_index(const sl_tensors *t, const json_t *map) {
    char quoted[SL_QUOTE_CHARS];
    const char *tensor;
    json_t *v;
    for (int i = 0; i < t->count; i++)
        if (!json_object_get(map, t->view[i].name))
            return sl_fail("%s: tensor %s is not in %s", t->view[i].file, t->view[i].name, t->name);
    json_object_foreach((json_t *)(uintptr_t)map, tensor, v) {
        int at = sl_tensors_find(t, tensor);
        const char *base = at < 0 ? NULL : strrchr(t->view[at].file, '/') + 1;
        if (at < 0 || strcmp(base, json_string_value(v)) != 0)
            return sl_fail("%s: tensor %s is not in %s, as it says", t->name, sl_quote(quoted, tensor),
                           json_string_value(v));
    }
    return 0;
}

static int open_index(sl_tensors *t, const char *folder) {
    sl_map m;
    json_error_t e;
    const char **name = NULL;
    if (sl_map_open(&m, t->name))
        return -1;
    json_t *root = json_loadb((const char *)m.p, m.n, JSON_REJECT_DUPLICATES, &e);
    const json_t *map = json_object_get(root, "weight_map");
    int rc = root ? 0 : sl_fail("%s:%d: not a JSON object with unique keys", t->name, e.line);
    int files = rc ? -1 : list_files(t, map, &name);
    if (files < 0 || open_shards(t, folder, name, files) || add_shards(t) || check_index(t, map))
        rc = -1;
    free(name);
    json_decref(root);
    sl_map_close(&m);
    return rc;
}

/* ---------------------------------------------------------------- parts of GGUF */

/* What each part says of itself and of all; -1: nothing. */
typedef struct {
    int64_t no, count, tensors;
} split;

static int read_split(const sl_gguf *f, split *s) {
    *s = (split){-1, -1, -1};
    return sl_gguf_whole(f, "split.no", &s->no) || sl_gguf_whole(f, "split.count", &s->count) ||
                   sl_gguf_whole(f, "split.tensors.count", &s->tensors)
               ? -1
               : 0;
}

static void name_part(char suffix[SUFFIX], int64_t no, int64_t count) {
    snprintf(suffix, SUFFIX, "-%05" PRId64 "-of-%05" PRId64 ".gguf", no + 1, count);
}

/* The path without what names the first of its parts. */
static int find_stem(const char *path, const split *s, char stem[PATH]) {
    char suffix[SUFFIX];
    size_t n = strlen(path);
    if (s->count > SHARDS)
        return sl_fail("%s: key split.count is %" PRId64 "; at most %d parts are read", path, s->count, SHARDS);
    name_part(suffix, 0, s->count);
    if (s->no != 0)
        return sl_fail("%s: key split.no is %" PRId64 ": not the first part of its model; give the one that ends in %s",
                       path, s->no, suffix);
    if (n < strlen(suffix) || strcmp(path + n - strlen(suffix), suffix) != 0)
        return sl_fail("%s: the first of %" PRId64 " parts, whose name must end in %s, or the others cannot be found",
                       path, s->count, suffix);
    snprintf(stem, PATH, "%.*s", (int)(n - strlen(suffix)), path);
    return 0;
}

static int open_part(sl_tensors *t, const char *path) {
    sl_gguf *f = sl_gguf_open(path);
    if (f)
        t->gguf[t->parts++] = f;
    return f ? 0 : -1;
}

static int check_part(const sl_gguf *f, int64_t no, const split *first) {
    split s;
    if (read_split(f, &s))
        return -1;
    return s.no == no && s.count == first->count && s.tensors == first->tensors
               ? 0
               : sl_fail("%s: keys split.no, split.count, split.tensors.count say %" PRId64 ", %" PRId64 ", %" PRId64
                         " where the first part and the name need %" PRId64 ", %" PRId64 ", %" PRId64,
                         sl_gguf_name(f), s.no, s.count, s.tensors, no, first->count, first->tensors);
}

static int open_others(sl_tensors *t, const split *first) {
    char stem[PATH], suffix[SUFFIX], path[PATH + SUFFIX];
    if (find_stem(t->name, first, stem))
        return -1;
    sl_gguf **all = realloc(t->gguf, (size_t)first->count * sizeof(*all));
    if (!all)
        return sl_fail("%s: out of memory for %" PRId64 " parts", t->name, first->count);
    t->gguf = all;
    for (int64_t i = 1; i < first->count; i++) {
        name_part(suffix, i, first->count);
        snprintf(path, sizeof path, "%s%s", stem, suffix);
        if (open_part(t, path) || check_part(t->gguf[i], i, first))
            return -1;
    }
    return 0;
}

static int open_gguf(sl_tensors *t, const char *path) {
    split s;
    int n = snprintf(t->name, sizeof t->name, "%s", path), count = 0;
    if (n < 0 || n >= PATH)
        return sl_fail("path too long: %.200s...", path);
    if (!(t->gguf = malloc(sizeof(*t->gguf))))
        return sl_fail("%s: out of memory", path);
    if (open_part(t, path) || read_split(t->gguf[0], &s) || (s.count > 1 && open_others(t, &s)))
        return -1;
    for (int i = 0; i < t->parts; i++)
        count += sl_gguf_count(t->gguf[i]);
    if (s.count > 1 && s.tensors != count)
        return sl_fail("%s: key split.tensors.count is %" PRId64 ", but the parts have %d tensors", path, s.tensors,
                       count);
    if (allocate(t, count))
        return -1;
    for (int i = 0; i < t->parts; i++)
        add_gguf_views(t, t->gguf[i]);
    return sort_views(t);
}

/* ---------------------------------------------------------------- opening */

static int open_single(sl_tensors *t, const char *folder) {
    const char *name = SINGLE;
    return open_shards(t, folder, &name, 1) || add_shards(t) ? -1 : 0;
}

static int open_path(sl_tensors *t, const char *path) {
    if (join(t->name, path, SINGLE))
        return -1;
    if (access(t->name, F_OK) == 0)
        return open_single(t, path);
    if (join(t->name, path, INDEX))
        return -1;
    return access(t->name, F_OK) == 0 ? open_index(t, path) : open_gguf(t, path);
}

sl_tensors *sl_tensors_open(const char *path) {
    sl_tensors *t = calloc(1, sizeof *t);
    if (!t)
        sl_fail("%s: out of memory", path);
    if (!t || open_path(t, path) == 0)
        return t;
    sl_tensors_close(t);
    return NULL;
}

void sl_tensors_close(sl_tensors *t) {
    if (!t)
        return;
    for (int i = 0; i < t->parts; i++)
        sl_gguf_close(t->gguf[i]);
    for (int i = 0; i < t->shards; i++)
        sl_st_close(t->shard[i].file);
    free(t->gguf);
    free(t->shard);
    free(t->view);
    free(t);
}

int sl_tensors_count(const sl_tensors *t) { return t->count; }
const sl_tensor_view *sl_tensors_at(const sl_tensors *t, int i) { return &t->view[i]; }
const sl_gguf *sl_tensors_gguf(const sl_tensors *t) { return t->parts ? t->gguf[0] : NULL; }
const char *sl_tensors_name(const sl_tensors *t) { return t->name; }

int sl_tensors_find(const sl_tensors *t, const char *name) {
    sl_tensor_view wanted = {.name = name};
    const sl_tensor_view *v = bsearch(&wanted, t->view, (size_t)t->count, sizeof *t->view, compare_views);
    return v ? (int)(v - t->view) : -1;
}

/* ---------------------------------------------------------------- one tensor */

int64_t sl_tensor_rows(const sl_tensor_view *v) {
    int64_t n = 1;
    for (int i = 0; i + 1 < v->ndim; i++)
        n *= v->shape[i];
    return n;
}

void sl_tensor_read(const sl_tensor_view *v, int64_t first, int64_t rows, float *dst) {
    int64_t length = v->ndim ? v->shape[v->ndim - 1] : 1;
    if (rows * length > 0)
        v->floats(v->data + first * v->row_bytes, rows * length, dst);
}

void sl_tensor_release(const sl_tensor_view *v) {
    sl_map_release(v->data, (size_t)(sl_tensor_rows(v) * v->row_bytes));
}
