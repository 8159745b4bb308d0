#include "base/err.h"
#include "io/file.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"
#include "quant/export.h"
#include "quant/export_internal.h"
#include "quant/keep.h"
#include "quant/layers.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- shared with export.c */

void sl_export_name(char name[SL_EXPORT_NAME], const sl_tensor *t, const char *part) {
    size_t n = strlen(t->name) - strlen("weight");
    snprintf(name, SL_EXPORT_NAME, "%.*s%s", (int)n, t->name, part);
}

bool sl_export_scope(const sl_tensor *t, sl_scope *scope) {
    int64_t block;
    const sl_block_layer *l = sl_block_layer_of(t, &block);
    *scope = l ? sl_block_layer_scope(l, block) : (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_head};
    return l || strcmp(t->name, "lm_head.weight") == 0;
}

int64_t sl_export_code_cols(const sl_quant_matrix *x, enum sl_dtype *dtype) {
    const sl_format *f = &sl_formats[x->q.format];
    *dtype = f->bits == 4 ? SL_U8 : f->integer ? SL_I8 : SL_F8_E4M3;
    return f->bits == 4 ? (x->cols + 1) / 2 : x->cols;
}

/* ---- opening */

static void path_of(const char *dir, char path[SL_EXPORT_PATH]) {
    snprintf(path, SL_EXPORT_PATH, "%s/%s", dir, SL_EXPORT_FILE);
}

bool sl_quant_is_export(const char *dir) {
    char path[SL_EXPORT_PATH];
    struct stat st;
    path_of(dir, path);
    return stat(path, &st) == 0;
}

static sl_st_file *open_export(const char *dir) {
    char path[SL_EXPORT_PATH];
    path_of(dir, path);
    sl_st_file *f = sl_st_open(path);
    const char *format = f ? sl_st_metadata(f, "format") : NULL;
    if (!f || (format && strcmp(format, SL_EXPORT_FORMAT) == 0))
        return f;
    sl_st_close(f);
    sl_fail("%s: its metadata has no format %s: not exported by `sinklab quantize`, or by another version", path,
            SL_EXPORT_FORMAT);
    return NULL;
}

/* ---- options */

static bool flag(const json_t *x, const char *key, bool *ok) {
    const json_t *v = json_object_get(x, key);
    *ok = *ok && json_is_boolean(v);
    return json_is_true(v);
}

static double number(const json_t *x, const char *key, double lo, double hi, bool *ok) {
    const json_t *v = json_object_get(x, key);
    *ok = *ok && json_is_number(v) && json_number_value(v) >= lo && json_number_value(v) <= hi;
    return *ok ? json_number_value(v) : 0;
}

static int parse_options(const char *dir, const char *text, int32_t *vocab, sl_quant_options *o) {
    json_t *x = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    bool ok = x != NULL;
    const char *scheme = json_string_value(json_object_get(x, "scheme"));
    *o = (sl_quant_options){.head = flag(x, "head", &ok), .embedding = flag(x, "embedding", &ok), .kv = flag(x, "kv",
        &ok),
                            .migrate = flag(x, "migrate", &ok), .rotate = flag(x, "rotate", &ok),
                            .smooth = number(x, "smooth", -1, 1, &ok),
                            .seed = (uint64_t)number(x, "rotation_seed", 0, 0x1p53, &ok)};
    *vocab = (int32_t)number(x, "vocab", 1, INT32_MAX, &ok);
    ok = ok && sl_keep_read(json_object_get(x, "keep"), o); /* older files have none */
    o->scheme = ok && scheme ? sl_scheme_find(scheme) : NULL;
    json_decref(x);
    if (ok && scheme && !o->scheme)
        return sl_fail_prefix("%s", dir);
    return ok && scheme ? 0
                        : sl_fail("%s/%s: its options (metadata \"quantization\") are damaged", dir, SL_EXPORT_FILE);
}

int sl_quant_export_read(const char *dir, sl_config *c, int32_t *vocab, sl_quant_options *o) {
    sl_st_file *f = open_export(dir);
    if (!f)
        return -1;
    const char *config = sl_st_metadata(f, "config"), *options = sl_st_metadata(f, "quantization");
    int rc =
        config && options ? 0 : sl_fail("%s/%s: its metadata has no configuration or no options", dir, SL_EXPORT_FILE);
    sl_config_defaults(c);
    if (rc == 0)
        rc = sl_config_parse(c, config, strlen(config), dir);
    if (rc == 0)
        rc = sl_config_check(c);
    if (rc == 0)
        rc = parse_options(dir, options, vocab, o);
    sl_st_close(f);
    return rc;
}

/* ---- tensors */

typedef struct {
    sl_st_file *f;
    char path[SL_EXPORT_PATH];
} reader;

/* The data of a tensor of just this type and shape (cols 0: one dimension); NULL with a message. */
static const void *data_of(const reader *file, const char *name, enum sl_dtype dtype, int64_t rows, int64_t cols) {
    const sl_st_tensor *t = sl_st_find(file->f, name);
    if (t && t->dtype == dtype && t->ndim == (cols ? 2 : 1) && t->shape[0] == rows && (!cols || t->shape[1] == cols))
        return sl_st_data(file->f, t);
    if (!t)
        sl_fail("%s: tensor %s is missing", file->path, name);
    else
        sl_fail("%s: tensor %s is not %s of %lld x %lld", file->path, name, sl_dtype_name(dtype), (long long)rows,
                (long long)(cols ? cols : 1));
    return NULL;
}

static int read_codes(const reader *file, const sl_tensor *t, sl_quant_matrix *x, const sl_kernels *k) {
    char name[SL_EXPORT_NAME];
    enum sl_dtype dtype;
    int64_t cols = sl_export_code_cols(x, &dtype);
    sl_export_name(name, t, "weight_packed");
    const uint8_t *data = data_of(file, name, dtype, x->rows, cols);
    for (int64_t i = 0; data && i < x->rows; i++)
        if (cols == x->cols)
            memcpy(x->code + i * x->cols, data + i * cols, (size_t)cols);
        else
            k->quant_unpack4(x->cols, data + i * cols, x->code + i * x->cols);
    return data ? 0 : -1;
}

static int read_scales(const reader *file, const sl_tensor *t, sl_quant_matrix *x) {
    char name[SL_EXPORT_NAME];
    sl_scale_layout s = sl_quant_blocks(&x->q, x->rows, x->cols);
    sl_export_name(name, t, "weight_global_scale");
    const void *outer = x->outer ? data_of(file, name, SL_F32, x->outers, 0) : NULL;
    if (x->outer && !outer)
        return -1;
    if (outer)
        memcpy(x->outer, outer, (size_t)x->outers * sizeof *x->outer);
    sl_export_name(name, t, "weight_scale");
    const void *data = data_of(file, name, !x->scale_code ? SL_F32 : outer ? SL_F8_E4M3 : SL_U8, s.down, s.across);
    if (!data)
        return -1;
    if (!x->scale_code)
        memcpy(x->scale, data, (size_t)x->scales * sizeof *x->scale);
    for (int64_t i = 0; x->scale_code && i < x->scales; i++) {
        x->scale_code[i] = ((const uint8_t *)data)[i];
        x->scale[i] = sl_scale_value(x->q.scale, x->scale_code[i], outer ? x->outer[0] : 1);
    }
    return 0;
}

static int read_range(const reader *file, const sl_tensor *t, const sl_quant_place *p) {
    char name[SL_EXPORT_NAME];
    sl_quant_range *range = &p->state->range;
    if (!sl_range_is_static(p->point->range))
        return 0;
    bool second = p->point->q.scale == SL_SCALE_E4M3;
    sl_export_name(name, t, second ? "input_global_scale" : "input_scale");
    const void *scale = data_of(file, name, SL_F32, 1, 0), *zero = NULL;
    sl_export_name(name, t, "input_zero_point");
    if (!scale || (p->point->range == SL_RANGE_AFFINE && !(zero = data_of(file, name, SL_I32, 1, 0))))
        return -1;
    memcpy(second ? &range->outer : &range->scale, scale, sizeof range->scale);
    int32_t z = 0;
    if (zero)
        memcpy(&z, zero, sizeof z);
    if (z < 0 || z >= 1 << sl_formats[p->point->q.format].bits)
        return sl_fail("%s: tensor %s: %d is no code", file->path, name, z);
    range->zero = z;
    return 0;
}

/* Signs follow from the seed; those of the file say whether they still do. */
static int check_rotation(const reader *file, const sl_tensor *t, const sl_rotation *r) {
    char name[SL_EXPORT_NAME];
    sl_export_name(name, t, "input_rotation");
    const void *sign = r ? data_of(file, name, SL_I8, t->shape[1], 0) : NULL;
    if (r && !sign)
        return -1;
    return !r || memcmp(sign, r->sign, (size_t)t->shape[1]) == 0
               ? 0
               : sl_fail("%s: tensor %s has other signs than this version draws for its seed", file->path, name);
}

static int read_tensor(const reader *file, const sl_quant_weights *w, int i, sl_model *m) {
    const sl_params *p = sl_model_params(m);
    const sl_tensor *t = &p->tensor[i];
    sl_quant_matrix *x = sl_quant_matrix_of(w, i);
    sl_scope scope;
    sl_quant_place place;
    int rc = !x ? sl_st_read_f32(file->f, t->name, t->ndim, t->shape, p->w + t->offset)
             : read_codes(file, t, x, sl_model_kernels(m)) < 0 ? -1
                                                               : read_scales(file, t, x);
    if (rc < 0 || !sl_export_scope(t, &scope))
        return rc;
    if (check_rotation(file, t, sl_model_rotation_before(m, scope)) < 0)
        return -1;
    return x && sl_model_place_before(m, scope, &place) ? read_range(file, t, &place) : 0;
}

int sl_quant_import(const char *dir, const sl_quant_options *o, sl_model *m) {
    reader file = {.f = open_export(dir)};
    sl_quant_weights *w = file.f ? sl_quant_weights_new(sl_model_params(m), o) : NULL;
    int rc = w ? 0 : -1;
    path_of(dir, file.path);
    for (int i = 0; rc == 0 && i < sl_model_params(m)->count; i++)
        rc = read_tensor(&file, w, i, m);
    if (rc == 0)
        rc = sl_quant_weights_apply(w, m);
    sl_quant_weights_free(w);
    sl_st_close(file.f);
    return rc;
}
