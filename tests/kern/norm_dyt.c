#include "kern.h"
#include "ref.h"

/* DyT and Derf: y = w f(alpha x + shift) + b. One description serves both; buffers in the order of the enums, the
 * optional ones last. */
struct dyt {
    int64_t rows, d;
    float alpha, shift;
    int erf, bias, add;
};

enum { FX, FW, FY, FB };
enum { BDY, BX, BW, BDX, BDW, BDA, BDS, BDB };

static void call_dyt_fwd(const sl_kernels *t, const k_case *c) {
    const struct dyt *a = c->arg;
    t->dyt_fwd(a->rows, a->d, k_f32(c, FX), k_ld(c, FX), a->alpha, k_f32(c, FW), a->bias ? k_f32(c, FB) : NULL,
               k_f32(c, FY), k_ld(c, FY));
}

static void call_derf_fwd(const sl_kernels *t, const k_case *c) {
    const struct dyt *a = c->arg;
    t->derf_fwd(a->rows, a->d, k_f32(c, FX), k_ld(c, FX), a->alpha, a->shift, k_f32(c, FW),
                a->bias ? k_f32(c, FB) : NULL, k_f32(c, FY), k_ld(c, FY));
}

static void call_dyt_bwd(const sl_kernels *t, const k_case *c) {
    const struct dyt *a = c->arg;
    t->dyt_bwd(a->rows, a->d, k_f32(c, BDY), k_ld(c, BDY), k_f32(c, BX), k_ld(c, BX), a->alpha, k_f32(c, BW),
               k_f32(c, BDX), k_ld(c, BDX), a->add, k_f32(c, BDW), a->bias ? k_f32(c, BDB) : NULL, k_f32(c, BDA));
}

static void call_derf_bwd(const sl_kernels *t, const k_case *c) {
    const struct dyt *a = c->arg;
    t->derf_bwd(a->rows, a->d, k_f32(c, BDY), k_ld(c, BDY), k_f32(c, BX), k_ld(c, BX), a->alpha, a->shift,
                k_f32(c, BW), k_f32(c, BDX), k_ld(c, BDX), a->add, k_f32(c, BDW), a->bias ? k_f32(c, BDB) : NULL,
                k_f32(c, BDA), k_f32(c, BDS));
}

static double at(const k_buf *b, int64_t i) { return (double)((const float *)b->init)[i]; }

/* f(z) and f'(z) with the errors of their computation in binary32. */
struct value {
    double f, f_error, slope, slope_error;
};

/* z: a product and, with a shift, an addition. tanh and erf are within 2 ulp, at most 4 u |f|, of their value at the
 * rounded z. tanh' = 1 - f^2: twice f's error and a rounding. erf' = c e^(-z^2): z's error times 2 |z|, rounding z^2
 * moves it by z^2 u, then exp, c and a product. Below SMALLEST results may be flushed. f is off by no more than the
 * slope nearby (that at z is at most twice that of any point as near as rounding gets) times z's error. */
static struct value value_of(const struct dyt *a, double x) {
    double product = (double)a->alpha * x, z = product + (double)a->shift;
    double dz = U * fabs(product) + TINY + (a->erf ? U * fabs(z) : 0);
    struct value v;
    if (a->erf) {
        v.f = erf(z);
        v.slope = 1.12837916709551257390 * exp(-z * z);
        v.slope_error = isinf(z) ? 0 : v.slope * (2 * fabs(z) * dz + z * z * U + EXP_REL + 3 * U) + 2 * SMALLEST;
    } else {
        v.f = tanh(z);
        v.slope = 1 / (cosh(z) * cosh(z));
    }
    v.f_error = 4 * U * fabs(v.f) + (isinf(z) ? 0 : 2 * v.slope * dz) + TINY;
    if (!a->erf)
        v.slope_error = 2 * fabs(v.f) * v.f_error + U * v.slope + TINY;
    return v;
}

static void forward_case(k_case *c, const struct dyt *a, enum k_data kind) {
    int64_t ldx = k_stride(c, a->d), ldy = k_stride(c, a->d);
    k_begin(c, a->erf ? call_derf_fwd : call_dyt_fwd, a, "rows=%d d=%d ldx=%d ldy=%d alpha=%g shift=%g bias=%d %s",
            (int)a->rows, (int)a->d, (int)ldx, (int)ldy, (double)a->alpha, (double)a->shift, a->bias,
            k_data_name(kind));
    k_buf *x = k_add(c, "x", K_F32, K_IN, a->rows, a->d, ldx), *w = k_add(c, "w", K_F32, K_IN, 1, a->d, a->d);
    k_buf *y = k_add(c, "y", K_F32, K_OUT, a->rows, a->d, ldy);
    k_buf *b = a->bias ? k_add(c, "b", K_F32, K_IN, 1, a->d, a->d) : NULL;
    k_alias(c, y, x);
    k_fill(c, x, kind);
    k_fill_normal(c, w, 1, 0.5);
    if (b)
        k_fill_normal(c, b, 0, 1);
    for (int64_t i = 0; i < a->rows * a->d; i++) {
        struct value v = value_of(a, at(x, i));
        double scale = at(w, i % a->d), product = scale * v.f, want = product + (b ? at(b, i % a->d) : 0);
        k_want(y, i, want, isnan(want) ? 0 : fabs(scale) * v.f_error + U * (fabs(product) + fabs(want)) + 2 * TINY);
    }
    k_run(c);
}

/* One accumulator a lane runs over all rows. */
static double sum_depth(const k_case *c, const struct dyt *a) {
    double lane = (double)a->rows * ((double)a->d / c->k->vl + 1) + 8, whole = (double)(a->rows * a->d);
    return fmin(lane, whole) + 2;
}

static void want_sum(k_buf *b, double sum, double size, double error, double depth) {
    double old = at(b, 0), want = old + sum;
    k_want(b, 0, want, isfinite(want) ? error + depth * (U * size + TINY) + U * (fabs(old) + fabs(want)) : 0);
}

static void backward_case(k_case *c, const struct dyt *a, enum k_data kind, enum k_data dy_kind) {
    int64_t rows = a->rows, d = a->d, lddy = k_stride(c, d), ldx = k_stride(c, d), lddx = k_stride(c, d);
    k_begin(c, a->erf ? call_derf_bwd : call_dyt_bwd, a, "rows=%d d=%d alpha=%g shift=%g bias=%d add=%d x %s dy %s",
            (int)rows, (int)d, (double)a->alpha, (double)a->shift, a->bias, a->add, k_data_name(kind),
            k_data_name(dy_kind));
    k_buf *dy = k_add(c, "dy", K_F32, K_IN, rows, d, lddy), *x = k_add(c, "x", K_F32, K_IN, rows, d, ldx);
    k_buf *w = k_add(c, "w", K_F32, K_IN, 1, d, d);
    k_buf *dx = k_add(c, "dx", K_F32, a->add ? K_INOUT : K_OUT, rows, d, lddx);
    k_buf *dw = k_add(c, "dw", K_F32, K_INOUT, 1, d, d);
    k_buf *da = k_add(c, "dalpha", K_F32, K_INOUT, 1, 1, 1), *ds = k_add(c, "dshift", K_F32, K_INOUT, 1, 1, 1);
    k_buf *db = a->bias ? k_add(c, "db", K_F32, K_INOUT, 1, d, d) : NULL;
    k_fill(c, dy, dy_kind);
    k_fill(c, x, kind);
    k_fill_normal(c, w, 1, 0.5);
    k_buf *sums[] = {dw, da, ds, a->add ? dx : NULL, db};
    for (int i = 0; i < 5; i++)
        if (sums[i])
            k_fill_normal(c, sums[i], 0, 1);
    if (!a->add)
        k_alias(c, dx, dy);
    double *sum = k_doubles(5 * d), *size = sum + d, *error = size + d, *sum_b = error + d, *size_b = sum_b + d;
    double alpha = 0, alpha_size = 0, alpha_error = 0, shift = 0, shift_size = 0, shift_error = 0;
    for (int64_t i = 0; i < rows * d; i++) {
        struct value v = value_of(a, at(x, i));
        double g = at(dy, i), wg = at(w, i % d) * g, dz = wg * v.slope, old = a->add ? at(dx, i) : 0;
        double dz_error = fabs(wg) * v.slope_error + 3 * U * fabs(dz) + TINY * (2 + fabs(v.slope));
        double product = (double)a->alpha * dz, want = product + old;
        double bound = fabs((double)a->alpha) * dz_error + U * (fabs(product) + fabs(want)) + 2 * TINY;
        k_want(dx, i, want, isfinite(want) ? bound : 0);
        sum[i % d] += g * v.f, size[i % d] += fabs(g * v.f), error[i % d] += fabs(g) * v.f_error;
        sum_b[i % d] += g, size_b[i % d] += fabs(g);
        alpha += dz * at(x, i), alpha_size += fabs(dz * at(x, i)), alpha_error += dz_error * fabs(at(x, i));
        shift += dz, shift_size += fabs(dz), shift_error += dz_error;
    }
    for (int64_t j = 0; j < d; j++) {
        double old = at(dw, j), want = old + sum[j], n = (double)(rows + 2);
        k_want(dw, j, want, isfinite(want) ? error[j] + n * (U * (size[j] + error[j] + fabs(old)) + TINY) : 0);
        if (db) {
            double before = at(db, j), all = before + sum_b[j];
            k_want(db, j, all, isfinite(all) ? n * U * (size_b[j] + fabs(before)) : 0);
        }
    }
    double depth = sum_depth(c, a);
    want_sum(da, alpha, alpha_size + alpha_error, alpha_error, depth);
    if (a->erf)
        want_sum(ds, shift, shift_size + shift_error, shift_error, depth);
    else
        k_want(ds, 0, at(ds, 0), 0);
    k_run(c);
}

/* The slopes against the complex step of the formulas. */
static void identity(k_case *c) {
    k_begin(c, NULL, NULL, "in double");
    for (int i = 0; i < 1000; i++) {
        struct dyt a = {.alpha = 1};
        double x = 1.5 * sl_rng_normal(&c->rng);
        k_identity(c, "tanh'", value_of(&a, x).slope, Z_SLOPE(ctanh(Z_STEP(x))), 1);
        a.erf = 1;
        /* erf(z) = 2 Phi(sqrt(2) z) - 1 */
        k_identity(c, "erf'", value_of(&a, x).slope, Z_SLOPE(2 * z_normal_cdf(1.41421356237309504880 * Z_STEP(x))), 10);
    }
}

static const float alphas[] = {0.5f, 0.2f, -1.3f, 2.0f, 0.0f};
static const int row_counts[] = {1, 3, 0, 2, 9};

static struct dyt random_case(k_case *c, int erf, int i, int kind) {
    float alpha = alphas[k_range(c, 0, 4)], shift = erf ? (float)sl_rng_normal(&c->rng) : 0;
    return (struct dyt){row_counts[(i + kind) % 5], k_count(c, i), alpha, shift, erf, (int)k_range(c, 0, 1),
                        (int)k_range(c, 0, 1)};
}

static void check_forward(k_case *c, int erf) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int kind = 0; kind < K_KINDS; kind++) {
            struct dyt a = random_case(c, erf, i, kind);
            if (a.alpha == 0 && (kind == K_POSINF || kind == K_NEGINF))
                a.alpha = 1;
            forward_case(c, &a, (enum k_data)kind);
        }
}

static void check_backward(k_case *c, int erf) {
    identity(c);
    for (int i = 0; i < K_COUNTS; i++)
        for (int kind = 0; kind <= K_NAN; kind++) {
            if (kind == K_POSINF || kind == K_NEGINF)
                continue;
            struct dyt a = random_case(c, erf, i, kind);
            int swap = (int)k_range(c, 0, 3) == 0;
            backward_case(c, &a, swap ? K_NORMAL : (enum k_data)kind, swap ? (enum k_data)kind : K_NORMAL);
        }
}

static void check_dyt_fwd(k_case *c) { check_forward(c, 0); }
static void check_derf_fwd(k_case *c) { check_forward(c, 1); }
static void check_dyt_bwd(k_case *c) { check_backward(c, 0); }
static void check_derf_bwd(k_case *c) { check_backward(c, 1); }

enum { ROWS = 16, D = 768 };
static const struct dyt bench_case[2] = {{ROWS, D, 0.5f, 0, 0, 1, 1}, {ROWS, D, 0.5f, 0.1f, 1, 1, 1}};

static void bench_forward(k_case *c, int erf) {
    k_begin(c, erf ? call_derf_fwd : call_dyt_fwd, &bench_case[erf], "16 rows of 768");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, ROWS, D, D), 0, 1);
    k_fill_normal(c, k_add(c, "w", K_F32, K_IN, 1, D, D), 1, 0.5);
    k_add(c, "y", K_F32, K_OUT, ROWS, D, D);
    k_fill_normal(c, k_add(c, "b", K_F32, K_IN, 1, D, D), 0, 1);
    c->bytes = 8 * ROWS * D;
    c->flops = 20 * ROWS * D;
}

static void bench_backward(k_case *c, int erf) {
    k_begin(c, erf ? call_derf_bwd : call_dyt_bwd, &bench_case[erf], "16 rows of 768");
    k_fill_normal(c, k_add(c, "dy", K_F32, K_IN, ROWS, D, D), 0, 1e-6);
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, ROWS, D, D), 0, 1);
    k_fill_normal(c, k_add(c, "w", K_F32, K_IN, 1, D, D), 1, 0.5);
    static const char *const out[] = {"dx", "dw", "dalpha", "dshift", "db"};
    static const int64_t rows[] = {ROWS, 1, 1, 1, 1}, cols[] = {D, D, 1, 1, D};
    for (int i = 0; i < 5; i++)
        k_add(c, out[i], K_F32, K_INOUT, rows[i], cols[i], cols[i]);
    c->bytes = 16 * ROWS * D;
    c->flops = 30 * ROWS * D;
}

static void bench_dyt_fwd(k_case *c) { bench_forward(c, 0); }
static void bench_derf_fwd(k_case *c) { bench_forward(c, 1); }
static void bench_dyt_bwd(k_case *c) { bench_backward(c, 0); }
static void bench_derf_bwd(k_case *c) { bench_backward(c, 1); }

const k_kernel k_norm_dyt[] = {
    K_KERNEL(dyt_fwd, check_dyt_fwd, bench_dyt_fwd, 0),
    K_KERNEL(dyt_bwd, check_dyt_bwd, bench_dyt_bwd, 0),
    K_KERNEL(derf_fwd, check_derf_fwd, bench_derf_fwd, 0),
    K_KERNEL(derf_bwd, check_derf_bwd, bench_derf_bwd, 0),
    {0},
};
