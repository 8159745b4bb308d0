/* A call takes one window and a stripe of its channels, some rows at a time with those around them that taps reach, so
 * that scratch does not grow with the window. Going back, what was before the SiLU is computed again. */
#include "ops/mixer/convolution.h"

#include "ops/ops.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

enum { STRIPE = 256, CHUNK = 64 };
enum { WEIGHT, BIAS };

static const sl_convolution *of(const sl_op *op) { return op->own; }

/* A worker's; rows of u and result are STRIPE apart. */
typedef struct {
    float *taps, *x, *dy, *u, *result, *dtaps, *dbias;
} scratch;

static scratch scratch_of(const sl_op *op, sl_carver *at) {
    int64_t width = of(op)->width, halo = width - 1;
    scratch s = {.taps = sl_carve_floats(at, width * STRIPE)};
    s.x = sl_carve_floats(at, (CHUNK + 2 * halo) * STRIPE);
    s.dy = sl_carve_floats(at, (CHUNK + halo) * STRIPE);
    s.u = sl_carve_floats(at, (CHUNK + halo) * STRIPE);
    s.result = sl_carve_floats(at, CHUNK * STRIPE);
    s.dtaps = sl_carve_floats(at, width * STRIPE);
    s.dbias = sl_carve_floats(at, STRIPE);
    return s;
}

/* What a call is about: channels from..from + n, and their taps, the position's own first. */
typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t from, n;
    const float *bias;
    scratch s;
} call;

static call call_of(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const sl_convolution *o = of(op);
    call c = {op, x, span->part * STRIPE, .s = scratch_of(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0})};
    c.n = sl_min(STRIPE, o->channels - c.from);
    c.bias = o->bias ? sl_weight(op, x, BIAS) + c.from : NULL;
    const float *w = sl_weight(op, x, WEIGHT) + c.from * o->width;
    for (int64_t i = 0; i < c.n; i++)
        for (int64_t j = 0; j < o->width; j++)
            c.s.taps[j * c.n + i] = w[i * o->width + o->width - 1 - j];
    return c;
}

static sl_columns get(const call *c, sl_buf b, int64_t row, int64_t n, int64_t col, float *to) {
    return sl_read_columns(c->x, b, row, n, col, c->n, to);
}
static void put(const call *c, sl_buf b, int64_t row, int64_t n, int64_t col, sl_columns y) {
    sl_write_columns(c->x, b, row, n, col, c->n, y.p, y.ld);
}

/* u of n rows from x on, `before` rows of whose window lie before it, and what becomes of it. */
static void convolve(const call *c, int64_t n, int64_t before, const float *x, int64_t ldx) {
    c->x->k->conv_fwd(n, c->n, of(c->op)->width, before, x, ldx, c->s.taps, c->bias, c->s.u, STRIPE);
}
static sl_columns activated(const call *c, int64_t n) {
    for (int64_t i = 0; of(c->op)->silu && i < n; i++)
        c->x->k->silu_fwd(c->n, c->s.u + i * STRIPE, c->s.u + i * STRIPE);
    return (sl_columns){c->s.u, STRIPE};
}

/* saved[0]: the values before, in whose place others come. */
static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    int64_t halo = of(op)->width - 1, col = of(op)->first + c.from;
    for (int64_t t = 0; t < op->seq; t += CHUNK) {
        int64_t n = sl_min(CHUNK, op->seq - t), before = sl_min(halo, t), row = span->first + t;
        put(&c, op->saved[0], row, n, c.from, get(&c, op->in[0], row, n, col, c.s.x));
        sl_columns v = get(&c, op->saved[0], row - before, before + n, c.from, c.s.x);
        convolve(&c, n, before, v.p + before * v.ld, v.ld);
        put(&c, op->out, row, n, col, activated(&c, n));
    }
    return 0;
}

/* du of n rows. */
static sl_columns before_silu(const call *c, int64_t n, int64_t before, sl_columns v, sl_columns dy) {
    if (!of(c->op)->silu)
        return dy;
    convolve(c, n, before, v.p + before * v.ld, v.ld);
    for (int64_t i = 0; i < n; i++)
        c->x->k->silu_bwd(c->n, c->s.u + i * STRIPE, dy.p + i * dy.ld, c->s.u + i * STRIPE);
    return (sl_columns){c->s.u, STRIPE};
}

/* This window's part of the gradients of weight and bias, laid out as these are, one behind the other. */
static void leave_partial(const call *c, int64_t window) {
    const sl_convolution *o = of(c->op);
    float *to = c->x->shared + window * o->channels * (o->width + o->bias), *bias = to + o->channels * o->width;
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t j = 0; j < o->width; j++)
            to[(c->from + i) * o->width + o->width - 1 - j] = c->s.dtaps[j * c->n + i];
    if (o->bias)
        memcpy(bias + c->from, c->s.dbias, (size_t)c->n * sizeof *bias);
}

/* dv_t needs du of width - 1 rows behind it: those have not been changed yet where din is dout. */
static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    int64_t width = of(op)->width, halo = width - 1, col = of(op)->first + c.from;
    float *dbias = of(op)->bias ? c.s.dbias : NULL;
    memset(c.s.dtaps, 0, (size_t)(width * STRIPE) * sizeof *c.s.dtaps);
    memset(c.s.dbias, 0, STRIPE * sizeof *c.s.dbias);
    for (int64_t t = 0; t < op->seq; t += CHUNK) {
        int64_t n = sl_min(CHUNK, op->seq - t), before = sl_min(halo, t), row = span->first + t;
        int64_t after = sl_min(halo, op->seq - t - n);
        sl_columns v = get(&c, op->saved[0], row - before, before + n + after, c.from, c.s.x);
        sl_columns du = before_silu(&c, n + after, before, v, get(&c, op->dout, row, n + after, col, c.s.dy));
        x->k->conv_bwd_w(n, c.n, width, before, du.p, du.ld, v.p + before * v.ld, v.ld, c.s.dtaps, dbias);
        x->k->conv_bwd_x(n, c.n, width, after, du.p, du.ld, c.s.taps, c.s.result, STRIPE);
        put(&c, op->din[0], row, n, col, (sl_columns){c.s.result, STRIPE});
    }
    leave_partial(&c, span->first / op->seq);
    return 0;
}

static int fold(const sl_op *op, const sl_exec *x, const sl_span *span) {
    int64_t weights = of(op)->channels * of(op)->width, stride = weights + of(op)->bias * of(op)->channels;
    for (int64_t i = span->first; i < span->first + span->n; i++)
        sl_fold_columns(x, 0, i == WEIGHT ? weights : of(op)->channels, op->rows / op->seq, stride,
                        x->shared + (i == WEIGHT ? 0 : weights), sl_weight_grad(op, x, (int)i));
    return 0;
}

/* saved[0]: the width - 1 positions before this one, the last one last. */
static int decode(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    int64_t halo = of(op)->width - 1, channels = of(op)->channels, col = of(op)->first + c.from;
    float *state = sl_buf_data(x, op->saved[0]) + span->first * halo * channels + c.from;
    size_t bytes = (size_t)c.n * sizeof *state;
    sl_columns now = get(&c, op->in[0], span->first, 1, col, c.s.dy);
    for (int64_t j = 0; j < halo; j++)
        memcpy(c.s.x + j * STRIPE, state + j * channels, bytes);
    memcpy(c.s.x + halo * STRIPE, now.p, bytes);
    convolve(&c, 1, sl_min(halo, x->position), c.s.x + halo * STRIPE, STRIPE);
    for (int64_t j = 0; j < halo; j++)
        memcpy(state + j * channels, c.s.x + (j + 1) * STRIPE, bytes);
    put(&c, op->out, span->first, 1, col, activated(&c, 1));
    return 0;
}

static sl_split stripes(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.parts = sl_div_up(of(op)->channels, STRIPE)};
}
static sl_split params(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.items = of(op)->bias ? 2 : 1};
}

static const sl_op_kind convolution = {
    .name = "convolution",
    .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = forward, .split = stripes}),
    .backward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = backward, .split = stripes},
                          {.cut = SL_CUT_FOLD, .run = fold, .split = params})};
static const sl_op_kind cached_convolution = {
    .name = "cached_convolution",
    .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = decode, .split = stripes})};

static void draw(const sl_tensor *t, sl_rng *rng, float *w) {
    double most = 1 / sqrt((double)t->shape[2]);
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)(most * (2 * sl_rng_uniform(rng) - 1));
}

void sl_build_convolution(sl_program *b, sl_scope scope, const char *prefix, sl_buf v, const sl_convolution *how) {
    sl_op *op = sl_program_op(b, b->cache ? &cached_convolution : &convolution, scope);
    sl_convolution *own = sl_program_own(b, op, sizeof *own);
    if (!own)
        return;
    *own = *how;
    sl_op_reads(op, op->out = v, SL_INPUT_GRADIENT);
    op->dim_in = op->dim_out = b->buffer[v].cols;
    op->saved[0] = b->cache ? sl_program_lasting(b, b->batch, (how->width - 1) * how->channels)
                            : sl_program_activation(b, op->rows, how->channels);
    op->param[WEIGHT] = sl_program_param(b, prefix, &(sl_param_spec){.name = "conv1d.weight", .rows = how->channels,
                                                                     .cols = 1, .more = {how->width},
                                                                     .init = SL_INIT_DRAW, .draw = draw,
                                                                     .decay = SL_DECAY_MATRIX});
    op->param[BIAS] = how->bias ? sl_build_bias(b, prefix, "conv1d.bias", how->channels, false) : SL_NONE;
    sl_carver size = {0};
    scratch_of(op, &size);
    op->worker_bytes = size.used;
    if (b->training)
        op->shared_bytes = (size_t)(b->batch * how->channels * (how->width + how->bias)) * sizeof(float);
    op->flops = 2.0 * (double)(op->rows * how->channels * how->width);
}

const sl_convolution *sl_convolution_of(const sl_op *op) {
    return op && (op->kind == &convolution || op->kind == &cached_convolution) ? op->own : NULL;
}
