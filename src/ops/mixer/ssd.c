/* Forward, a call takes one head of a window. Backward, it takes some heads of one group one after the other, and adds
 * up their gradients of B and C; a second stage sums those of a group's calls. All go through the window in chunks. */
#include "ops/mixer/ssd.h"

#include "ops/mixer/decay.h"
#include "ops/mixer/recurrence.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 64 }; /* positions, from state to saved state */
enum { BLOCK = 8 };  /* channels whose states of a chunk are computed again at a time: what is in L2 */
enum { SLICES = 4 }; /* calls of a group, at most */
enum { DT_BIAS, A_LOG, SKIP, PARAMS };

static const sl_ssd *of(const sl_op *op) { return op->own; }

static int64_t width(const sl_ssd *o) { return o->heads * o->head_dim; }
static int64_t state_size(const sl_ssd *o) { return o->head_dim * o->state; }
static int64_t column_b(const sl_ssd *o, int64_t group) { return o->first + width(o) + group * o->state; }
static int64_t column_c(const sl_ssd *o, int64_t group) { return column_b(o, o->groups + group); }
static int64_t column_dt(const sl_ssd *o, int64_t head) { return column_b(o, 2 * o->groups) + head; }
static int64_t chunks(const sl_op *op) { return sl_div_up(op->seq, CHUNK); }
static int64_t slices(const sl_ssd *o) { return sl_min(SLICES, o->heads / o->groups); }

/* A worker's. A chunk: converted rows, what stands for dt, decay and their gradients, the result; states. */
typedef struct {
    float *x, *b, *c, *dy, *result, *old, *raw, *dt, *decay, *ddt, *dlog, *spare, *state, *kept;
} scratch;

static scratch scratch_of(const sl_op *op, sl_carver *at) {
    const sl_ssd *o = of(op);
    scratch s = {.x = sl_carve_floats(at, CHUNK * o->head_dim)};
    s.b = sl_carve_floats(at, CHUNK * o->state);
    s.c = sl_carve_floats(at, CHUNK * o->state);
    s.dy = sl_carve_floats(at, CHUNK * o->head_dim);
    s.result = sl_carve_floats(at, CHUNK * o->head_dim);
    s.old = sl_carve_floats(at, CHUNK * sl_max(o->head_dim, o->state));
    s.raw = sl_carve_floats(at, CHUNK);
    s.dt = sl_carve_floats(at, CHUNK);
    s.decay = sl_carve_floats(at, CHUNK);
    s.ddt = sl_carve_floats(at, CHUNK);
    s.dlog = sl_carve_floats(at, CHUNK);
    s.spare = sl_carve_floats(at, 2 * CHUNK);
    s.state = sl_carve_floats(at, state_size(o));
    s.kept = sl_carve_floats(at, (CHUNK + 1) * BLOCK * o->state);
    return s;
}

/* One head of one window. */
typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t row0, window, head, group;
    float bias, a, skip;
    scratch s;
} item;

static item item_of(const sl_op *op, const sl_exec *x, int64_t row0, int64_t head, int worker) {
    const sl_ssd *o = of(op);
    item i = {.op = op, .x = x, .row0 = row0, .window = row0 / op->seq, .head = head,
              .group = head / (o->heads / o->groups), .bias = sl_weight(op, x, DT_BIAS)[head],
              .skip = sl_weight(op, x, SKIP)[head]};
    x->k->exp(1, sl_weight(op, x, A_LOG) + head, &i.a);
    i.a = -i.a;
    i.s = scratch_of(op, &(sl_carver){sl_worker_scratch(x, worker), 0});
    return i;
}

/* Rows of a chunk as fp32. */
typedef struct {
    sl_columns x, b, c;
} inputs;

static inputs read_inputs(const item *i, int64_t t, int64_t n) {
    const sl_ssd *o = of(i->op);
    sl_buf in = i->op->in[0];
    int64_t row = i->row0 + t;
    return (inputs){
        sl_read_columns(i->x, in, row, n, o->first + i->head * o->head_dim, o->head_dim, i->s.x),
        sl_read_columns(i->x, in, row, n, column_b(o, i->group), o->state, i->s.b),
        sl_read_columns(i->x, in, row, n, column_c(o, i->group), o->state, i->s.c)};
}

/* dt + dt_bias of a chunk, to raw. */
static void read_raw(const item *i, int64_t t, int64_t n, float *to) {
    sl_columns dt = sl_read_columns(i->x, i->op->in[0], i->row0 + t, n, column_dt(of(i->op), i->head), 1, to);
    for (int64_t k = 0; k < n; k++)
        i->s.raw[k] = dt.p[k * dt.ld] + i->bias;
}

/* dt and decay of a chunk. */
static void gates(const item *i, int64_t t, int64_t n, float *dt, float *decay) {
    const sl_kernels *k = i->x->k;
    read_raw(i, t, n, i->s.dlog);
    sl_softplus(k, n, i->s.raw, i->s.spare, dt);
    for (int64_t j = 0; j < n; j++)
        decay[j] = dt[j] * i->a;
    k->exp(n, decay, decay);
}

/* saved[0]: dt, then decay, [seq] each, head by head of each window; saved[1], in training: the states before each
 * chunk; of a decoder, the state of each window and head. */
static float *gates_at(const sl_op *op, const sl_exec *x, int64_t window, int64_t head) {
    return sl_buf_data(x, op->saved[0]) + (window * of(op)->heads + head) * 2 * op->seq;
}
static float *state_at(const item *i, int64_t chunk, int64_t count) {
    int64_t at = (i->window * of(i->op)->heads + i->head) * count + chunk;
    return sl_buf_data(i->x, i->op->saved[1]) + at * state_size(of(i->op));
}

/* n positions on from state. */
static void advance(const item *i, int64_t t, int64_t n, const float *dt, const float *decay, float *state) {
    const sl_ssd *o = of(i->op);
    inputs in = read_inputs(i, t, n);
    i->x->k->ssd_fwd(n, o->head_dim, o->state, in.x.p, in.x.ld, dt, decay, in.b.p, in.c.p, in.b.ld, i->skip, state, 0,
                     i->s.result, o->head_dim);
    sl_write_columns(i->x, i->op->out, i->row0 + t, n, i->head * o->head_dim, o->head_dim, i->s.result, o->head_dim);
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    item i = item_of(op, x, span->first, span->part, span->worker);
    float *dt = gates_at(op, x, i.window, i.head), *decay = dt + op->seq;
    size_t bytes = (size_t)state_size(of(op)) * sizeof *dt;
    memset(i.s.state, 0, bytes);
    for (int64_t t = 0; t < op->seq; t += CHUNK) {
        int64_t n = sl_min(CHUNK, op->seq - t);
        gates(&i, t, n, dt + t, decay + t);
        if (op->saved[1] != SL_NONE)
            memcpy(state_at(&i, t / CHUNK, chunks(op)), i.s.state, bytes);
        advance(&i, t, n, dt + t, decay + t, i.s.state);
    }
    return 0;
}

static int decode(const sl_op *op, const sl_exec *x, const sl_span *span) {
    item i = item_of(op, x, span->first, span->part, span->worker);
    float *state = state_at(&i, 0, 1);
    if (x->position == 0)
        memset(state, 0, (size_t)state_size(of(op)) * sizeof *state);
    gates(&i, 0, 1, i.s.dt, i.s.decay);
    advance(&i, 0, 1, i.s.dt, i.s.decay, state);
    return 0;
}

/* ---- backward */

/* Gradients of B and C of a call's heads: rows [B state | C state] of temp, call by call. */
static int64_t partial_ld(const sl_ssd *o) { return 2 * o->state * o->groups * slices(o); }

typedef struct {
    double bias, a, skip;
} sums;

/* Gradients of a chunk's rows, but for B's and C's; adds to those. */
static void chunk_back(const item *i, int64_t t, int64_t n, const inputs *in, sl_columns dy, float *dbc) {
    const sl_ssd *o = of(i->op);
    const float *dt = gates_at(i->op, i->x, i->window, i->head) + t, *decay = dt + i->op->seq;
    const float *before = state_at(i, t / CHUNK, chunks(i->op));
    memset(i->s.ddt, 0, (size_t)n * sizeof *i->s.ddt);
    memset(i->s.dlog, 0, (size_t)n * sizeof *i->s.dlog);
    for (int64_t p = 0; p < o->head_dim; p += BLOCK) {
        int64_t m = sl_min(BLOCK, o->head_dim - p);
        memcpy(i->s.kept, before + p * o->state, (size_t)(m * o->state) * sizeof *before);
        i->x->k->ssd_fwd(n, m, o->state, in->x.p + p, in->x.ld, dt, decay, in->b.p, in->c.p, in->b.ld, i->skip,
                         i->s.kept, m * o->state, NULL, 0);
        i->x->k->ssd_bwd(n, m, o->state, in->x.p + p, in->x.ld, dt, decay, in->b.p, in->c.p, in->b.ld, i->skip,
                         i->s.kept, dy.p + p, dy.ld, i->s.state + p * o->state, i->s.result + p, o->head_dim,
                         i->s.ddt, i->s.dlog, dbc, dbc + o->state, partial_ld(o));
    }
}

/* Columns of the gradient of in. */
static void put(const sl_op *op, const sl_exec *x, const scratch *s, int64_t row, int64_t n, int64_t col, int64_t cols,
                float *y) {
    sl_write_gradient(x, op->din[0], row, n, col, cols, y, op->acc[0], s->old);
}

/* From the gradients of dt and of log(decay) = dt a to those of the raw dt, in ddt, and of the parameters. */
static void gates_back(const item *i, int64_t t, int64_t n, sums *g) {
    const float *dt = gates_at(i->op, i->x, i->window, i->head) + t;
    float *slope = i->s.dt;
    read_raw(i, t, n, slope);
    i->x->k->sigmoid(n, i->s.raw, slope);
    for (int64_t k = 0; k < n; k++) {
        g->a += dt[k] * i->s.dlog[k];
        i->s.ddt[k] = (i->s.ddt[k] + i->a * i->s.dlog[k]) * slope[k];
        g->bias += i->s.ddt[k];
    }
}

static void head_back(const item *i, int64_t slice, bool first) {
    const sl_op *op = i->op;
    const sl_ssd *o = of(op);
    int64_t ld = partial_ld(o), at = 2 * o->state * (i->group * slices(o) + slice);
    sums g = {0};
    memset(i->s.state, 0, (size_t)state_size(o) * sizeof *i->s.state);
    for (int64_t chunk = chunks(op) - 1; chunk >= 0; chunk--) {
        int64_t t = chunk * CHUNK, n = sl_min(CHUNK, op->seq - t), row = i->row0 + t;
        inputs in = read_inputs(i, t, n);
        sl_columns dy = sl_read_columns(i->x, op->dout, row, n, i->head * o->head_dim, o->head_dim, i->s.dy);
        float *dbc = sl_buf_data(i->x, op->temp) + row * ld + at;
        for (int64_t k = 0; first && k < n; k++)
            memset(dbc + k * ld, 0, (size_t)(2 * o->state) * sizeof *dbc);
        chunk_back(i, t, n, &in, dy, dbc);
        for (int64_t k = 0; k < n; k++)
            g.skip += i->x->k->dot(o->head_dim, dy.p + k * dy.ld, in.x.p + k * in.x.ld);
        put(op, i->x, &i->s, row, n, o->first + i->head * o->head_dim, o->head_dim, i->s.result);
        gates_back(i, t, n, &g);
        put(op, i->x, &i->s, row, n, column_dt(o, i->head), 1, i->s.ddt);
    }
    float *sum = i->x->shared + i->window * PARAMS * o->heads + i->head;
    sum[DT_BIAS * o->heads] = (float)g.bias;
    sum[A_LOG * o->heads] = (float)(i->a * g.a);
    sum[SKIP * o->heads] = (float)g.skip;
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const sl_ssd *o = of(op);
    int64_t group = span->part / slices(o), slice = span->part % slices(o), heads = o->heads / o->groups;
    int64_t first = slice * heads / slices(o), end = (slice + 1) * heads / slices(o);
    for (int64_t h = first; h < end; h++) {
        item i = item_of(op, x, span->first, group * heads + h, span->worker);
        head_back(&i, slice, h == first);
    }
    return 0;
}

/* Gradients of B and C of some rows, and 0 for what is not its own. */
static int sum_slices(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const sl_ssd *o = of(op);
    scratch s = scratch_of(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    int64_t n = 2 * o->state;
    for (int64_t r = span->first; r < span->first + span->n; r++) {
        float *part = sl_buf_data(x, op->temp) + r * partial_ld(o);
        for (int64_t group = 0; group < o->groups; group++, part += slices(o) * n) {
            for (int64_t k = 1; k < slices(o); k++)
                x->k->add(n, part + k * n, part);
            put(op, x, &s, r, 1, column_b(o, group), o->state, part);
            put(op, x, &s, r, 1, column_c(o, group), o->state, part + o->state);
        }
    }
    if (!op->acc[0]) {
        sl_clear_columns(x, op->din[0], span->first, span->n, 0, o->first);
        sl_clear_columns(x, op->din[0], span->first, span->n, column_dt(o, o->heads), x->info[op->din[0]].ld);
    }
    return 0;
}

static int fold(const sl_op *op, const sl_exec *x, const sl_span *span) {
    int64_t n = of(op)->heads;
    for (int64_t p = span->first; p < span->first + span->n; p++)
        sl_fold_columns(x, 0, n, op->rows / op->seq, PARAMS * n, x->shared + p * n, sl_weight_grad(op, x, (int)p));
    return 0;
}

static sl_split by_heads(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.parts = of(op)->heads};
}
static sl_split by_slices(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.parts = of(op)->groups * slices(of(op))};
}
static sl_split by_params(const sl_op *op, const sl_exec *x) {
    (void)op, (void)x;
    return (sl_split){.items = PARAMS};
}

static const sl_op_kind ssd = {
    .name = "ssd",
    .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = forward, .split = by_heads}),
    .backward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = backward, .split = by_slices},
                          {.cut = SL_CUT_ROWS, .run = sum_slices},
                          {.cut = SL_CUT_FOLD, .run = fold, .split = by_params}),
    .adds = true};
static const sl_op_kind cached_ssd = {
    .name = "cached_ssd", .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = decode, .split = by_heads})};

/* ---- building */

static void draw_a_log(const sl_tensor *t, sl_rng *rng, float *w) {
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)log(1 + 15 * sl_rng_uniform(rng));
}

static void declare(sl_program *b, sl_op *op, const char *prefix, int64_t heads) {
    const sl_param_spec specs[PARAMS] = {
        [DT_BIAS] = {.name = "dt_bias", .rows = heads, .init = SL_INIT_DRAW, .draw = sl_draw_dt_bias,
                     .decay = SL_DECAY_NONE},
        [A_LOG] = {.name = "A_log", .rows = heads, .init = SL_INIT_DRAW, .draw = draw_a_log, .decay = SL_DECAY_NONE},
        [SKIP] = {.name = "D", .rows = heads, .init = SL_INIT_ONES, .decay = SL_DECAY_NONE}};
    for (int i = 0; i < PARAMS; i++)
        op->param[i] = sl_program_param(b, prefix, &specs[i]);
}

sl_buf sl_build_ssd(sl_program *b, sl_scope scope, const char *prefix, sl_buf in, const sl_ssd *how) {
    sl_op *op = sl_program_op(b, b->cache ? &cached_ssd : &ssd, scope);
    sl_ssd *own = sl_program_own(b, op, sizeof *own);
    if (!own)
        return in;
    *own = *how;
    declare(b, op, prefix, how->heads);
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = b->buffer[in].cols;
    op->dim_out = width(how);
    if (b->cache) {
        op->saved[1] = sl_program_lasting(b, b->batch * how->heads, state_size(how));
    } else {
        op->saved[0] = sl_program_buffer(b, b->batch * how->heads * 2, op->seq);
        if (b->training) {
            op->saved[1] = sl_program_buffer(b, b->batch * how->heads * chunks(op), state_size(how));
            op->temp = b->device ? SL_NONE : sl_program_buffer(b, op->rows, partial_ld(how));
            op->shared_bytes = (size_t)(b->batch * PARAMS * how->heads) * sizeof(float);
        }
    }
    sl_carver size = {0};
    scratch_of(op, &size);
    op->worker_bytes = size.used;
    op->flops = 5.0 * (double)(op->rows * how->heads * state_size(how));
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}

const sl_ssd *sl_ssd_of(const sl_op *op) {
    return op && (op->kind == &ssd || op->kind == &cached_ssd) ? op->own : NULL;
}

/* ---- for probes */

static sl_recurrence_sizes sizes(const sl_op *op) {
    const sl_ssd *o = of(op);
    return (sl_recurrence_sizes){.heads = o->heads, .key_dim = o->state, .value_dim = o->head_dim, .decays = true,
                                 .weighs = true};
}

static void copy(const sl_op *op, const sl_exec *x, int64_t window, int64_t col, int64_t n, float *to) {
    sl_columns from = sl_read_columns(x, op->in[0], window * op->seq, op->seq, col, n, to);
    for (int64_t t = 0; from.p != to && t < op->seq; t++)
        memcpy(to + t * n, from.p + t * from.ld, (size_t)n * sizeof *to);
}

static void head_of(const sl_op *op, const sl_exec *x, int64_t window, int64_t head, sl_recurrence_head *to) {
    const sl_ssd *o = of(op);
    int64_t group = head / (o->heads / o->groups);
    copy(op, x, window, column_c(o, group), o->state, to->q);
    copy(op, x, window, column_b(o, group), o->state, to->k);
    copy(op, x, window, o->first + head * o->head_dim, o->head_dim, to->v);
    const float *dt = gates_at(op, x, window, head);
    memcpy(to->weight, dt, (size_t)op->seq * sizeof *dt);
    memcpy(to->decay, dt + op->seq, (size_t)op->seq * sizeof *dt);
    for (int64_t t = 0; t < op->seq; t++)
        to->length[t] = sqrtf((float)x->k->sumsq(o->state, to->k + t * o->state));
    to->skip = sl_weight(op, x, SKIP)[head];
}

const sl_recurrence_kind sl_ssd_recurrence = {sizes, head_of};
