#include "kern.h"
#include "ref.h"

struct softmax {
    int64_t rows, n, valid0;
    float scale;
};

static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct softmax *a = c->arg;
    t->softmax_fwd(a->rows, a->n, k_f32(c, 0), k_ld(c, 0), a->valid0, a->scale, k_f32(c, 1));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct softmax *a = c->arg;
    t->softmax_bwd(a->rows, a->n, k_f32(c, 0), k_f32(c, 1), k_ld(c, 0), a->valid0, a->scale,
                   k_f32(c, 2), k_f32(c, 3));
}

static void call_dot(const sl_kernels *t, const k_case *c) {
    *k_f32(c, 2) = t->dot(c->buf[0].cols, k_f32(c, 0), k_f32(c, 1));
}

static int64_t visible(const struct softmax *a, int64_t row) {
    return a->valid0 + row < a->n ? a->valid0 + row : a->n;
}

/* Scores; what is not visible is never initialised in real use: NaN. */
static void fill_scores(k_case *c, const struct softmax *a, k_buf *s, enum k_data kind) {
    if (kind == K_NORMAL)
        k_fill_normal(c, s, 0, 8);
    else
        k_fill(c, s, kind);
    int poison = (int)k_range(c, 0, 1);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = visible(a, i); j < a->n && poison; j++)
            ((float *)s->init)[i * a->n + j] = NAN;
}

/* Error of the exponent z_j - m before exp, which is the relative error of exp: rounding scale*s_j,
 * and the difference up to three times (subtracting, scaling, changing to base 2). What m itself is
 * off by divides out. */
static double exponent_error(double z, double m) { return U * (fabs(z) + 3 * fabs(z - m)); }

static void forward_case(k_case *c, const struct softmax *a, enum k_data kind) {
    int64_t n = a->n, lds = k_stride(c, n);
    k_begin(c, call_fwd, a, "rows=%d n=%d lds=%d valid0=%d scale=%g %s", (int)a->rows, (int)n,
            (int)lds, (int)a->valid0, (double)a->scale, k_data_name(kind));
    k_buf *s = k_add(c, "s", K_F32, K_INOUT, a->rows, n, lds);
    k_buf *lse = k_add(c, "lse", K_F32, K_OUT, 1, a->rows, a->rows);
    fill_scores(c, a, s, kind);
    double *x = k_doubles(n), *p = k_doubles(n), scale = (double)a->scale;
    for (int64_t i = 0; i < a->rows; i++) {
        int64_t v = visible(a, i);
        double m = -INFINITY, mean_error = 0, depth = k_depth(c, v);
        for (int64_t j = 0; j < v; j++) {
            x[j] = (double)((float *)s->init)[i * n + j];
            m = scale * x[j] > m ? scale * x[j] : m; /* gcc 12 for aarch64 crashes on fmax here */
        }
        double l = d_softmax(v, x, scale, p);
        for (int64_t j = 0; j < v; j++)
            mean_error += p[j] * fmin(exponent_error(scale * x[j], m), 1); /* 0 * inf is 0 here */
        double sum_error = mean_error + EXP_REL + depth * U;
        for (int64_t j = 0; j < n; j++) {
            double rel = exponent_error(scale * x[j], m) + EXP_REL + sum_error + 4 * U;
            if (j >= v)
                k_want(s, i * n + j, 0, 0);
            else /* where a score is -inf: exactly 0 */
                k_want(s, i * n + j, p[j], isfinite(x[j]) ? p[j] * rel + SMALLEST : 0);
        }
        k_want(lse, i, l,
               isfinite(l) ? U * (fabs(l) + 2 * fabs(m) + 4 * fabs(l - m)) + sum_error : 0);
    }
    k_run(c);
}

static struct softmax shape(k_case *c, int i) {
    static const float scales[] = {0.125f, 1.0f, 0.0883883461f};
    int64_t n = k_count(c, i) ? k_count(c, i) : 5; /* at least one key is visible */
    int64_t valid0 = k_range(c, 0, 2) == 0 ? n : k_range(c, 1, n + 3);
    return (struct softmax){k_range(c, 0, 2) ? k_range(c, 0, 5) : k_range(c, 6, 20), n, valid0,
                            scales[k_range(c, 0, 2)]};
}

static const enum k_data kinds[] = {K_NORMAL, K_CONST,   K_OUTLIER, K_OFFSET, K_DENORMAL,
                                    K_ZEROS,  K_EXPEDGE, K_NEGINF,  K_NAN,    K_POSINF};

static void check_fwd(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (size_t v = 0; v < sizeof kinds / sizeof *kinds; v++) {
            struct softmax a = shape(c, i);
            forward_case(c, &a, kinds[v]);
        }
}

/* dS of the formula, for one row. */
static void backward_row(int64_t n, const double *p, const double *dp, double delta, double scale,
                         double *ds) {
    for (int64_t j = 0; j < n; j++)
        ds[j] = p[j] * (dp[j] - delta) * scale;
}

static void identity(k_case *c) {
    enum { D = 11 };
    double s[D], dp[D], p[D], ds[D], delta = 0, scale = 0.3;
    k_begin(c, NULL, NULL, "n=%d, in double", D);
    for (int j = 0; j < D; j++)
        s[j] = 4 * sl_rng_normal(&c->rng), dp[j] = sl_rng_normal(&c->rng);
    d_softmax(D, s, scale, p);
    for (int j = 0; j < D; j++)
        delta += p[j] * dp[j];
    backward_row(D, p, dp, delta, scale, ds);
    for (int v = 0; v < D; v++) {
        double complex z[D], zp[D], loss = 0;
        for (int j = 0; j < D; j++)
            z[j] = j == v ? Z_STEP(s[j]) : s[j];
        z_softmax(D, z, scale, zp);
        for (int j = 0; j < D; j++)
            loss += dp[j] * zp[j];
        k_identity(c, "ds", ds[v], Z_SLOPE(loss), 10);
    }
}

static void backward_case(k_case *c, const struct softmax *a, enum k_data kind) {
    int64_t n = a->n, lds = k_stride(c, n);
    k_begin(c, call_bwd, a, "rows=%d n=%d lds=%d valid0=%d scale=%g %s", (int)a->rows, (int)n,
            (int)lds, (int)a->valid0, (double)a->scale, k_data_name(kind));
    k_buf *s = k_add(c, "s", K_F32, K_INOUT, a->rows, n, lds);
    k_buf *dp = k_add(c, "dp", K_F32, K_INOUT, a->rows, n, lds);
    k_buf *lse = k_add(c, "lse", K_F32, K_IN, 1, a->rows, a->rows);
    k_buf *delta = k_add(c, "delta", K_F32, K_IN, 1, a->rows, a->rows);
    fill_scores(c, a, s, kind);
    fill_scores(c, a, dp, K_ZEROS);
    k_fill_normal(c, delta, 0, 0.5);
    double *x = k_doubles(n), *p = k_doubles(n), *d = k_doubles(n), *ds = k_doubles(n);
    double scale = (double)a->scale;
    for (int64_t i = 0; i < a->rows; i++) {
        int64_t v = visible(a, i);
        double del = (double)((float *)delta->init)[i];
        for (int64_t j = 0; j < v; j++) {
            x[j] = (double)((float *)s->init)[i * n + j];
            d[j] = (double)((float *)dp->init)[i * n + j];
        }
        float l = ((float *)lse->init)[i] = (float)d_softmax(v, x, scale, p);
        for (int64_t j = 0; j < v; j++)
            p[j] = exp(scale * x[j] - (double)l);
        backward_row(v, p, d, del, scale, ds);
        for (int64_t j = 0; j < n; j++) {
            if (j >= v) {
                k_want(s, i * n + j, 0, 0);
                k_want(dp, i * n + j, 0, 0);
                continue;
            }
            double p_error =
                p[j] * (exponent_error(scale * x[j], (double)l) + EXP_REL + U) + SMALLEST;
            double e = scale * (fabs(d[j] - del) * (p_error + 4 * U * p[j]) + 4 * TINY) + 4 * TINY;
            k_want(s, i * n + j, p[j], isfinite(x[j]) ? p_error : 0);
            k_want(dp, i * n + j, ds[j], isfinite(x[j]) ? e : SMALLEST);
        }
    }
    k_run(c);
}

static void check_bwd(k_case *c) {
    identity(c);
    for (int i = 0; i < K_COUNTS; i++)
        for (size_t v = 0; v < sizeof kinds / sizeof *kinds; v++) {
            struct softmax a = shape(c, i);
            if (kinds[v] != K_POSINF) /* its lse is not a number */
                backward_case(c, &a, kinds[v]);
        }
}

static void check_dot(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            k_begin(c, call_dot, NULL, "n=%d %s", (int)n, k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_IN, 1, n, n),
                  *y = k_add(c, "y", K_F32, K_IN, 1, n, n);
            k_buf *r = k_add(c, "result", K_F32, K_OUT, 1, 1, 1);
            k_fill(c, x, kind);
            k_fill(c, y, K_BIT(kind) & K_FINITE ? kind : K_NORMAL);
            double sum = 0, size = 0;
            for (int64_t j = 0; j < n; j++) {
                double term = (double)((float *)x->init)[j] * (double)((float *)y->init)[j];
                sum += term, size += fabs(term);
            }
            double depth = k_depth(c, n); /* of additions, and one product */
            k_want(r, 0, sum,
                   n == 0       ? 0
                   : isinf(sum) ? 1
                                : (depth + 1) * U * size + (double)n * TINY);
            k_run(c);
        }
}

enum { BENCH_ROWS = 64, BENCH_N = 256 };
static const struct softmax bench_shape = {BENCH_ROWS, BENCH_N, BENCH_N, 0.125f};

static void bench_fwd(k_case *c) {
    k_begin(c, call_fwd, &bench_shape, "64 rows of 256");
    k_fill_normal(c, k_add(c, "s", K_F32, K_INOUT, BENCH_ROWS, BENCH_N, BENCH_N), 0, 1);
    k_add(c, "lse", K_F32, K_OUT, 1, BENCH_ROWS, BENCH_ROWS);
    c->bytes = 8 * BENCH_ROWS * BENCH_N;
    c->flops = 4 * BENCH_ROWS * BENCH_N;
}

static void bench_bwd(k_case *c) {
    k_begin(c, call_bwd, &bench_shape, "64 rows of 256");
    k_fill_normal(c, k_add(c, "s", K_F32, K_INOUT, BENCH_ROWS, BENCH_N, BENCH_N), 0, 1);
    k_fill_normal(c, k_add(c, "dp", K_F32, K_INOUT, BENCH_ROWS, BENCH_N, BENCH_N), 0, 1);
    k_fill_normal(c, k_add(c, "lse", K_F32, K_IN, 1, BENCH_ROWS, BENCH_ROWS), 5, 0.1);
    k_fill_normal(c, k_add(c, "delta", K_F32, K_IN, 1, BENCH_ROWS, BENCH_ROWS), 1, 0.1);
    c->bytes = 16 * BENCH_ROWS * BENCH_N;
    c->flops = 6 * BENCH_ROWS * BENCH_N;
}

static void bench_dot(k_case *c) {
    int64_t n = 4096;
    k_begin(c, call_dot, NULL, "n=4096");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, 1, n, n), 0, 1);
    k_fill_normal(c, k_add(c, "y", K_F32, K_IN, 1, n, n), 0, 1);
    k_add(c, "result", K_F32, K_OUT, 1, 1, 1);
    c->bytes = (double)(8 * n);
    c->flops = (double)(2 * n);
}

const k_kernel k_softmax[] = {
    K_KERNEL(softmax_fwd, check_fwd, bench_fwd, 0),
    K_KERNEL(softmax_bwd, check_bwd, bench_bwd, 0),
    K_KERNEL(dot, check_dot, bench_dot, 0),
    {0},
};
