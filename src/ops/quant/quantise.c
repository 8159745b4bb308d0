#include "ops/quant/quantise.h"
#include "program/whole.h"

#include "base/err.h"
#include "ops/quant/rotate.h"
#include "ops/rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const sl_quant_class_names[] = {[SL_QUANT_POST_NORM] = "post_norm",
                                            [SL_QUANT_ATTENTION_OUT] = "attention_out",
                                            [SL_QUANT_DOWN_IN] = "down_in",
                                            [SL_QUANT_KV] = "kv"};

/* ---- points */

/* The scheme's blocks, of rows that come in windows of seq. */
static sl_quantiser blocks_of(const sl_scheme *s, int64_t seq) {
    sl_quantiser q = s->activations;
    int64_t *rows = q.scale == SL_SCALE_E4M3 ? &q.outer_rows : &q.block_rows;
    if (s->range != SL_RANGE_BLOCK)
        *rows = s->range == SL_RANGE_TOKEN ? 1 : s->range == SL_RANGE_WINDOW ? seq : 0;
    return q;
}

static sl_quant_point *new_point(const sl_program *b, sl_scope scope, enum sl_quant_class class, int64_t rows,
                                 int64_t dim, sl_quantiser q, enum sl_range range) {
    sl_quant_point *p = calloc(1, sizeof *p);
    if (p) {
        *p = (sl_quant_point){.class = class, .q = q, .range = range, .rows = rows, .dim = dim,
                              .grid = sl_grid_symmetric(q.format), .observe = b->quant->observe, .measure = true};
        p->scope = scope;
        sl_scope_name(scope, p->label);
        sl_scale_layout s = sl_quant_blocks(&q, rows, dim);
        size_t floats = (size_t)(s.down * s.across);
        p->amax = malloc(floats * sizeof(float));
        p->block_scale = malloc(floats * sizeof(float));
        p->block_outer = malloc((size_t)rows * sizeof(float));
    }
    if (p && p->amax && p->block_scale && p->block_outer)
        return p;
    sl_quant_point_free(p);
    sl_fail("out of memory for a quantised activation");
    return NULL;
}

sl_quant_point *sl_quant_point_new(const sl_program *b, sl_scope scope, enum sl_quant_class class, int64_t rows,
                                   int64_t dim, int64_t seq) {
    static const sl_quantiser none = {.scale = SL_SCALE_F32};
    const sl_scheme *s = b->quant->scheme;
    return new_point(b, scope, class, rows, dim, s ? blocks_of(s, seq) : none, s ? s->range : SL_RANGE_NONE);
}

void sl_quant_point_free(sl_quant_point *p) {
    if (!p)
        return;
    free(p->amax), free(p->block_scale), free(p->block_outer), free(p->trial);
    free(p);
}

void sl_quant_point_range(sl_quant_point *p, float lo, float hi) {
    float amax = hi > -lo ? hi : -lo;
    int zero = 0;
    p->lo = lo;
    p->hi = hi;
    p->outer = 1;
    if (p->range == SL_RANGE_AFFINE) {
        p->scale = sl_scale_affine(p->q.format, lo, hi, &zero);
        p->grid = sl_grid_affine(p->q.format, zero);
    } else if (p->q.scale == SL_SCALE_E4M3) {
        p->outer = sl_scale_outer(p->q.format, amax);
    } else {
        p->scale = sl_scale_of(p->q.scale, p->q.format, amax, 1, NULL);
    }
}

int sl_quant_point_scales(sl_quant_point *p, const sl_kernels *k, const float *x, int64_t ldx) {
    bool given = sl_range_is_static(p->range), second = p->q.scale == SL_SCALE_E4M3;
    if (given && !second) {
        p->block_scale[0] = p->scale;
        return 0;
    }
    if (sl_quant_amax(k, &p->q, p->label, p->rows, p->dim, x, ldx, p->amax) < 0)
        return -1;
    if (given)
        p->block_outer[0] = p->outer;
    else if (second)
        sl_quant_outer(&p->q, p->rows, p->dim, p->amax, p->block_outer);
    sl_quant_scales(&p->q, p->rows, p->dim, p->amax, second ? p->block_outer : NULL, p->block_scale, NULL);
    return 0;
}

static int round_all(sl_quant_point *p, const sl_kernels *k, const float *x, int64_t ldx, float *y, int64_t ldy) {
    if (sl_quant_point_scales(p, k, x, ldx) < 0)
        return -1;
    return sl_quant_round(k, &p->q, &p->grid, p->label, p->rows, p->dim, x, ldx, p->block_scale, y, ldy);
}

/* The squared error with each of the clipped ranges. */
static int try_ranges(sl_quant_point *p, const sl_kernels *k, const float *x, int64_t ldx) {
    float lo = p->seen->lo, hi = p->seen->hi;
    for (int i = 0; i < SL_CLIP_TRIALS; i++) {
        sl_quant_error e = {0};
        float share = 1 - (float)i / SL_CLIP_TRIALS;
        sl_quant_point_range(p, lo * share, hi * share);
        if (round_all(p, k, x, ldx, p->trial, p->dim) < 0)
            return -1;
        sl_quant_error_add(&e, p->rows, p->dim, x, ldx, p->trial, p->dim);
        p->seen->trial[i] += e.error;
    }
    return 0;
}

static int observe(sl_quant_point *p, const sl_kernels *k, const float *x, int64_t ldx) {
    static const sl_quantiser whole = {.scale = SL_SCALE_F32};
    float amax;
    if (!p->seen)
        return 0;
    if (p->seen->trial)
        return try_ranges(p, k, x, ldx);
    if (sl_quant_amax(k, &whole, p->label, p->rows, p->dim, x, ldx, &amax) < 0)
        return -1;
    sl_seen_add(p->seen, p->rows, x, ldx);
    return 0;
}

void sl_quant_point_apply(sl_quant_point *p, const sl_kernels *k, const float *x, int64_t ldx, float *y, int64_t ldy) {
    int rc = p->observe ? observe(p, k, x, ldx) : round_all(p, k, x, ldx, y, ldy);
    if (rc < 0)
        p->failed = true;
    else if (!p->observe && p->measure)
        sl_quant_error_add(&p->error, p->rows, p->dim, x, ldx, y, ldy);
}

/* ---- before linear layers */

enum sl_quant_class sl_quant_class_of(sl_scope scope) {
    bool out = scope.part == SL_PART_out || scope.part == SL_PART_shared_out || scope.part == SL_PART_experts_out;
    return !out ? SL_QUANT_POST_NORM : scope.half == SL_HALF_ATTN ? SL_QUANT_ATTENTION_OUT : SL_QUANT_DOWN_IN;
}

bool sl_rotates(const sl_program *b, enum sl_quant_class class) {
    return b->quant && b->quant->rotate && (class != SL_QUANT_POST_NORM || !sl_rotation_folds(b->config));
}

static void forward(const sl_op *op, const sl_exec *x) {
    sl_quant_point_apply(op->point[0], x->k, sl_buf_data(x, op->in[0]), op->dim_in, sl_buf_data(x, op->out), op->dim_in);
}

SL_WHOLE(forward)
static const sl_op_kind quantise = {.name = "quantise", .forward = forward_stages, .backward = NULL};
static const sl_op_kind observer = {.name = "observe", .forward = forward_stages, .backward = NULL};

/* A quantiser or an observer of x. */
static sl_buf append_point(sl_program *b, sl_scope scope, sl_buf x, int64_t dim) {
    bool watch = b->quant->observe;
    sl_op *op = sl_program_op(b, watch ? &observer : &quantise,
                              sl_scope_as(scope, watch ? SL_ROLE_OBSERVE : SL_ROLE_QUANTISE));
    sl_op_reads(op, x, 0);
    if (!b->failed && b->buffer[x].rows != op->rows) { /* several to a position */
        op->seq *= b->buffer[x].rows / op->rows;
        op->rows = b->buffer[x].rows;
    }
    op->dim_in = op->dim_out = dim;
    if (!(op->point[0] = sl_quant_point_new(b, scope, sl_quant_class_of(scope), op->rows, dim, op->seq)))
        b->failed = true;
    if (watch)
        return x;
    return op->out = sl_program_buffer(b, op->rows, dim);
}

sl_buf sl_build_quantiser(sl_program *b, sl_scope scope, sl_buf x, int64_t dim) {
    if (!b->quant)
        return x;
    if (sl_rotates(b, sl_quant_class_of(scope)))
        x = sl_build_rotate(b, sl_scope_as(scope, SL_ROLE_ROTATE), x, dim);
    bool rounds = b->quant->scheme && b->quant->scheme->range != SL_RANGE_NONE;
    return rounds || b->quant->observe ? append_point(b, scope, x, dim) : x;
}

sl_buf sl_build_head_quantiser(sl_program *b, sl_buf x) {
    return b->quant && b->quant->head ? sl_build_quantiser(b, (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_head}, x, b->config->model_dim) : x;
}

/* ---- keys and values: columns dim_out.. of the qkv rows, `heads` of head_dim. saved[0]: a row for each of them, rotated in
 * a rotated model; saved[1]: rounded, before they go back */

static float *head_at(const sl_op *op, const sl_exec *x, int64_t row, int64_t h) {
    return sl_buf_data(x, op->out) + row * x->info[op->out].ld + op->dim_out + h * op->head_dim;
}

static void take_heads(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    for (int64_t i = sl_block_first(rows, block), end = i + sl_block_rows(rows, block); i < end; i++)
        for (int64_t h = 0; h < op->heads; h++) {
            float *to = sl_buf_data(x, op->saved[0]) + (i * op->heads + h) * op->head_dim;
            if (op->rotation[0])
                sl_rotate_row(op->rotation[0], head_at(op, x, i, h), to, sl_worker_scratch(x, thread));
            else
                memcpy(to, head_at(op, x, i, h), (size_t)op->head_dim * sizeof *to);
        }
}

static void put_heads(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    for (int64_t i = sl_block_first(rows, block), end = i + sl_block_rows(rows, block); i < end; i++)
        for (int64_t h = 0; h < op->heads; h++) {
            const float *from = sl_buf_data(x, op->saved[1]) + (i * op->heads + h) * op->head_dim;
            if (op->rotation[0])
                sl_rotate_row_back(op->rotation[0], from, head_at(op, x, i, h), sl_worker_scratch(x, thread));
            else
                memcpy(head_at(op, x, i, h), from, (size_t)op->head_dim * sizeof *from);
        }
}

static void kv_forward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, take_heads);
    sl_quant_point_apply(op->point[0], x->k, sl_buf_data(x, op->saved[0]), op->head_dim, sl_buf_data(x, op->saved[1]),
                         op->head_dim);
    sl_parallel_rows(op, x, put_heads);
}

SL_WHOLE(kv_forward)
static const sl_op_kind kv_quantise = {.name = "kv_quantise", .forward = kv_forward_stages, .backward = NULL};

/* A scale for each head and position, or the format's blocks in it. */
static sl_quantiser kv_blocks(const sl_scheme *s) {
    sl_quantiser q = s->activations;
    q.block_rows = 1;
    q.outer_rows = q.scale == SL_SCALE_E4M3;
    return q;
}

void sl_build_kv_quantiser(sl_program *b, int64_t layer, sl_buf qkv) {
    const sl_config *c = b->config;
    sl_scope scope = {(int)layer, SL_HALF_ATTN, SL_PART_kv, SL_ROLE_SELF};
    if (!b->quant || !b->quant->kv || b->quant->observe || !b->quant->scheme)
        return;
    sl_op *op = sl_program_op(b, &kv_quantise, scope);
    sl_op_reads(op, op->out = qkv, 0);
    op->head_dim = sl_config_head_dim(c);
    op->heads = 2 * sl_config_kv_heads(c);
    op->dim_out = c->model_heads * op->head_dim;
    int64_t rows = op->rows * op->heads;
    for (int i = 0; i < 2; i++)
        op->saved[i] = sl_program_buffer(b, rows, op->head_dim);
    op->worker_bytes = (size_t)(2 * op->head_dim) * sizeof(double);
    if (!(op->point[0] = new_point(b, scope, SL_QUANT_KV, rows, op->head_dim, kv_blocks(b->quant->scheme), SL_RANGE_TOKEN)) ||
        (b->quant->rotate && !(op->rotation[0] = sl_rotation_new(b->quant->seed, sl_scope_as(scope, SL_ROLE_ROTATE), op->head_dim))))
        b->failed = true;
}
