#include "bounded.h"
#include "kern.h"

#include <stdlib.h>

/* RWKV-7's recurrence of one head. Errors run through it as the state does, so the references carry a bound beside each
 * number. */
struct shape {
    int64_t rows, m, n;
    int keep, with_y;
};

/* rw: rows of [r | w]; kab: rows of [k | at | by] */
enum { RW, KAB, V, S, F_E, F_Y };
/* B_GRADIENTS: dr, dw, dk, dat and dby, one behind the other */
enum { B_E = S + 1, B_DY, B_DS, B_GRADIENTS, B_DV };

static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    const float *rw = k_f32(c, RW), *kab = k_f32(c, KAB);
    t->rwkv7_fwd(a->rows, a->m, a->n, rw, k_ld(c, RW), rw + a->n, k_ld(c, RW), kab, kab + a->n, kab + 2 * a->n,
                 k_ld(c, KAB), k_f32(c, V), k_ld(c, V), k_f32(c, S), a->keep ? a->m * a->n : 0, k_f32(c, F_E),
                 k_ld(c, F_E), a->with_y ? k_f32(c, F_Y) : NULL, k_ld(c, F_Y));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    const float *rw = k_f32(c, RW), *kab = k_f32(c, KAB);
    float *g = k_f32(c, B_GRADIENTS);
    int64_t each = a->rows * a->n;
    t->rwkv7_bwd(a->rows, a->m, a->n, rw, k_ld(c, RW), rw + a->n, k_ld(c, RW), kab, kab + a->n, kab + 2 * a->n,
                 k_ld(c, KAB), k_f32(c, V), k_ld(c, V), k_f32(c, S), k_f32(c, B_E), k_ld(c, B_E), k_f32(c, B_DY),
                 k_ld(c, B_DY), k_f32(c, B_DS), g, g + each, g + 2 * each, g + 3 * each, g + 4 * each, k_f32(c, B_DV),
                 k_ld(c, B_DV));
}

/* States neither grow nor fade at once. */
static k_buf *inputs(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t n = a->n;
    k_buf *rw = k_add(c, "rw", K_F32, K_IN, a->rows, 2 * n, k_stride(c, 2 * n));
    k_buf *kab = k_add(c, "kab", K_F32, K_IN, a->rows, 3 * n, k_stride(c, 3 * n));
    k_buf *v = k_add(c, "v", K_F32, K_IN, a->rows, a->m, k_stride(c, a->m));
    k_fill_normal(c, rw, 0, 1);
    k_fill_normal(c, kab, 0, (float)(.7 / sqrt((double)n)));
    k_fill(c, v, kind);
    for (int64_t t = 0; t < a->rows; t++)
        for (int64_t i = 0; i < n; i++)
            ((float *)rw->init)[t * 2 * n + n + i] = (float)fmin(1, fmax(0, 1.4 * sl_rng_uniform(&c->rng) - .2));
    return rw;
}

static num exact(double x) { return (num){x, 0}; }

static void fwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t rows = a->rows, m = a->m, n = a->n, size = m * n, states = a->keep ? rows + 1 : 1;
    k_begin(c, call_fwd, a, "rows=%d m=%d n=%d keep=%d y=%d %s", (int)rows, (int)m, (int)n, a->keep, a->with_y,
            k_data_name(kind));
    k_buf *rw = inputs(c, a, kind), *kab = rw + 1, *v = rw + 2;
    k_buf *s = k_add(c, "s", K_F32, K_INOUT, states, size, size);
    k_buf *e = k_add(c, "e", K_F32, K_OUT, rows, m, k_stride(c, m));
    k_buf *y = k_add(c, "y", K_F32, a->with_y ? K_OUT : K_IN, rows, m, k_stride(c, m));
    k_fill_normal(c, s, 0, 1);
    if (!a->with_y)
        k_fill_normal(c, y, 0, 1);
    num *state = calloc((size_t)size + 1, sizeof *state);
    for (int64_t i = 0; i < size; i++)
        want(s, i, state[i] = exact(at(s, i)));
    for (int64_t t = 0; t < rows; t++)
        for (int64_t r = 0; r < m; r++) {
            total held = {0}, sum = {0};
            for (int64_t i = 0; i < n; i++)
                add(&held, at(kab, t * 3 * n + n + i), state[r * n + i]);
            num taken = sum_of(&held);
            want(e, t * m + r, taken);
            for (int64_t i = 0; i < n; i++) {
                num *one = &state[r * n + i];
                total next = {0};
                add(&next, at(rw, t * 2 * n + n + i), *one);
                add(&next, -at(kab, t * 3 * n + 2 * n + i), taken);
                add(&next, at(v, t * m + r), exact(at(kab, t * 3 * n + i)));
                *one = sum_of(&next);
                add(&sum, at(rw, t * 2 * n + i), *one);
                want(s, (a->keep ? (t + 1) * size : 0) + r * n + i, *one);
            }
            if (a->with_y)
                want(y, t * m + r, sum_of(&sum));
        }
    free(state);
    k_run(c);
}

/* Of one row: g, the gradient of the state behind it, becomes that before it. */
static void row_back(k_case *c, const struct shape *a, int64_t t, num *g, total (*sums)[5]) {
    int64_t m = a->m, n = a->n, size = m * n;
    k_buf *b = c->buf;
    for (int64_t r = 0; r < m; r++) {
        double vr = at(b + V, t * m + r), er = at(b + B_E, t * m + r), dy = at(b + B_DY, t * m + r);
        total dv = {0}, de = {0};
        for (int64_t i = 0; i < n; i++) {
            num *d = &g[r * n + i];
            double before = at(b + S, t * size + r * n + i), after = at(b + S, (t + 1) * size + r * n + i);
            *d = combine(1, *d, dy, exact(at(b + RW, t * 2 * n + i)));
            add(&sums[i][0], dy, exact(after));
            add(&sums[i][1], before, *d);
            add(&sums[i][2], vr, *d);
            add(&sums[i][4], -er, *d);
            add(&dv, at(b + KAB, t * 3 * n + i), *d);
            add(&de, -at(b + KAB, t * 3 * n + 2 * n + i), *d);
        }
        num back = sum_of(&de);
        want(b + B_DV, t * m + r, sum_of(&dv));
        for (int64_t i = 0; i < n; i++) {
            num *d = &g[r * n + i];
            add(&sums[i][3], at(b + S, t * size + r * n + i), back);
            *d = combine(at(b + RW, t * 2 * n + n + i), *d, at(b + KAB, t * 3 * n + n + i), back);
        }
    }
}

static void bwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t rows = a->rows, m = a->m, n = a->n, size = m * n;
    k_begin(c, call_bwd, a, "rows=%d m=%d n=%d %s", (int)rows, (int)m, (int)n, k_data_name(kind));
    inputs(c, a, kind);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, rows + 1, size, size), 0, 1);
    k_fill_normal(c, k_add(c, "e", K_F32, K_IN, rows, m, k_stride(c, m)), 0, 1);
    k_fill_normal(c, k_add(c, "dy", K_F32, K_IN, rows, m, k_stride(c, m)), 0, 1);
    k_buf *ds = k_add(c, "ds", K_F32, K_INOUT, m, n, n);
    k_fill_normal(c, ds, 0, 1);
    k_fill_normal(c, k_add(c, "gradients", K_F32, K_INOUT, 5 * rows, n, n), 0, 1);
    k_add(c, "dv", K_F32, K_OUT, rows, m, k_stride(c, m));
    num *g = calloc((size_t)size + 1, sizeof *g);
    total(*sums)[5] = calloc((size_t)n + 1, sizeof *sums);
    for (int64_t i = 0; i < size; i++)
        g[i] = exact(at(ds, i));
    for (int64_t t = rows - 1; t >= 0; t--) {
        for (int64_t i = 0; i < 5 * n; i++) {
            sums[i / 5][i % 5] = (total){0};
            add(&sums[i / 5][i % 5], 1, exact(at(c->buf + B_GRADIENTS, (i % 5 * rows + t) * n + i / 5)));
        }
        row_back(c, a, t, g, sums);
        for (int64_t i = 0; i < 5 * n; i++)
            want(c->buf + B_GRADIENTS, (i % 5 * rows + t) * n + i / 5, sum_of(&sums[i / 5][i % 5]));
    }
    for (int64_t i = 0; i < size; i++)
        want(c->buf + B_DS, i, g[i]);
    free(g), free(sums);
    k_run(c);
}

static void check(k_case *c, void (*one)(k_case *, const struct shape *, enum k_data)) {
    static const int rows[] = {1, 3, 0, 2, 9}, states[] = {1, 2, 7, 8, 16, 17, 31, 64, 65, 128, 0};
    static const enum k_data kinds[] = {K_NORMAL, K_CONST, K_OUTLIER, K_DENORMAL, K_ZEROS, K_NAN};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
            struct shape a = {rows[(i + kind) % 5], k_range(c, 0, 9), states[i], (int)k_range(c, 0, 1),
                              (int)k_range(c, 0, 1)};
            one(c, &a, kinds[kind]);
        }
}
static void check_fwd(k_case *c) { check(c, fwd_case); }
static void check_bwd(k_case *c) { check(c, bwd_case); }

enum { ROWS = 64, M = 64, N = 64 };
static const struct shape bench_shape = {ROWS, M, N, 0, 1};

static void bench_fwd(k_case *c) {
    k_begin(c, call_fwd, &bench_shape, "64 rows, a head of 64 by 64");
    inputs(c, &bench_shape, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_INOUT, 1, M * N, M * N), 0, 1);
    k_add(c, "e", K_F32, K_OUT, ROWS, M, M);
    k_add(c, "y", K_F32, K_OUT, ROWS, M, M);
    c->flops = 9 * ROWS * M * N;
    c->bytes = 12 * ROWS * M * N;
}

static void bench_bwd(k_case *c) {
    k_begin(c, call_bwd, &bench_shape, "64 rows, a head of 64 by 64");
    inputs(c, &bench_shape, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, ROWS + 1, M * N, M * N), 0, 1);
    k_fill_normal(c, k_add(c, "e", K_F32, K_IN, ROWS, M, M), 0, 1);
    k_fill_normal(c, k_add(c, "dy", K_F32, K_IN, ROWS, M, M), 0, 1);
    k_fill_normal(c, k_add(c, "ds", K_F32, K_INOUT, M, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "gradients", K_F32, K_INOUT, 5 * ROWS, N, N), 0, 1);
    k_add(c, "dv", K_F32, K_OUT, ROWS, M, M);
    c->flops = 19 * ROWS * M * N;
    c->bytes = 28 * ROWS * M * N;
}

const k_kernel k_rwkv7[] = {
    K_KERNEL(rwkv7_fwd, check_fwd, bench_fwd, 0),
    K_KERNEL(rwkv7_bwd, check_bwd, bench_bwd, 0),
    {0},
};
