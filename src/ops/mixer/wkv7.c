/* A call takes one head of a window, and goes through it in chunks. */
#include "ops/mixer/wkv7.h"

#include "ops/mixer/recurrence.h"
#include "ops/mixer/rwkv7_rows.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 32 }; /* positions, from state to saved state */
enum { R, W, V, KEYS };
enum { K, AT, BY, KINDS }; /* of keys: what is written, what is read, what of it is taken away */

typedef struct {
    sl_wkv7 how; /* first: what sl_wkv7_of() gives */
    bool back;   /* it is trained */
} own;

static const sl_wkv7 *of(const sl_op *op) { return &((const own *)op->own)->how; }
static int64_t state_size(const sl_op *op) { return of(op)->head_dim * of(op)->head_dim; }
static int64_t chunks(const sl_op *op) { return sl_div_up(op->seq, CHUNK); }

/* A worker's, of a chunk: converted rows; decays, sigmoid(w) and its slope; what is held at keys; results and
 * gradients. States: that which goes on; those of a chunk and the one before. */
typedef struct {
    float *r, *v, *keys[KINDS], *w, *slope, *e, *y, *dy, *dr, *dw, *dkeys[KINDS], *dv, *old, *state, *kept;
} scratch;

static scratch scratch_of(const sl_op *op, sl_carver *at) {
    scratch s;
    int64_t rows = CHUNK * of(op)->head_dim;
    float **each[] = {&s.r,  &s.v,  &s.keys[K],  &s.keys[AT],  &s.keys[BY],  &s.w,  &s.slope, &s.e, &s.y, &s.dy,
                      &s.dr, &s.dw, &s.dkeys[K], &s.dkeys[AT], &s.dkeys[BY], &s.dv, &s.old};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        *each[i] = sl_carve_floats(at, rows);
    s.state = sl_carve_floats(at, state_size(op));
    s.kept = sl_carve_floats(at, ((const own *)op->own)->back ? (CHUNK + 1) * state_size(op) : 0);
    return s;
}

typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t row0, window, head;
    scratch s;
} call;

static call call_of(const sl_op *op, const sl_exec *x, const sl_span *span) {
    return (call){op, x, span->first, span->first / op->seq, span->part,
                  scratch_of(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0})};
}

/* The head's columns of n rows; of part `kind` of keys. */
static sl_columns get(const call *c, sl_buf b, int kind, int64_t t, int64_t n, float *to) {
    int64_t d = of(c->op)->head_dim, col = (kind * of(c->op)->heads + c->head) * d;
    return sl_read_columns(c->x, b, c->row0 + t, n, col, d, to);
}
static void put_gradient(const call *c, int input, int kind, int64_t t, int64_t n, float *y) {
    int64_t d = of(c->op)->head_dim, col = (kind * of(c->op)->heads + c->head) * d;
    sl_write_gradient(c->x, c->op->din[input], c->row0 + t, n, col, d, y, c->op->acc[input], c->s.old);
}

/* What a chunk reads. */
typedef struct {
    sl_columns r, v, keys[KINDS];
} chunk;

/* decay = exp(-rate sigmoid(w + w0)) to s.w, that sigmoid to s.slope. */
static chunk read_chunk(const call *c, int64_t t, int64_t n) {
    const sl_op *op = c->op;
    int64_t d = of(op)->head_dim;
    chunk k = {.r = get(c, op->in[R], 0, t, n, c->s.r), .v = get(c, op->in[V], 0, t, n, c->s.v)};
    for (int i = 0; i < KINDS; i++)
        k.keys[i] = get(c, op->in[KEYS], i, t, n, c->s.keys[i]);
    sl_columns w = get(c, op->in[W], 0, t, n, c->s.w);
    for (int64_t i = 0; i < n; i++)
        c->x->k->sum(d, w.p + i * w.ld, sl_weight(op, c->x, 0) + c->head * d, c->s.slope + i * d);
    c->x->k->sigmoid(n * d, c->s.slope, c->s.slope);
    memcpy(c->s.w, c->s.slope, (size_t)(n * d) * sizeof *c->s.w);
    c->x->k->scale(n * d, (float)-SL_WKV7_RATE, c->s.w);
    c->x->k->exp(n * d, c->s.w, c->s.w);
    return k;
}

static void run(const call *c, const chunk *k, int64_t n, float *state, int64_t to, float *y) {
    int64_t d = of(c->op)->head_dim;
    c->x->k->rwkv7_fwd(n, d, d, k->r.p, k->r.ld, c->s.w, d, k->keys[K].p, k->keys[AT].p, k->keys[BY].p,
                       k->keys[K].ld, k->v.p, k->v.ld, state, to, c->s.e, d, y, d);
}

/* n positions on from state. */
static void advance(const call *c, int64_t t, int64_t n, float *state) {
    int64_t d = of(c->op)->head_dim;
    chunk k = read_chunk(c, t, n);
    run(c, &k, n, state, 0, c->s.y);
    sl_write_columns(c->x, c->op->out, c->row0 + t, n, c->head * d, d, c->s.y, d);
}

/* saved[0]: in training the states before each chunk, head by head of each window; of a decoder the state. */
static float *state_at(const call *c, int64_t at, int64_t count) {
    return sl_buf_data(c->x, c->op->saved[0]) +
           ((c->window * of(c->op)->heads + c->head) * count + at) * state_size(c->op);
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    size_t bytes = (size_t)state_size(op) * sizeof(float);
    memset(c.s.state, 0, bytes);
    for (int64_t t = 0; t < op->seq; t += CHUNK) {
        if (op->saved[0] != SL_NONE)
            memcpy(state_at(&c, t / CHUNK, chunks(op)), c.s.state, bytes);
        advance(&c, t, sl_min(CHUNK, op->seq - t), c.s.state);
    }
    return 0;
}

static int decode(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    float *state = state_at(&c, 0, 1);
    if (x->position == 0)
        memset(state, 0, (size_t)state_size(op) * sizeof *state);
    advance(&c, 0, 1, state);
    return 0;
}

/* From the gradient of decay to that of w: -rate decay sigmoid(w) (1 - sigmoid(w)). */
static void decay_back(const call *c, int64_t n) {
    float *dw = c->s.dw;
    const float *decay = c->s.w, *q = c->s.slope;
    for (int64_t i = 0; i < n * of(c->op)->head_dim; i++)
        dw[i] *= (float)-SL_WKV7_RATE * decay[i] * q[i] * (1 - q[i]);
}

static void chunk_back(const call *c, int64_t t, int64_t n) {
    const sl_op *op = c->op;
    int64_t d = of(op)->head_dim;
    const scratch *s = &c->s;
    chunk k = read_chunk(c, t, n);
    sl_columns dy = get(c, op->dout, 0, t, n, s->dy);
    float *const cleared[] = {s->dr, s->dw, s->dkeys[K], s->dkeys[AT], s->dkeys[BY]};
    for (size_t i = 0; i < sizeof cleared / sizeof *cleared; i++)
        memset(cleared[i], 0, (size_t)(n * d) * sizeof(float));
    memcpy(s->kept, state_at(c, t / CHUNK, chunks(op)), (size_t)state_size(op) * sizeof(float));
    run(c, &k, n, s->kept, state_size(op), NULL);
    c->x->k->rwkv7_bwd(n, d, d, k.r.p, k.r.ld, s->w, d, k.keys[K].p, k.keys[AT].p, k.keys[BY].p, k.keys[K].ld, k.v.p,
                       k.v.ld, s->kept, s->e, d, dy.p, dy.ld, s->state, s->dr, s->dw, s->dkeys[K], s->dkeys[AT],
                       s->dkeys[BY], s->dv, d);
    decay_back(c, n);
    put_gradient(c, R, 0, t, n, s->dr);
    for (int64_t i = 0; i < n; i++)
        c->x->k->add(d, s->dw + i * d, c->x->shared + (c->window * of(op)->heads + c->head) * d);
    put_gradient(c, W, 0, t, n, s->dw);
    put_gradient(c, V, 0, t, n, s->dv);
    for (int i = 0; i < KINDS; i++)
        put_gradient(c, KEYS, i, t, n, s->dkeys[i]);
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    int64_t d = of(op)->head_dim;
    memset(c.s.state, 0, (size_t)state_size(op) * sizeof(float));
    memset(x->shared + (c.window * of(op)->heads + c.head) * d, 0, (size_t)d * sizeof(float)); /* dw0 of the window */
    for (int64_t i = chunks(op) - 1; i >= 0; i--)
        chunk_back(&c, i * CHUNK, sl_min(CHUNK, op->seq - i * CHUNK));
    return 0;
}

static int fold(const sl_op *op, const sl_exec *x, const sl_span *span) {
    (void)span;
    sl_fold_columns(x, 0, op->dim_out, op->rows / op->seq, op->dim_out, x->shared, sl_weight_grad(op, x, 0));
    return 0;
}

static sl_split by_heads(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.parts = of(op)->heads};
}

static const sl_op_kind wkv7 = {
    .name = "wkv7",
    .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = forward, .split = by_heads}),
    .backward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = backward, .split = by_heads},
                          {.cut = SL_CUT_FOLD, .run = fold}),
    .adds = true};
static const sl_op_kind cached_wkv7 = {
    .name = "cached_wkv7", .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = decode, .split = by_heads})};

sl_buf sl_build_wkv7(sl_program *b, sl_scope scope, const sl_wkv7_inputs *in, const sl_wkv7 *how, int w0) {
    sl_op *op = sl_program_op(b, b->cache ? &cached_wkv7 : &wkv7, scope);
    own *o = sl_program_own(b, op, sizeof *o);
    if (!o)
        return in->v;
    *o = (own){*how, b->training};
    const sl_buf reads[] = {[R] = in->r, [W] = in->w, [V] = in->v, [KEYS] = in->keys};
    for (size_t i = 0; i < sizeof reads / sizeof *reads; i++)
        sl_op_reads(op, reads[i], SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = how->heads * how->head_dim;
    op->param[0] = w0;
    if (b->training)
        op->shared_bytes = (size_t)(b->batch * op->dim_out) * sizeof(float);
    if (b->cache)
        op->saved[0] = sl_program_lasting(b, b->batch * how->heads, state_size(op));
    else if (b->training)
        op->saved[0] = sl_program_buffer(b, b->batch * how->heads * chunks(op), state_size(op));
    sl_carver size = {0};
    scratch_of(op, &size);
    op->worker_bytes = size.used;
    op->flops = 9.0 * (double)(op->rows * how->heads * state_size(op));
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}

const sl_wkv7 *sl_wkv7_of(const sl_op *op) {
    return op && (op->kind == &wkv7 || op->kind == &cached_wkv7) ? of(op) : NULL;
}

/* ---- for probes */

static sl_recurrence_sizes sizes(const sl_op *op) {
    int64_t d = of(op)->head_dim;
    return (sl_recurrence_sizes){.heads = of(op)->heads, .key_dim = d, .value_dim = d, .rule = true, .decays = true,
                                 .weighs = true, .channels = true, .eps = SL_RWKV7_EPS};
}

/* The columns of a head of all rows of a window. */
static void copy(const call *c, sl_buf b, int kind, float *to) {
    int64_t d = of(c->op)->head_dim;
    sl_columns from = get(c, b, kind, 0, c->op->seq, to);
    for (int64_t t = 0; from.p != to && t < c->op->seq; t++)
        memcpy(to + t * d, from.p + t * from.ld, (size_t)d * sizeof *to);
}

/* What is held at kappa and taken away is a, by the squares of kappa. */
static void head_of(const sl_op *op, const sl_exec *x, int64_t window, int64_t head, sl_recurrence_head *to) {
    call c = {.op = op, .x = x, .row0 = window * op->seq, .window = window, .head = head};
    int64_t d = of(op)->head_dim;
    copy(&c, op->in[R], 0, to->q), copy(&c, op->in[V], 0, to->v), copy(&c, op->in[W], 0, to->fade);
    for (int64_t t = 0; t < op->seq; t++)
        x->k->add(d, sl_weight(op, x, 0) + head * d, to->fade + t * d);
    copy(&c, op->in[KEYS], K, to->k), copy(&c, op->in[KEYS], AT, to->read), copy(&c, op->in[KEYS], BY, to->erase);
    x->k->sigmoid(op->seq * d, to->fade, to->fade);
    x->k->scale(op->seq * d, (float)-SL_WKV7_RATE, to->fade);
    for (int64_t t = 0; t < op->seq; t++) {
        double log = 0;
        for (int64_t i = 0; i < d; i++)
            log += (double)to->fade[t * d + i] / (double)d;
        to->decay[t] = (float)exp(log);
        to->weight[t] = x->k->dot(d, to->read + t * d, to->erase + t * d);
        to->length[t] = sqrtf(x->k->dot(d, to->k + t * d, to->k + t * d));
    }
    x->k->exp(op->seq * d, to->fade, to->fade);
    to->skip = 0;
}

const sl_recurrence_kind sl_wkv7_recurrence = {sizes, head_of};
