#include "kern.h"
#include "ref.h"

/* A factor on each channel: y = w * x. Buffers in the order of the enums. */
struct shape {
    int64_t rows, d;
    int add;
};

enum { FX, FW, FY };
enum { BDY, BX, BW, BDX, BDW };

static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    t->channel_scale_fwd(a->rows, a->d, k_f32(c, FX), k_ld(c, FX), k_f32(c, FW), k_f32(c, FY), k_ld(c, FY));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    t->channel_scale_bwd(a->rows, a->d, k_f32(c, BDY), k_ld(c, BDY), k_f32(c, BX), k_ld(c, BX), k_f32(c, BW),
                         k_f32(c, BDX), k_ld(c, BDX), a->add, k_f32(c, BDW));
}

static double at(const k_buf *b, int64_t i) { return (double)((const float *)b->init)[i]; }

/* One rounding, so exact: binary64 holds the product. */
static void forward_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t ldx = k_stride(c, a->d), ldy = k_stride(c, a->d);
    k_begin(c, call_fwd, a, "rows=%d d=%d ldx=%d ldy=%d %s", (int)a->rows, (int)a->d, (int)ldx, (int)ldy,
            k_data_name(kind));
    k_buf *x = k_add(c, "x", K_F32, K_IN, a->rows, a->d, ldx), *w = k_add(c, "w", K_F32, K_IN, 1, a->d, a->d);
    k_buf *y = k_add(c, "y", K_F32, K_OUT, a->rows, a->d, ldy);
    k_alias(c, y, x);
    k_fill(c, x, kind);
    k_fill_normal(c, w, 1, 0.5);
    for (int64_t i = 0; i < a->rows * a->d; i++)
        k_want(y, i, (double)(float)(at(w, i % a->d) * at(x, i)), 0);
    k_run(c);
}

/* dx: a product and an addition at most; dw: rows products and additions in any order. */
static void backward_case(k_case *c, const struct shape *a, enum k_data kind, enum k_data dy_kind) {
    int64_t rows = a->rows, d = a->d, lddy = k_stride(c, d), ldx = k_stride(c, d), lddx = k_stride(c, d);
    k_begin(c, call_bwd, a, "rows=%d d=%d lddy=%d ldx=%d lddx=%d add=%d x %s dy %s", (int)rows, (int)d, (int)lddy,
            (int)ldx, (int)lddx, a->add, k_data_name(kind), k_data_name(dy_kind));
    k_buf *dy = k_add(c, "dy", K_F32, K_IN, rows, d, lddy), *x = k_add(c, "x", K_F32, K_IN, rows, d, ldx);
    k_buf *w = k_add(c, "w", K_F32, K_IN, 1, d, d);
    k_buf *dx = k_add(c, "dx", K_F32, a->add ? K_INOUT : K_OUT, rows, d, lddx);
    k_buf *dw = k_add(c, "dw", K_F32, K_INOUT, 1, d, d);
    k_fill(c, dy, dy_kind);
    k_fill(c, x, kind);
    k_fill_normal(c, w, 1, 0.5);
    k_fill_normal(c, dw, 0, 1);
    if (a->add)
        k_fill_normal(c, dx, 0, 1);
    else
        k_alias(c, dx, dy);
    double *sum = k_doubles(d), *size = k_doubles(d);
    for (int64_t i = 0; i < rows * d; i++) {
        double g = at(dy, i), product = at(w, i % d) * g, old = a->add ? at(dx, i) : 0, want = product + old;
        k_want(dx, i, want, isfinite(want) ? U * (fabs(product) + fabs(want)) + 2 * TINY : 0);
        sum[i % d] += g * at(x, i);
        size[i % d] += fabs(g * at(x, i));
    }
    for (int64_t j = 0; j < d; j++) {
        double old = at(dw, j), want = old + sum[j], bound = (double)(rows + 2) * (U * (size[j] + fabs(old)) + TINY);
        k_want(dw, j, want, isfinite(want) ? bound : 0);
    }
    k_run(c);
}

static void check_fwd(k_case *c) {
    static const int rows[] = {1, 3, 0, 2, 9};
    for (int i = 0; i < K_COUNTS; i++)
        for (int kind = 0; kind < K_KINDS; kind++)
            forward_case(c, &(struct shape){rows[(i + kind) % 5], k_count(c, i), 0}, (enum k_data)kind);
}

static void check_bwd(k_case *c) {
    static const int rows[] = {1, 3, 0, 2, 9};
    for (int i = 0; i < K_COUNTS; i++)
        for (int kind = 0; kind <= K_NAN; kind++) {
            if (kind == K_NEGINF || kind == K_POSINF)
                continue;
            struct shape a = {rows[(i + kind) % 5], k_count(c, i), (int)k_range(c, 0, 1)};
            int swap = (int)k_range(c, 0, 1);
            backward_case(c, &a, swap ? K_NORMAL : (enum k_data)kind, swap ? (enum k_data)kind : K_NORMAL);
        }
}

enum { BENCH_ROWS = 16, BENCH_D = 768 };
static const struct shape bench_shape = {BENCH_ROWS, BENCH_D, 1};

static void bench_fwd(k_case *c) {
    k_begin(c, call_fwd, &bench_shape, "16 rows of 768");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, BENCH_ROWS, BENCH_D, BENCH_D), 0, 1);
    k_fill_normal(c, k_add(c, "w", K_F32, K_IN, 1, BENCH_D, BENCH_D), 1, 0.5);
    k_add(c, "y", K_F32, K_OUT, BENCH_ROWS, BENCH_D, BENCH_D);
    c->bytes = 8 * BENCH_ROWS * BENCH_D;
    c->flops = BENCH_ROWS * BENCH_D;
}

static void bench_bwd(k_case *c) {
    k_begin(c, call_bwd, &bench_shape, "16 rows of 768");
    k_fill_normal(c, k_add(c, "dy", K_F32, K_IN, BENCH_ROWS, BENCH_D, BENCH_D), 0, 1e-6);
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, BENCH_ROWS, BENCH_D, BENCH_D), 0, 1);
    k_fill_normal(c, k_add(c, "w", K_F32, K_IN, 1, BENCH_D, BENCH_D), 1, 0.5);
    k_add(c, "dx", K_F32, K_INOUT, BENCH_ROWS, BENCH_D, BENCH_D);
    k_add(c, "dw", K_F32, K_INOUT, 1, BENCH_D, BENCH_D);
    c->bytes = 16 * BENCH_ROWS * BENCH_D;
    c->flops = 4 * BENCH_ROWS * BENCH_D;
}

const k_kernel k_norm_scale[] = {
    K_KERNEL(channel_scale_fwd, check_fwd, bench_fwd, 0),
    K_KERNEL(channel_scale_bwd, check_bwd, bench_bwd, 0),
    {0},
};
