/* The threaded bf16 products against sums in double over the same bf16 operands, on every tier of
 * this machine, and bit for bit between 1, 2 and 3 threads. */
#include "ops/product/gemm_bf16.h"
#include "program/op.h"
#include "base/rng.h"
#include "base/threads.h"
#include "suite.h"
#include "tiers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t m, n, k;
} shape;

/* Tails in every direction; k over one chunk; few rows (columns are cut); n < k and n > k (the
 * weight gradient transposes one or the other); m over one chunk of the weight gradient. */
static const shape shapes[] = {
    {1, 1, 1},      {1, 300, 40},  {33, 70, 45},   {130, 64, 96},  {257, 33, 1100},
    {1030, 40, 64}, {1101, 70, 33}, {96, 200, 32}, {600, 17, 100}, {2, 1000, 160}, {515, 129, 129},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static double value(sl_bf16 h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return (double)f;
}

static sl_bf16 nearest(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (sl_bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void *must_alloc(int64_t n, size_t size) {
    void *p = aligned_alloc(64, ((size_t)n * size + 127) / 64 * 64);
    ck_assert_ptr_nonnull(p);
    memset(p, 0, ((size_t)n * size + 127) / 64 * 64);
    return p;
}

/* Row-major bf16 with zeros up to ld. */
static sl_bf16 *random_bf16(sl_rng *r, int64_t rows, int64_t cols, int64_t ld) {
    sl_bf16 *x = must_alloc(rows * ld, sizeof *x);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            x[i * ld + j] = nearest((float)sl_rng_normal(r));
    return x;
}

/* The operands of one shape: x[m,k], dy[m,n], w[n,k] and w's rounded copy. */
typedef struct {
    shape s;
    int64_t ldx, ldy;
    sl_bf16 *x, *dy;
    float *w;
} operands;

static operands make(shape s) {
    sl_rng r = sl_rng_make(3, SL_STREAM_TEST, (uint64_t)(s.m * 31 + s.n * 7 + s.k));
    operands o = {
        s, sl_bf16_ld(s.k), sl_bf16_ld(s.n), NULL, NULL, must_alloc(s.n * s.k, sizeof(float))};
    o.x = random_bf16(&r, s.m, s.k, o.ldx);
    o.dy = random_bf16(&r, s.m, s.n, o.ldy);
    for (int64_t i = 0; i < s.n * s.k; i++)
        o.w[i] = (float)sl_rng_normal(&r);
    return o;
}

static void drop(operands *o) {
    free(o->x);
    free(o->dy);
    free(o->w);
}

/* What an epilogue is to see: each element once, blocks aligned as promised. */
typedef struct {
    shape s;
    int group;
    float *c;
    int *seen;
} collector;

static void collect(void *ctx, int64_t row0, int64_t rows, int64_t col0, int64_t cols,
                    const float *c, int64_t ldc, int thread) {
    collector *t = ctx;
    ck_assert_int_ge(thread, 0);
    ck_assert_int_lt(thread, sl_threads());
    ck_assert(row0 % 32 == 0 && col0 % (32 * t->group) == 0);
    ck_assert(cols == 32 * t->group || col0 + cols == t->s.n);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            t->c[(row0 + i) * t->s.n + col0 + j] = c[i * ldc + j];
            t->seen[(row0 + i) * t->s.n + col0 + j]++;
        }
}

/* Results of the three products, and of the forward one through an epilogue. */
typedef struct {
    float *y, *y_epilogue, *dx, *dw;
} results;

static results run(const sl_kernels *kn, const operands *o, int threads, int group) {
    shape s = o->s;
    results r = {must_alloc(s.m * s.n, 4), must_alloc(s.m * s.n, 4), must_alloc(s.m * s.k, 4),
                 must_alloc(s.n * s.k, 4)};
    sl_bf16 *fwd = must_alloc(sl_bf16_panels_size(s.n, s.k), 2);
    sl_bf16 *back = must_alloc(sl_bf16_panels_size(s.k, s.n), 2);
    for (int64_t i = 0; i < s.m * s.k; i++)
        r.dx[i] = 1;
    for (int64_t i = 0; i < s.n * s.k; i++)
        r.dw[i] = 1;
    sl_threads_set(threads);
    sl_gemm_bf16_work *w = sl_gemm_bf16_work_new(threads);
    ck_assert_ptr_nonnull(w);
    sl_gemm_bf16_pack(kn, s.n, s.k, o->w, s.k, fwd, sl_bf16_kpad(s.k) * 32, back,
                      sl_bf16_kpad(s.n) * 32);
    sl_gemm_bf16_args forward = {.m = s.m,
                                 .n = s.n,
                                 .k = s.k,
                                 .a = o->x,
                                 .lda = o->ldx,
                                 .b = fwd,
                                 .c = r.y,
                                 .ldc = s.n,
                                 .group = group};
    sl_gemm_bf16(kn, w, &forward);
    collector t = {s, group, r.y_epilogue, must_alloc(s.m * s.n, sizeof(int))};
    forward.c = NULL;
    forward.epilogue = collect;
    forward.ctx = &t;
    sl_gemm_bf16(kn, w, &forward);
    for (int64_t i = 0; i < s.m * s.n; i++)
        ck_assert_int_eq(t.seen[i], 1);
    sl_gemm_bf16(kn, w,
                 &(sl_gemm_bf16_args){.m = s.m,
                                      .n = s.k,
                                      .k = s.n,
                                      .a = o->dy,
                                      .lda = o->ldy,
                                      .b = back,
                                      .c = r.dx,
                                      .ldc = s.k,
                                      .add = 1,
                                      .group = 1});
    sl_gemm_bf16_wgrad(kn, w, s.m, s.n, s.k, o->dy, o->ldy, o->x, o->ldx, r.dw, s.k, 1);
    sl_gemm_bf16_work_free(w);
    free(t.seen);
    free(fwd);
    free(back);
    return r;
}

static void release(results *r) {
    free(r->y);
    free(r->y_epilogue);
    free(r->dx);
    free(r->dw);
}

/* |error| <= (k + 2) u S (simd/kernels.h), k rounded up to whole panels and one more sum for the
 * start value; operands are normal numbers, so nothing is flushed but sums under 2^-126, which
 * normal deviates do not make. */
static void near_enough(float got, double want, double s, int64_t k, const sl_kernels *kn) {
    double u = ldexp(1, strcmp(kn->tier, "neonbf16") == 0 ? -23 : -24);
    ck_assert_double_le(fabs((double)got - want), (double)(sl_bf16_kpad(k) + 3) * u * s);
}

static void against_double(const sl_kernels *kn, const operands *o, const results *r) {
    shape s = o->s;
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t j = 0; j < s.n; j++) {
            double sum = 0, abs = 0;
            for (int64_t k = 0; k < s.k; k++) {
                double p = value(o->x[i * o->ldx + k]) * value(nearest(o->w[j * s.k + k]));
                sum += p;
                abs += fabs(p);
            }
            near_enough(r->y[i * s.n + j], sum, abs, s.k, kn);
        }
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t k = 0; k < s.k; k++) {
            double sum = 1, abs = 1;
            for (int64_t j = 0; j < s.n; j++) {
                double p = value(o->dy[i * o->ldy + j]) * value(nearest(o->w[j * s.k + k]));
                sum += p;
                abs += fabs(p);
            }
            near_enough(r->dx[i * s.k + k], sum, abs, s.n, kn);
        }
    for (int64_t j = 0; j < s.n; j++)
        for (int64_t k = 0; k < s.k; k++) {
            double sum = 1, abs = 1;
            for (int64_t i = 0; i < s.m; i++) {
                double p = value(o->dy[i * o->ldy + j]) * value(o->x[i * o->ldx + k]);
                sum += p;
                abs += fabs(p);
            }
            near_enough(r->dw[j * s.k + k], sum, abs, s.m, kn);
        }
}

START_TEST(products) {
    const sl_kernels *kn = sl_kernels_tier(tiers[_i / SHAPES]);
    if (!kn)
        return; /* not built, or not on this machine */
    operands o = make(shapes[_i % SHAPES]);
    shape s = o.s;
    results one = run(kn, &o, 1, 1);
    against_double(kn, &o, &one);
    for (int threads = 2; threads <= 3; threads++) {
        results r = run(kn, &o, threads, 3 * threads - 5);
        ck_assert_mem_eq(r.y, one.y, (size_t)(s.m * s.n) * 4);
        ck_assert_mem_eq(r.y_epilogue, one.y, (size_t)(s.m * s.n) * 4);
        ck_assert_mem_eq(r.dx, one.dx, (size_t)(s.m * s.k) * 4);
        ck_assert_mem_eq(r.dw, one.dw, (size_t)(s.n * s.k) * 4);
        release(&r);
    }
    release(&one);
    drop(&o);
}
END_TEST

/* Two matrices interleaved forward and stacked backward give what one matrix of both does. */
START_TEST(strides) {
    const sl_kernels *kn = sl_kernels_select(SL_ISA_AUTO);
    enum { N = 64, K = 50, KP = 64, FWD = KP * 32, BACK = 2 * N * 32 };
    sl_rng r = sl_rng_make(5, SL_STREAM_TEST, 0);
    float w[2 * N * K];
    for (int i = 0; i < 2 * N * K; i++)
        w[i] = (float)sl_rng_normal(&r);
    sl_bf16 *fwd = must_alloc(4 * FWD, 2), *mixed = must_alloc(4 * FWD, 2);
    sl_bf16 *back = must_alloc(2 * BACK, 2), *stacked = must_alloc(2 * BACK, 2);
    sl_gemm_bf16_pack(kn, 2 * N, K, w, K, fwd, FWD, back, BACK);
    sl_gemm_bf16_pack(kn, N, K, w, K, mixed, 2 * FWD, stacked, BACK);
    sl_gemm_bf16_pack(kn, N, K, w + N * K, K, mixed + FWD, 2 * FWD, stacked + N * 32, BACK);
    ck_assert_mem_eq(back, stacked, 2 * BACK * 2);
    for (int p = 0; p < 4; p++)
        ck_assert_mem_eq(fwd + p * FWD, mixed + (p % 2 * 2 + p / 2) * FWD, FWD * 2);
    free(fwd);
    free(mixed);
    free(back);
    free(stacked);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gemm_bf16");
    TCase *t = tcase_create("gemm_bf16");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, products, 0, TIERS * SHAPES);
    tcase_add_test(t, strides);
    suite_add_tcase(s, t);
    return run_suite(s);
}
