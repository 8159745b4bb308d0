#include "kern.h"
#include "ref.h"

struct adamw {
    float gscale, lr, b1, b2, eps, wd, c1, c2;
};

enum { W, G, M, V };

static void call_adamw(const sl_kernels *t, const k_case *c) {
    const struct adamw *a = c->arg;
    t->adamw(c->buf[W].cols, k_f32(c, W), k_f32(c, G), k_f32(c, M), k_f32(c, V), a->gscale, a->lr,
             a->b1, a->b2, a->eps, a->wd, a->c1, a->c2);
}

static void call_sumsq(const sl_kernels *t, const k_case *c) {
    *k_f64(c, 1) = t->sumsq(c->buf[0].cols, k_f32(c, 0));
}

/* The update of one element. m: gradient scaled, two products, a sum: 4 u of the terms. v: all
 * terms positive, 5 roundings. The step's denominator lies between the roots of v -+ its error;
 * what is then computed from both costs 8 roundings more. */
static void want_element(const struct adamw *a, k_buf *wb, k_buf *mb, k_buf *vb, int64_t i,
                         double g) {
    double b1 = (double)a->b1, b2 = (double)a->b2, lr = (double)a->lr, wd = (double)a->wd;
    double c1 = (double)a->c1, c2 = (double)a->c2, eps = (double)a->eps;
    double w = (double)((float *)wb->init)[i], m0 = (double)((float *)mb->init)[i],
           v0 = (double)((float *)vb->init)[i];
    g *= (double)a->gscale;
    double m = b1 * m0 + (1 - b1) * g, v = b2 * v0 + (1 - b2) * g * g;
    double dm = 4 * U * (fabs(b1 * m0) + fabs((1 - b1) * g)) + 4 * TINY, dv = 5 * U * v + 4 * TINY;
    double den = sqrt(v / c2) + eps, least = sqrt(fmax(v - dv, 0) / c2) + eps,
           most = sqrt((v + dv) / c2) + eps;
    double ratio = m / c1 / den, high = (fabs(m) + dm) / c1 / least,
           low = (fabs(m) - dm) / c1 / most;
    double dratio = fmax(high - fabs(ratio), fabs(ratio) - low) + 8 * U * high + 2 * TINY;
    double step = lr * (ratio + wd * w);
    double dw = lr * (dratio + 3 * U * fabs(wd * w) + U * fabs(ratio + wd * w)) + U * fabs(step) +
                U * (fabs(w) + fabs(w - step)) + 4 * TINY;
    k_want(mb, i, m, isinf(m) ? 1 : dm);
    k_want(vb, i, v, isinf(v) ? 1 : dv);
    k_want(wb, i, w - step, dw);
}

static void check_adamw(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            float t = (float)(1 << k_range(c, 0, 12)), b2 = k_range(c, 0, 1) ? 0.999f : 0.95f;
            struct adamw a = {k_range(c, 0, 1) ? 1.0f : 0.37f,
                              1e-3f,
                              0.9f,
                              b2,
                              k_range(c, 0, 1) ? 1e-8f : 1e-3f,
                              k_range(c, 0, 1) ? 0.1f : 0,
                              1 - powf(0.9f, t),
                              1 - powf(b2, t)};
            k_begin(c, call_adamw, &a, "n=%d t=%g b2=%g eps=%g wd=%g gscale=%g %s", (int)n,
                    (double)t, (double)b2, (double)a.eps, (double)a.wd, (double)a.gscale,
                    k_data_name(kind));
            k_buf *w = k_add(c, "w", K_F32, K_INOUT, 1, n, n),
                  *g = k_add(c, "g", K_F32, K_IN, 1, n, n);
            k_buf *m = k_add(c, "m", K_F32, K_INOUT, 1, n, n),
                  *v = k_add(c, "v", K_F32, K_INOUT, 1, n, n);
            k_fill_normal(c, w, 0, 0.1);
            k_fill(c, g, kind);
            if (t > 1) { /* the state is zero before the first step */
                k_fill_normal(c, m, 0, 0.1);
                k_fill_normal(c, v, 0, 0.1);
            }
            for (int64_t j = 0; j < n; j++) {
                ((float *)v->init)[j] *= ((float *)v->init)[j];
                want_element(&a, w, m, v, j, (double)((float *)g->init)[j]);
            }
            k_run(c);
        }
}

static void check_sumsq(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            k_begin(c, call_sumsq, NULL, "n=%d %s", (int)n, k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_IN, 1, n, n),
                  *r = k_add(c, "result", K_F64, K_OUT, 1, 1, 1);
            k_fill(c, x, kind);
            long double sum = 0;
            for (int64_t j = 0; j < n; j++)
                sum += (long double)((float *)x->init)[j] * (long double)((float *)x->init)[j];
            /* squares are exact in binary64, whose vectors are half as long; the reference sum is
             * good to a rounding of it */
            double want = (double)sum;
            k_want(r, 0, want, isinf(want) ? 1 : want * 0x1p-53 * (2 * k_depth(c, n) + 2));
            k_run(c);
        }
}

static void bench_adamw(k_case *c) {
    static const struct adamw a = {1, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.5f, 0.5f};
    int64_t n = 4096;
    k_begin(c, call_adamw, &a, "n=4096");
    k_fill_normal(c, k_add(c, "w", K_F32, K_INOUT, 1, n, n), 0, 0.1);
    k_fill_normal(c, k_add(c, "g", K_F32, K_IN, 1, n, n), 0, 1);
    k_add(c, "m", K_F32, K_INOUT, 1, n, n);
    k_add(c, "v", K_F32, K_INOUT, 1, n, n);
    c->bytes = (double)(28 * n);
    c->flops = (double)(15 * n);
}

static void bench_sumsq(k_case *c) {
    int64_t n = 4096;
    k_begin(c, call_sumsq, NULL, "n=4096");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, 1, n, n), 0, 1);
    k_add(c, "result", K_F64, K_OUT, 1, 1, 1);
    c->bytes = (double)(4 * n);
    c->flops = (double)(2 * n);
}

const k_kernel k_optim[] = {
    K_KERNEL(adamw, check_adamw, bench_adamw, 0),
    K_KERNEL(sumsq, check_sumsq, bench_sumsq, 0),
    {0},
};
