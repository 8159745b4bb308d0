/* "quantise", "kv_quantise", "observe", "rotate", "linear_int" and "linear_int8" (ops/quant/) by the launchers of
 * quant.h. Errors and what is not finite are found there, and come back with the states after the pass. */
#include "cuda/quant.h"

#include "base/err.h"
#include "cuda/kind.h"
#include "cuda/runtime.h"
#include "ops/product/gemm_int8.h"
#include "ops/product/layer.h"
#include "ops/quant/linear_int.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"
#include "program/scratch.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

_Static_assert(sizeof(slc_quant_state) == sizeof(sl_quant_state) && sizeof(slc_quant_range) == sizeof(sl_quant_range) &&
                   sizeof(slc_quant_error) == sizeof(sl_quant_error) &&
                   offsetof(slc_quant_range, scale) == offsetof(sl_quant_range, scale) &&
                   offsetof(slc_quant_range, outer) == offsetof(sl_quant_range, outer) &&
                   offsetof(slc_quant_range, zero) == offsetof(sl_quant_range, zero) &&
                   offsetof(slc_quant_error, max) == offsetof(sl_quant_error, max) &&
                   offsetof(slc_quant_state, error) == offsetof(sl_quant_state, error) &&
                   offsetof(slc_quant_state, refused) == offsetof(sl_quant_state, refused),
               "the state is that of ops/quant/quantise.h");
_Static_assert((int)SLC_SCALE_F32 == (int)SL_SCALE_F32 && (int)SLC_SCALE_E8M0 == (int)SL_SCALE_E8M0 &&
                   (int)SLC_SCALE_E4M3 == (int)SL_SCALE_E4M3 && (int)SLC_SEEN_BINS == (int)SL_SEEN_BINS,
               "scales and bins are those of formats/");

/* ---- a point */

static slc_format format_of(enum sl_format f) {
    const sl_format *t = &sl_formats[f];
    return (slc_format){.integer = t->integer, .codes = 1 << t->bits, .last = ilogbf(t->max), .max = t->max,
                        .least = ldexpf(1, t->least_exponent), .up = ldexpf(1, 23 - t->mantissa)};
}

/* What does not depend on where it lies. */
static slc_quant describe(const sl_quant_point *p) {
    int64_t rows = p->q.scale == SL_SCALE_E4M3 ? p->q.outer_rows : p->q.block_rows;
    return (slc_quant){.rows = p->rows, .dim = p->dim, .format = format_of(p->q.format),
                       .e4m3 = format_of(SL_FORMAT_e4m3), .scale = (int)p->q.scale,
                       .group = p->q.block_cols ? p->q.block_cols : p->dim, .window = rows,
                       .affine = p->range == SL_RANGE_AFFINE};
}

static slc_quant_state *state_of(const sl_op *op, const slc_exec *x) {
    return (slc_quant_state *)(void *)(x->state + op->state);
}

static slc_quant quant_of(const sl_op *op, const slc_exec *x) {
    slc_quant q = describe(sl_quant_point_of(op));
    q.range = &state_of(op, x)->range;
    q.refused = &state_of(op, x)->refused;
    return q;
}

/* Scratch of all of them. */
typedef struct {
    float *scales;
    slc_quant_error *part; /* NULL where errors are not asked for */
    float *rows;           /* keys and values, rotated */
    void *rotating;
} room;

static room room_at(const sl_op *op, const sl_program *b, sl_carver *c) {
    slc_quant q = describe(sl_quant_point_of(op));
    const sl_kv_quantiser *kv = sl_kv_quantiser_of(op);
    room r = {.scales = sl_carve_floats(c, slc_quant_scale_floats(&q))};
    if (b->quant->errors || b->quant->observe)
        r.part = sl_carve(c, slc_quant_parts(&q) * (int64_t)sizeof *r.part);
    if (kv && kv->rotation) {
        r.rows = sl_carve_floats(c, q.rows * q.dim);
        r.rotating = sl_carve(c, (int64_t)slc_rotate_bytes(q.dim, q.rows));
    }
    return r;
}

static room room_of(const sl_op *op, const slc_exec *x) {
    return room_at(op, x->program, &(sl_carver){x->scratch, 0});
}

static size_t room_bytes(const sl_op *op, const sl_program *b) {
    sl_carver c = {0};
    room_at(op, b, &c);
    return c.used;
}

static slc_heads rows_of(const slc_exec *x, sl_buf v) { return (slc_heads){slc_f32(x, v), x->info[v].ld, 1}; }

static int begin_values(const sl_op *op, const slc_exec *x, void *state) {
    (void)op, (void)x;
    ((sl_quant_state *)state)->refused = 0;
    return 0;
}
static int judge_values(const sl_op *op, const slc_exec *x, void *state) {
    (void)x;
    return ((const sl_quant_state *)state)->refused ? sl_quant_refuse(sl_quant_point_of(op)->label) : 0;
}

/* ---- quantise */

static void round_rows(const sl_op *op, const slc_exec *x, slc_heads in, slc_heads out) {
    slc_quant q = quant_of(op, x);
    room r = room_of(op, x);
    slc_quant_round(x->stream, &q, in, slc_quant_scales(x->stream, &q, in, r.scales), out, r.part);
    if (r.part)
        slc_quant_fold(x->stream, &q, r.part, true, &state_of(op, x)->error);
}

static int quantise(const sl_op *op, const slc_exec *x) {
    round_rows(op, x, rows_of(x, op->in[0]), rows_of(x, op->out));
    return 0;
}

/* ---- rotations; kept: the matrix, and the signs behind it */

static size_t matrix_bytes(const sl_rotation *r) { return (size_t)(r->odd * r->odd) * sizeof *r->hartley; }
static size_t rotation_bytes(const sl_rotation *r) { return r ? matrix_bytes(r) + (size_t)r->n : 0; }

static int put_rotation(const sl_rotation *r, void *kept) {
    if (!r)
        return 0;
    return slc_put(kept, r->hartley, matrix_bytes(r)) ||
                   slc_put((char *)kept + matrix_bytes(r), r->sign, (size_t)r->n)
               ? -1
               : 0;
}

static slc_rotation rotation_at(const sl_rotation *r, const void *kept) {
    return (slc_rotation){.n = r->n, .power = r->power, .odd = r->odd, .scale = 1 / sqrt((double)r->power),
                          .hartley = kept, .sign = (const int8_t *)kept + matrix_bytes(r)};
}

static int rotate(const sl_op *op, const slc_exec *x) {
    slc_rotation r = rotation_at(sl_rotation_of(op), slc_kept(op, x));
    slc_rotate(x->stream, &r, op->rows, rows_of(x, op->in[0]), rows_of(x, op->out), false, x->scratch);
    return 0;
}

static size_t rotate_scratch(const sl_op *op, const sl_program *b) {
    (void)b;
    return slc_rotate_bytes(op->dim_in, op->rows);
}
static size_t rotate_kept(const sl_op *op, const sl_program *b) {
    (void)b;
    return rotation_bytes(sl_rotation_of(op));
}
static int rotate_put(const sl_op *op, const slc_exec *x) { return put_rotation(sl_rotation_of(op), slc_kept(op, x)); }

/* ---- kv_quantise */

static int kv_quantise(const sl_op *op, const slc_exec *x) {
    const sl_kv_quantiser *kv = sl_kv_quantiser_of(op);
    slc_heads there = {slc_f32(x, op->out) + kv->first, x->info[op->out].ld, kv->heads};
    if (!kv->rotation) {
        round_rows(op, x, there, there);
        return 0;
    }
    slc_rotation turn = rotation_at(kv->rotation, slc_kept(op, x));
    room r = room_of(op, x);
    slc_heads turned = {r.rows, kv->point.dim, 1};
    slc_rotate(x->stream, &turn, kv->point.rows, there, turned, false, r.rotating);
    round_rows(op, x, turned, turned);
    slc_rotate(x->stream, &turn, kv->point.rows, turned, there, true, r.rotating);
    return 0;
}

static size_t kv_kept(const sl_op *op, const sl_program *b) {
    (void)b;
    return rotation_bytes(sl_kv_quantiser_of(op)->rotation);
}
static int kv_put(const sl_op *op, const slc_exec *x) {
    return put_rotation(sl_kv_quantiser_of(op)->rotation, slc_kept(op, x));
}

/* ---- observe: what is seen lies here for the length of a pass, and on the host between them */

typedef struct {
    int64_t *count;
    slc_quant_range *range;  /* [SL_CLIP_TRIALS], */
    slc_quant_error *trial;  /* and their errors */
    float *channel, *row_lo, *row_hi;
    uint64_t *bins;
} seen;

static seen seen_at(const sl_op *op, sl_carver *c) {
    seen s = {.count = sl_carve(c, sizeof *s.count)};
    s.range = sl_carve(c, SL_CLIP_TRIALS * (int64_t)sizeof *s.range);
    s.trial = sl_carve(c, SL_CLIP_TRIALS * (int64_t)sizeof *s.trial);
    s.channel = sl_carve_floats(c, op->dim_in);
    s.row_lo = sl_carve_floats(c, op->rows);
    s.row_hi = sl_carve_floats(c, op->rows);
    s.bins = sl_carve(c, SL_SEEN_BINS * (int64_t)sizeof *s.bins);
    return s;
}
static seen seen_of(const sl_op *op, const slc_exec *x) { return seen_at(op, &(sl_carver){slc_kept(op, x), 0}); }

static size_t observe_kept(const sl_op *op, const sl_program *b) {
    sl_carver c = {0};
    (void)b;
    seen_at(op, &c);
    return c.used;
}

/* Rows that there is room for. */
static int64_t rows_to_add(const sl_op *op, const sl_seen *s) { return sl_min(op->rows, s->capacity - s->rows); }

static bool has_trials(const sl_op *op) { return sl_range_is_static(sl_quant_point_of(op)->range); }

static int begin_seeing(const sl_op *op, const slc_exec *x, void *state) {
    const sl_seen *host = ((const sl_quant_state *)state)->seen;
    seen s = seen_of(op, x);
    begin_values(op, x, state);
    sl_quant_range range[SL_CLIP_TRIALS];
    int64_t count = host && !host->trial ? rows_to_add(op, host) : -1;
    if (slc_put(s.count, &count, sizeof count))
        return -1;
    for (int i = 0; host && host->trial && i < SL_CLIP_TRIALS; i++)
        range[i] = sl_quant_trial_range(sl_quant_point_of(op), host, i);
    if (host && host->trial)
        return slc_put(s.range, range, sizeof range);
    return host && (slc_put(s.channel, host->channel, (size_t)host->dim * sizeof *host->channel) ||
                    slc_put(s.bins, host->bins, SL_SEEN_BINS * sizeof *host->bins))
               ? -1
               : 0;
}

/* Of scales from calibration those of each trial; what they are by other schemes nobody asks. */
static void try_ranges(const sl_op *op, const slc_exec *x, const seen *s) {
    slc_quant q = quant_of(op, x);
    room r = room_of(op, x);
    slc_heads in = rows_of(x, op->in[0]), nowhere = {NULL, 0, 1};
    for (int i = 0; i < SL_CLIP_TRIALS; i++) {
        q.range = &s->range[i];
        slc_quant_round(x->stream, &q, in, slc_quant_scales(x->stream, &q, in, r.scales), nowhere, r.part);
        slc_quant_fold(x->stream, &q, r.part, false, &s->trial[i]);
    }
}

static int observe(const sl_op *op, const slc_exec *x) {
    seen s = seen_of(op, x);
    slc_seen to = {s.count, s.channel, s.row_lo, s.row_hi, s.bins, &state_of(op, x)->refused};
    slc_observe(x->stream, op->rows, op->dim_in, slc_f32(x, op->in[0]), &to);
    if (has_trials(op))
        try_ranges(op, x, &s);
    return 0;
}

static int add_trials(const seen *s, sl_seen *host) {
    slc_quant_error trial[SL_CLIP_TRIALS];
    if (slc_get(trial, s->trial, sizeof trial))
        return -1;
    for (int i = 0; i < SL_CLIP_TRIALS; i++)
        host->trial[i] += trial[i].error;
    return 0;
}

static int add_rows(const seen *s, int64_t rows, sl_seen *host) {
    float *lo = host->row_lo + host->rows, *hi = host->row_hi + host->rows;
    size_t bytes = (size_t)rows * sizeof *lo;
    if (slc_get(host->channel, s->channel, (size_t)host->dim * sizeof *host->channel) ||
        slc_get(host->bins, s->bins, SL_SEEN_BINS * sizeof *host->bins) || slc_get(lo, s->row_lo, bytes) ||
        slc_get(hi, s->row_hi, bytes))
        return -1;
    for (int64_t i = 0; i < rows; i++) {
        host->lo = lo[i] < host->lo ? lo[i] : host->lo;
        host->hi = hi[i] > host->hi ? hi[i] : host->hi;
    }
    host->rows += rows;
    return 0;
}

static int end_seeing(const sl_op *op, const slc_exec *x, void *state) {
    sl_seen *host = ((sl_quant_state *)state)->seen;
    seen s = seen_of(op, x);
    if (!host)
        return 0;
    if (judge_values(op, x, state))
        return -1;
    return host->trial ? add_trials(&s, host) : add_rows(&s, rows_to_add(op, host), host);
}

/* ---- linear_int; kept: codes, scales, sums of codes */

enum { CODES, SCALES }; /* saved, as the CPU's */

typedef struct {
    int8_t *code;
    float *scale;
    int32_t *sum;
} weights;

static weights weights_at(const sl_int_weights *w, sl_carver *c) {
    weights k = {.code = sl_carve(c, w->n * w->ld)};
    k.scale = sl_carve_floats(c, w->n);
    k.sum = sl_carve(c, w->n * (int64_t)sizeof *k.sum);
    return k;
}

static int linear_check(const sl_op *op) {
    return op->param[SL_LAYER_BIAS] == SL_NONE ? 0 : sl_fail("device: cuda has no biases; take device: cpu");
}

static size_t linear_kept(const sl_op *op, const sl_program *b) {
    sl_int_weights w = sl_linear_int_given(op);
    sl_carver c = {0};
    (void)b;
    weights_at(&w, &c);
    return c.used;
}

static int linear_put(const sl_op *op, const slc_exec *x) {
    sl_int_weights w = sl_linear_int_given(op);
    weights k = weights_at(&w, &(sl_carver){slc_kept(op, x), 0});
    return slc_put(k.code, w.code, (size_t)(w.n * w.ld)) || slc_put(k.scale, w.scale, (size_t)w.n * sizeof *w.scale) ||
                   slc_put(k.sum, w.sum, (size_t)w.n * sizeof *w.sum)
               ? -1
               : 0;
}

static int linear_int(const sl_op *op, const slc_exec *x) {
    slc_quant q = quant_of(op, x);
    room r = room_of(op, x);
    slc_heads in = rows_of(x, op->in[0]);
    slc_scales scales = slc_quant_scales(x->stream, &q, in, slc_f32(x, op->saved[SCALES]));
    int8_t *code = x->buf[op->saved[CODES]];
    int64_t ld = sl_int8_ld(op->dim_in);
    slc_quant_codes(x->stream, &q, in, scales, code, ld, r.part);
    if (r.part)
        slc_quant_fold(x->stream, &q, r.part, true, &state_of(op, x)->error);
    sl_int_weights w = sl_linear_int_given(op);
    weights k = weights_at(&w, &(sl_carver){slc_kept(op, x), 0});
    slc_int_product p = {.m = op->rows, .n = w.n, .depth = w.ld, .a = code, .w = k.code, .lda = ld, .scale_a = scales,
                         .range = q.affine ? q.range : NULL, .sum = k.sum, .scale_w = k.scale,
                         .plus = slc_f32(x, op->in[1]), .y = slc_f32(x, op->out)};
    slc_multiply_int(x->stream, &p);
    return 0;
}

#define LINEAR(name_)                                                                                                  \
    {.name = name_, .check = linear_check, .forward = linear_int, .scratch = room_bytes, .kept = linear_kept,          \
     .put = linear_put, .before = begin_values, .after = judge_values}
const slc_kind slc_quant_kinds[] = {
    {.name = "quantise", .forward = quantise, .scratch = room_bytes, .before = begin_values,
     .after = judge_values},
    {.name = "kv_quantise", .forward = kv_quantise, .scratch = room_bytes, .kept = kv_kept, .put = kv_put,
     .before = begin_values, .after = judge_values},
    {.name = "rotate", .forward = rotate, .scratch = rotate_scratch, .kept = rotate_kept, .put = rotate_put},
    {.name = "observe", .forward = observe, .scratch = room_bytes, .kept = observe_kept, .before = begin_seeing,
     .after = end_seeing},
    LINEAR("linear_int"),
    LINEAR("linear_int8"),
    {.name = NULL}};
