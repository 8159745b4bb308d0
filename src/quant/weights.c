#include "quant/weights.h"

#include "base/err.h"
#include "base/threads.h"
#include "ops/quant/linear_int.h"
#include "quant/layers.h"

#include <stdlib.h>
#include <string.h>

int sl_quant_weights_check(const sl_config *c, const sl_quant_options *o) {
    if (c->model_tie_embeddings && o->head != o->embedding)
        return sl_fail_usage(
            "model.tie_embeddings: head and embeddings are one matrix; give both --head and --embedding, or neither");
    return 0;
}

static bool is_rounded(const sl_tensor *t, const sl_quant_options *o) {
    int64_t block;
    const sl_block_layer *l = sl_block_layer_of(t, &block);
    if (l)
        return l->linear && !sl_quant_keeps(o, t->place);
    return (o->head && strcmp(t->name, "lm_head.weight") == 0) ||
           (o->embedding && strcmp(t->name, "model.embed_tokens.weight") == 0);
}

static int make_room(sl_quant_matrix *x) {
    sl_scale_layout s = sl_quant_blocks(&x->q, x->rows, x->cols);
    x->scales = s.down * s.across;
    x->outers = s.outers;
    x->code = malloc((size_t)(x->rows * x->cols));
    x->scale = malloc((size_t)x->scales * sizeof *x->scale);
    if (x->q.scale != SL_SCALE_F32)
        x->scale_code = malloc((size_t)x->scales);
    if (x->q.scale == SL_SCALE_E4M3)
        x->outer = malloc((size_t)x->outers * sizeof *x->outer);
    bool ok = x->code && x->scale && (x->q.scale == SL_SCALE_F32 || x->scale_code) &&
              (x->q.scale != SL_SCALE_E4M3 || x->outer);
    return ok ? 0 : sl_fail("out of memory for quantised weights");
}

sl_quant_weights *sl_quant_weights_new(const sl_params *p, const sl_quant_options *o) {
    sl_quant_weights *w = calloc(1, sizeof *w);
    if (w)
        w->matrix = calloc((size_t)p->count, sizeof *w->matrix);
    if (!w || !w->matrix) {
        sl_fail("out of memory for quantised weights");
        free(w);
        return NULL;
    }
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        if (!is_rounded(t, o))
            continue;
        sl_quant_matrix *x = &w->matrix[w->count++];
        *x = (sl_quant_matrix){.tensor = i,
                               .q = o->scheme->weights,
                               .grid = sl_grid_symmetric(o->scheme->weights.format),
                               .rows = t->shape[0],
                               .cols = t->shape[1]};
        if (make_room(x) < 0) {
            sl_quant_weights_free(w);
            return NULL;
        }
    }
    return w;
}

void sl_quant_weights_free(sl_quant_weights *w) {
    if (!w)
        return;
    for (int i = 0; i < w->count; i++)
        free(w->matrix[i].code), free(w->matrix[i].scale), free(w->matrix[i].scale_code), free(w->matrix[i].outer);
    free(w->matrix);
    free(w);
}

static int round_matrix(sl_quant_matrix *x, const sl_kernels *k, const char *name, const float *w) {
    float *amax = malloc((size_t)x->scales * sizeof *amax);
    int rc = amax ? sl_quant_amax(k, &x->q, name, x->rows, x->cols, w, x->cols, amax)
                  : sl_fail("out of memory for quantised weights");
    if (rc == 0) {
        if (x->outer)
            sl_quant_outer(&x->q, x->rows, x->cols, amax, x->outer);
        sl_quant_scales(&x->q, x->rows, x->cols, amax, x->outer, x->scale, x->scale_code);
        rc = sl_quant_codes(k, &x->q, &x->grid, name, x->rows, x->cols, w, x->cols, x->scale, x->code, x->cols);
    }
    free(amax);
    return rc;
}

typedef struct {
    sl_quant_weights *w;
    const sl_kernels *k;
    const sl_params *p;
    int *failed; /* [count] */
} rounding;

static int round_one(const rounding *r, int64_t i) {
    const sl_tensor *t = &r->p->tensor[r->w->matrix[i].tensor];
    return round_matrix(&r->w->matrix[i], r->k, t->name, r->p->w + t->offset);
}

static void round_item(void *ctx, int64_t item, int thread) {
    const rounding *r = ctx;
    (void)thread;
    r->failed[item] = round_one(r, item) < 0;
}

int sl_quant_weights_round(sl_quant_weights *w, const sl_kernels *k, const sl_params *p) {
    rounding r = {w, k, p, calloc((size_t)w->count + 1, sizeof *r.failed)};
    int rc = r.failed ? 0 : sl_fail("out of memory for quantised weights");
    if (rc == 0)
        sl_parallel(w->count, round_item, &r);
    for (int i = 0; rc == 0 && i < w->count; i++)
        if (r.failed[i])
            rc = round_one(&r, i); /* again, for the message */
    free(r.failed);
    return rc;
}

/* ---- errors */

typedef struct {
    const sl_quant_matrix *x;
    const float *before, *after;
    sl_blocks rows;
    sl_quant_error part[SL_ROW_BLOCKS];
} comparison;

static void compare_block(void *ctx, int64_t block, int thread) {
    comparison *c = ctx;
    int64_t n = c->x->cols, at = sl_block_first(c->rows, block) * n;
    (void)thread;
    sl_quant_error_add(&c->part[block], sl_block_rows(c->rows, block), n, c->before + at, n, c->after + at, n);
}

void sl_quant_weights_error(const sl_quant_weights *w, const sl_params *p, const float *before, sl_quant_error *e) {
    for (int i = 0; i < w->count; i++) {
        const sl_quant_matrix *x = &w->matrix[i];
        int64_t at = p->tensor[x->tensor].offset;
        comparison c = {.x = x, .before = before + at, .after = p->w + at, .rows = sl_row_blocks(x->rows, 1)};
        sl_parallel(c.rows.count, compare_block, &c);
        sl_quant_error_fold(e, (int)c.rows.count, c.part);
    }
}

/* ---- into a model */

sl_quant_matrix *sl_quant_matrix_of(const sl_quant_weights *w, int tensor) {
    for (int i = 0; i < w->count; i++)
        if (w->matrix[i].tensor == tensor)
            return &w->matrix[i];
    return NULL;
}

/* Codes as integers, and a scale for each row, of the tensors that an operation joins. */
static void join(const sl_quant_weights *w, int tensor, int64_t rows, int8_t *code, float *scale) {
    float value[256];
    for (int64_t first = 0; first < rows; tensor++) {
        const sl_quant_matrix *x = sl_quant_matrix_of(w, tensor);
        sl_grid_values(&x->grid, value);
        for (int64_t i = 0; i < x->rows * x->cols; i++)
            code[first * x->cols + i] = (int8_t)value[x->code[i]];
        for (int64_t i = 0; i < x->rows; i++)
            scale[first + i] = x->scale[x->scales == 1 ? 0 : i];
        first += x->rows;
    }
}

static int give_integers(const sl_quant_weights *w, const sl_op *op, const sl_kernels *k) {
    int8_t *code = malloc((size_t)(op->dim_out * op->dim_in));
    float *scale = malloc((size_t)op->dim_out * sizeof *scale);
    int rc = code && scale ? 0 : sl_fail("out of memory for quantised weights");
    if (rc == 0) {
        join(w, op->param[0], op->dim_out, code, scale);
        rc = sl_linear_int_weights(op, k, code, scale);
    }
    free(code), free(scale);
    return rc;
}

typedef struct {
    const sl_quant_weights *w;
    const sl_kernels *k;
    const sl_params *p;
} filling;

static void fill_item(void *ctx, int64_t item, int thread) {
    const filling *f = ctx;
    const sl_quant_matrix *x = &f->w->matrix[item];
    (void)thread;
    sl_quant_values(f->k, &x->q, &x->grid, x->rows, x->cols, x->code, x->cols, x->scale,
                    f->p->w + f->p->tensor[x->tensor].offset, x->cols);
}

int sl_quant_weights_apply(const sl_quant_weights *w, sl_model *m) {
    filling f = {w, sl_model_kernels(m), sl_model_params(m)};
    sl_parallel(w->count, fill_item, &f);
    const sl_op *op;
    for (int i = 0; (op = sl_model_int_linear(m, i)); i++)
        if (give_integers(w, op, f.k) < 0)
            return -1;
    return sl_model_params_written(m);
}
