#include "quant/export.h"

#include "base/err.h"
#include "io/safetensors.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"
#include "quant/export_internal.h"
#include "quant/keep.h"
#include "quant/layers.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PARTS = 7 }; /* entries of a matrix, at most */

/* Entries to write, and the memory that is theirs. */
typedef struct {
    sl_st_entry *entry;
    void **owned;
    int n, n_owned;
} entries;

static int out_of_memory(void) { return sl_fail("out of memory for the exported model"); }

/* data is not copied. */
static void add(entries *e, const char *name, enum sl_dtype dtype, int64_t rows, int64_t cols, const void *data) {
    sl_st_entry *x = &e->entry[e->n++];
    x->meta = (sl_st_tensor){.dtype = dtype, .ndim = cols ? 2 : 1, .shape = {rows, cols}};
    snprintf(x->meta.name, sizeof x->meta.name, "%s", name);
    x->data = data;
}

/* Memory that lives until the file is written; NULL with a message. */
static void *own(entries *e, size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (p)
        e->owned[e->n_owned++] = p;
    else
        out_of_memory();
    return p;
}

static int add_codes(entries *e, const char *name, const sl_quant_matrix *x, const sl_kernels *k) {
    enum sl_dtype dtype;
    int64_t cols = sl_export_code_cols(x, &dtype);
    uint8_t *packed = x->code;
    if (cols != x->cols) {
        if (!(packed = own(e, (size_t)(x->rows * cols))))
            return -1;
        for (int64_t i = 0; i < x->rows; i++)
            k->quant_pack4(x->cols, x->code + i * x->cols, packed + i * cols);
    }
    add(e, name, dtype, x->rows, cols, packed);
    return 0;
}

static int add_matrix(entries *e, const sl_tensor *t, const sl_quant_matrix *x, const sl_kernels *k) {
    char name[SL_EXPORT_NAME];
    sl_scale_layout s = sl_quant_blocks(&x->q, x->rows, x->cols);
    sl_export_name(name, t, "weight_packed");
    if (add_codes(e, name, x, k) < 0)
        return -1;
    sl_export_name(name, t, "weight_scale");
    if (x->scale_code)
        add(e, name, x->outer ? SL_F8_E4M3 : SL_U8, s.down, s.across, x->scale_code);
    else
        add(e, name, SL_F32, s.down, s.across, x->scale);
    sl_export_name(name, t, "weight_global_scale");
    if (x->outer)
        add(e, name, SL_F32, x->outers, 0, x->outer);
    return 0;
}

/* The static range of the place that a matrix reads from, if it has one. */
static int add_range(entries *e, const sl_tensor *t, const sl_quant_place *p) {
    char name[SL_EXPORT_NAME];
    const sl_quant_range *range = &p->state->range;
    if (!sl_range_is_static(p->point->range))
        return 0;
    bool second = p->point->q.scale == SL_SCALE_E4M3;
    sl_export_name(name, t, second ? "input_global_scale" : "input_scale");
    add(e, name, SL_F32, 1, 0, second ? &range->outer : &range->scale);
    if (p->point->range != SL_RANGE_AFFINE)
        return 0;
    int32_t *zero = own(e, sizeof *zero);
    if (!zero)
        return -1;
    *zero = range->zero;
    sl_export_name(name, t, "input_zero_point");
    add(e, name, SL_I32, 1, 0, zero);
    return 0;
}

static void add_rotation(entries *e, const sl_tensor *t, const sl_rotation *r) {
    char name[SL_EXPORT_NAME];
    sl_export_name(name, t, "input_rotation");
    if (r)
        add(e, name, SL_I8, t->shape[1], 0, r->sign);
}

/* The signs of keys and values, which are rotated to be rounded, and back. */
static void collect_kv(entries *e, const sl_model *m) {
    char name[SL_EXPORT_NAME];
    sl_shape s = sl_model_shape(m);
    for (int64_t i = 0; i < s.layers; i++) {
        snprintf(name, sizeof name, "model.layers.%lld.self_attn.kv_rotation", (long long)i);
        const sl_rotation *r = sl_model_rotation_before(m, (sl_scope){(int)i, SL_HALF_ATTN, SL_PART_kv, SL_ROLE_SELF});
        if (r)
            add(e, name, SL_I8, s.head_dim, 0, r->sign);
    }
}

static void add_plain(entries *e, const sl_tensor *t, const sl_params *p) {
    add(e, t->name, SL_F32, t->shape[0], 0, p->w + t->offset);
    e->entry[e->n - 1].meta.ndim = t->ndim;
    memcpy(e->entry[e->n - 1].meta.shape, t->shape, sizeof t->shape);
}

static int collect(entries *e, const sl_quant_weights *w, sl_model *m) {
    const sl_params *p = sl_model_params(m);
    const sl_kernels *k = sl_model_kernels(m);
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        const sl_quant_matrix *x = sl_quant_matrix_of(w, i);
        sl_scope scope;
        sl_quant_place place;
        if (!x)
            add_plain(e, t, p);
        else if (add_matrix(e, t, x, k) < 0)
            return -1;
        if (!sl_export_scope(t, &scope))
            continue;
        add_rotation(e, t, sl_model_rotation_before(m, scope));
        if (x && sl_model_place_before(m, scope, &place) && add_range(e, t, &place) < 0)
            return -1;
    }
    collect_kv(e, m);
    return 0;
}

/* ---- metadata */

static char *config_text(const sl_config *c) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    if (!f || sl_config_dump(c, f) < 0 || fclose(f) != 0) {
        out_of_memory();
        free(text);
        return NULL;
    }
    return text;
}

static char *options_text(const sl_quant_options *o, const sl_model *m) {
    json_t *x = json_pack("{s:s, s:I, s:b, s:b, s:b, s:o, s:b, s:f, s:b, s:I}", "scheme", o->scheme->name, "vocab",
                          (json_int_t)sl_model_shape(m).vocab, "head", o->head, "embedding", o->embedding, "kv", o->kv,
                          "keep", sl_keep_json(o), "migrate", o->migrate, "smooth", o->smooth, "rotate", o->rotate,
                          "rotation_seed", (json_int_t)o->seed);
    char *text = x ? json_dumps(x, JSON_COMPACT) : NULL;
    json_decref(x);
    if (!text)
        out_of_memory();
    return text;
}

/* ---- the file */

static int write_file(const char *dir, entries *e, const sl_quant_options *o, const sl_model *m) {
    static const char *const keys[] = {"format", "config", "quantization"};
    char path[SL_EXPORT_PATH], *config = config_text(sl_model_config_given(m)), *options = options_text(o, m);
    const char *values[] = {SL_EXPORT_FORMAT, config, options};
    int rc = config && options ? 0 : -1;
    snprintf(path, sizeof path, "%s/%s", dir, SL_EXPORT_FILE);
    if (rc == 0 && sl_sys.mkdir(dir, 0777) < 0)
        rc = errno == EEXIST ? sl_fail("--export %s: there is such a file or folder already; give a new one", dir)
                             : sl_fail_errno("cannot make folder", dir);
    if (rc == 0 && (sl_st_write(path, e->entry, e->n, keys, values, 3) < 0 || sl_fsync_dir(dir) < 0)) {
        sl_sys.rmdir(dir);
        rc = -1;
    }
    free(config), free(options);
    return rc;
}

int sl_quant_export(const char *dir, const sl_quant_options *o, const sl_quant_weights *w, sl_model *m) {
    size_t room = (size_t)sl_model_params(m)->count * PARTS + (size_t)sl_model_shape(m).layers;
    entries e = {.entry = calloc(room, sizeof *e.entry), .owned = calloc(room, sizeof *e.owned)};
    int rc = e.entry && e.owned ? collect(&e, w, m) : out_of_memory();
    if (rc == 0)
        rc = write_file(dir, &e, o, m);
    for (int i = 0; i < e.n_owned; i++)
        free(e.owned[i]);
    free(e.entry), free(e.owned);
    return rc;
}
