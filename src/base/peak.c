#include "base/clock.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "base/threads.h"
#include "simd/kernels.h"

#include <stdlib.h>
#include <sys/mman.h>

/* ---------------------------------------------------------------- arithmetic */

/* What a thread does again and again, some 50 us long; the operations that it did. */
typedef double (*burst_fn)(const void *ctx, int64_t thread);

typedef struct {
    burst_fn burst;
    const void *ctx;
    double start, warm, window; /* of the clock; seconds */
    int windows, threads;
    double *rate; /* [windows][threads], operations a second */
} rounds;

/* Windows are cut by the clock, the same for all threads, so that their rates may be added. */
static void rounds_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const rounds *r = ctx;
    while (sl_now() < r->start + r->warm)
        r->burst(r->ctx, item);
    for (int w = 0; w < r->windows; w++) {
        double begin = sl_now(), end = r->start + r->warm + (w + 1) * r->window, now, done = 0;
        do {
            done += r->burst(r->ctx, item);
            now = sl_now();
        } while (now < end);
        r->rate[w * r->threads + item] = done / (now - begin);
    }
}

/* Operations a second of all threads in the best window. Windows are shorter than the slices of time that
 * the system deals out, so that some belong to us alone when other work shares the cores. */
static double best_rate(burst_fn burst, const void *ctx, int threads, double seconds) {
    const double window = 2e-3;
    rounds r = {.burst = burst, .ctx = ctx, .window = window, .threads = threads};
    r.windows = seconds > 6 * window ? (int)(seconds * 5 / 6 / window) : 5;
    r.warm = r.windows * window / 5; /* clocks settle, threads wake */
    r.rate = calloc((size_t)(r.windows * threads), sizeof *r.rate);
    if (!r.rate)
        return 0;
    r.start = sl_now();
    sl_each_thread(threads, rounds_item, &r);
    double best = 0;
    for (int w = 0; w < r.windows; w++) {
        double sum = 0;
        for (int i = 0; i < threads; i++)
            sum += r.rate[w * threads + i];
        best = sum > best ? sum : best;
    }
    free(r.rate);
    return best;
}

typedef struct {
    const sl_kernels *kernels;
    int64_t k, stride; /* depth of a panel; floats of a thread's operands */
    float *memory;
} products;

static double product_burst(const void *ctx, int64_t thread) {
    enum { CALLS = 32 };
    const products *r = ctx;
    const sl_kernels *s = r->kernels;
    int mr = s->gemm_mr, nr = s->gemm_nr;
    float *a = r->memory + thread * r->stride;
    float *b = a + (mr * r->k + 15) / 16 * 16, *c = b + (nr * r->k + 15) / 16 * 16;
    for (int i = 0; i < CALLS; i++)
        s->gemm_f32(r->k, a, b, c, nr, mr, nr, 1);
    return 2.0 * mr * nr * (double)r->k * CALLS;
}

double sl_measure_gflops(int threads, double seconds) {
    enum { DEFAULT_L1 = 32 << 10 };
    sl_cpu cpu;
    sl_cpu_detect(&cpu);
    products r = {.kernels = sl_kernels_select(SL_ISA_AUTO)};
    int64_t panel = r.kernels->gemm_mr + r.kernels->gemm_nr, tile = panel * panel;
    /* Both panels in three quarters of L1; deep enough for the tile's loads and stores not to
     * count. */
    r.k = (cpu.l1d ? cpu.l1d : DEFAULT_L1) * 3 / 4 / (int64_t)sizeof(float) / panel;
    r.stride = (panel * r.k + tile + 4096) / 1024 * 1024;
    r.memory =
        sl_alloc_threads(threads, (size_t)r.stride * sizeof(float), "the measurement of the peak");
    double rate = r.memory ? best_rate(product_burst, &r, threads, seconds) : 0;
    sl_free(r.memory);
    return rate / 1e9;
}

static double bf16_burst(const void *ctx, int64_t thread) {
    enum { ROUNDS = 1 << 11 };
    (void)thread;
    return (double)((const sl_kernels *)ctx)->peak_bf16(ROUNDS);
}

double sl_measure_bf16_gflops(int threads, double seconds) {
    const sl_kernels *k = sl_kernels_select(SL_ISA_AUTO);
    return k->bf16_unit ? best_rate(bf16_burst, k, threads, seconds) / 1e9 : 0;
}

double sl_measured_peak_gflops(bool bf16) {
    static double peak[2];
    static int threads[2];
    if (threads[bf16] != sl_threads()) {
        threads[bf16] = sl_threads();
        peak[bf16] = (bf16 ? sl_measure_bf16_gflops : sl_measure_gflops)(threads[bf16], 0.12);
    }
    return peak[bf16];
}

/* ---------------------------------------------------------------- memory */

typedef struct {
    const sl_kernels *kernels;
    int64_t n; /* floats of a thread */
    float *x, *y;
} stream_run;

static void touch_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    stream_run *r = ctx;
    for (int64_t i = item * r->n; i < (item + 1) * r->n; i++) {
        r->x[i] = 1;
        r->y[i] = 2;
    }
}

static void stream_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    stream_run *r = ctx;
    r->kernels->add(r->n, r->x + item * r->n, r->y + item * r->n);
}

/* Not sl_alloc: pages must be touched first by the thread that uses them, or all lie on one node.
 */
static float *map_floats(int64_t n) {
    void *p = mmap(NULL, (size_t)n * sizeof(float), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, (size_t)n * sizeof(float), MADV_HUGEPAGE); /* best effort */
    return p;
}

static double stream(stream_run *r, int threads, double seconds) {
    double begin = sl_now(), best = 0;
    sl_each_thread(threads, touch_item, r);
    begin = sl_now();
    do {
        double start = sl_now();
        sl_each_thread(threads, stream_item, r);
        double rate = 12.0 * (double)r->n * threads / (sl_now() - start);
        best = rate > best ? rate : best;
    } while (sl_now() - begin < seconds);
    return best / 1e9;
}

double sl_measure_bandwidth(double seconds) {
    const int64_t least = (int64_t)256 << 20, most = (int64_t)2 << 30;
    sl_cpu cpu;
    sl_cpu_detect(&cpu);
    int threads = sl_threads();
    int64_t bytes = 4 * cpu.l3_total > least ? 4 * cpu.l3_total : least;
    if (bytes > most)
        bytes = most;
    if (cpu.memory_available && bytes > cpu.memory_available / 4)
        bytes = cpu.memory_available / 4;
    stream_run r = {.kernels = sl_kernels_select(SL_ISA_AUTO), .n = bytes / 8 / threads / 16 * 16};
    r.x = map_floats(r.n * threads);
    r.y = map_floats(r.n * threads);
    double rate = r.x && r.y && r.n ? stream(&r, threads, seconds) : 0;
    if (r.x)
        munmap(r.x, (size_t)(r.n * threads) * sizeof(float));
    if (r.y)
        munmap(r.y, (size_t)(r.n * threads) * sizeof(float));
    return rate;
}
