#include "kern.h"
#include "ref.h"

struct xent {
    int64_t rows, v;
    float scale;
    int grad;
};

enum { LOGITS, TARGET, LOSS };

static void call_xent(const sl_kernels *t, const k_case *c) {
    const struct xent *a = c->arg;
    t->xent(a->rows, a->v, k_f32(c, LOGITS), k_ld(c, LOGITS), c->buf[TARGET].p, a->scale, a->grad,
            k_f32(c, LOSS));
}

/* (softmax - onehot) * scale is the gradient of scale * (lse - logit[target]). */
static void identity(k_case *c) {
    enum { D = 9 };
    double x[D], p[D], scale = 0.7;
    int target = (int)k_range(c, 0, D - 1);
    k_begin(c, NULL, NULL, "v=%d target=%d, in double", D, target);
    for (int j = 0; j < D; j++)
        x[j] = 3 * sl_rng_normal(&c->rng);
    d_softmax(D, x, 1, p);
    for (int i = 0; i < D; i++) {
        double complex z[D], zp[D];
        for (int j = 0; j < D; j++)
            z[j] = i == j ? Z_STEP(x[j]) : x[j];
        double complex loss = scale * (z_softmax(D, z, 1, zp) - z[target]);
        k_identity(c, "dlogits", (p[i] - (i == target)) * scale, Z_SLOPE(loss), 10);
    }
}

/* As for the softmax: relative error of exp(x - m) / sum, with u|x - m| from the difference, or of
 * exp(x - lse), with u|lse| and u|x - lse|. */
static void want_row(const k_case *c, const struct xent *a, k_buf *logits, k_buf *loss, int64_t i,
                     int32_t target, double *x, double *p) {
    double m = -INFINITY, mean_error = 0, scale = (double)a->scale;
    for (int64_t j = 0; j < a->v; j++) {
        x[j] = (double)((float *)logits->init)[i * a->v + j];
        m = x[j] > m ? x[j] : m; /* gcc 12 for aarch64 crashes on fmax here */
    }
    double l = d_softmax(a->v, x, 1, p);
    for (int64_t j = 0; j < a->v; j++)
        mean_error += p[j] * fmin(2 * U * fabs(x[j] - m), 1); /* 0 * inf is 0 here */
    double sum_error = mean_error + EXP_REL + k_depth(c, a->v) * U;
    double want = l - x[target];
    double l_error = U * (fabs(l) + 2 * fabs(m) + 4 * fabs(l - m)) + sum_error;
    k_want(loss, i, want, isinf(want) ? 1 : isfinite(want) ? l_error + 2 * U * fabs(want) : 0);
    for (int64_t j = 0; j < a->v && a->grad; j++) {
        double rel = U * (2 * fabs(l) + 2 * fabs(x[j] - m) + 2 * fabs(x[j] - l)) + EXP_REL +
                     sum_error + 4 * U;
        double hot = j == target,
               e = fabs(scale) * (p[j] * rel + SMALLEST + 2 * U * (p[j] + hot)) + 2 * TINY;
        k_want(logits, i * a->v + j, (p[j] - hot) * scale,
               isfinite(x[j]) ? e : 2 * U * fabs(scale) * hot + TINY);
    }
}

static void xent_case(k_case *c, const struct xent *a, enum k_data kind) {
    int64_t v = a->v, ld = k_stride(c, v);
    k_begin(c, call_xent, a, "rows=%d v=%d ld=%d scale=%g grad=%d %s", (int)a->rows, (int)v,
            (int)ld, (double)a->scale, a->grad, k_data_name(kind));
    k_buf *logits = k_add(c, "logits", K_F32, a->grad ? K_INOUT : K_IN, a->rows, v, ld);
    k_buf *target = k_add(c, "target", K_I32, K_IN, 1, a->rows, a->rows);
    k_buf *loss = k_add(c, "loss", K_F32, K_OUT, 1, a->rows, a->rows);
    if (kind == K_NORMAL)
        k_fill_normal(c, logits, 0, 4);
    else
        k_fill(c, logits, kind);
    double *x = k_doubles(v), *p = k_doubles(v);
    for (int64_t i = 0; i < a->rows; i++) {
        int32_t t = v == 0 || k_range(c, 0, 3) == 0 ? (int32_t)-k_range(c, 1, 100)
                                                    : (int32_t)k_range(c, 0, v - 1);
        ((int32_t *)target->init)[i] = t;
        if (t >= 0) {
            want_row(c, a, logits, loss, i, t, x, p);
            continue;
        }
        k_want(loss, i, 0, 0);
        for (int64_t j = 0; j < v && a->grad; j++)
            k_want(logits, i * v + j, 0, 0);
    }
    k_run(c);
}

static void check_xent(k_case *c) {
    static const enum k_data kinds[] = {K_NORMAL, K_CONST,   K_OUTLIER, K_OFFSET, K_DENORMAL,
                                        K_ZEROS,  K_EXPEDGE, K_NEGINF,  K_NAN,    K_POSINF};
    static const float scales[] = {1.0f, 1.0f / 4096, -0.5f};
    identity(c);
    for (int i = 0; i < K_COUNTS; i++)
        for (size_t v = 0; v < sizeof kinds / sizeof *kinds; v++) {
            struct xent a = {k_range(c, 0, 5), k_count(c, i), scales[k_range(c, 0, 2)],
                             (int)k_range(c, 0, 1)};
            xent_case(c, &a, kinds[v]);
        }
    struct xent large = {2, 50257, 0.25f, 1}; /* GPT-2's vocabulary: odd, long sums */
    xent_case(c, &large, K_NORMAL);
    large.grad = 0;
    xent_case(c, &large, K_OUTLIER);
}

static void bench_xent(k_case *c) {
    static const struct xent a = {4, 4096, 1, 1};
    k_begin(c, call_xent, &a, "4 rows of 4096");
    k_fill_normal(c, k_add(c, "logits", K_F32, K_INOUT, a.rows, a.v, a.v), 0, 4);
    k_buf *target = k_add(c, "target", K_I32, K_IN, 1, a.rows, a.rows);
    for (int i = 0; i < a.rows; i++)
        ((int32_t *)target->init)[i] = i;
    k_add(c, "loss", K_F32, K_OUT, 1, a.rows, a.rows);
    c->bytes = (double)(8 * a.rows * a.v);
    c->flops = (double)(5 * a.rows * a.v);
}

const k_kernel k_xent[] = {K_KERNEL(xent, check_xent, bench_xent, 0), {0}};
