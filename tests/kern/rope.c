#include "kern.h"
#include "ref.h"

struct rope {
    int64_t heads, hd;
    float sign;
};

static void call_rope_bf16(const sl_kernels *t, const k_case *c) {
    const struct rope *a = c->arg;
    t->rope_bf16(a->heads, a->hd, k_f32(c, 0), k_f32(c, 1), a->sign, c->buf[2].p);
}

static void call_rope(const sl_kernels *t, const k_case *c) {
    const struct rope *a = c->arg;
    t->rope(a->heads, a->hd, k_f32(c, 0), k_f32(c, 1), a->sign, k_f32(c, 2));
}

/* sign -1 must be the transpose: the gradient of <dy, rope(x)> by x, by complex step. */
static void identity(k_case *c) {
    enum { D = 10 };
    double cosine[D / 2], sine[D / 2], dy[D], x[D], dx[D];
    k_begin(c, NULL, NULL, "hd=%d, in double", D);
    for (int j = 0; j < D; j++) {
        double angle = 6 * sl_rng_uniform(&c->rng);
        cosine[j / 2] = cos(angle), sine[j / 2] = sin(angle);
        dy[j] = sl_rng_normal(&c->rng), x[j] = sl_rng_normal(&c->rng);
    }
    d_rope(D, cosine, sine, -1, dy, dx);
    for (int v = 0; v < D; v++) {
        double complex z[D], y[D], loss = 0;
        for (int j = 0; j < D; j++)
            z[j] = j == v ? Z_STEP(x[j]) : x[j];
        z_rope(D, cosine, sine, 1, z, y);
        for (int j = 0; j < D; j++)
            loss += dy[j] * y[j];
        k_identity(c, "dx", dx[v], Z_SLOPE(loss), 10);
    }
}

static void rope_case(k_case *c, enum k_type type, int64_t heads, int64_t hd, enum k_data kind) {
    struct rope a = {heads, hd, k_range(c, 0, 1) ? 1.0f : -1.0f};
    int64_t h = hd / 2;
    k_begin(c, type == K_BF16 ? call_rope_bf16 : call_rope, &a, "heads=%d hd=%d sign=%g %s", (int)heads, (int)hd,
            (double)a.sign, k_data_name(kind));
    k_buf *cosine = k_add(c, "cos", K_F32, K_IN, 1, h, h),
          *sine = k_add(c, "sin", K_F32, K_IN, 1, h, h);
    k_buf *x = k_add(c, "x", type, K_INOUT, 1, heads * hd, heads * hd);
    k_fill(c, x, kind);
    double *dc = k_doubles(h), *ds = k_doubles(h), *dx = k_doubles(hd), *dy = k_doubles(hd);
    for (int64_t j = 0; j < h; j++) {
        double angle = 100 * sl_rng_uniform(&c->rng);
        dc[j] = (double)(((float *)cosine->init)[j] = (float)cos(angle));
        ds[j] = (double)(((float *)sine->init)[j] = (float)sin(angle));
    }
    for (int64_t i = 0; i < heads; i++) {
        for (int64_t j = 0; j < hd; j++)
            dx[j] = k_initial(x, i * hd + j);
        d_rope(hd, dc, ds, (double)a.sign, dx, dy);
        for (int64_t j = 0; j < hd; j++) { /* two products and a sum: 2 u of the terms */
            double size = fabs(dx[j % h] * (j < h ? dc[j % h] : ds[j % h])) +
                          fabs(dx[h + j % h] * (j < h ? ds[j % h] : dc[j % h]));
            double bound = isfinite(dy[j]) ? 2 * U * size + 2 * TINY : 1;
            if (type == K_BF16)
                k_want_bf16(c, x, i * hd + j, dy[j], bound);
            else
                k_want(x, i * hd + j, dy[j], bound);
        }
    }
    k_run(c);
}

static void check_type(k_case *c, enum k_type type) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++)
            rope_case(c, type, k_range(c, 0, 6), 2 * (k_count(c, i) % 140), kind);
}

static void check_rope(k_case *c) { identity(c), check_type(c, K_F32); }
static void check_rope_bf16(k_case *c) { check_type(c, K_BF16); }

static void bench_type(k_case *c, enum k_type type) {
    static const struct rope a = {12, 64, 1};
    k_begin(c, type == K_BF16 ? call_rope_bf16 : call_rope, &a, "12 heads of 64");
    k_buf *cosine = k_add(c, "cos", K_F32, K_IN, 1, 32, 32),
          *sine = k_add(c, "sin", K_F32, K_IN, 1, 32, 32);
    for (int j = 0; j < 32; j++) {
        ((float *)cosine->init)[j] = (float)cos(j);
        ((float *)sine->init)[j] = (float)sin(j);
    }
    k_fill(c, k_add(c, "x", type, K_INOUT, 1, 768, 768), K_NORMAL);
    c->bytes = (type == K_BF16 ? 4 : 8) * 768;
    c->flops = 3 * 768;
}

static void bench_rope(k_case *c) { bench_type(c, K_F32); }
static void bench_rope_bf16(k_case *c) { bench_type(c, K_BF16); }

const k_kernel k_rope[] = {K_KERNEL(rope, check_rope, bench_rope, 0),
                           K_KERNEL(rope_bf16, check_rope_bf16, bench_rope_bf16, 0),
                           {0}};
