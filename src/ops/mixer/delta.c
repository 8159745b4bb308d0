/* Forward, a call takes one head of a window; backward, the heads that share q and k, whose gradients it adds up. Both
 * go through the window in chunks. */
#include "ops/mixer/delta.h"

#include "ops/mixer/decay.h"
#include "ops/mixer/recurrence.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 64, GROUPS = CHUNK / SL_DELTA_GROUP }; /* positions, from state to saved state */
enum { DT_BIAS, A_LOG, PARAMS };

static const sl_delta *of(const sl_op *op) { return op->own; }

static int64_t shared_by(const sl_delta *o) { return o->heads / o->key_heads; }
static int64_t state_size(const sl_delta *o) { return o->key_dim * o->value_dim; }
static int64_t chunks(const sl_op *op) { return sl_div_up(op->seq, CHUNK); }

static int64_t column_q(const sl_delta *o, int64_t key_head) { return o->first + key_head * o->key_dim; }
static int64_t column_k(const sl_delta *o, int64_t key_head) { return column_q(o, o->key_heads + key_head); }
static int64_t column_v(const sl_delta *o, int64_t head) { return column_q(o, 2 * o->key_heads) + head * o->value_dim; }
static int64_t column_b(const sl_delta *o, int64_t head) { return column_v(o, o->heads) + head; }
static int64_t column_a(const sl_delta *o, int64_t head) { return column_b(o, o->rule ? o->heads : 0) + head; }

/* ---- decays: fixed, or log(decay) = -rate softplus(sign a + bias) */

typedef struct {
    float fixed, rate, sign, bias;
} decay;

static decay softplus_decay(const sl_op *op, const sl_exec *x, int64_t head) {
    decay d = {.sign = 1, .bias = sl_weight(op, x, DT_BIAS)[head]};
    x->k->exp(1, sl_weight(op, x, A_LOG) + head, &d.rate);
    return d;
}
static decay no_decay(const sl_op *op, const sl_exec *x, int64_t head) {
    (void)op, (void)x, (void)head;
    return (decay){.fixed = 1};
}
/* log(sigmoid(a)) = -softplus(-a) */
static decay sigmoid_decay(const sl_op *op, const sl_exec *x, int64_t head) {
    (void)op, (void)x, (void)head;
    return (decay){.sign = -1, .rate = 1.0f / 16};
}
static decay fixed_decay(const sl_op *op, const sl_exec *x, int64_t head) {
    (void)op, (void)x;
    return (decay){.fixed = (float)(1 - exp2((double)(-5 - head)))};
}

static const struct {
    bool reads, learns; /* a number of the row; dt_bias and A_log */
    decay (*of_head)(const sl_op *op, const sl_exec *x, int64_t head);
} decays[] = {[SL_DELTA_SOFTPLUS] = {true, true, softplus_decay},
              [SL_DELTA_NO_DECAY] = {false, false, no_decay},
              [SL_DELTA_SIGMOID] = {true, false, sigmoid_decay},
              [SL_DELTA_FIXED] = {false, false, fixed_decay}};

static int64_t end_column(const sl_delta *o) { return column_a(o, decays[o->decay].reads ? o->heads : 0); }
int64_t sl_delta_columns(const sl_delta *how) { return end_column(how) - how->first; }

/* ---- a call */

/* A worker's. A chunk: converted rows, normalised q and k with their gradients and factors, what gates come from and
 * their gradients, what memory lacks, the result; states; the kernels' work. */
typedef struct {
    float *raw, *q, *k, *dq, *dk, *rq, *rk, *v, *dout, *result, *old, *z, *log, *slope, *dlog, *dbeta, *decay, *beta,
        *spare, *e, *state, *kept, *work;
} scratch;

static scratch scratch_of(const sl_op *op, sl_carver *at) {
    const sl_delta *o = of(op);
    int64_t keys = CHUNK * o->key_dim, values = CHUNK * o->value_dim;
    scratch s;
    const struct {
        float **to;
        int64_t n;
    } each[] = {{&s.raw, keys}, {&s.q, keys}, {&s.k, keys}, {&s.dq, keys}, {&s.dk, keys}, {&s.rq, CHUNK},
                {&s.rk, CHUNK}, {&s.v, values}, {&s.dout, values}, {&s.result, values},
                {&s.old, sl_max(keys, values)}, {&s.z, CHUNK}, {&s.log, CHUNK}, {&s.slope, CHUNK}, {&s.dlog, CHUNK},
                {&s.dbeta, CHUNK}, {&s.decay, CHUNK}, {&s.beta, CHUNK}, {&s.spare, 2 * CHUNK}, {&s.e, values},
                {&s.state, shared_by(o) * state_size(o)}, {&s.kept, (GROUPS + 1) * state_size(o)},
                {&s.work, sl_delta_work(o->value_dim, o->key_dim)}};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        *each[i].to = sl_carve_floats(at, each[i].n);
    return s;
}

typedef struct {
    const sl_op *op;
    const sl_exec *x;
    int64_t row0, window;
    scratch s;
} call;

static call call_of(const sl_op *op, const sl_exec *x, const sl_span *span) {
    return (call){op, x, span->first, span->first / op->seq,
                  scratch_of(op, &(sl_carver){sl_worker_scratch(x, span->worker), 0})};
}

static sl_columns get(const call *c, int64_t t, int64_t n, int64_t col, int64_t cols, float *to) {
    return sl_read_columns(c->x, c->op->in[0], c->row0 + t, n, col, cols, to);
}
/* Columns of the gradient of in. */
static void put(const call *c, int64_t t, int64_t n, int64_t col, int64_t cols, float *y) {
    sl_write_gradient(c->x, c->op->din[0], c->row0 + t, n, col, cols, y, c->op->acc[0], c->s.old);
}

static float query_scale(const sl_delta *o) { return (float)(1 / sqrt((double)o->key_dim)); }

/* y = scale r x of n rows, r = 1 / sqrt(x.x + 1e-6), or 1 where lengths stay. */
static void normalise(const call *c, int64_t n, sl_columns x, float scale, float *y, float *r) {
    int64_t d = of(c->op)->key_dim;
    for (int64_t i = 0; i < n; i++, y += d) {
        const float *from = x.p + i * x.ld;
        r[i] = of(c->op)->unit ? 1 / sqrtf(c->x->k->dot(d, from, from) + 1e-6f) : 1;
        memcpy(y, from, (size_t)d * sizeof *y);
        c->x->k->scale(d, scale * r[i], y);
    }
}

/* From the gradient of y to that of x, in place: scale r (dy - y (y.dy) / scale^2), scale dy where lengths stay. */
static void normalise_back(const call *c, int64_t n, float scale, const float *y, const float *r, float *dy) {
    int64_t d = of(c->op)->key_dim;
    for (int64_t i = 0; i < n; i++, y += d, dy += d) {
        float factor = scale * r[i], along = of(c->op)->unit ? c->x->k->dot(d, y, dy) / (scale * scale) : 0;
        for (int64_t j = 0; j < d; j++)
            dy[j] = factor * (dy[j] - y[j] * along);
    }
}

static void read_keys(const call *c, int64_t t, int64_t n, int64_t key_head) {
    const sl_delta *o = of(c->op);
    normalise(c, n, get(c, t, n, column_q(o, key_head), o->key_dim, c->s.raw), query_scale(o), c->s.q, c->s.rq);
    normalise(c, n, get(c, t, n, column_k(o, key_head), o->key_dim, c->s.raw), 1, c->s.k, c->s.rk);
}

/* z = sign a + bias of a chunk and log(decay), of decays that read. */
static void read_decay(const call *c, int64_t t, int64_t n, int64_t head, const decay *d, float *log) {
    const sl_delta *o = of(c->op);
    float *z = c->s.z;
    sl_columns a = get(c, t, n, column_a(o, head), 1, c->s.spare);
    for (int64_t j = 0; j < n; j++)
        z[j] = d->sign * a.p[j * a.ld] + d->bias;
    sl_softplus(c->x->k, n, z, c->s.spare, log);
    for (int64_t j = 0; j < n; j++)
        log[j] *= -d->rate;
}

static float most(const sl_delta *o) { return o->negative ? 2 : 1; }

static void gates(const call *c, int64_t t, int64_t n, int64_t head, float *to_decay, float *to_beta) {
    const sl_delta *o = of(c->op);
    decay d = decays[o->decay].of_head(c->op, c->x, head);
    for (int64_t j = 0; j < n; j++) {
        to_decay[j] = d.fixed;
        to_beta[j] = 1;
    }
    if (decays[o->decay].reads) {
        read_decay(c, t, n, head, &d, to_decay);
        c->x->k->exp(n, to_decay, to_decay);
    }
    if (!o->rule)
        return;
    sl_columns b = get(c, t, n, column_b(o, head), 1, c->s.spare);
    for (int64_t j = 0; j < n; j++)
        to_beta[j] = b.p[j * b.ld];
    c->x->k->sigmoid(n, to_beta, to_beta);
    c->x->k->scale(n, most(o), to_beta);
}

/* saved[0]: decay, then beta, [seq] each, head by head of each window; saved[1], in training: the states before each
 * chunk; of a decoder, the state of each window and head. */
static float *gates_at(const sl_op *op, const sl_exec *x, int64_t window, int64_t head) {
    return sl_buf_data(x, op->saved[0]) + (window * of(op)->heads + head) * 2 * op->seq;
}
static float *state_at(const call *c, int64_t head, int64_t chunk, int64_t count) {
    int64_t at = (c->window * of(c->op)->heads + head) * count + chunk;
    return sl_buf_data(c->x, c->op->saved[1]) + at * state_size(of(c->op));
}

/* n positions on from state. */
static void advance(const call *c, int64_t t, int64_t n, int64_t head, const float *decay_at, const float *beta,
                    float *state) {
    const sl_delta *o = of(c->op);
    read_keys(c, t, n, head / shared_by(o));
    sl_columns v = get(c, t, n, column_v(o, head), o->value_dim, c->s.v);
    c->x->k->delta_fwd(n, o->value_dim, o->key_dim, c->s.q, c->s.k, o->key_dim, v.p, v.ld, decay_at, beta, o->rule,
                       state, 0, c->s.e, o->value_dim, c->s.result, o->value_dim, c->s.work);
    sl_write_columns(c->x, c->op->out, c->row0 + t, n, head * o->value_dim, o->value_dim, c->s.result, o->value_dim);
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    int64_t head = span->part;
    float *decay_at = gates_at(op, x, c.window, head), *beta = decay_at + op->seq;
    size_t bytes = (size_t)state_size(of(op)) * sizeof *beta;
    memset(c.s.state, 0, bytes);
    for (int64_t t = 0; t < op->seq; t += CHUNK) {
        int64_t n = sl_min(CHUNK, op->seq - t);
        gates(&c, t, n, head, decay_at + t, beta + t);
        if (op->saved[1] != SL_NONE)
            memcpy(state_at(&c, head, t / CHUNK, chunks(op)), c.s.state, bytes);
        advance(&c, t, n, head, decay_at + t, beta + t, c.s.state);
    }
    return 0;
}

static int decode(const sl_op *op, const sl_exec *x, const sl_span *span) {
    call c = call_of(op, x, span);
    float *state = state_at(&c, span->part, 0, 1);
    if (x->position == 0)
        memset(state, 0, (size_t)state_size(of(op)) * sizeof *state);
    gates(&c, 0, 1, span->part, c.s.decay, c.s.beta);
    advance(&c, 0, 1, span->part, c.s.decay, c.s.beta, state);
    return 0;
}

/* ---- backward */

/* Gradients of v of a chunk's rows, to result, and of its gates; adds to those of q and k. dstate goes back. */
static void chunk_back(const call *c, int64_t t, int64_t n, int64_t head, float *dstate) {
    const sl_delta *o = of(c->op);
    int64_t m = o->value_dim, d = o->key_dim;
    const float *decay_at = gates_at(c->op, c->x, c->window, head) + t, *beta = decay_at + c->op->seq;
    const float *before = state_at(c, head, t / CHUNK, chunks(c->op));
    sl_columns v = get(c, t, n, column_v(o, head), m, c->s.v);
    sl_columns dout = sl_read_columns(c->x, c->op->dout, c->row0 + t, n, head * m, m, c->s.dout);
    memset(c->s.dlog, 0, (size_t)n * sizeof *c->s.dlog);
    memset(c->s.dbeta, 0, (size_t)n * sizeof *c->s.dbeta);
    memcpy(c->s.kept, before, (size_t)state_size(o) * sizeof *before);
    c->x->k->delta_fwd(n, m, d, c->s.q, c->s.k, d, v.p, v.ld, decay_at, beta, o->rule, c->s.kept, state_size(o),
                       c->s.e, m, NULL, 0, c->s.work);
    c->x->k->delta_bwd(n, m, d, c->s.q, c->s.k, d, decay_at, beta, o->rule, c->s.kept, c->s.e, m, dout.p, dout.ld,
                       dstate, c->s.result, m, c->s.dlog, c->s.dbeta, c->s.dq, c->s.dk, d, c->s.work);
}

/* From the gradients of log(decay) and beta to those of a and b; adds to those of the parameters, [PARAMS, heads]. */
static void gates_back(const call *c, int64_t t, int64_t n, int64_t head, float *sum) {
    const sl_delta *o = of(c->op);
    const float *beta = gates_at(c->op, c->x, c->window, head) + c->op->seq + t;
    float *da = c->s.slope, *db = c->s.dbeta;
    double bias = 0, log = 0;
    if (decays[o->decay].reads) {
        decay d = decays[o->decay].of_head(c->op, c->x, head);
        read_decay(c, t, n, head, &d, c->s.log);
        c->x->k->sigmoid(n, c->s.z, da);
        for (int64_t j = 0; j < n; j++) {
            log += c->s.dlog[j] * c->s.log[j];
            da[j] *= -d.rate * d.sign * c->s.dlog[j];
            bias += da[j];
        }
        put(c, t, n, column_a(o, head), 1, da);
    }
    sum[DT_BIAS * o->heads + head] += (float)bias;
    sum[A_LOG * o->heads + head] += (float)log;
    for (int64_t j = 0; j < n; j++)
        db[j] *= beta[j] * (1 - beta[j] / most(o));
    if (o->rule)
        put(c, t, n, column_b(o, head), 1, db);
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const sl_delta *o = of(op);
    call c = call_of(op, x, span);
    int64_t key_head = span->part, shared = shared_by(o), first = key_head * shared, size = state_size(o);
    float *sum = x->shared + c.window * PARAMS * o->heads;
    memset(c.s.state, 0, (size_t)(shared * size) * sizeof(float));
    for (int64_t i = 0; i < PARAMS * shared; i++)
        sum[i / shared * o->heads + first + i % shared] = 0;
    for (int64_t chunk = chunks(op) - 1; chunk >= 0; chunk--) {
        int64_t t = chunk * CHUNK, n = sl_min(CHUNK, op->seq - t);
        size_t keys = (size_t)(n * o->key_dim) * sizeof(float);
        read_keys(&c, t, n, key_head);
        memset(c.s.dq, 0, keys), memset(c.s.dk, 0, keys);
        for (int64_t h = 0; h < shared; h++) {
            chunk_back(&c, t, n, first + h, c.s.state + h * size);
            put(&c, t, n, column_v(o, first + h), o->value_dim, c.s.result);
            gates_back(&c, t, n, first + h, sum);
        }
        normalise_back(&c, n, query_scale(o), c.s.q, c.s.rq, c.s.dq);
        normalise_back(&c, n, 1, c.s.k, c.s.rk, c.s.dk);
        put(&c, t, n, column_q(o, key_head), o->key_dim, c.s.dq);
        put(&c, t, n, column_k(o, key_head), o->key_dim, c.s.dk);
    }
    return 0;
}

/* 0 for the columns that are not its own. */
static int clear(const sl_op *op, const sl_exec *x, const sl_span *span) {
    if (op->acc[0])
        return 0;
    sl_clear_columns(x, op->din[0], span->first, span->n, 0, of(op)->first);
    sl_clear_columns(x, op->din[0], span->first, span->n, end_column(of(op)), x->info[op->din[0]].ld);
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
static sl_split by_key_heads(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.parts = of(op)->key_heads};
}
static sl_split by_params(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.items = decays[of(op)->decay].learns ? PARAMS : 0};
}

static const sl_op_kind delta = {
    .name = "delta",
    .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = forward, .split = by_heads}),
    .backward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = backward, .split = by_key_heads},
                          {.cut = SL_CUT_ROWS, .run = clear},
                          {.cut = SL_CUT_FOLD, .run = fold, .split = by_params}),
    .adds = true};
static const sl_op_kind cached_delta = {
    .name = "cached_delta", .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = decode, .split = by_heads})};

/* ---- building */

static void draw_a_log(const sl_tensor *t, sl_rng *rng, float *w) {
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)log(.01 + 15.99 * sl_rng_uniform(rng));
}

static void declare(sl_program *b, sl_op *op, const char *prefix, int64_t heads) {
    const sl_param_spec specs[PARAMS] = {
        [DT_BIAS] = {.name = "dt_bias", .rows = heads, .init = SL_INIT_DRAW, .draw = sl_draw_dt_bias,
                     .decay = SL_DECAY_NONE},
        [A_LOG] = {.name = "A_log", .rows = heads, .init = SL_INIT_DRAW, .draw = draw_a_log, .decay = SL_DECAY_NONE}};
    for (int i = 0; i < PARAMS; i++)
        op->param[i] = sl_program_param(b, prefix, &specs[i]);
}

sl_buf sl_build_delta(sl_program *b, sl_scope scope, const char *prefix, sl_buf in, const sl_delta *how) {
    sl_op *op = sl_program_op(b, b->cache ? &cached_delta : &delta, scope);
    sl_delta *own = sl_program_own(b, op, sizeof *own);
    if (!own)
        return in;
    *own = *how;
    if (decays[how->decay].learns)
        declare(b, op, prefix, how->heads);
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = b->buffer[in].cols;
    op->dim_out = how->heads * how->value_dim;
    if (b->cache) {
        op->saved[1] = sl_program_lasting(b, b->batch * how->heads, state_size(how));
    } else {
        op->saved[0] = sl_program_buffer(b, b->batch * how->heads * 2, op->seq);
        if (b->training) {
            op->saved[1] = sl_program_buffer(b, b->batch * how->heads * chunks(op), state_size(how));
            op->shared_bytes = (size_t)(b->batch * PARAMS * how->heads) * sizeof(float);
        }
    }
    sl_carver size = {0};
    scratch_of(op, &size);
    op->worker_bytes = size.used;
    op->flops = (how->rule ? 7.0 : 5.0) * (double)(op->rows * how->heads * state_size(how));
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}

const sl_delta *sl_delta_of(const sl_op *op) {
    return op && (op->kind == &delta || op->kind == &cached_delta) ? op->own : NULL;
}

/* ---- for probes */

static sl_recurrence_sizes sizes(const sl_op *op) {
    const sl_delta *o = of(op);
    return (sl_recurrence_sizes){.heads = o->heads, .key_dim = o->key_dim, .value_dim = o->value_dim, .rule = o->rule,
                                 .decays = o->decay != SL_DELTA_NO_DECAY, .weighs = o->rule};
}

/* Columns of all rows of a window as the recurrence has them, and their lengths before. */
static void copy_unit(const sl_op *op, const sl_exec *x, int64_t row0, int64_t col, double scale, float *to,
                      float *length) {
    int64_t d = of(op)->key_dim;
    sl_columns from = sl_read_columns(x, op->in[0], row0, op->seq, col, d, to);
    for (int64_t t = 0; t < op->seq; t++) {
        double square = x->k->sumsq(d, from.p + t * from.ld);
        double factor = of(op)->unit ? scale / sqrt(square + 1e-6) : scale;
        for (int64_t j = 0; j < d; j++)
            to[t * d + j] = (float)(factor * (double)from.p[t * from.ld + j]);
        length[t] = (float)sqrt(square);
    }
}

static void head_of(const sl_op *op, const sl_exec *x, int64_t window, int64_t head, sl_recurrence_head *to) {
    const sl_delta *o = of(op);
    int64_t key_head = head / shared_by(o), row0 = window * op->seq, n = o->value_dim;
    copy_unit(op, x, row0, column_q(o, key_head), query_scale(o), to->q, to->length);
    copy_unit(op, x, row0, column_k(o, key_head), 1, to->k, to->length);
    sl_columns v = sl_read_columns(x, op->in[0], row0, op->seq, column_v(o, head), n, to->v);
    for (int64_t t = 0; v.p != to->v && t < op->seq; t++)
        memcpy(to->v + t * n, v.p + t * v.ld, (size_t)n * sizeof *to->v);
    const float *decay_at = gates_at(op, x, window, head);
    memcpy(to->decay, decay_at, (size_t)op->seq * sizeof *to->decay);
    memcpy(to->weight, decay_at + op->seq, (size_t)op->seq * sizeof *to->weight);
    to->skip = 0;
}

const sl_recurrence_kind sl_delta_recurrence = {sizes, head_of};
