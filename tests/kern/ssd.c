#include "bounded.h"
#include "kern.h"

#include <stdlib.h>

/* Mamba-2's recurrence of one head. Errors run through it as the state does: what a row leaves is multiplied by the
 * decay of the next and rounded again, so the references carry a bound beside each number. */
struct shape {
    int64_t rows, p, n;
    int keep, with_y;
    float skip;
};

enum { FX, FGATE, FBC, FH, FY };
enum { BX, BGATE, BBC, BH, BDY, BDH, BDX, BDGATE, BDBC };

/* gate: [dt, decay] x rows; bc: rows of [b | c] */
static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    const float *gate = k_f32(c, FGATE), *bc = k_f32(c, FBC);
    t->ssd_fwd(a->rows, a->p, a->n, k_f32(c, FX), k_ld(c, FX), gate, gate + k_ld(c, FGATE), bc, bc + a->n, k_ld(c, FBC),
               a->skip, k_f32(c, FH), a->keep ? a->p * a->n : 0, a->with_y ? k_f32(c, FY) : NULL, k_ld(c, FY));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    const float *gate = k_f32(c, BGATE), *bc = k_f32(c, BBC);
    float *dgate = k_f32(c, BDGATE), *dbc = k_f32(c, BDBC);
    t->ssd_bwd(a->rows, a->p, a->n, k_f32(c, BX), k_ld(c, BX), gate, gate + k_ld(c, BGATE), bc, bc + a->n,
               k_ld(c, BBC), a->skip, k_f32(c, BH), k_f32(c, BDY), k_ld(c, BDY), k_f32(c, BDH), k_f32(c, BDX),
               k_ld(c, BDX), dgate, dgate + k_ld(c, BDGATE), dbc, dbc + a->n, k_ld(c, BDBC));
}

static k_buf *inputs(k_case *c, const struct shape *a, enum k_data kind) {
    k_buf *x = k_add(c, "x", K_F32, K_IN, a->rows, a->p, k_stride(c, a->p));
    k_buf *gate = k_add(c, "gate", K_F32, K_IN, 2, a->rows, k_stride(c, a->rows));
    k_buf *bc = k_add(c, "bc", K_F32, K_IN, a->rows, 2 * a->n, k_stride(c, 2 * a->n));
    k_fill(c, x, kind);
    k_fill_normal(c, bc, 0, 1);
    for (int64_t i = 0; i < 2 * a->rows; i++) /* decay in [0, 1], often near an end */
        ((float *)gate->init)[i] = i < a->rows ? (float)sl_rng_uniform(&c->rng)
                                               : (float)fmin(1, fmax(0, 1.4 * sl_rng_uniform(&c->rng) - 0.2));
    return x;
}

static void fwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t rows = a->rows, p = a->p, n = a->n, size = p * n, states = a->keep ? rows + 1 : 1;
    k_begin(c, call_fwd, a, "rows=%d p=%d n=%d keep=%d y=%d %s", (int)rows, (int)p, (int)n, a->keep, a->with_y,
            k_data_name(kind));
    k_buf *x = inputs(c, a, kind), *gate = x + 1, *bc = x + 2;
    k_buf *h = k_add(c, "h", K_F32, K_INOUT, states, size, size);
    k_buf *y = k_add(c, "y", K_F32, a->with_y ? K_OUT : K_IN, a->rows, p, k_stride(c, p));
    k_fill_normal(c, h, 0, 1);
    if (!a->with_y)
        k_fill_normal(c, y, 0, 1);
    num *s = calloc((size_t)size + 1, sizeof *s);
    for (int64_t i = 0; i < size; i++)
        want(h, i, s[i] = (num){at(h, i), 0});
    for (int64_t t = 0; t < rows; t++)
        for (int64_t r = 0; r < p; r++) {
            double xr = at(x, t * p + r), dt = at(gate, t), decay = at(gate, rows + t);
            num scaled = {dt * xr, 1.01 * U * fabs(dt * xr) + TINY};
            total sum = {0};
            for (int64_t i = 0; i < n; i++) {
                num *v = &s[r * n + i];
                *v = combine(at(bc, t * 2 * n + i), scaled, decay, *v);
                add(&sum, at(bc, t * 2 * n + n + i), *v);
                want(h, (a->keep ? (t + 1) * size : 0) + r * n + i, *v);
            }
            if (a->with_y)
                want(y, t * p + r, combine(1, sum_of(&sum), (double)a->skip, (num){xr, 0}));
        }
    free(s);
    k_run(c);
}

static void bwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t rows = a->rows, p = a->p, n = a->n, size = p * n;
    k_begin(c, call_bwd, a, "rows=%d p=%d n=%d %s", (int)rows, (int)p, (int)n, k_data_name(kind));
    k_buf *x = inputs(c, a, kind), *gate = x + 1, *bc = x + 2;
    k_buf *h = k_add(c, "h", K_F32, K_IN, rows + 1, size, size), *dy = k_add(c, "dy", K_F32, K_IN, rows, p,
                                                                             k_stride(c, p));
    k_buf *dh = k_add(c, "dh", K_F32, K_INOUT, p, n, n), *dx = k_add(c, "dx", K_F32, K_OUT, rows, p, k_stride(c, p));
    k_buf *dgate = k_add(c, "dgate", K_F32, K_INOUT, 2, rows, k_stride(c, rows));
    k_buf *dbc = k_add(c, "dbc", K_F32, K_INOUT, rows, 2 * n, k_stride(c, 2 * n));
    k_buf *filled[] = {h, dy, dh, dgate, dbc};
    for (int i = 0; i < 5; i++)
        k_fill_normal(c, filled[i], 0, 1);
    num *g = calloc((size_t)size + 1, sizeof *g);
    total *tb = calloc((size_t)(2 * n) + 1, sizeof *tb);
    for (int64_t i = 0; i < size; i++)
        g[i] = (num){at(dh, i), 0};
    for (int64_t t = rows - 1; t >= 0; t--) {
        double dt = at(gate, t), decay = at(gate, rows + t);
        total ddt = {0}, dlog = {0};
        add(&ddt, 1, (num){at(dgate, t), 0}), add(&dlog, 1, (num){at(dgate, rows + t), 0});
        for (int64_t i = 0; i < 2 * n; i++) {
            tb[i] = (total){0};
            add(&tb[i], 1, (num){at(dbc, t * 2 * n + i), 0});
        }
        for (int64_t r = 0; r < p; r++) {
            double xr = at(x, t * p + r), dyr = at(dy, t * p + r);
            total dhb = {0};
            for (int64_t i = 0; i < n; i++) {
                num *v = &g[r * n + i], scaled;
                *v = combine(1, *v, dyr, (num){at(bc, t * 2 * n + n + i), 0});
                scaled = (num){dt * v->v, fabs(dt) * v->e + 1.01 * U * fabs(dt * v->v) + TINY};
                add(&tb[i], xr, scaled);
                add(&tb[n + i], dyr, (num){at(h, (t + 1) * size + r * n + i), 0});
                add(&dhb, at(bc, t * 2 * n + i), *v);
                v->e = fabs(decay) * v->e + 1.01 * U * fabs(decay * v->v) + TINY;
                v->v *= decay;
                add(&dlog, at(h, t * size + r * n + i), *v);
            }
            num s = sum_of(&dhb);
            add(&ddt, xr, s);
            want(dx, t * p + r, combine(dt, s, (double)a->skip, (num){dyr, 0}));
        }
        want(dgate, t, sum_of(&ddt)), want(dgate, rows + t, sum_of(&dlog));
        for (int64_t i = 0; i < 2 * n; i++)
            want(dbc, t * 2 * n + i, sum_of(&tb[i]));
    }
    for (int64_t i = 0; i < size; i++)
        want(dh, i, g[i]);
    free(g), free(tb);
    k_run(c);
}

static void check(k_case *c, void (*one)(k_case *, const struct shape *, enum k_data)) {
    static const int rows[] = {1, 3, 0, 2, 9}, states[] = {1, 2, 7, 8, 16, 17, 31, 64, 65, 128, 0};
    static const enum k_data kinds[] = {K_NORMAL, K_CONST, K_OUTLIER, K_DENORMAL, K_ZEROS, K_NAN};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
            struct shape a = {rows[(i + kind) % 5], k_range(c, 0, 9), states[i], (int)k_range(c, 0, 1),
                              (int)k_range(c, 0, 1), (float)sl_rng_normal(&c->rng)};
            one(c, &a, kinds[kind]);
        }
}
static void check_fwd(k_case *c) { check(c, fwd_case); }
static void check_bwd(k_case *c) { check(c, bwd_case); }

enum { ROWS = 64, P = 8, N = 64 };
static const struct shape bench_shape = {ROWS, P, N, 0, 1, 1};

static void bench_fwd(k_case *c) {
    k_begin(c, call_fwd, &bench_shape, "64 rows, 8 channels of state 64");
    inputs(c, &bench_shape, K_NORMAL);
    k_fill_normal(c, k_add(c, "h", K_F32, K_INOUT, 1, P * N, P * N), 0, 1);
    k_add(c, "y", K_F32, K_OUT, ROWS, P, P);
    c->flops = 5 * ROWS * P * N;
    c->bytes = 8 * ROWS * P * N;
}

static void bench_bwd(k_case *c) {
    k_begin(c, call_bwd, &bench_shape, "64 rows, 8 channels of state 64");
    inputs(c, &bench_shape, K_NORMAL);
    k_fill_normal(c, k_add(c, "h", K_F32, K_IN, ROWS + 1, P * N, P * N), 0, 1);
    k_fill_normal(c, k_add(c, "dy", K_F32, K_IN, ROWS, P, P), 0, 1);
    k_fill_normal(c, k_add(c, "dh", K_F32, K_INOUT, P, N, N), 0, 1);
    k_add(c, "dx", K_F32, K_OUT, ROWS, P, P);
    k_fill_normal(c, k_add(c, "dgate", K_F32, K_INOUT, 2, ROWS, ROWS), 0, 1);
    k_fill_normal(c, k_add(c, "dbc", K_F32, K_INOUT, ROWS, 2 * N, 2 * N), 0, 1);
    c->flops = 11 * ROWS * P * N;
    c->bytes = 12 * ROWS * P * N;
}

const k_kernel k_ssd[] = {
    K_KERNEL(ssd_fwd, check_fwd, bench_fwd, 0),
    K_KERNEL(ssd_bwd, check_bwd, bench_bwd, 0),
    {0},
};
