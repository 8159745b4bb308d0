#include "kern.h"
#include "ref.h"

/* Layer norm is RMS norm plus the mean; one description serves both. Buffers are added in the order
 * of the enums. */
struct norm {
    int64_t rows, d;
    float eps;
    int add;
};

enum { FX, FW, FY, FR, FM };            /* forward: x, w, y, rstd, mean */
enum { BDY, BX, BW, BR, BDX, BDW, BM }; /* backward: dy, x, w, rstd, dx, dw, mean */

static void call_rms_fwd_bf16(const sl_kernels *t, const k_case *c) {
    const struct norm *a = c->arg;
    t->rmsnorm_fwd_bf16(a->rows, a->d, k_f32(c, FX), k_ld(c, FX), k_f32(c, FW), a->eps, c->buf[FY].p,
                        k_ld(c, FY), k_f32(c, FR));
}

static void call_layer_fwd_bf16(const sl_kernels *t, const k_case *c) {
    const struct norm *a = c->arg;
    t->layernorm_fwd_bf16(a->rows, a->d, k_f32(c, FX), k_ld(c, FX), k_f32(c, FW), a->eps,
                          c->buf[FY].p, k_ld(c, FY), k_f32(c, FM), k_f32(c, FR));
}

static void call_rms_bwd_bf16(const sl_kernels *t, const k_case *c) {
    const struct norm *a = c->arg;
    t->rmsnorm_bwd_bf16(a->rows, a->d, c->buf[BDY].p, k_ld(c, BDY), k_f32(c, BX), k_ld(c, BX),
                        k_f32(c, BW), k_f32(c, BR), k_f32(c, BDX), k_ld(c, BDX), a->add,
                        k_f32(c, BDW));
}

static void call_layer_bwd_bf16(const sl_kernels *t, const k_case *c) {
    const struct norm *a = c->arg;
    t->layernorm_bwd_bf16(a->rows, a->d, c->buf[BDY].p, k_ld(c, BDY), k_f32(c, BX), k_ld(c, BX),
                          k_f32(c, BW), k_f32(c, BM), k_f32(c, BR), k_f32(c, BDX), k_ld(c, BDX),
                          a->add, k_f32(c, BDW));
}

static void call_rms_fwd(const sl_kernels *t, const k_case *c) {
    const struct norm *a = c->arg;
    t->rmsnorm_fwd(a->rows, a->d, k_f32(c, FX), k_ld(c, FX), k_f32(c, FW), a->eps, k_f32(c, FY),
                   k_ld(c, FY), k_f32(c, FR));
}

static void call_layer_fwd(const sl_kernels *t, const k_case *c) {
    const struct norm *a = c->arg;
    t->layernorm_fwd(a->rows, a->d, k_f32(c, FX), k_ld(c, FX), k_f32(c, FW), a->eps, k_f32(c, FY),
                     k_ld(c, FY), k_f32(c, FM), k_f32(c, FR));
}

static void call_rms_bwd(const sl_kernels *t, const k_case *c) {
    const struct norm *a = c->arg;
    t->rmsnorm_bwd(a->rows, a->d, k_f32(c, BDY), k_ld(c, BDY), k_f32(c, BX), k_ld(c, BX),
                   k_f32(c, BW), k_f32(c, BR), k_f32(c, BDX), k_ld(c, BDX), a->add, k_f32(c, BDW));
}

static void call_layer_bwd(const sl_kernels *t, const k_case *c) {
    const struct norm *a = c->arg;
    t->layernorm_bwd(a->rows, a->d, k_f32(c, BDY), k_ld(c, BDY), k_f32(c, BX), k_ld(c, BX),
                     k_f32(c, BW), k_f32(c, BM), k_f32(c, BR), k_f32(c, BDX), k_ld(c, BDX), a->add,
                     k_f32(c, BDW));
}

/* [centred][type of y and dy is bf16] */
static const k_call forward_calls[2][2] = {{call_rms_fwd, call_rms_fwd_bf16},
                                           {call_layer_fwd, call_layer_fwd_bf16}};
static const k_call backward_calls[2][2] = {{call_rms_bwd, call_rms_bwd_bf16},
                                            {call_layer_bwd, call_layer_bwd_bf16}};

/* Row i of a buffer. */
static void widen(const k_buf *b, int64_t i, double *to) {
    for (int64_t j = 0; j < b->cols; j++)
        to[j] = k_initial(b, i * b->cols + j);
}

/* Error allowed to a row of y = w * (x - mean) * r, and to mean and r.
 *
 * The mean is a sum of depth additions and a division: D = (depth + 2) u mean|x|, and rounding it
 * to binary32 and each x - mean adds u|mean| and u|x - mean| (RMS norm: mean = 0, exactly).
 * A deviation off by D moves the mean square v by at most 2 D sqrt(v) + D^2; summing it costs
 * (depth + 4) u v more. Then r lies between 1/sqrt(v +- dv + eps), where the addition, the root and
 * the division cost 2.5 u; twice that is allowed for a reciprocal root refined by Newton steps. */
struct norm_bound {
    double mean, dev, rstd;
};

static struct norm_bound bound_of(const k_case *c, int64_t d, const double *x, double mean,
                                  double r, double eps, int centred) {
    double depth = k_depth(c, d), abs = 0, v = 0;
    for (int64_t j = 0; j < d; j++) {
        abs += fabs(x[j]) / (double)d;
        v += (x[j] - mean) * (x[j] - mean) / (double)d;
    }
    struct norm_bound b = {0};
    if (centred) {
        b.mean = (depth + 2) * U * abs + U * fabs(mean) + TINY;
        b.dev = b.mean;
    }
    double dv = 2 * b.dev * sqrt(v) + b.dev * b.dev + (depth + 4) * U * v + depth * TINY;
    double low = 1 / sqrt(v + dv + eps), high = 1 / sqrt(fmax(v - dv, 0) + eps);
    b.rstd = fmax(high - r, r - low) + 5 * U * high;
    return b;
}

static void forward_case(k_case *c, const struct norm *a, enum k_data kind, int centred,
                         enum k_type type) {
    int64_t rows = a->rows, d = a->d, ldx = k_stride(c, d), ldy = k_stride(c, d);
    k_begin(c, forward_calls[centred][type == K_BF16], a, "rows=%d d=%d ldx=%d ldy=%d eps=%g %s",
            (int)rows, (int)d, (int)ldx, (int)ldy, (double)a->eps, k_data_name(kind));
    k_buf *x = k_add(c, "x", K_F32, K_IN, rows, d, ldx), *w = k_add(c, "w", K_F32, K_IN, 1, d, d);
    k_buf *y = k_add(c, "y", type, K_OUT, rows, d, ldy);
    k_buf *rstd = k_add(c, "rstd", K_F32, K_OUT, 1, rows, rows);
    k_buf *mean = centred ? k_add(c, "mean", K_F32, K_OUT, 1, rows, rows) : NULL;
    if (type == K_F32)
        k_alias(c, y, x);
    k_fill(c, x, kind);
    k_fill_normal(c, w, 1, 0.5);
    double *dx = k_doubles(d), *dw = k_doubles(d), *dy = k_doubles(d);
    widen(w, 0, dw);
    for (int64_t i = 0; i < rows; i++) {
        double m = 0, r;
        widen(x, i, dx);
        r = centred ? d_layernorm(d, dx, dw, (double)a->eps, dy, &m)
                    : d_rmsnorm(d, dx, dw, (double)a->eps, dy);
        struct norm_bound b = bound_of(c, d, dx, m, r, (double)a->eps, centred);
        int finite = isfinite(r) && r > 0;
        k_want(rstd, i, d ? r : 0, d == 0 ? INFINITY : finite ? b.rstd : 0);
        rstd->nan_ok[i] = d == 0; /* of nothing: any value, as long as it is written */
        if (mean) {
            k_want(mean, i, d ? m : 0, d == 0 ? INFINITY : isfinite(m) ? b.mean : 0);
            mean->nan_ok[i] = d == 0;
        }
        for (int64_t j = 0; j < d; j++) {
            double dev = fabs(dx[j] - m), big = r + b.rstd;
            double e = fabs(dw[j]) * ((b.dev + U * dev) * big + dev * b.rstd + 3 * U * dev * big) +
                       TINY * (1 + big) * (1 + fabs(dw[j]));
            double bound = finite && isfinite(dy[j]) ? e : 0;
            if (type == K_BF16)
                k_want_bf16(c, y, i * d + j, dy[j], bound);
            else
                k_want(y, i * d + j, dy[j], bound);
            y->nan_ok[i * d + j] = isinf(dx[j]) != 0;
        }
    }
    k_run(c);
}

/* One row of the backward formula. size: sum of the absolute terms of each dx; s_size, g_size:
 * those of mean(g u) and mean(g). */
struct norm_bwd {
    double *dx, *g, *u;
    double s, s_size, gm, g_size;
};

static void backward_row(int64_t d, const double *dy, const double *x, const double *w, double mean,
                         double r, int centred, struct norm_bwd *o) {
    o->s = o->s_size = o->gm = o->g_size = 0;
    for (int64_t j = 0; j < d; j++) {
        double g = o->g[j] = w[j] * dy[j], u = o->u[j] = (x[j] - mean) * r;
        o->s += g * u / (double)d, o->s_size += fabs(g * u) / (double)d;
        o->gm += centred ? g / (double)d : 0, o->g_size += centred ? fabs(g) / (double)d : 0;
    }
    for (int64_t j = 0; j < d; j++)
        o->dx[j] = r * (o->g[j] - o->gm - o->u[j] * o->s);
}

static struct norm_bwd new_row(int64_t d) {
    return (struct norm_bwd){.dx = k_doubles(d), .g = k_doubles(d), .u = k_doubles(d)};
}

/* The backward formula itself against the complex step of the forward one. */
static void identity(k_case *c, int centred) {
    enum { D = 13 };
    double dy[D], x[D], w[D], y[D], m = 0, eps = 1e-3;
    k_begin(c, NULL, NULL, "d=13, in double");
    struct norm_bwd o = new_row(D);
    for (int j = 0; j < D; j++) {
        dy[j] = sl_rng_normal(&c->rng), x[j] = 2 + sl_rng_normal(&c->rng);
        w[j] = 1 + 0.5 * sl_rng_normal(&c->rng);
    }
    double r = centred ? d_layernorm(D, x, w, eps, y, &m) : d_rmsnorm(D, x, w, eps, y);
    backward_row(D, dy, x, w, m, r, centred, &o);
    for (int v = 0; v < 2 * D; v++) { /* the derivative by x, then by w */
        double complex zx[D], zw[D], zy[D], zm, loss = 0;
        for (int j = 0; j < D; j++) {
            zx[j] = j == v ? Z_STEP(x[j]) : x[j];
            zw[j] = j + D == v ? Z_STEP(w[j]) : w[j];
        }
        if (centred)
            z_layernorm(D, zx, zw, eps, zy, &zm);
        else
            z_rmsnorm(D, zx, zw, eps, zy);
        for (int j = 0; j < D; j++)
            loss += dy[j] * zy[j];
        k_identity(c, v < D ? "dx" : "dw", v < D ? o.dx[v] : dy[v - D] * o.u[v - D], Z_SLOPE(loss),
                   10);
    }
}

static void backward_case(k_case *c, const struct norm *a, enum k_data kind, enum k_data dy_kind,
                          int centred, enum k_type type) {
    int64_t rows = a->rows, d = a->d, lddy = k_stride(c, d), ldx = k_stride(c, d),
            lddx = k_stride(c, d);
    k_begin(c, backward_calls[centred][type == K_BF16], a,
            "rows=%d d=%d lddy=%d ldx=%d lddx=%d add=%d x %s dy %s", (int)rows, (int)d, (int)lddy,
            (int)ldx, (int)lddx, a->add, k_data_name(kind), k_data_name(dy_kind));
    k_buf *dy = k_add(c, "dy", type, K_IN, rows, d, lddy),
          *x = k_add(c, "x", K_F32, K_IN, rows, d, ldx);
    k_buf *w = k_add(c, "w", K_F32, K_IN, 1, d, d),
          *rstd = k_add(c, "rstd", K_F32, K_IN, 1, rows, rows);
    k_buf *dx = k_add(c, "dx", K_F32, a->add ? K_INOUT : K_OUT, rows, d, lddx);
    k_buf *dw = k_add(c, "dw", K_F32, K_INOUT, 1, d, d);
    k_buf *mean = centred ? k_add(c, "mean", K_F32, K_IN, 1, rows, rows) : NULL;
    k_fill(c, dy, dy_kind);
    k_fill(c, x, kind);
    k_fill_normal(c, w, 1, 0.5);
    k_fill_normal(c, dw, 0, 1);
    if (a->add)
        k_fill_normal(c, dx, 0, 1);
    else if (!centred && type == K_F32)
        k_alias(c, dx, dy);
    double *ddy = k_doubles(d), *xx = k_doubles(d), *ww = k_doubles(d), *y = k_doubles(d);
    double *sum = k_doubles(d), *size = k_doubles(d), depth = k_depth(c, d);
    struct norm_bwd o = new_row(d);
    widen(w, 0, ww);
    for (int64_t i = 0; i < rows; i++) {
        double m = 0;
        widen(dy, i, ddy);
        widen(x, i, xx);
        float r =
            (float)(centred ? d_layernorm(d, xx, ww, 1e-5, y, &m) : d_rmsnorm(d, xx, ww, 1e-5, y));
        float fm = (float)m; /* the kernel is given the rounded values, and so are we */
        ((float *)rstd->init)[i] = r;
        if (mean)
            ((float *)mean->init)[i] = fm;
        backward_row(d, ddy, xx, ww, (double)fm, (double)r, centred, &o);
        for (int64_t j = 0; j < d; j++) {
            /* g and u: 2 roundings each at most (u one more for the mean); s: 5 of them, depth
             * additions and the division; then u*s, two subtractions, times r, and + dx. */
            double g = fabs(o.g[j]), u = fabs(o.u[j]),
                   old = a->add ? (double)((float *)dx->init)[i * d + j] : 0;
            double e = (double)r * (6 * U * g + (depth + 8) * U * o.g_size +
                                    u * (depth + 12) * U * o.s_size + 6 * U * u * fabs(o.s)) +
                       U * (fabs(old) + fabs(old + o.dx[j])) +
                       TINY * (4 + 4 * (double)r) * (1 + fabs(ww[j])) * (1 + u) * (1 + o.s_size);
            double want = o.dx[j] + old;
            k_want(dx, i * d + j, want, isfinite(want) ? e : 0);
            sum[j] += ddy[j] * o.u[j];
            size[j] += fabs(ddy[j] * o.u[j]);
        }
    }
    for (int64_t j = 0; j < d; j++) {
        /* rows additions in any order, and 4 roundings in each term */
        double old = (double)((float *)dw->init)[j], want = old + sum[j];
        k_want(dw, j, want,
               isfinite(want) ? (double)(rows + 5) * U * (size[j] + fabs(old)) +
                                    TINY * (double)(rows + 1) * 1e4
                              : 0);
    }
    k_run(c);
    if (a->add && !centred && type == K_F32) { /* in place onto dy: dx holds dy before the call */
        for (int64_t i = 0; i < rows * d; i++) {
            double before = (double)((float *)dx->init)[i], now = (double)((float *)dy->init)[i];
            ((float *)dx->init)[i] = ((float *)dy->init)[i];
            dx->want[i] += now - before;
            dx->bound[i] += 2 * U * (fabs(now) + fabs(before));
        }
        k_alias(c, dx, dy);
        k_run(c);
    }
}

/* Squares of K_EXPEDGE and K_WIDE stay in the range of binary32 (2^80 * d). */
static const enum k_data forward_kinds[] = {K_NORMAL,   K_CONST,  K_OUTLIER, K_OFFSET,
                                            K_DENORMAL, K_ZEROS,  K_WIDE,    K_EXPEDGE,
                                            K_NAN,      K_POSINF, K_NEGINF};

static void check_forward(k_case *c, int centred, enum k_type type) {
    static const float epsilons[] = {1e-5f, 1e-6f, 1e-12f};
    for (int i = 0; i < K_COUNTS; i++)
        for (size_t v = 0; v < sizeof forward_kinds / sizeof *forward_kinds; v++) {
            static const int rows[] = {1, 3, 0, 2, 9};
            struct norm a = {rows[(i + (int)v) % 5], k_count(c, i), epsilons[k_range(c, 0, 2)], 0};
            if (forward_kinds[v] == K_NORMAL && !centred && a.d > 1)
                a.eps = 0;
            forward_case(c, &a, forward_kinds[v], centred, type);
        }
}

static void check_backward(k_case *c, int centred, enum k_type type) {
    static const enum k_data kinds[] = {K_NORMAL, K_CONST,   K_OUTLIER,  K_OFFSET,
                                        K_ZEROS,  K_EXPEDGE, K_DENORMAL, K_NAN};
    identity(c, centred);
    for (int i = 0; i < K_COUNTS; i++)
        for (size_t v = 0; v < sizeof kinds / sizeof *kinds; v++) {
            static const int rows[] = {1, 3, 0, 2, 9};
            struct norm a = {rows[(i + (int)v) % 5], k_count(c, i), 1e-5f, (int)k_range(c, 0, 1)};
            int swap = k_range(c, 0, 2) == 0 && kinds[v] != K_DENORMAL;
            backward_case(c, &a, swap ? K_NORMAL : kinds[v], swap ? kinds[v] : K_NORMAL, centred,
                          type);
        }
}

#define CHECKS(way)                                                                                \
    static void check_rms_##way(k_case *c) { check_##way(c, 0, K_F32); }                           \
    static void check_rms_##way##_bf16(k_case *c) { check_##way(c, 0, K_BF16); }                   \
    static void check_layer_##way(k_case *c) { check_##way(c, 1, K_F32); }                         \
    static void check_layer_##way##_bf16(k_case *c) { check_##way(c, 1, K_BF16); }
CHECKS(forward)
CHECKS(backward)

enum { BENCH_ROWS = 16, BENCH_D = 768 };

static void bench_fwd(k_case *c, int centred, enum k_type type) {
    static const struct norm a = {BENCH_ROWS, BENCH_D, 1e-5f, 0};
    k_begin(c, forward_calls[centred][type == K_BF16], &a, "16 rows of 768");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, a.rows, a.d, a.d), 0, 1);
    k_fill_normal(c, k_add(c, "w", K_F32, K_IN, 1, a.d, a.d), 1, 0.5);
    k_add(c, "y", type, K_OUT, a.rows, a.d, a.d);
    k_add(c, "rstd", K_F32, K_OUT, 1, a.rows, a.rows);
    k_add(c, "mean", K_F32, K_OUT, 1, a.rows, a.rows);
    c->bytes = (double)((type == K_BF16 ? 6 : 8) * a.rows * a.d);
    c->flops = (double)(4 * a.rows * a.d);
}

static void bench_bwd(k_case *c, int centred, enum k_type type) {
    static const struct norm a = {BENCH_ROWS, BENCH_D, 1e-5f, 1};
    k_begin(c, backward_calls[centred][type == K_BF16], &a, "16 rows of 768");
    k_fill(c, k_add(c, "dy", type, K_IN, a.rows, a.d, a.d), K_NORMAL);
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, a.rows, a.d, a.d), 0, 1);
    k_fill_normal(c, k_add(c, "w", K_F32, K_IN, 1, a.d, a.d), 1, 0.5);
    k_fill_normal(c, k_add(c, "rstd", K_F32, K_IN, 1, a.rows, a.rows), 1, 0.1);
    k_add(c, "dx", K_F32, K_INOUT, a.rows, a.d, a.d);
    k_add(c, "dw", K_F32, K_INOUT, 1, a.d, a.d);
    k_add(c, "mean", K_F32, K_IN, 1, a.rows, a.rows);
    c->bytes = (double)((type == K_BF16 ? 14 : 16) * a.rows * a.d);
    c->flops = (double)(11 * a.rows * a.d);
}

#define BENCHES(way)                                                                               \
    static void bench_rms_##way(k_case *c) { bench_##way(c, 0, K_F32); }                           \
    static void bench_rms_##way##_bf16(k_case *c) { bench_##way(c, 0, K_BF16); }                   \
    static void bench_layer_##way(k_case *c) { bench_##way(c, 1, K_F32); }                         \
    static void bench_layer_##way##_bf16(k_case *c) { bench_##way(c, 1, K_BF16); }
BENCHES(fwd)
BENCHES(bwd)

const k_kernel k_norm[] = {
    K_KERNEL(rmsnorm_fwd, check_rms_forward, bench_rms_fwd, 0),
    K_KERNEL(rmsnorm_fwd_bf16, check_rms_forward_bf16, bench_rms_fwd_bf16, 0),
    K_KERNEL(rmsnorm_bwd, check_rms_backward, bench_rms_bwd, 0),
    K_KERNEL(rmsnorm_bwd_bf16, check_rms_backward_bf16, bench_rms_bwd_bf16, 0),
    K_KERNEL(layernorm_fwd, check_layer_forward, bench_layer_fwd, 0),
    K_KERNEL(layernorm_fwd_bf16, check_layer_forward_bf16, bench_layer_fwd_bf16, 0),
    K_KERNEL(layernorm_bwd, check_layer_backward, bench_layer_bwd, 0),
    K_KERNEL(layernorm_bwd_bf16, check_layer_backward_bf16, bench_layer_bwd_bf16, 0),
    {0},
};
