#include "bounded.h"
#include "kern.h"

#include <stdlib.h>

/* The gated delta rule of one head. */
struct shape {
    int64_t rows, m, n;
    int rule, keep, with_o;
};

enum { FV, FGATE, FQK, FS, FE, FO, FWORK };
enum { BE, BGATE, BQK, BS, BDO, BDS, BDV, BDGATE, BDQK, BWORK };

static int64_t groups(const struct shape *a) { return (a->rows + SL_DELTA_GROUP - 1) / SL_DELTA_GROUP; }

/* gate: [decay, beta] x rows; qk: rows of [q | k] */
static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    const float *gate = k_f32(c, FGATE), *qk = k_f32(c, FQK);
    t->delta_fwd(a->rows, a->m, a->n, qk, qk + a->n, k_ld(c, FQK), k_f32(c, FV), k_ld(c, FV), gate,
                 gate + k_ld(c, FGATE), a->rule, k_f32(c, FS), a->keep ? a->m * a->n : 0, k_f32(c, FE), k_ld(c, FE),
                 a->with_o ? k_f32(c, FO) : NULL, k_ld(c, FO), k_f32(c, FWORK));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    const float *gate = k_f32(c, BGATE), *qk = k_f32(c, BQK);
    float *dgate = k_f32(c, BDGATE), *dqk = k_f32(c, BDQK);
    t->delta_bwd(a->rows, a->m, a->n, qk, qk + a->n, k_ld(c, BQK), gate, gate + k_ld(c, BGATE), a->rule, k_f32(c, BS),
                 k_f32(c, BE), k_ld(c, BE), k_f32(c, BDO), k_ld(c, BDO), k_f32(c, BDS), k_f32(c, BDV), k_ld(c, BDV),
                 dgate, dgate + k_ld(c, BDGATE), dqk, dqk + a->n, k_ld(c, BDQK), k_f32(c, BWORK));
}

static num exact(double v) { return (num){v, 0}; }

/* Keys of about unit length, as the rule is stable with; decay and beta in [0, 1], often at an end. */
static k_buf *inputs(k_case *c, const struct shape *a, const char *name, enum k_data kind) {
    k_buf *x = k_add(c, name, K_F32, K_IN, a->rows, a->m, k_stride(c, a->m));
    k_buf *gate = k_add(c, "gate", K_F32, K_IN, 2, a->rows, k_stride(c, a->rows));
    k_buf *qk = k_add(c, "qk", K_F32, K_IN, a->rows, 2 * a->n, k_stride(c, 2 * a->n));
    k_fill(c, x, kind);
    k_fill_normal(c, qk, 0, 1 / sqrt((double)a->n));
    for (int64_t i = 0; i < 2 * a->rows; i++)
        ((float *)gate->init)[i] = (float)fmin(1, fmax(0, 1.4 * sl_rng_uniform(&c->rng) - 0.2));
    return x;
}

/* A number of a state or its gradient, and the sum of the absolute values of what a group added to it: terms are summed
 * apart, and one that another cancels has its rounding still. */
typedef struct {
    num x;
    double parts;
} cell;

/* What a term goes through beside its sum: decays, of state and of gradient, and the sum over rows, of each. */
enum { PASSED = 4 * SL_DELTA_GROUP };

static cell begun(double v) { return (cell){exact(v), fabs(v)}; }
static void add_cell(total *s, double a, cell x) {
    add(s, a, x.x);
    s->size += fabs(a) * (x.parts - fabs(x.x.v));
}
/* a x + b y with a rounding of the product, of the decay and of the sum. */
static cell join(double a, num x, double b, cell y) {
    cell r = {combine(a, x, b, y.x), fabs(a * x.v) + fabs(b) * y.parts};
    r.x.e += 3 * 1.01 * U * r.parts;
    return r;
}
static cell times(num x, cell y) { return (cell){product(x, y.x), (fabs(x.v) + x.e) * y.parts}; }

static void add_work(k_case *c, const struct shape *a) {
    int64_t n = sl_delta_work(a->m, a->n);
    k_add(c, "work", K_F32, K_WORK, 1, n, n);
}

static void fwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t rows = a->rows, m = a->m, n = a->n, size = m * n, states = a->keep ? groups(a) + 1 : 1;
    k_begin(c, call_fwd, a, "rows=%d m=%d n=%d rule=%d keep=%d o=%d %s", (int)rows, (int)m, (int)n, a->rule, a->keep,
            a->with_o, k_data_name(kind));
    k_buf *v = inputs(c, a, "v", kind), *gate = v + 1, *qk = v + 2;
    k_buf *s = k_add(c, "s", K_F32, K_INOUT, states, size, size);
    k_buf *e = k_add(c, "e", K_F32, K_OUT, rows, m, k_stride(c, m));
    k_buf *o = k_add(c, "o", K_F32, a->with_o ? K_OUT : K_IN, rows, m, k_stride(c, m));
    k_fill_normal(c, s, 0, 1);
    if (!a->with_o)
        k_fill_normal(c, o, 0, 1);
    add_work(c, a);
    cell *now = calloc((size_t)size + 1, sizeof *now);
    for (int64_t i = 0; i < size; i++)
        want(s, i, exact(at(s, i))), now[i] = begun(at(s, i));
    for (int64_t t = 0; t < rows; t++) {
        for (int64_t i = 0; t % SL_DELTA_GROUP == 0 && i < size; i++)
            now[i].parts = fabs(now[i].x.v);
        for (int64_t r = 0; r < m; r++) {
            double decay = at(gate, t), beta = at(gate, rows + t);
            total known = {.n = PASSED}, out = {.n = PASSED};
            for (int64_t i = 0; i < n; i++)
                add_cell(&known, at(qk, t * 2 * n + n + i), now[i * m + r]);
            num lacks = exact(at(v, t * m + r));
            if (a->rule) { /* what a row of the group takes away rounds by itself */
                lacks = combine(1, lacks, -decay, sum_of(&known));
                lacks.e += SL_DELTA_GROUP * 1.01 * U * (fabs(at(v, t * m + r)) + decay * known.size);
            }
            want(e, t * m + r, lacks);
            num write = product(exact(beta), lacks);
            for (int64_t i = 0; i < n; i++) {
                cell *x = &now[i * m + r];
                *x = join(at(qk, t * 2 * n + n + i), write, decay, *x);
                add_cell(&out, at(qk, t * 2 * n + i), *x);
                want(s, (a->keep ? (t / SL_DELTA_GROUP + 1) * size : 0) + i * m + r, x->x);
            }
            if (a->with_o)
                want(o, t * m + r, sum_of(&out));
        }
    }
    free(now);
    k_run(c);
}

/* What sums of a row are about: dq and dk; gates. */
typedef struct {
    total *qk, dlog, dbeta;
} sums;

/* One channel of one row: g is the gradient of its state, before and after the state around the row, all [n, m].
 * Returns the gradient of v. */
static num bwd_channel(const struct shape *a, double decay, double beta, double e, double dout, const float *q,
                       const float *k, const cell *before, const cell *after, cell *g, sums *s) {
    int64_t n = a->n, m = a->m;
    total dsk = {.n = PASSED};
    for (int64_t i = 0; i < n; i++) {
        g[i * m] = join(dout, exact((double)q[i]), 1, g[i * m]);
        add_cell(&s->qk[i], dout, after[i * m]);
        add_cell(&dsk, (double)k[i], g[i * m]);
    }
    num du = sum_of(&dsk), dv = product(exact(beta), du), u = product(exact(beta), exact(e));
    num back = a->rule ? (num){-dv.v, dv.e} : exact(0);
    add(&s->dbeta, e, du);
    for (int64_t i = 0; i < n; i++) {
        cell old = times(exact(decay), before[i * m]);
        add_cell(&s->qk[n + i], 1, times(u, g[i * m]));
        if (a->rule)
            add_cell(&s->qk[n + i], 1, times(back, old));
        g[i * m] = join((double)k[i], back, 1, g[i * m]);
        cell both = times(g[i * m].x, old);
        both.parts = g[i * m].parts * old.parts;
        add_cell(&s->dlog, 1, both);
        g[i * m] = times(exact(decay), g[i * m]);
    }
    return dv;
}

/* States of rows first to end of a group, from its first in s; e need not be what memory lacks of anything. */
static void states_of(const struct shape *a, int64_t first, int64_t end, const k_buf *s, const k_buf *e,
                      const k_buf *gate, const k_buf *qk, cell *to) {
    int64_t m = a->m, n = a->n, size = m * n;
    for (int64_t i = 0; i < size; i++)
        to[i] = begun(at(s, first / SL_DELTA_GROUP * size + i));
    for (int64_t t = first; t < end; t++, to += size)
        for (int64_t i = 0; i < size; i++) {
            num write = product(exact(at(gate, a->rows + t)), exact(at(e, t * m + i % m)));
            to[size + i] = join(at(qk, t * 2 * n + n + i / m), write, at(gate, t), to[i]);
        }
}

static void bwd_row(const struct shape *a, int64_t t, const k_buf *at_e, const cell *before, cell *g, sums *sum) {
    int64_t rows = a->rows, m = a->m, n = a->n;
    const k_buf *e = at_e, *gate = e + 1, *qk = e + 2, *dout = e + BDO - BE;
    k_buf *dv = (k_buf *)(e + BDV - BE), *dgate = (k_buf *)(e + BDGATE - BE), *dqk = (k_buf *)(e + BDQK - BE);
    sum->dlog = sum->dbeta = (total){.n = PASSED + n};
    add(&sum->dlog, 1, exact(at(dgate, t))), add(&sum->dbeta, 1, exact(at(dgate, rows + t)));
    for (int64_t i = 0; i < 2 * n; i++) {
        sum->qk[i] = (total){.n = PASSED + n};
        add(&sum->qk[i], 1, exact(at(dqk, t * 2 * n + i)));
    }
    for (int64_t r = 0; r < m; r++) {
        const float *q = (const float *)qk->init + t * 2 * n;
        want(dv, t * m + r, bwd_channel(a, at(gate, t), at(gate, rows + t), at(e, t * m + r), at(dout, t * m + r), q,
                                        q + n, before + r, before + m * n + r, g + r, sum));
    }
    want(dgate, t, sum_of(&sum->dlog)), want(dgate, rows + t, sum_of(&sum->dbeta));
    for (int64_t i = 0; i < 2 * n; i++)
        want(dqk, t * 2 * n + i, sum_of(&sum->qk[i]));
}

static void bwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t rows = a->rows, m = a->m, n = a->n, size = m * n;
    k_begin(c, call_bwd, a, "rows=%d m=%d n=%d rule=%d %s", (int)rows, (int)m, (int)n, a->rule, k_data_name(kind));
    k_buf *e = inputs(c, a, "e", kind), *gate = e + 1, *qk = e + 2;
    k_buf *s = k_add(c, "s", K_F32, K_IN, groups(a), size, size);
    k_buf *dout = k_add(c, "dout", K_F32, K_IN, rows, m, k_stride(c, m));
    k_buf *ds = k_add(c, "ds", K_F32, K_INOUT, n, m, m);
    k_add(c, "dv", K_F32, K_OUT, rows, m, k_stride(c, m));
    k_buf *dgate = k_add(c, "dgate", K_F32, K_INOUT, 2, rows, k_stride(c, rows));
    k_buf *dqk = k_add(c, "dqk", K_F32, K_INOUT, rows, 2 * n, k_stride(c, 2 * n));
    add_work(c, a);
    k_buf *filled[] = {s, dout, ds, dgate, dqk};
    for (int i = 0; i < 5; i++)
        k_fill_normal(c, filled[i], 0, 1);
    cell *g = calloc((size_t)size + 1, sizeof *g);
    cell *states = calloc((size_t)((SL_DELTA_GROUP + 1) * size) + 1, sizeof *states);
    sums sum = {.qk = calloc((size_t)(2 * n) + 1, sizeof(total))};
    for (int64_t i = 0; i < size; i++)
        g[i].x = exact(at(ds, i));
    for (int64_t group = groups(a) - 1; group >= 0; group--) {
        int64_t first = group * SL_DELTA_GROUP, end = first + SL_DELTA_GROUP < rows ? first + SL_DELTA_GROUP : rows;
        states_of(a, first, end, s, e, gate, qk, states);
        for (int64_t i = 0; i < size; i++)
            g[i].parts = fabs(g[i].x.v);
        for (int64_t t = end - 1; t >= first; t--)
            bwd_row(a, t, e, states + (t - first) * size, g, &sum);
    }
    for (int64_t i = 0; i < size; i++)
        want(ds, i, g[i].x);
    free(g), free(states), free(sum.qk);
    k_run(c);
}

static void check(k_case *c, void (*one)(k_case *, const struct shape *, enum k_data)) {
    static const int rows[] = {1, 3, 0, 17, 9, 8, 5}, states[] = {1, 2, 7, 8, 16, 17, 31, 64, 65, 128, 3};
    static const enum k_data kinds[] = {K_NORMAL, K_CONST, K_OUTLIER, K_DENORMAL, K_ZEROS, K_NAN};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
            struct shape a = {rows[(i + kind) % 7], k_range(c, 0, 9), states[i], (int)k_range(c, 0, 1),
                              (int)k_range(c, 0, 1), (int)k_range(c, 0, 1)};
            one(c, &a, kinds[kind]);
        }
}
static void check_fwd(k_case *c) { check(c, fwd_case); }
static void check_bwd(k_case *c) { check(c, bwd_case); }

enum { ROWS = 64, M = 64, N = 32 };
static const struct shape bench_shape = {ROWS, M, N, 1, 0, 1};

static void bench_fwd(k_case *c) {
    k_begin(c, call_fwd, &bench_shape, "64 rows, 64 channels of state 32");
    inputs(c, &bench_shape, "v", K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_INOUT, 1, M * N, M * N), 0, 1);
    k_add(c, "e", K_F32, K_OUT, ROWS, M, M);
    k_add(c, "o", K_F32, K_OUT, ROWS, M, M);
    add_work(c, &bench_shape);
    c->flops = 7 * ROWS * M * N;
    c->bytes = 12 * ROWS * M * N;
}

static void bench_bwd(k_case *c) {
    k_begin(c, call_bwd, &bench_shape, "64 rows, 64 channels of state 32");
    inputs(c, &bench_shape, "e", K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, groups(&bench_shape), M * N, M * N), 0, 1);
    k_fill_normal(c, k_add(c, "dout", K_F32, K_IN, ROWS, M, M), 0, 1);
    k_fill_normal(c, k_add(c, "ds", K_F32, K_INOUT, N, M, M), 0, 1);
    k_add(c, "dv", K_F32, K_OUT, ROWS, M, M);
    k_fill_normal(c, k_add(c, "dgate", K_F32, K_INOUT, 2, ROWS, ROWS), 0, 1);
    k_fill_normal(c, k_add(c, "dqk", K_F32, K_INOUT, ROWS, 2 * N, 2 * N), 0, 1);
    add_work(c, &bench_shape);
    c->flops = 16 * ROWS * M * N;
    c->bytes = 24 * ROWS * M * N;
}

const k_kernel k_delta[] = {
    K_KERNEL(delta_fwd, check_fwd, bench_fwd, 0),
    K_KERNEL(delta_bwd, check_bwd, bench_bwd, 0),
    {0},
};
