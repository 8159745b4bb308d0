#include "bounded.h"
#include "kern.h"

#include <stdlib.h>

/* The gated delta rule of one head. */
struct shape {
    int64_t rows, m, n;
    int rule, keep, with_o;
};

enum { FV, FGATE, FQK, FS, FE, FO };
enum { BE, BGATE, BQK, BS, BDO, BDS, BDV, BDGATE, BDQK };

/* gate: [decay, beta] x rows; qk: rows of [q | k] */
static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    const float *gate = k_f32(c, FGATE), *qk = k_f32(c, FQK);
    t->delta_fwd(a->rows, a->m, a->n, qk, qk + a->n, k_ld(c, FQK), k_f32(c, FV), k_ld(c, FV), gate,
                 gate + k_ld(c, FGATE), a->rule, k_f32(c, FS), a->keep ? a->m * a->n : 0, k_f32(c, FE), k_ld(c, FE),
                 a->with_o ? k_f32(c, FO) : NULL, k_ld(c, FO));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    const float *gate = k_f32(c, BGATE), *qk = k_f32(c, BQK);
    float *dgate = k_f32(c, BDGATE), *dqk = k_f32(c, BDQK);
    t->delta_bwd(a->rows, a->m, a->n, qk, qk + a->n, k_ld(c, BQK), gate, gate + k_ld(c, BGATE), a->rule, k_f32(c, BS),
                 k_f32(c, BE), k_ld(c, BE), k_f32(c, BDO), k_ld(c, BDO), k_f32(c, BDS), k_f32(c, BDV), k_ld(c, BDV),
                 dgate, dgate + k_ld(c, BDGATE), dqk, dqk + a->n, k_ld(c, BDQK));
}

static num exact(double v) { return (num){v, 0}; }

/* Keys of about unit length, as the rule is stable with; decay and beta in [0, 1], often at an end. */
static k_buf *inputs(k_case *c, const struct shape *a, const char *name, enum k_data kind) {
    k_buf *x = k_add(c, name, K_F32, K_IN, a->rows, a->m, k_stride(c, a->m));
    k_buf *gate = k_add(c, "gate", K_F32, K_IN, 2, a->rows, k_stride(c, a->rows));
    k_buf *qk = k_add(c, "qk", K_F32, K_IN, a->rows, 2 * a->n, k_stride(c, 2 * a->n));
    k_fill(c, x, kind);
    k_fill_normal(c, qk, 0, 1 / sqrt((double)(a->n ? a->n : 1)));
    for (int64_t i = 0; i < 2 * a->rows; i++)
        ((float *)gate->init)[i] = (float)fmin(1, fmax(0, 1.4 * sl_rng_uniform(&c->rng) - 0.2));
    return x;
}

static void fwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t rows = a->rows, m = a->m, n = a->n, size = m * n, states = a->keep ? rows + 1 : 1;
    k_begin(c, call_fwd, a, "rows=%d m=%d n=%d rule=%d keep=%d o=%d %s", (int)rows, (int)m, (int)n, a->rule, a->keep,
            a->with_o, k_data_name(kind));
    k_buf *v = inputs(c, a, "v", kind), *gate = v + 1, *qk = v + 2;
    k_buf *s = k_add(c, "s", K_F32, K_INOUT, states, size, size);
    k_buf *e = k_add(c, "e", K_F32, K_OUT, rows, m, k_stride(c, m));
    k_buf *o = k_add(c, "o", K_F32, a->with_o ? K_OUT : K_IN, rows, m, k_stride(c, m));
    k_fill_normal(c, s, 0, 1);
    if (!a->with_o)
        k_fill_normal(c, o, 0, 1);
    num *now = calloc((size_t)size + 1, sizeof *now);
    for (int64_t i = 0; i < size; i++)
        want(s, i, now[i] = exact(at(s, i)));
    for (int64_t t = 0; t < rows; t++)
        for (int64_t r = 0; r < m; r++) {
            double decay = at(gate, t), beta = at(gate, rows + t);
            total known = {0}, out = {0};
            for (int64_t i = 0; i < n; i++)
                add(&known, at(qk, t * 2 * n + n + i), now[r * n + i]);
            num lacks = exact(at(v, t * m + r));
            if (a->rule)
                lacks = combine(1, lacks, -decay, sum_of(&known));
            want(e, t * m + r, lacks);
            num write = product(exact(beta), lacks);
            for (int64_t i = 0; i < n; i++) {
                num *x = &now[r * n + i];
                *x = combine(at(qk, t * 2 * n + n + i), write, decay, *x);
                add(&out, at(qk, t * 2 * n + i), *x);
                want(s, (a->keep ? (t + 1) * size : 0) + r * n + i, *x);
            }
            if (a->with_o)
                want(o, t * m + r, sum_of(&out));
        }
    free(now);
    k_run(c);
}

/* What sums of a row are about: dq and dk; gates. */
typedef struct {
    total *qk, dlog, dbeta;
} sums;

/* One channel of one row: g [n] is the gradient of its state, and returned is that of v. */
static num bwd_channel(int64_t n, int rule, double decay, double beta, double e, double dout, const float *q,
                       const float *k, const float *before, const float *after, num *g, sums *s) {
    total dsk = {0};
    for (int64_t i = 0; i < n; i++) {
        g[i] = combine(1, g[i], dout, exact((double)q[i]));
        add(&s->qk[i], dout, exact((double)after[i]));
        add(&dsk, (double)k[i], g[i]);
    }
    num du = sum_of(&dsk), dv = product(exact(beta), du), u = product(exact(beta), exact(e));
    num back = rule ? (num){-dv.v, dv.e} : exact(0);
    add(&s->dbeta, e, du);
    for (int64_t i = 0; i < n; i++) {
        num old = product(exact(decay), exact((double)before[i]));
        add(&s->qk[n + i], 1, product(u, g[i]));
        add(&s->qk[n + i], 1, product(back, old));
        g[i] = combine((double)k[i], back, 1, g[i]);
        add(&s->dlog, 1, product(g[i], old));
        g[i] = product(exact(decay), g[i]);
    }
    return dv;
}

static void bwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t rows = a->rows, m = a->m, n = a->n, size = m * n;
    k_begin(c, call_bwd, a, "rows=%d m=%d n=%d rule=%d %s", (int)rows, (int)m, (int)n, a->rule, k_data_name(kind));
    k_buf *e = inputs(c, a, "e", kind), *gate = e + 1, *qk = e + 2;
    k_buf *s = k_add(c, "s", K_F32, K_IN, rows + 1, size, size);
    k_buf *dout = k_add(c, "dout", K_F32, K_IN, rows, m, k_stride(c, m));
    k_buf *ds = k_add(c, "ds", K_F32, K_INOUT, m, n, n), *dv = k_add(c, "dv", K_F32, K_OUT, rows, m, k_stride(c, m));
    k_buf *dgate = k_add(c, "dgate", K_F32, K_INOUT, 2, rows, k_stride(c, rows));
    k_buf *dqk = k_add(c, "dqk", K_F32, K_INOUT, rows, 2 * n, k_stride(c, 2 * n));
    k_buf *filled[] = {s, dout, ds, dgate, dqk};
    for (int i = 0; i < 5; i++)
        k_fill_normal(c, filled[i], 0, 1);
    num *g = calloc((size_t)size + 1, sizeof *g);
    sums sum = {.qk = calloc((size_t)(2 * n) + 1, sizeof(total))};
    for (int64_t i = 0; i < size; i++)
        g[i] = exact(at(ds, i));
    for (int64_t t = rows - 1; t >= 0; t--) {
        sum.dlog = sum.dbeta = (total){0};
        add(&sum.dlog, 1, exact(at(dgate, t))), add(&sum.dbeta, 1, exact(at(dgate, rows + t)));
        for (int64_t i = 0; i < 2 * n; i++) {
            sum.qk[i] = (total){0};
            add(&sum.qk[i], 1, exact(at(dqk, t * 2 * n + i)));
        }
        for (int64_t r = 0; r < m; r++) {
            const float *q = (const float *)qk->init + t * 2 * n, *state = (const float *)s->init + t * size + r * n;
            want(dv, t * m + r, bwd_channel(n, a->rule, at(gate, t), at(gate, rows + t), at(e, t * m + r),
                                            at(dout, t * m + r), q, q + n, state, state + size, g + r * n, &sum));
        }
        want(dgate, t, sum_of(&sum.dlog)), want(dgate, rows + t, sum_of(&sum.dbeta));
        for (int64_t i = 0; i < 2 * n; i++)
            want(dqk, t * 2 * n + i, sum_of(&sum.qk[i]));
    }
    for (int64_t i = 0; i < size; i++)
        want(ds, i, g[i]);
    free(g), free(sum.qk);
    k_run(c);
}

static void check(k_case *c, void (*one)(k_case *, const struct shape *, enum k_data)) {
    static const int rows[] = {1, 3, 0, 2, 9}, states[] = {1, 2, 7, 8, 16, 17, 31, 64, 65, 128, 0};
    static const enum k_data kinds[] = {K_NORMAL, K_CONST, K_OUTLIER, K_DENORMAL, K_ZEROS, K_NAN};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
            struct shape a = {rows[(i + kind) % 5], k_range(c, 0, 9), states[i], (int)k_range(c, 0, 1),
                              (int)k_range(c, 0, 1), (int)k_range(c, 0, 1)};
            one(c, &a, kinds[kind]);
        }
}
static void check_fwd(k_case *c) { check(c, fwd_case); }
static void check_bwd(k_case *c) { check(c, bwd_case); }

enum { ROWS = 64, M = 8, N = 32 };
static const struct shape bench_shape = {ROWS, M, N, 1, 0, 1};

static void bench_fwd(k_case *c) {
    k_begin(c, call_fwd, &bench_shape, "64 rows, 8 channels of state 32");
    inputs(c, &bench_shape, "v", K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_INOUT, 1, M * N, M * N), 0, 1);
    k_add(c, "e", K_F32, K_OUT, ROWS, M, M);
    k_add(c, "o", K_F32, K_OUT, ROWS, M, M);
    c->flops = 7 * ROWS * M * N;
    c->bytes = 12 * ROWS * M * N;
}

static void bench_bwd(k_case *c) {
    k_begin(c, call_bwd, &bench_shape, "64 rows, 8 channels of state 32");
    inputs(c, &bench_shape, "e", K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, ROWS + 1, M * N, M * N), 0, 1);
    k_fill_normal(c, k_add(c, "dout", K_F32, K_IN, ROWS, M, M), 0, 1);
    k_fill_normal(c, k_add(c, "ds", K_F32, K_INOUT, M, N, N), 0, 1);
    k_add(c, "dv", K_F32, K_OUT, ROWS, M, M);
    k_fill_normal(c, k_add(c, "dgate", K_F32, K_INOUT, 2, ROWS, ROWS), 0, 1);
    k_fill_normal(c, k_add(c, "dqk", K_F32, K_INOUT, ROWS, 2 * N, 2 * N), 0, 1);
    c->flops = 16 * ROWS * M * N;
    c->bytes = 24 * ROWS * M * N;
}

const k_kernel k_delta[] = {
    K_KERNEL(delta_fwd, check_fwd, bench_fwd, 0),
    K_KERNEL(delta_bwd, check_bwd, bench_bwd, 0),
    {0},
};
