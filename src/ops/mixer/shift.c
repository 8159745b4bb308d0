/* A convolution of width 2 whose taps, 1 - mu and mu, are of one number. A call takes one window and a stripe of its
 * channels, as convolution.c has it. */
#include "ops/mixer/shift.h"

#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

enum { STRIPE = 256, CHUNK = 64, TAPS = 2 };

/* A worker's; rows are as long as the call has channels. */
typedef struct {
    float *taps, *x, *dy, *result, *old, *dtaps;
} scratch;

static scratch scratch_of(sl_carver *at) {
    scratch s = {.taps = sl_carve_floats(at, TAPS * STRIPE)};
    s.x = sl_carve_floats(at, (CHUNK + 2) * STRIPE);
    s.dy = sl_carve_floats(at, (CHUNK + 1) * STRIPE);
    s.result = sl_carve_floats(at, CHUNK * STRIPE);
    s.old = sl_carve_floats(at, CHUNK * STRIPE);
    s.dtaps = sl_carve_floats(at, TAPS * STRIPE);
    return s;
}

typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t from, n; /* channels */
    scratch s;
} call;

static call call_of(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = {op, x, span->part * STRIPE, .s = scratch_of(&(sl_carver){sl_worker_scratch(x, span->worker), 0})};
    c.n = sl_min(STRIPE, op->dim_in - c.from);
    const float *mu = sl_weight(op, x, 0) + c.from;
    for (int64_t i = 0; i < c.n; i++) {
        c.s.taps[i] = 1 - mu[i];
        c.s.taps[c.n + i] = mu[i];
    }
    return c;
}

static sl_columns get(const call *c, sl_buf b, int64_t row, int64_t n, float *to) {
    return sl_read_columns(c->x, b, row, n, c->from, c->n, to);
}

static void shift(const call *c, int64_t n, int64_t before, const float *x, int64_t ldx) {
    c->x->k->conv_fwd(n, c->n, TAPS, before, x, ldx, c->s.taps, NULL, c->s.result, c->n);
}
static void put(const call *c, int64_t row, int64_t n) {
    sl_write_columns(c->x, c->op->out, row, n, c->from, c->n, c->s.result, c->n);
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    for (int64_t t = 0; t < op->seq; t += CHUNK) {
        int64_t n = sl_min(CHUNK, op->seq - t), before = sl_min(1, t), row = span->first + t;
        sl_columns v = get(&c, op->in[0], row - before, before + n, c.s.x);
        shift(&c, n, before, v.p + before * v.ld, v.ld);
        put(&c, row, n);
    }
    return 0;
}

/* saved[0]: the position before this one. */
static int decode(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    float *state = sl_buf_data(x, op->saved[0]) + span->first * op->dim_in + c.from;
    size_t bytes = (size_t)c.n * sizeof *state;
    sl_columns now = get(&c, op->in[0], span->first, 1, c.s.dy);
    memcpy(c.s.x, state, bytes);
    memcpy(c.s.x + c.n, now.p, bytes);
    memcpy(state, now.p, bytes);
    shift(&c, 1, sl_min(1, x->position), c.s.x + c.n, c.n);
    put(&c, span->first, 1);
    return 0;
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    memset(c.s.dtaps, 0, (size_t)(TAPS * c.n) * sizeof *c.s.dtaps);
    for (int64_t t = 0; t < op->seq; t += CHUNK) {
        int64_t n = sl_min(CHUNK, op->seq - t), before = sl_min(1, t), row = span->first + t;
        int64_t after = sl_min(1, op->seq - t - n);
        sl_columns v = get(&c, op->in[0], row - before, before + n, c.s.x), dy = get(&c, op->dout, row, n + after,
                                                                                    c.s.dy);
        x->k->conv_bwd_w(n, c.n, TAPS, before, dy.p, dy.ld, v.p + before * v.ld, v.ld, c.s.dtaps, NULL);
        x->k->conv_bwd_x(n, c.n, TAPS, after, dy.p, dy.ld, c.s.taps, c.s.result, c.n);
        sl_write_gradient(x, op->din[0], row, n, c.from, c.n, c.s.result, op->acc[0], c.s.old);
    }
    float *dmu = x->shared + span->first / op->seq * op->dim_in + c.from;
    for (int64_t i = 0; i < c.n; i++)
        dmu[i] = c.s.dtaps[c.n + i] - c.s.dtaps[i];
    return 0;
}

static int fold(const sl_op *op, const sl_exec *x, const sl_span *span) {
    (void)span;
    sl_fold_columns(x, 0, op->dim_in, op->rows / op->seq, op->dim_in, x->shared, sl_weight_grad(op, x, 0));
    return 0;
}

static sl_split stripes(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.parts = sl_div_up(op->dim_in, STRIPE)};
}

static const sl_op_kind kind = {.name = "shift",
                                .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = forward, .split = stripes}),
                                .backward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = backward, .split = stripes},
                                                      {.cut = SL_CUT_FOLD, .run = fold}),
                                .adds = true};
static const sl_op_kind cached = {
    .name = "cached_shift", .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = decode, .split = stripes})};

static void draw(const sl_tensor *t, sl_rng *rng, float *w) {
    (void)rng;
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)(1 - pow((double)i / (double)t->size, (double)t->init_std));
}

sl_buf sl_build_shift(sl_program *b, sl_scope scope, const char *prefix, const char *name, double power, sl_buf x) {
    sl_op *op = sl_program_op(b, b->cache ? &cached : &kind, scope);
    sl_op_reads(op, x, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = b->buffer[x].cols;
    op->param[0] = sl_program_param(b, prefix, &(sl_param_spec){.name = name, .rows = op->dim_in, .start = power,
                                                                .init = SL_INIT_DRAW, .draw = draw,
                                                                .decay = SL_DECAY_NONE});
    if (b->cache)
        op->saved[0] = sl_program_lasting(b, b->batch, op->dim_in);
    if (b->training)
        op->shared_bytes = (size_t)(b->batch * op->dim_in) * sizeof(float);
    sl_carver size = {0};
    scratch_of(&size);
    op->worker_bytes = size.used;
    op->flops = 3.0 * (double)(op->rows * op->dim_in);
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}
