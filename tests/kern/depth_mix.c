#include "kern.h"
#include "ref.h"

/* Attention over depth. Buffers in the order of the enums. */
struct shape {
    int64_t n, d;
    int add;
};

enum { DV, DQ, DSQUARE, DDOT };
enum { MV, MA, MY };
enum { BV, BDY, BQ, BA, BB, BK, BDV, BDQ };

static void call_dots(const sl_kernels *t, const k_case *c) {
    const struct shape *s = c->arg;
    t->depth_dots(s->n, s->d, k_f32(c, DV), k_ld(c, DV), k_f32(c, DQ), k_f32(c, DSQUARE), k_f32(c, DDOT));
}

static void call_mix(const sl_kernels *t, const k_case *c) {
    const struct shape *s = c->arg;
    t->depth_mix(s->n, s->d, k_f32(c, MV), k_ld(c, MV), k_f32(c, MA), s->add, k_f32(c, MY));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct shape *s = c->arg;
    t->depth_mix_bwd(s->n, s->d, k_f32(c, BV), k_ld(c, BV), k_f32(c, BDY), k_f32(c, BQ), k_f32(c, BA), k_f32(c, BB),
                     k_f32(c, BK), s->add, k_f32(c, BDV), k_ld(c, BDV), k_f32(c, BDQ));
}

static double at(const k_buf *b, int64_t i) { return (double)((const float *)b->init)[i]; }

/* A sum of terms of these sizes and so many roundings on its longest path. */
static void want_sum(k_buf *b, int64_t i, double want, double size, double roundings) {
    k_want(b, i, want, isfinite(want) ? roundings * (U * size + TINY) : 0);
}

static void dots_case(k_case *c, const struct shape *s, enum k_data kind) {
    int64_t n = s->n, d = s->d, ld = k_stride(c, d);
    k_begin(c, call_dots, s, "n=%d d=%d ldv=%d %s", (int)n, (int)d, (int)ld, k_data_name(kind));
    k_buf *v = k_add(c, "v", K_F32, K_IN, n, d, ld), *q = k_add(c, "q", K_F32, K_IN, 1, d, d);
    k_buf *square = k_add(c, "square", K_F32, K_OUT, 1, n, n), *dot = k_add(c, "dot", K_F32, K_OUT, 1, n, n);
    k_fill(c, v, kind);
    k_fill_normal(c, q, 0, 1);
    for (int64_t i = 0; i < n; i++) {
        double sum = 0, product = 0, size = 0;
        for (int64_t j = 0; j < d; j++) {
            sum += at(v, i * d + j) * at(v, i * d + j);
            product += at(v, i * d + j) * at(q, j);
            size += fabs(at(v, i * d + j) * at(q, j));
        }
        want_sum(square, i, sum, sum, k_depth(c, d) + 2);
        want_sum(dot, i, product, size, k_depth(c, d) + 2);
    }
    k_run(c);
}

static void mix_case(k_case *c, const struct shape *s, enum k_data kind) {
    int64_t n = s->n, d = s->d, ld = k_stride(c, d);
    k_begin(c, call_mix, s, "n=%d d=%d ldv=%d add=%d %s", (int)n, (int)d, (int)ld, s->add, k_data_name(kind));
    k_buf *v = k_add(c, "v", K_F32, K_IN, n, d, ld), *a = k_add(c, "a", K_F32, K_IN, 1, n, n);
    k_buf *y = k_add(c, "y", K_F32, s->add ? K_INOUT : K_OUT, 1, d, d);
    k_fill(c, v, kind);
    k_fill_normal(c, a, 0.5, 0.3);
    if (s->add)
        k_fill_normal(c, y, 0, 1);
    for (int64_t j = 0; j < d; j++) {
        double want = s->add ? at(y, j) : 0, size = fabs(want);
        for (int64_t i = 0; i < n; i++) {
            want += at(a, i) * at(v, i * d + j);
            size += fabs(at(a, i) * at(v, i * d + j));
        }
        want_sum(y, j, want, size, (double)n + 1);
    }
    k_run(c);
}

static void bwd_case(k_case *c, const struct shape *s, enum k_data kind) {
    int64_t n = s->n, d = s->d, ldv = k_stride(c, d), lddv = k_stride(c, d);
    k_begin(c, call_bwd, s, "n=%d d=%d ldv=%d lddv=%d add=%d %s", (int)n, (int)d, (int)ldv, (int)lddv, s->add,
            k_data_name(kind));
    k_buf *v = k_add(c, "v", K_F32, K_IN, n, d, ldv), *dy = k_add(c, "dy", K_F32, K_IN, 1, d, d);
    k_buf *q = k_add(c, "q", K_F32, K_IN, 1, d, d), *a = k_add(c, "a", K_F32, K_IN, 1, n, n);
    k_buf *b = k_add(c, "b", K_F32, K_IN, 1, n, n), *k = k_add(c, "k", K_F32, K_IN, 1, n, n);
    k_buf *dv = k_add(c, "dv", K_F32, s->add ? K_INOUT : K_OUT, n, d, lddv);
    k_buf *dq = k_add(c, "dq", K_F32, K_INOUT, 1, d, d);
    k_fill(c, v, kind);
    k_fill_normal(c, dy, 0, 1), k_fill_normal(c, q, 0, 1), k_fill_normal(c, a, 0.5, 0.3);
    k_fill_normal(c, b, 0, 0.3), k_fill_normal(c, k, 0, 0.3), k_fill_normal(c, dq, 0, 1);
    if (s->add)
        k_fill_normal(c, dv, 0, 1);
    for (int64_t j = 0; j < d; j++) {
        double sum = at(dq, j), size = fabs(sum);
        for (int64_t i = 0; i < n; i++) {
            double x = at(v, i * d + j), old = s->add ? at(dv, i * d + j) : 0;
            double term[] = {at(a, i) * at(dy, j), at(b, i) * at(q, j), at(k, i) * x};
            want_sum(dv, i * d + j, old + term[0] + term[1] + term[2],
                     fabs(old) + fabs(term[0]) + fabs(term[1]) + fabs(term[2]), 4);
            sum += at(b, i) * x, size += fabs(at(b, i) * x);
        }
        want_sum(dq, j, sum, size, (double)n + 1);
    }
    k_run(c);
}

static void each_case(k_case *c, void (*run)(k_case *, const struct shape *, enum k_data)) {
    static const int sources[] = {1, 3, 0, 2, 9, 17};
    static const enum k_data kinds[] = {K_NORMAL, K_CONST, K_OUTLIER, K_OFFSET, K_DENORMAL, K_ZEROS, K_NAN};
    for (int i = 0; i < K_COUNTS; i++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
            run(c, &(struct shape){sources[((size_t)i + kind) % 6], k_count(c, i), (int)k_range(c, 0, 1)},
                kinds[kind]);
}

static void check_dots(k_case *c) { each_case(c, dots_case); }
static void check_mix(k_case *c) { each_case(c, mix_case); }
static void check_bwd(k_case *c) { each_case(c, bwd_case); }

enum { BENCH_N = 17, BENCH_D = 256 };
static const struct shape bench_shape = {BENCH_N, BENCH_D, 1};

static void bench_dots(k_case *c) {
    k_begin(c, call_dots, &bench_shape, "17 sources of 256");
    k_fill_normal(c, k_add(c, "v", K_F32, K_IN, BENCH_N, BENCH_D, BENCH_D), 0, 1);
    k_fill_normal(c, k_add(c, "q", K_F32, K_IN, 1, BENCH_D, BENCH_D), 0, 1);
    k_add(c, "square", K_F32, K_OUT, 1, BENCH_N, BENCH_N);
    k_add(c, "dot", K_F32, K_OUT, 1, BENCH_N, BENCH_N);
    c->bytes = 4 * BENCH_N * BENCH_D;
    c->flops = 4 * BENCH_N * BENCH_D;
}

static void bench_mix(k_case *c) {
    k_begin(c, call_mix, &bench_shape, "17 sources of 256");
    k_fill_normal(c, k_add(c, "v", K_F32, K_IN, BENCH_N, BENCH_D, BENCH_D), 0, 1);
    k_fill_normal(c, k_add(c, "a", K_F32, K_IN, 1, BENCH_N, BENCH_N), 0, 1);
    k_add(c, "y", K_F32, K_INOUT, 1, BENCH_D, BENCH_D);
    c->bytes = 4 * BENCH_N * BENCH_D;
    c->flops = 2 * BENCH_N * BENCH_D;
}

static void bench_bwd(k_case *c) {
    static const char *const rows[] = {"dy", "q"}, *const numbers[] = {"a", "b", "k"};
    k_begin(c, call_bwd, &bench_shape, "17 sources of 256");
    k_fill_normal(c, k_add(c, "v", K_F32, K_IN, BENCH_N, BENCH_D, BENCH_D), 0, 1);
    for (int i = 0; i < 2; i++)
        k_fill_normal(c, k_add(c, rows[i], K_F32, K_IN, 1, BENCH_D, BENCH_D), 0, 1);
    for (int i = 0; i < 3; i++)
        k_fill_normal(c, k_add(c, numbers[i], K_F32, K_IN, 1, BENCH_N, BENCH_N), 0, 0.1);
    k_add(c, "dv", K_F32, K_INOUT, BENCH_N, BENCH_D, BENCH_D);
    k_add(c, "dq", K_F32, K_INOUT, 1, BENCH_D, BENCH_D);
    c->bytes = 12 * BENCH_N * BENCH_D;
    c->flops = 8 * BENCH_N * BENCH_D;
}

const k_kernel k_depth_mix[] = {
    K_KERNEL(depth_dots, check_dots, bench_dots, 0),
    K_KERNEL(depth_mix, check_mix, bench_mix, K_SAME_BITS),
    K_KERNEL(depth_mix_bwd, check_bwd, bench_bwd, K_SAME_BITS),
    {0},
};
