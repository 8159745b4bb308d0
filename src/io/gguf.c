#include "io/gguf.h"

#include "base/err.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they lie in the file");

enum { DEFAULT_ALIGNMENT = 32 };

static const struct {
    const char *name;
    size_t size; /* 0: it varies */
} value_types[SL_GGUF_TYPES] = {
    [SL_GGUF_U8] = {"u8", 1},       [SL_GGUF_I8] = {"i8", 1},     [SL_GGUF_U16] = {"u16", 2},
    [SL_GGUF_I16] = {"i16", 2},     [SL_GGUF_U32] = {"u32", 4},   [SL_GGUF_I32] = {"i32", 4},
    [SL_GGUF_F32] = {"f32", 4},     [SL_GGUF_BOOL] = {"bool", 1}, [SL_GGUF_STRING] = {"string", 0},
    [SL_GGUF_ARRAY] = {"array", 0}, [SL_GGUF_U64] = {"u64", 8},   [SL_GGUF_I64] = {"i64", 8},
    [SL_GGUF_F64] = {"f64", 8},
};

typedef struct {
    char *key;
    enum sl_gguf_type type;
    sl_gguf_array value; /* of a single value: one element */
} key_value;

struct sl_gguf {
    sl_map map;      /* empty if the bytes are the caller's */
    char *name;      /* for messages */
    key_value *pair; /* by key */
    int pairs;
    sl_gguf_tensor *tensor; /* in the order of the data */
    const sl_gguf_tensor **by_name;
    int count;
    const unsigned char *data;
};

/* ---------------------------------------------------------------- bytes */

/* What has not been read yet. */
typedef struct {
    const sl_gguf *f;
    const unsigned char *start, *at;
    size_t left;
} cursor;

static int truncated(const cursor *c, const char *what) {
    sl_fail("%s: %s at byte %zu reaches beyond the end of the file: truncated, or no GGUF file", c->f->name, what,
            (size_t)(c->at - c->start));
    return -1;
}

/* n bytes, or NULL. */
static const unsigned char *take(cursor *c, uint64_t n) {
    if (n > c->left)
        return NULL;
    const unsigned char *p = c->at;
    c->at += n;
    c->left -= (size_t)n;
    return p;
}

static int take_number(cursor *c, void *v, size_t size, const char *what) {
    const unsigned char *p = take(c, size);
    if (!p)
        return truncated(c, what);
    memcpy(v, p, size);
    return 0;
}

static int take_string(cursor *c, sl_gguf_string *s, const char *what) {
    uint64_t n;
    if (take_number(c, &n, sizeof n, what))
        return -1;
    const unsigned char *p = take(c, n);
    if (!p)
        return truncated(c, what);
    *s = (sl_gguf_string){(const char *)p, (size_t)n};
    return 0;
}

/* Fit for messages and tables: some bytes, none of them a control character. */
static bool plain(sl_gguf_string s) {
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f)
            return false;
    return s.n > 0 && s.n < SL_GGUF_NAME;
}

/* ---------------------------------------------------------------- key-values */

static int take_type(cursor *c, const char *key, uint32_t *type) {
    if (take_number(c, type, sizeof *type, "the type of a value"))
        return -1;
    return *type < SL_GGUF_TYPES
               ? 0
               : sl_fail("%s: key %s: values of type %" PRIu32 " are not known", c->f->name, key, *type);
}

/* n elements of one type; they stay where they are. */
static int take_elements(cursor *c, const char *key, uint32_t type, uint64_t n, sl_gguf_array *a) {
    size_t size = value_types[type].size;
    sl_gguf_string s;
    *a = (sl_gguf_array){(enum sl_gguf_type)type, (int64_t)n, c->at};
    if (type == SL_GGUF_ARRAY)
        return sl_fail("%s: key %s: arrays of arrays are not supported", c->f->name, key);
    if (n > c->left / (size ? size : sizeof(uint64_t)))
        return truncated(c, "a value");
    if (size) {
        take(c, n * size);
        for (uint64_t i = 0; type == SL_GGUF_BOOL && i < n; i++)
            if (a->at[i] > 1)
                return sl_fail("%s: key %s: a bool that is neither 0 nor 1", c->f->name, key);
        return 0;
    }
    for (uint64_t i = 0; i < n; i++)
        if (take_string(c, &s, "a string"))
            return -1;
    return 0;
}

static int take_pair(cursor *c, key_value *v) {
    sl_gguf_string key;
    uint32_t type;
    uint64_t n = 1;
    if (take_string(c, &key, "a key"))
        return -1;
    if (!plain(key))
        return sl_fail("%s: a key is empty, longer than %d bytes or has control characters", c->f->name,
                       SL_GGUF_NAME - 1);
    if (!(v->key = strndup(key.p, key.n)))
        return sl_fail("%s: out of memory", c->f->name);
    if (take_type(c, v->key, &type))
        return -1;
    v->type = (enum sl_gguf_type)type;
    if (type == SL_GGUF_ARRAY &&
        (take_type(c, v->key, &type) || take_number(c, &n, sizeof n, "the length of an array")))
        return -1;
    return take_elements(c, v->key, type, n, &v->value);
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(((const key_value *)a)->key, ((const key_value *)b)->key);
}

static int read_pairs(sl_gguf *f, cursor *c, uint64_t n) {
    enum { SMALLEST = 8 + 1 + 4 + 1 }; /* a key of a byte with a value of one */
    if (n > c->left / SMALLEST)
        return truncated(c, "the list of key-values");
    if (!(f->pair = calloc((size_t)n + 1, sizeof *f->pair)))
        return sl_fail("%s: out of memory for %" PRIu64 " key-values", f->name, n);
    for (uint64_t i = 0; i < n; i++)
        if (take_pair(c, &f->pair[f->pairs++]))
            return -1;
    qsort(f->pair, (size_t)f->pairs, sizeof *f->pair, compare_keys);
    for (int i = 1; i < f->pairs; i++)
        if (!strcmp(f->pair[i - 1].key, f->pair[i].key))
            return sl_fail("%s: key %s is there twice", f->name, f->pair[i].key);
    return 0;
}

static const key_value *find_pair(const sl_gguf *f, const char *key) {
    key_value wanted = {.key = (char *)(uintptr_t)key};
    return bsearch(&wanted, f->pair, (size_t)f->pairs, sizeof *f->pair, compare_keys);
}

/* What SL_GGUF_I64 and SL_GGUF_F64 stand for in accessors. */
static enum sl_gguf_type kind_of(enum sl_gguf_type t) {
    if (t == SL_GGUF_F32 || t == SL_GGUF_F64)
        return SL_GGUF_F64;
    return t == SL_GGUF_BOOL || t == SL_GGUF_STRING || t == SL_GGUF_ARRAY ? t : SL_GGUF_I64;
}

static const char *kind_name(enum sl_gguf_type kind) {
    return kind == SL_GGUF_I64    ? "whole numbers"
           : kind == SL_GGUF_F64  ? "reals"
           : kind == SL_GGUF_BOOL ? "bools"
                                  : "strings";
}

static int look_up(const sl_gguf *f, const char *key, bool array, enum sl_gguf_type kind, sl_gguf_array *a) {
    const key_value *v = find_pair(f, key);
    *a = (sl_gguf_array){.at = NULL};
    if (!v)
        return 0;
    if ((v->type == SL_GGUF_ARRAY) != array || kind_of(v->value.type) != kind)
        return sl_fail("%s: key %s: %s%s where %s are needed", f->name, key,
                       v->type == SL_GGUF_ARRAY ? "an array of " : "", value_types[v->value.type].name,
                       kind_name(kind));
    *a = v->value;
    return 0;
}

const char *sl_gguf_key(const sl_gguf *f, int i) { return i < f->pairs ? f->pair[i].key : NULL; }
bool sl_gguf_has(const sl_gguf *f, const char *key) { return find_pair(f, key) != NULL; }

int sl_gguf_whole(const sl_gguf *f, const char *key, int64_t *v) {
    sl_gguf_array a;
    if (look_up(f, key, false, SL_GGUF_I64, &a))
        return -1;
    if (a.at)
        *v = sl_gguf_whole_at(&a, 0);
    return 0;
}

int sl_gguf_real(const sl_gguf *f, const char *key, double *v) {
    sl_gguf_array a;
    if (look_up(f, key, false, SL_GGUF_F64, &a))
        return -1;
    if (a.at && !isfinite(sl_gguf_real_at(&a, 0)))
        return sl_fail("%s: key %s is not a finite number", f->name, key);
    if (a.at)
        *v = sl_gguf_real_at(&a, 0);
    return 0;
}

int sl_gguf_bool(const sl_gguf *f, const char *key, bool *v) {
    sl_gguf_array a;
    if (look_up(f, key, false, SL_GGUF_BOOL, &a))
        return -1;
    if (a.at)
        *v = *a.at;
    return 0;
}

int sl_gguf_text(const sl_gguf *f, const char *key, sl_gguf_string *v) {
    sl_gguf_array a;
    if (look_up(f, key, false, SL_GGUF_STRING, &a))
        return -1;
    if (a.at)
        *v = sl_gguf_next(&a);
    return 0;
}

bool sl_gguf_is(sl_gguf_string s, const char *text) { return s.n == strlen(text) && !memcmp(s.p, text, s.n); }

int sl_gguf_elements(const sl_gguf *f, const char *key, enum sl_gguf_type kind, sl_gguf_array *v) {
    sl_gguf_array a;
    if (look_up(f, key, true, kind, &a))
        return -1;
    if (a.at)
        *v = a;
    return 0;
}

#define LOAD(name, type)                                                                                               \
    static type name(const sl_gguf_array *a, int64_t i) {                                                              \
        type x;                                                                                                        \
        memcpy(&x, a->at + (size_t)i * sizeof x, sizeof x);                                                            \
        return x;                                                                                                      \
    }
LOAD(load_i8, int8_t)
LOAD(load_u16, uint16_t)
LOAD(load_i16, int16_t)
LOAD(load_u32, uint32_t)
LOAD(load_i32, int32_t)
LOAD(load_u64, uint64_t)
LOAD(load_i64, int64_t)
LOAD(load_f32, float)
LOAD(load_f64, double)
#undef LOAD

int64_t sl_gguf_whole_at(const sl_gguf_array *a, int64_t i) {
    switch (a->type) {
    case SL_GGUF_I8: return load_i8(a, i);
    case SL_GGUF_U16: return load_u16(a, i);
    case SL_GGUF_I16: return load_i16(a, i);
    case SL_GGUF_U32: return load_u32(a, i);
    case SL_GGUF_I32: return load_i32(a, i);
    case SL_GGUF_U64: return load_u64(a, i) > INT64_MAX ? INT64_MAX : (int64_t)load_u64(a, i);
    case SL_GGUF_I64: return load_i64(a, i);
    default: return a->at[i]; /* U8, BOOL */
    }
}

double sl_gguf_real_at(const sl_gguf_array *a, int64_t i) {
    return a->type == SL_GGUF_F32 ? (double)load_f32(a, i) : load_f64(a, i);
}

sl_gguf_string sl_gguf_next(sl_gguf_array *a) {
    uint64_t n;
    memcpy(&n, a->at, sizeof n);
    sl_gguf_string s = {(const char *)a->at + sizeof n, (size_t)n};
    a->at += sizeof n + n;
    a->n--;
    return s;
}

/* ---------------------------------------------------------------- tensors */

static int take_shape(cursor *c, sl_gguf_tensor *t) {
    uint32_t ndim;
    if (take_number(c, &ndim, sizeof ndim, "a tensor"))
        return -1;
    if (ndim < 1 || ndim > SL_GGUF_DIMS)
        return sl_fail("%s: tensor %s has %" PRIu32 " dimensions where 1 to %d are legal", c->f->name, t->name, ndim,
                       SL_GGUF_DIMS);
    t->ndim = (int)ndim;
    for (int i = 0; i < t->ndim; i++) {
        uint64_t n;
        if (take_number(c, &n, sizeof n, "a tensor"))
            return -1;
        if (n < 1 || n > INT64_MAX)
            return sl_fail("%s: tensor %s: %" PRIu64 " is no legal dimension", c->f->name, t->name, n);
        t->shape[t->ndim - 1 - i] = (int64_t)n;
    }
    return 0;
}

static int take_tensor_type(cursor *c, sl_gguf_tensor *t) {
    char names[SL_GGML_NAMES_CHARS];
    uint32_t id;
    if (take_number(c, &id, sizeof id, "a tensor"))
        return -1;
    if (!(t->type = sl_ggml_type_of(id)))
        return sl_fail("%s: tensor %s: type %" PRIu32 " is not known; %s are supported", c->f->name, t->name, id,
                       sl_ggml_supported(names));
    int64_t row = t->shape[t->ndim - 1];
    return row % t->type->values == 0
               ? 0
               : sl_fail("%s: tensor %s: rows of %" PRId64 " values are not whole blocks of %s, %" PRId64, c->f->name,
                         t->name, row, t->type->name, t->type->values);
}

/* -1 on overflow. */
static int64_t bytes_of(const sl_gguf_tensor *t) {
    int64_t n = t->shape[t->ndim - 1] / t->type->values;
    if (__builtin_mul_overflow(n, t->type->bytes, &n))
        return -1;
    for (int i = 0; i < t->ndim - 1; i++)
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return -1;
    return n;
}

static int take_tensor(cursor *c, int64_t alignment, sl_gguf_tensor *t) {
    sl_gguf_string name;
    if (take_string(c, &name, "the name of a tensor"))
        return -1;
    if (!plain(name))
        return sl_fail("%s: a tensor name is empty, longer than %d bytes or has control characters", c->f->name,
                       SL_GGUF_NAME - 1);
    memcpy(t->name, name.p, name.n);
    if (take_shape(c, t) || take_tensor_type(c, t) || take_number(c, &t->begin, sizeof t->begin, "a tensor"))
        return -1;
    int64_t bytes = bytes_of(t);
    if (bytes < 0 || __builtin_add_overflow(t->begin, (uint64_t)bytes, &t->end))
        return sl_fail("%s: tensor %s is larger than any file", c->f->name, t->name);
    if (t->begin % (uint64_t)alignment)
        return sl_fail("%s: tensor %s begins at byte %" PRIu64 " of the data, not at a multiple of %" PRId64,
                       c->f->name, t->name, t->begin, alignment);
    return 0;
}

static int compare_offsets(const void *a, const void *b) {
    const sl_gguf_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const sl_gguf_tensor *const *)a)->name, (*(const sl_gguf_tensor *const *)b)->name);
}

/* One tensor begins where the one before it ends, but for padding: none is there twice, nothing hides between them. */
static int check_tiling(const sl_gguf *f, uint64_t alignment, uint64_t data_size) {
    uint64_t at = 0;
    for (int i = 0; i < f->count; i++) {
        const sl_gguf_tensor *t = &f->tensor[i];
        if (t->begin != at)
            return sl_fail("%s: %s tensor %s", f->name,
                           t->begin < at ? "overlapping data at" : "a hole in the data before", t->name);
        if (t->end > data_size)
            return sl_fail("%s: tensor %s ends %" PRIu64 " bytes after the end of the file: truncated?", f->name,
                           t->name, t->end - data_size);
        at = t->end + (alignment - t->end % alignment) % alignment;
    }
    return 0;
}

static int check_names(const sl_gguf *f) {
    for (int i = 1; i < f->count; i++)
        if (!strcmp(f->by_name[i - 1]->name, f->by_name[i]->name))
            return sl_fail("%s: tensor %s is there twice", f->name, f->by_name[i]->name);
    return 0;
}

static int read_tensors(sl_gguf *f, cursor *c, uint64_t n, int64_t alignment) {
    enum { SMALLEST = 8 + 1 + 4 + 8 + 4 + 8 }; /* a name of a byte, one dimension */
    if (n > c->left / SMALLEST)
        return truncated(c, "the list of tensors");
    f->tensor = calloc((size_t)n + 1, sizeof *f->tensor);
    f->by_name = calloc((size_t)n + 1, sizeof(*f->by_name));
    if (!f->tensor || !f->by_name)
        return sl_fail("%s: out of memory for %" PRIu64 " tensors", f->name, n);
    for (uint64_t i = 0; i < n; i++)
        if (take_tensor(c, alignment, &f->tensor[f->count++]))
            return -1;
    qsort(f->tensor, (size_t)f->count, sizeof *f->tensor, compare_offsets);
    for (int i = 0; i < f->count; i++)
        f->by_name[i] = &f->tensor[i];
    qsort(f->by_name, (size_t)f->count, sizeof(*f->by_name), compare_names);
    return check_names(f);
}

/* ---------------------------------------------------------------- the file */

static int check_head(const sl_gguf *f, const unsigned char *magic, uint32_t version) {
    if (memcmp(magic, "GGUF", 4) != 0)
        return sl_fail("%s: not a GGUF file: it does not begin with GGUF", f->name);
    if (version == 2 || version == 3)
        return 0;
    return version << 16 ? sl_fail("%s: version %" PRIu32 " of GGUF is not supported; 2 and 3 are", f->name, version)
                         : sl_fail("%s: a big-endian GGUF file; only little-endian ones are supported", f->name);
}

static int parse_file(sl_gguf *f, const unsigned char *p, size_t n) {
    cursor c = {f, p, p, n};
    uint32_t version;
    uint64_t tensors, pairs;
    int64_t alignment = DEFAULT_ALIGNMENT;
    const unsigned char *magic = take(&c, 4);
    if (!magic || take_number(&c, &version, sizeof version, "the version"))
        return sl_fail("%s: not a GGUF file: only %zu bytes", f->name, n);
    if (check_head(f, magic, version) || take_number(&c, &tensors, sizeof tensors, "the number of tensors") ||
        take_number(&c, &pairs, sizeof pairs, "the number of key-values") || read_pairs(f, &c, pairs) ||
        sl_gguf_whole(f, "general.alignment", &alignment))
        return -1;
    if (alignment < 1 || alignment > 1 << 20)
        return sl_fail("%s: key general.alignment: %" PRId64 " is no alignment", f->name, alignment);
    if (read_tensors(f, &c, tensors, alignment))
        return -1;
    size_t padding = (size_t)(alignment - (c.at - p) % alignment) % (size_t)alignment;
    take(&c, padding < c.left ? padding : c.left);
    f->data = c.at;
    return check_tiling(f, (uint64_t)alignment, c.left);
}

sl_gguf *sl_gguf_open_memory(const void *p, size_t n, const char *name) {
    sl_gguf *f = calloc(1, sizeof *f);
    if (!f || !(f->name = strdup(name))) {
        sl_fail("%s: out of memory", name);
        free(f);
        return NULL;
    }
    if (parse_file(f, p, n) < 0) {
        sl_gguf_close(f);
        return NULL;
    }
    return f;
}

sl_gguf *sl_gguf_open(const char *path) {
    sl_map map;
    if (sl_map_open(&map, path) < 0)
        return NULL;
    sl_gguf *f = sl_gguf_open_memory(map.p, map.n, path);
    if (f)
        f->map = map;
    else
        sl_map_close(&map);
    return f;
}

void sl_gguf_close(sl_gguf *f) {
    if (!f)
        return;
    sl_map_close(&f->map);
    for (int i = 0; i < f->pairs; i++)
        free(f->pair[i].key);
    free(f->pair);
    free(f->by_name);
    free(f->tensor);
    free(f->name);
    free(f);
}

const char *sl_gguf_name(const sl_gguf *f) { return f->name; }
int sl_gguf_count(const sl_gguf *f) { return f->count; }
const sl_gguf_tensor *sl_gguf_at(const sl_gguf *f, int i) { return &f->tensor[i]; }

const sl_gguf_tensor *sl_gguf_find(const sl_gguf *f, const char *name) {
    sl_gguf_tensor wanted = {.ndim = 0};
    const sl_gguf_tensor *p = &wanted;
    if (strlen(name) >= sizeof wanted.name)
        return NULL;
    strcpy(wanted.name, name);
    const sl_gguf_tensor **found = bsearch(&p, f->by_name, (size_t)f->count, sizeof(*f->by_name), compare_names);
    return found ? *found : NULL;
}

const void *sl_gguf_data(const sl_gguf *f, const sl_gguf_tensor *t) { return f->data + t->begin; }
