#include "kern.h"
#include "yard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef HAVE_OPENBLAS
#include <cblas.h>
#endif

enum { SAMPLES = 11 };
static const double SAMPLE_SECONDS = 2e-3;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct work {
    void (*fn)(void *);
    void *ctx;
    int64_t calls; /* a sample */
    double sample[SAMPLES];
};

static double run(const struct work *w) {
    double t = now();
    for (int64_t i = 0; i < w->calls; i++)
        w->fn(w->ctx);
    return now() - t;
}

/* Seconds a call of each of n works: median of several samples, each long enough for the clock,
 * taken in turn so that a change of the clock rate or a neighbour's load meets all of them. */
static void time_works(struct work *w, int n, double *seconds) {
    for (int i = 0; i < n; i++) {
        double t;
        for (w[i].calls = 1; (t = run(&w[i])) < SAMPLE_SECONDS;)
            w[i].calls = t > SAMPLE_SECONDS / 100
                             ? (int64_t)((double)w[i].calls * 1.2 * SAMPLE_SECONDS / t) + 1
                             : w[i].calls * 10;
    }
    for (int s = 0; s < SAMPLES; s++)
        for (int i = 0; i < n; i++)
            w[i].sample[s] = run(&w[i]) / (double)w[i].calls;
    for (int i = 0; i < n; i++) {
        qsort(w[i].sample, SAMPLES, sizeof w[i].sample[0], ascending);
        seconds[i] = w[i].sample[SAMPLES / 2];
    }
}

static void call_kernel(void *ctx) {
    k_case *c = ctx;
    c->call(c->k, c);
}

/* ---- yardsticks */

/* A whole product in one thread from packing and micro-tiles, as the engine cuts it. */
enum { WHOLE = 384 };
static float whole_a[WHOLE * WHOLE], whole_b[WHOLE * WHOLE], whole_c[WHOLE * WHOLE];
static _Alignas(64) float panel_a[(WHOLE + 64) * WHOLE], panel_b[(WHOLE + 64) * WHOLE];

static void whole_product(void *ctx) {
    const sl_kernels *t = ctx;
    int mr = t->gemm_mr, nr = t->gemm_nr;
    t->pack_f32(WHOLE, WHOLE, whole_a, WHOLE, 1, mr, panel_a);
    t->pack_f32(WHOLE, WHOLE, whole_b, 1, WHOLE, nr, panel_b);
    for (int j = 0; j < WHOLE; j += nr)
        for (int i = 0; i < WHOLE; i += mr)
            t->gemm_f32(WHOLE, panel_a + (size_t)i * WHOLE, panel_b + (size_t)j * WHOLE,
                        whole_c + (size_t)i * WHOLE + j, WHOLE, WHOLE - i < mr ? WHOLE - i : mr,
                        WHOLE - j < nr ? WHOLE - j : nr, 0);
}

/* Each yardstick: a call, and whether it is there. */
#ifdef HAVE_OPENBLAS
enum { OPENBLAS = 1 };
static void call_openblas(void *ctx) {
    (void)ctx;
    openblas_set_num_threads(1);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, WHOLE, WHOLE, WHOLE, 1, whole_a, WHOLE,
                whole_b, WHOLE, 0, whole_c, WHOLE);
}
#else
enum { OPENBLAS = 0 };
static void call_openblas(void *ctx) { (void)ctx; }
#endif

/* SLEEF's expf at the vector length of the tier, on the buffers of the benchmark of exp. */
#ifdef HAVE_SLEEF
static void call_sleef(void *ctx) {
    k_case *c = ctx;
    (c->k->vl == 16 ? yard_sleef_exp_avx512 : yard_sleef_exp_avx2)(c->buf[0].cols, k_f32(c, 0),
                                                                   k_f32(c, 1));
}
static int have_sleef(const sl_kernels *t) { return t->vl == 16 || strcmp(t->tier, "avx2") == 0; }
#else
static void call_sleef(void *ctx) { (void)ctx; }
static int have_sleef(const sl_kernels *t) { return (void)t, 0; }
#endif

/* ---- report */

struct line {
    const char *name, *source, *tier, *shape, *yardstick;
    double seconds, bytes, flops, scalar,
        yard; /* seconds of the scalar tier and the yardstick; 0: none */
};

static void print_line(const struct line *l, int json, int first) {
    double gb = 1e-9 * l->bytes / l->seconds, gf = 1e-9 * l->flops / l->seconds;
    if (json) {
        printf("%s\n  {\"kernel\": \"%s\", \"source\": \"simd/%s.c\", \"tier\": \"%s\", \"shape\": "
               "\"%s\", \"ns\": %.1f, "
               "\"gb_per_s\": %.2f, \"gflops\": %.2f",
               first ? "[" : ",", l->name, l->source, l->tier, l->shape, 1e9 * l->seconds, gb, gf);
        if (l->scalar > 0)
            printf(", \"times_scalar\": %.2f", l->scalar / l->seconds);
        if (l->yardstick)
            printf(", \"yardstick\": \"%s\", \"times_yardstick\": %.2f", l->yardstick,
                   l->yard / l->seconds);
        printf("}");
        return;
    }
    printf("%-14s %-7s %10.0f ns %8.2f GB/s %8.2f GFLOP/s", l->name, l->tier, 1e9 * l->seconds, gb,
           gf);
    if (l->scalar > 0)
        printf("  %6.2f x scalar", l->scalar / l->seconds);
    if (l->yardstick)
        printf("  %5.2f x %s", l->yard / l->seconds, l->yardstick);
    printf("  (%s)\n", l->shape);
}

/* Times the kernel and, where the line names one, its yardstick. */
static void time_line(struct line *l, void (*fn)(void *), void *ctx, void (*yard)(void *),
                      void *yard_ctx) {
    struct work w[2] = {{.fn = fn, .ctx = ctx}, {.fn = yard, .ctx = yard_ctx}};
    double seconds[2] = {0};
    time_works(w, l->yardstick ? 2 : 1, seconds);
    l->seconds = seconds[0];
    l->yard = seconds[1];
}

/* 0 and the line, or -1 when the tier lacks the kernel. */
static int bench_one(const k_kernel *kernel, const sl_kernels *tier, uint64_t seed, k_case *c,
                     struct line *l) {
    void *fn;
    memcpy(&fn, (const char *)tier + kernel->member, sizeof fn);
    if (!fn)
        return -1;
    memset(c, 0, sizeof *c);
    c->k = tier;
    c->rng = sl_rng_make(seed, SL_STREAM_TEST, 0);
    kernel->bench(c);
    k_place_for_bench(c);
    *l = (struct line){.name = kernel->name,
                       .tier = tier->tier,
                       .shape = c->text,
                       .bytes = c->bytes,
                       .flops = c->flops};
    int is_exp = kernel->member == offsetof(sl_kernels, exp);
    l->yardstick = is_exp && have_sleef(tier) ? "SLEEF expf u10" : NULL;
    time_line(l, call_kernel, c, call_sleef, c);
    return 0;
}

static void bench_whole(const sl_kernels *tier, struct line *l) {
    *l = (struct line){.name = "gemm_f32+pack",
                       .tier = tier->tier,
                       .shape = "384 x 384 x 384, one thread",
                       .yardstick = OPENBLAS ? "OpenBLAS sgemm" : NULL,
                       .bytes = 12.0 * WHOLE * WHOLE,
                       .flops = 2.0 * WHOLE * WHOLE * WHOLE};
    time_line(l, whole_product, (void *)(uintptr_t)tier, call_openblas, NULL);
}

int k_bench(const k_kernel *const *list, const char *const *source, int n,
            const sl_kernels *const *tiers, int ntiers, uint64_t seed, int json) {
    static k_case c;
    int printed = 0;
    sl_rng rng = sl_rng_make(seed, SL_STREAM_TEST, 0);
    for (int i = 0; i < WHOLE * WHOLE; i++) {
        whole_a[i] = (float)sl_rng_normal(&rng);
        whole_b[i] = (float)sl_rng_normal(&rng);
    }
    for (int i = 0; i < n; i++) {
        int whole = list[i]->member == offsetof(sl_kernels, gemm_f32);
        for (int what = 0; what <= whole; what++) {
            double scalar = 0;
            for (int t = 0; t < ntiers; t++) {
                struct line l;
                if (what)
                    bench_whole(tiers[t], &l);
                else if (bench_one(list[i], tiers[t], seed, &c, &l))
                    continue;
                l.source = source[i];
                if (strcmp(l.tier, "scalar") == 0)
                    scalar = what || !whole ? l.seconds : l.seconds / l.flops;
                else if (scalar > 0) /* micro-tiles differ in size: by the time of a FLOP */
                    l.scalar = what || !whole ? scalar : scalar * l.flops;
                print_line(&l, json, printed++ == 0);
            }
        }
    }
    if (json)
        printf(printed ? "\n]\n" : "[]\n");
    return 0;
}
