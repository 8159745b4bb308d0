#include "ops/quant/quantise.h"

#include "ops/quant/linear_int.h"
#include "ops/quant/rotate.h"
#include "program/scratch.h"

#include <stdlib.h>
#include <string.h>

/* ---- rounding before linear layers; own: the point */

static const float *row_of(const sl_exec *x, sl_buf v, int64_t row) { return sl_buf_data(x, v) + row * x->info[v].ld; }

static int round_block(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const sl_quant_state *state = sl_op_state(op, x);
    return sl_quant_point_round(op->own, &state->range, x->k, s->n, row_of(x, op->in[0], s->first),
                                sl_worker_scratch(x, s->worker), sl_buf_data(x, op->out) + s->first * op->dim_out);
}

static int round_rows(const sl_op *op, const sl_exec *x, const sl_span *s) {
    return sl_quant_each_block(op, x, s, op->own, round_block);
}

static int sum_errors(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_blocks b = sl_op_blocks(op);
    int64_t d = op->dim_in;
    for (int64_t i = sl_block_at(b, s->first), end = sl_block_behind(b, s); i < end; i++) {
        sl_quant_error e = {0};
        int64_t first = sl_block_first(b, i);
        sl_quant_error_add(&e, sl_block_rows(b, i), d, row_of(x, op->in[0], first), d, row_of(x, op->out, first), d);
        sl_quant_errors(x)[i] = e;
    }
    return 0;
}

#define ERRORS {.cut = SL_CUT_ROWS, .run = sum_errors}, {.cut = SL_CUT_FOLD, .run = sl_quant_fold_errors}
/* By what a scale needs, and whether errors are asked for. */
static const sl_op_kind by_rows[] = {
    {.name = "quantise", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = round_rows})},
    {.name = "quantise", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = round_rows}, ERRORS)}};
static const sl_op_kind by_windows[] = {
    {.name = "quantise", .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = round_rows})},
    {.name = "quantise", .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = round_rows}, ERRORS)}};

/* ---- observing: what is seen, or (seen->trial) the squared errors of clipped ranges, a part for each block of rows */

enum { STRIP = 16 }; /* rows that are tried at a time */

typedef struct {
    float *scales, *rounded;
} trial_scratch;

static trial_scratch trial_scratch_at(const sl_quant_point *p, sl_carver *c) {
    float *scales = sl_carve_floats(c, sl_quant_point_scratch(p, STRIP));
    return (trial_scratch){scales, sl_carve_floats(c, STRIP * p->dim)};
}

static double *trial_errors(const sl_exec *x, int64_t block) {
    return (double *)(void *)x->shared + block * SL_CLIP_TRIALS;
}

static int try_range(const sl_quant_point *p, const sl_quant_range *r, const sl_kernels *k, int64_t rows,
                     const float *x, const trial_scratch *t, double *error) {
    sl_quant_error e = {0};
    for (int64_t i = 0; i < rows; i += STRIP) {
        int64_t n = sl_min(STRIP, rows - i);
        if (sl_quant_point_round(p, r, k, n, x + i * p->dim, t->scales, t->rounded) < 0)
            return -1;
        sl_quant_error_add(&e, n, p->dim, x + i * p->dim, p->dim, t->rounded, p->dim);
    }
    *error = e.error;
    return 0;
}

static int try_block(const sl_op *op, const sl_exec *x, int64_t block, const trial_scratch *t) {
    const sl_quant_state *state = sl_op_state(op, x);
    sl_blocks b = sl_op_blocks(op);
    for (int i = 0; i < SL_CLIP_TRIALS; i++) {
        sl_quant_range r = sl_quant_trial_range(op->own, state->seen, i);
        if (try_range(op->own, &r, x->k, sl_block_rows(b, block), row_of(x, op->in[0], sl_block_first(b, block)), t,
                      &trial_errors(x, block)[i]) < 0)
            return -1;
    }
    return 0;
}

/* Is every value finite? */
static int check_rows(const sl_op *op, const sl_exec *x, const sl_span *s) {
    static const sl_quantiser whole = {.scale = SL_SCALE_F32};
    const sl_quant_point *p = op->own;
    float amax;
    return sl_quant_amax(x->k, &whole, p->label, s->n, p->dim, row_of(x, op->in[0], s->first), p->dim, &amax);
}

static int observe_rows(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const sl_quant_state *state = sl_op_state(op, x);
    if (!state->seen)
        return 0;
    if (!state->seen->trial)
        return check_rows(op, x, s);
    trial_scratch t = trial_scratch_at(op->own, &(sl_carver){sl_worker_scratch(x, s->worker), 0});
    sl_blocks b = sl_op_blocks(op);
    for (int64_t i = sl_block_at(b, s->first), end = sl_block_behind(b, s); i < end; i++)
        if (try_block(op, x, i, &t) < 0)
            return -1;
    return 0;
}

static void fold_trials(const sl_op *op, const sl_exec *x, double *trial) {
    for (int i = 0; i < SL_CLIP_TRIALS; i++) {
        double sum = 0;
        for (int64_t block = 0; block < sl_op_blocks(op).count; block++)
            sum += trial_errors(x, block)[i];
        trial[i] += sum;
    }
}

static int keep_seen(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const sl_quant_state *state = sl_op_state(op, x);
    (void)s;
    if (state->seen && state->seen->trial)
        fold_trials(op, x, state->seen->trial);
    else if (state->seen)
        sl_seen_add(state->seen, op->rows, row_of(x, op->in[0], 0), op->dim_in);
    return 0;
}

static const sl_op_kind observer = {.name = "observe",
                                    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = observe_rows},
                                                         {.cut = SL_CUT_SUMS, .run = keep_seen})};

/* ---- building */

void sl_op_rows_of(const sl_program *b, sl_op *op, sl_buf v) {
    if (b->failed || b->buffer[v].rows == op->rows)
        return;
    op->seq *= b->buffer[v].rows / op->rows;
    op->rows = b->buffer[v].rows;
}

static const sl_op_kind *kind_of(const sl_program *b, const sl_quant_point *p) {
    if (b->quant->observe)
        return &observer;
    return &(sl_quant_cut(p) == SL_CUT_WINDOWS ? by_windows : by_rows)[b->quant->errors];
}

static void quantiser_scratch(const sl_program *b, sl_op *op, const sl_quant_point *p) {
    sl_carver c = {0};
    if (b->quant->observe) {
        trial_scratch_at(p, &c);
        op->worker_bytes = c.used;
        op->shared_bytes = (size_t)(sl_op_blocks(op).count * SL_CLIP_TRIALS) * sizeof(double);
        return;
    }
    int64_t rows = sl_quant_cut(p) == SL_CUT_WINDOWS ? op->seq : sl_op_blocks(op).span;
    op->worker_bytes = (size_t)sl_quant_point_scratch(p, rows) * sizeof(float);
    op->shared_bytes = sl_quant_errors_bytes(op);
}

/* A quantiser or an observer of x. */
static sl_buf append_point(sl_program *b, sl_scope scope, sl_buf x, int64_t dim) {
    bool watch = b->quant->observe;
    sl_op *op = sl_program_op(b, &observer, sl_scope_as(scope, watch ? SL_ROLE_OBSERVE : SL_ROLE_QUANTISE));
    sl_op_reads(op, x, 0);
    sl_op_rows_of(b, op, x);
    op->dim_in = op->dim_out = dim;
    op->state_bytes = sizeof(sl_quant_state);
    sl_quant_point *p = sl_program_own(b, op, sizeof *p);
    if (!p)
        return x;
    *p = sl_quant_point_at(b, scope, op->rows, dim, op->seq);
    op->kind = kind_of(b, p);
    quantiser_scratch(b, op, p);
    return watch ? x : (op->out = sl_program_buffer(b, op->rows, dim));
}

sl_buf sl_build_quantiser(sl_program *b, sl_scope scope, sl_buf x, int64_t dim) {
    if (!b->quant)
        return x;
    if (sl_rotates(b, sl_quant_class_of(scope)))
        x = sl_build_rotate(b, sl_scope_as(scope, SL_ROLE_ROTATE), x, dim);
    bool rounds = b->quant->scheme && b->quant->scheme->range != SL_RANGE_NONE;
    return (rounds || b->quant->observe) && !sl_quant_keeps(b->quant, scope) ? append_point(b, scope, x, dim) : x;
}

sl_buf sl_build_head_quantiser(sl_program *b, sl_buf x) {
    static const sl_scope head = {.layer = SL_NO_LAYER, .part = SL_PART_head};
    return b->quant && b->quant->head ? sl_build_quantiser(b, head, x, b->config->model_dim) : x;
}

/* ---- keys and values: behind the queries in the qkv rows, `heads` of head_dim side by side. The rows of its point are
 * those of the heads. */

typedef struct {
    float *x, *rounded, *scales; /* of one row's heads */
    double *work;
} kv_scratch;

static kv_scratch kv_scratch_at(const sl_kv_quantiser *o, sl_carver *c) {
    kv_scratch s = {.x = sl_carve_floats(c, o->heads * o->point.dim)};
    s.rounded = sl_carve_floats(c, o->heads * o->point.dim);
    s.scales = sl_carve_floats(c, sl_quant_point_scratch(&o->point, o->heads));
    s.work = sl_carve(c, 2 * o->point.dim * (int64_t)sizeof(double));
    return s;
}

static int kv_row(const sl_kv_quantiser *o, const sl_kernels *k, const kv_scratch *s, float *row, sl_quant_error *e) {
    static const sl_quant_range none = {0};
    int64_t hd = o->point.dim;
    memcpy(s->x, row, (size_t)(o->heads * hd) * sizeof *row);
    for (int64_t h = 0; o->rotation && h < o->heads; h++)
        sl_rotate_row(o->rotation, s->x + h * hd, s->x + h * hd, s->work);
    if (sl_quant_point_round(&o->point, &none, k, o->heads, s->x, s->scales, s->rounded) < 0)
        return -1;
    if (e)
        sl_quant_error_add(e, o->heads, hd, s->x, hd, s->rounded, hd);
    for (int64_t h = 0; o->rotation && h < o->heads; h++)
        sl_rotate_row_back(o->rotation, s->rounded + h * hd, s->rounded + h * hd, s->work);
    memcpy(row, s->rounded, (size_t)(o->heads * hd) * sizeof *row);
    return 0;
}

static int kv_rows(const sl_op *op, const sl_exec *x, const sl_span *s, bool errors) {
    const sl_kv_quantiser *o = op->own;
    kv_scratch scratch = kv_scratch_at(o, &(sl_carver){sl_worker_scratch(x, s->worker), 0});
    sl_blocks b = sl_op_blocks(op);
    for (int64_t i = sl_block_at(b, s->first), end = sl_block_behind(b, s); i < end; i++) {
        sl_quant_error e = {0};
        for (int64_t r = sl_block_first(b, i), last = r + sl_block_rows(b, i); r < last; r++)
            if (kv_row(o, x->k, &scratch, sl_buf_data(x, op->out) + r * op->dim_out + o->first, errors ? &e : NULL) < 0)
                return -1;
        if (errors)
            sl_quant_errors(x)[i] = e;
    }
    return 0;
}

static int kv_round(const sl_op *op, const sl_exec *x, const sl_span *s) { return kv_rows(op, x, s, false); }
static int kv_round_errors(const sl_op *op, const sl_exec *x, const sl_span *s) { return kv_rows(op, x, s, true); }

static void kv_destroy(void *own) {
    sl_kv_quantiser *o = own;
    if (o)
        sl_rotation_free(o->rotation);
    free(o);
}

static const sl_op_kind kv_kinds[] = {
    {.name = "kv_quantise", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = kv_round}), .destroy = kv_destroy},
    {.name = "kv_quantise",
     .forward =
         SL_STAGES({.cut = SL_CUT_ROWS, .run = kv_round_errors}, {.cut = SL_CUT_FOLD, .run = sl_quant_fold_errors}),
     .destroy = kv_destroy}};

const sl_kv_quantiser *sl_kv_quantiser_of(const sl_op *op) {
    return op->kind == &kv_kinds[0] || op->kind == &kv_kinds[1] ? op->own : NULL;
}

/* A scale for each head and position, or the format's blocks in it. */
static sl_quantiser kv_blocks(const sl_scheme *s) {
    sl_quantiser q = s->activations;
    q.block_rows = 1;
    q.outer_rows = q.scale == SL_SCALE_E4M3;
    return q;
}

/* The point and the rotation. Failure is left in b->failed. */
static void kv_describe(sl_program *b, sl_scope scope, sl_op *op, sl_kv_quantiser *o) {
    const sl_config *c = b->config;
    o->heads = 2 * sl_config_kv_heads(c);
    o->first = c->model_heads * sl_config_head_dim(c);
    o->point = sl_quant_point_at(b, scope, op->rows * o->heads, sl_config_head_dim(c), op->seq);
    o->point.q = kv_blocks(b->quant->scheme);
    o->point.range = SL_RANGE_TOKEN;
    if (b->quant->rotate &&
        !(o->rotation = sl_rotation_new(b->quant->seed, sl_scope_as(scope, SL_ROLE_ROTATE), o->point.dim)))
        b->failed = true;
}

void sl_build_kv_quantiser(sl_program *b, int64_t layer, sl_buf qkv) {
    sl_scope scope = {(int)layer, SL_HALF_ATTN, SL_PART_kv, SL_ROLE_SELF};
    if (!b->quant || !b->quant->kv || b->quant->observe || !b->quant->scheme)
        return;
    sl_op *op = sl_program_op(b, &kv_kinds[b->quant->errors], scope);
    sl_kv_quantiser *o = sl_program_own(b, op, sizeof *o);
    if (!o)
        return;
    kv_describe(b, scope, op, o);
    sl_op_reads(op, op->out = qkv, 0);
    op->dim_in = op->dim_out = b->buffer[qkv].cols;
    sl_carver c = {0};
    kv_scratch_at(o, &c);
    op->worker_bytes = c.used;
    op->shared_bytes = sl_quant_errors_bytes(op);
    op->state_bytes = sizeof(sl_quant_state);
}

/* ---- finding */

/* All of these have a point first in their own. */
static bool has_point(const sl_op_kind *k) {
    for (int i = 0; i < 2; i++)
        if (k == &by_rows[i] || k == &by_windows[i] || k == &kv_kinds[i])
            return true;
    return k == &observer;
}

const sl_quant_point *sl_quant_point_of(const sl_op *op) {
    return has_point(op->kind) ? op->own : sl_linear_int_point(op);
}

bool sl_quant_place_of(const sl_op *op, const sl_exec *x, sl_quant_place *p) {
    const sl_quant_point *point = sl_quant_point_of(op);
    *p = (sl_quant_place){point, point ? sl_op_state(op, x) : NULL};
    return point;
}
