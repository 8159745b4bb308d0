#include "io/safetensors.h"

#include "base/err.h"
#include "base/text.h"

#include <assert.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "tensor data is copied as it lies in the file");

enum { HEADER_MAX = 100000000, ALIGN = 64, MAX_DIM = 8 };

static const struct {
    const char *name;
    int64_t size;
    sl_floats_fn *floats; /* NULL: not read as floats */
} dtypes[] = {
    [SL_F32] = {"F32", 4, sl_floats_from_f32},
    [SL_F16] = {"F16", 2, sl_floats_from_f16},
    [SL_BF16] = {"BF16", 2, sl_floats_from_bf16},
    [SL_F64] = {"F64", 8, sl_floats_from_f64},
    [SL_I8] = {"I8", 1, NULL},
    [SL_U8] = {"U8", 1, NULL},
    [SL_I16] = {"I16", 2, NULL},
    [SL_I32] = {"I32", 4, NULL},
    [SL_I64] = {"I64", 8, NULL},
    [SL_BOOL] = {"BOOL", 1, NULL},
    [SL_F8_E4M3] = {"F8_E4M3", 1, NULL},
    [SL_F8_E5M2] = {"F8_E5M2", 1, NULL},
};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

struct sl_st_file {
    sl_map map; /* empty if the bytes are the caller's */
    char *name; /* for messages */
    const unsigned char *data;
    sl_st_tensor *tensor; /* in the order of the data */
    const sl_st_tensor **by_name;
    int count;
    json_t *metadata; /* object of strings, or NULL */
};

const char *sl_dtype_name(enum sl_dtype t) { return dtypes[t].name; }
int64_t sl_dtype_size(enum sl_dtype t) { return dtypes[t].size; }
sl_floats_fn *sl_dtype_floats(enum sl_dtype t) { return dtypes[t].floats; }

/* ---------------------------------------------------------------- reading */

/* Bytes of a tensor, or -1 on a bad shape or overflow. */
static int64_t tensor_bytes(const sl_st_tensor *t) {
    int64_t n = sl_dtype_size(t->dtype);
    for (int i = 0; i < t->ndim; i++)
        if (t->shape[i] < 0 || __builtin_mul_overflow(n, t->shape[i], &n))
            return -1;
    return n;
}

static bool plain_name(const char *s) {
    if (!*s || strlen(s) >= sizeof((sl_st_tensor *)0)->name)
        return false;
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

static int parse_dtype(const sl_st_file *f, const json_t *v, sl_st_tensor *t) {
    const char *s = json_string_value(v);
    for (int i = 0; s && i < N_DTYPES; i++)
        if (!strcmp(s, dtypes[i].name)) {
            t->dtype = (enum sl_dtype)i;
            return 0;
        }
    return sl_fail("%s: tensor %s: dtype \"%.16s\" is not supported", f->name, t->name,
                   s && plain_name(s) ? s : "?");
}

static int parse_shape(const sl_st_file *f, const json_t *v, sl_st_tensor *t) {
    if (!json_is_array(v) || json_array_size(v) > MAX_DIM)
        return sl_fail("%s: tensor %s: shape is not a list of at most %d sizes", f->name, t->name,
                       MAX_DIM);
    t->ndim = (int)json_array_size(v);
    for (int i = 0; i < t->ndim; i++) {
        const json_t *d = json_array_get(v, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return sl_fail("%s: tensor %s: shape has an entry that is not a size", f->name,
                           t->name);
        t->shape[i] = json_integer_value(d);
    }
    return 0;
}

static int parse_tensor(const sl_st_file *f, const char *name, const json_t *v, uint64_t data_size,
                        sl_st_tensor *t) {
    if (!plain_name(name))
        return sl_fail(
            "%s: a tensor name is empty, longer than %zu bytes or has control characters", f->name,
            sizeof t->name - 1);
    strcpy(t->name, name);
    if (!json_is_object(v))
        return sl_fail("%s: tensor %s: its entry is not an object", f->name, name);
    if (parse_dtype(f, json_object_get(v, "dtype"), t) < 0 ||
        parse_shape(f, json_object_get(v, "shape"), t) < 0)
        return -1;
    const json_t *offsets = json_object_get(v, "data_offsets");
    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e) ||
        json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b))
        return sl_fail("%s: tensor %s: data_offsets is not [begin, end]", f->name, name);
    t->begin = (uint64_t)json_integer_value(b);
    t->end = (uint64_t)json_integer_value(e);
    if (t->end > data_size)
        return sl_fail("%s: tensor %s ends %llu bytes after the end of the file: truncated?",
                       f->name, name, (unsigned long long)(t->end - data_size));
    int64_t bytes = tensor_bytes(t);
    if (bytes < 0 || (uint64_t)bytes != t->end - t->begin)
        return sl_fail("%s: tensor %s: shape and dtype do not agree with its %llu bytes", f->name,
                       name, (unsigned long long)(t->end - t->begin));
    return 0;
}

static int compare_offsets(const void *a, const void *b) {
    const sl_st_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const sl_st_tensor *const *)a)->name, (*(const sl_st_tensor *const *)b)->name);
}

/* Tensors must tile the data section: nothing can hide in a hole, nothing is there twice. */
static int check_tiling(const sl_st_file *f, uint64_t data_size) {
    uint64_t at = 0;
    for (int i = 0; i < f->count; i++) {
        if (f->tensor[i].begin != at)
            return sl_fail("%s: %s tensor %s", f->name,
                           f->tensor[i].begin < at ? "overlapping data at"
                                                   : "a hole in the data before",
                           f->tensor[i].name);
        at = f->tensor[i].end;
    }
    if (at != data_size)
        return sl_fail("%s: %llu bytes after the last tensor", f->name,
                       (unsigned long long)(data_size - at));
    return 0;
}

static int take_metadata(sl_st_file *f, json_t *v) {
    const char *key;
    json_t *s;
    if (!json_is_object(v))
        return sl_fail("%s: __metadata__ is not an object of strings", f->name);
    json_object_foreach(v, key, s) {
        if (!json_is_string(s))
            return sl_fail("%s: __metadata__ is not an object of strings", f->name);
    }
    f->metadata = json_incref(v);
    return 0;
}

static int parse_header(sl_st_file *f, json_t *root, uint64_t data_size) {
    size_t n = json_object_size(root);
    f->tensor = calloc(n + 1, sizeof *f->tensor);
    f->by_name = calloc(n + 1, sizeof *f->by_name);
    if (!f->tensor || !f->by_name)
        return sl_fail("%s: out of memory for %zu tensors", f->name, n);
    const char *name;
    json_t *v;
    json_object_foreach(root, name, v) {
        int rc = strcmp(name, "__metadata__")
                     ? parse_tensor(f, name, v, data_size, &f->tensor[f->count++])
                     : take_metadata(f, v);
        if (rc < 0)
            return -1;
    }
    qsort(f->tensor, (size_t)f->count, sizeof *f->tensor, compare_offsets);
    for (int i = 0; i < f->count; i++)
        f->by_name[i] = &f->tensor[i];
    qsort(f->by_name, (size_t)f->count, sizeof(*f->by_name), compare_names);
    return check_tiling(f, data_size);
}

static int parse_file(sl_st_file *f, const unsigned char *p, size_t n) {
    uint64_t header;
    if (n < sizeof header)
        return sl_fail("%s: not a safetensors file: only %zu bytes", f->name, n);
    memcpy(&header, p, sizeof header);
    if (header > HEADER_MAX || header > n - sizeof header)
        return sl_fail(
            "%s: not a safetensors file, or truncated: header of %llu bytes in a file of %zu",
            f->name, (unsigned long long)header, n);
    const char *text = (const char *)p + sizeof header;
    json_error_t e;
    json_t *root = json_loadb(text, (size_t)header, JSON_REJECT_DUPLICATES, &e);
    if (!json_is_object(root) || text[0] != '{') {
        json_decref(root);
        return sl_fail(
            "%s: not a safetensors file: its header is not a JSON object with unique keys",
            f->name);
    }
    f->data = p + sizeof header + header;
    int rc = parse_header(f, root, n - sizeof header - header);
    json_decref(root);
    return rc;
}

sl_st_file *sl_st_open_memory(const void *p, size_t n, const char *name) {
    sl_st_file *f = calloc(1, sizeof *f);
    if (!f || !(f->name = strdup(name))) {
        sl_fail("%s: out of memory", name);
        free(f);
        return NULL;
    }
    if (parse_file(f, p, n) < 0) {
        sl_st_close(f);
        return NULL;
    }
    return f;
}

sl_st_file *sl_st_open(const char *path) {
    sl_map map;
    if (sl_map_open(&map, path) < 0)
        return NULL;
    sl_st_file *f = sl_st_open_memory(map.p, map.n, path);
    if (f)
        f->map = map;
    else
        sl_map_close(&map);
    return f;
}

void sl_st_close(sl_st_file *f) {
    if (!f)
        return;
    sl_map_close(&f->map);
    json_decref(f->metadata);
    free(f->by_name);
    free(f->tensor);
    free(f->name);
    free(f);
}

int sl_st_count(const sl_st_file *f) { return f->count; }
const sl_st_tensor *sl_st_at(const sl_st_file *f, int i) { return &f->tensor[i]; }

const sl_st_tensor *sl_st_find(const sl_st_file *f, const char *name) {
    int lo = 0, hi = f->count;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, c = strcmp(f->by_name[mid]->name, name);
        if (c == 0)
            return f->by_name[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

const void *sl_st_data(const sl_st_file *f, const sl_st_tensor *t) { return f->data + t->begin; }

const char *sl_st_metadata(const sl_st_file *f, const char *key) {
    return json_string_value(json_object_get(f->metadata, key));
}

/* ---------------------------------------------------------------- values */

int sl_st_check_f32(const sl_st_file *f, const char *name, int ndim, const int64_t *shape) {
    const sl_st_tensor *t = sl_st_find(f, name);
    if (!t)
        return sl_fail("%s: tensor %s is missing", f->name, name);
    if (t->ndim != ndim || memcmp(t->shape, shape, (size_t)ndim * sizeof *shape)) {
        char have[SL_SHAPE_CHARS], want[SL_SHAPE_CHARS];
        return sl_fail("%s: tensor %s has shape %s where %s is needed", f->name, name,
                       sl_format_shape(have, t->ndim, t->shape), sl_format_shape(want, ndim, shape));
    }
    if (!sl_dtype_floats(t->dtype))
        return sl_fail("%s: tensor %s is %s; F32, BF16, F16 or F64 is needed", f->name, name,
                       sl_dtype_name(t->dtype));
    return 0;
}

int sl_st_read_f32(const sl_st_file *f, const char *name, int ndim, const int64_t *shape,
                   float *dst) {
    if (sl_st_check_f32(f, name, ndim, shape) < 0)
        return -1;
    const sl_st_tensor *t = sl_st_find(f, name);
    int64_t n = (int64_t)(t->end - t->begin) / sl_dtype_size(t->dtype);
    if (n)
        sl_dtype_floats(t->dtype)(sl_st_data(f, t), n, dst);
    return 0;
}

/* ---------------------------------------------------------------- writing */

/* Fills begin and end; adds the entry to the header. */
static int add_entry(const char *path, json_t *root, sl_st_tensor *t, uint64_t *at) {
    int64_t bytes = t->ndim >= 0 && t->ndim <= MAX_DIM ? tensor_bytes(t) : -1;
    if (bytes < 0 || !memchr(t->name, 0, sizeof t->name) || !plain_name(t->name) ||
        json_object_get(root, t->name))
        return sl_fail("%s: cannot write tensor %.255s: bad shape, or a bad or repeated name", path,
                       t->name);
    t->begin = *at;
    *at = t->end = t->begin + (uint64_t)bytes;
    json_t *shape = json_array();
    for (int i = 0; i < t->ndim; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    json_t *v = json_pack("{s:s, s:o, s:[I,I]}", "dtype", sl_dtype_name(t->dtype), "shape", shape,
                          "data_offsets", (json_int_t)t->begin, (json_int_t)t->end);
    if (json_object_set_new(root, t->name, v) < 0)
        return sl_fail("%s: cannot write tensor %s: out of memory, or its name is not UTF-8", path,
                       t->name);
    return 0;
}

/* The header as text padded with spaces, *size bytes; to be freed. */
static char *make_header(const char *path, sl_st_entry *entries, int n, const char *const *keys,
                         const char *const *values, int n_meta, uint64_t *size) {
    json_t *root = json_object(), *meta = json_object();
    uint64_t at = 0;
    char *text = NULL;
    for (int i = 0; i < n_meta; i++)
        if (json_object_set_new(meta, keys[i], json_string(values[i])) < 0) {
            sl_fail("%s: metadata \"%s\" is not UTF-8", path, keys[i]);
            goto out;
        }
    if (n_meta)
        json_object_set(root, "__metadata__", meta);
    for (int i = 0; i < n; i++)
        if (add_entry(path, root, &entries[i].meta, &at) < 0)
            goto out;
    char *json = json_dumps(root, JSON_COMPACT);
    size_t len = json ? strlen(json) : 0;
    *size = (8 + len + ALIGN - 1) / ALIGN * ALIGN - 8;
    if (json && len <= HEADER_MAX - ALIGN && (text = malloc(*size))) {
        memset(text, ' ', *size);
        memcpy(text, json, len);
    } else {
        sl_fail("%s: cannot write a header of %zu bytes", path, len);
    }
    free(json);
out:
    json_decref(meta);
    json_decref(root);
    return text;
}

int sl_st_put(sl_writer *w, sl_st_entry *entries, int n, const char *const *keys,
              const char *const *values, int n_meta) {
    uint64_t size;
    char *header = make_header(w->path, entries, n, keys, values, n_meta, &size);
    if (!header) {
        sl_writer_abandon(w);
        return -1;
    }
    int rc = sl_writer_put(w, &size, sizeof size);
    if (rc == 0)
        rc = sl_writer_put(w, header, size);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = sl_writer_put(w, entries[i].data, entries[i].meta.end - entries[i].meta.begin);
    free(header);
    return rc;
}

int sl_st_write(const char *path, sl_st_entry *entries, int n, const char *const *keys,
                const char *const *values, int n_meta) {
    sl_writer w;
    if (sl_writer_open(&w, path) < 0 || sl_st_put(&w, entries, n, keys, values, n_meta) < 0)
        return -1;
    return sl_writer_finish(&w, NULL);
}
