#include "kern.h"

#include <math.h>
#include <string.h>

static void call_to(const sl_kernels *t, const k_case *c) {
    t->to_bf16(c->buf[0].cols, k_f32(c, 0), c->buf[1].p);
}

static void call_from(const sl_kernels *t, const k_case *c) {
    t->from_bf16(c->buf[0].cols, c->buf[0].p, k_f32(c, 1));
}

static float from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Nearest multiple of the spacing of bf16 numbers at x (8 significant bits, least exponent -126),
 * ties to even (the default rounding of rint); from 2^128 on it is infinity. */
double k_round_bf16(const k_case *c, double x) {
    if (!isfinite(x) || x == 0)
        return x;
    if (fabs(x) < SMALLEST && k_flushes(c))
        return copysign(0, x);
    int e = ilogb(x) < -126 ? -126 : ilogb(x);
    double y = ldexp(rint(ldexp(x, 7 - e)), e - 7);
    return fabs(y) >= 0x1p128 ? copysign(INFINITY, x) : y;
}

/* Half a unit in the last of 8 bits; below the normal numbers half their spacing, or all of it. */
void k_want_bf16(const k_case *c, k_buf *b, int64_t i, double want, double bound) {
    double size = fabs(want) + bound;
    k_want(b, i, want, bound + ldexp(size, -8) + (k_flushes(c) ? SMALLEST : ldexp(1, -134)));
}

int k_flushes(const k_case *c) {
    return strcmp(c->k->tier, "avx512bf16") == 0 || strcmp(c->k->tier, "amx") == 0;
}

static void run_to(k_case *c, k_buf *x, k_buf *y) {
    const float *in = x->init;
    for (int64_t i = 0; i < x->cols; i++)
        k_want(y, i, k_round_bf16(c, (double)in[i]), 0);
    k_run(c);
}

static void check_to(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            k_begin(c, call_to, NULL, "n=%d %s", (int)n, k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_IN, 1, n, n),
                  *y = k_add(c, "y", K_BF16, K_OUT, 1, n, n);
            k_fill(c, x, kind);
            run_to(c, x, y);
        }
    /* Every upper half with lower halves about the tie: all binades, both signs, overflow to
     * infinity, NaNs whose payload lies in the lower half only. */
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    for (size_t l = 0; l < sizeof low / sizeof *low; l++)
        for (uint32_t part = 0; part < 16; part++) {
            k_begin(c, call_to, NULL, "bits %x000..%xfff, lower half %x", part, part, low[l]);
            k_buf *x = k_add(c, "x", K_F32, K_IN, 1, 4096, 4096);
            k_buf *y = k_add(c, "y", K_BF16, K_OUT, 1, 4096, 4096);
            for (uint32_t i = 0; i < 4096; i++)
                ((float *)x->init)[i] = from_bits((part << 12 | i) << 16 | low[l]);
            run_to(c, x, y);
        }
}

static void run_from(k_case *c, int64_t n, uint32_t first, uint32_t step, const char *what) {
    k_begin(c, call_from, NULL, "n=%d %s", (int)n, what);
    k_buf *x = k_add(c, "x", K_BF16, K_IN, 1, n, n), *y = k_add(c, "y", K_F32, K_OUT, 1, n, n);
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = (uint16_t)(first + step * (uint32_t)i);
        ((uint16_t *)x->init)[i] = h;
        k_want(y, i, (double)from_bits((uint32_t)h << 16), 0);
    }
    k_run(c);
}

static void check_from(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        run_from(c, k_count(c, i), sl_rng_u32(&c->rng), sl_rng_u32(&c->rng) | 1, "random bits");
    run_from(c, 65536, 0, 1, "all values");
}

static void bench_to(k_case *c) {
    int64_t n = 4096;
    k_begin(c, call_to, NULL, "n=4096");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, 1, n, n), 0, 1);
    k_add(c, "y", K_BF16, K_OUT, 1, n, n);
    c->bytes = (double)(6 * n);
    c->flops = 0;
}

static void bench_from(k_case *c) {
    int64_t n = 4096;
    k_begin(c, call_from, NULL, "n=4096");
    k_add(c, "x", K_BF16, K_IN, 1, n, n);
    k_add(c, "y", K_F32, K_OUT, 1, n, n);
    c->bytes = (double)(6 * n);
    c->flops = 0;
}

const k_kernel k_bf16[] = {
    K_KERNEL(to_bf16, check_to, bench_to, 0),
    K_KERNEL(from_bf16, check_from, bench_from, 0),
    {0},
};
