#include "base/clock.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "base/threads.h"
#include "simd/kernels.h"

#include <stdlib.h>
#include <sys/mman.h>

/* ---------------------------------------------------------------- arithmetic */

enum { WINDOWS = 3, CALLS = 32, DEFAULT_L1 = 32 << 10 };

typedef struct {
    const sl_kernels *kernels;
    int64_t k, stride; /* depth of a panel; floats of a thread's operands */
    float *memory;
    double start, warm, window;           /* of the clock; seconds */
    double rate[WINDOWS][SL_MAX_THREADS]; /* FLOP/s */
} peak_run;

/* Windows are cut by the clock, the same for all threads, so that their rates may be added. */
static void peak_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    peak_run *r = ctx;
    const sl_kernels *s = r->kernels;
    int mr = s->gemm_mr, nr = s->gemm_nr;
    float *a = r->memory + item * r->stride;
    float *b = a + (mr * r->k + 15) / 16 * 16, *c = b + (nr * r->k + 15) / 16 * 16;
    while (sl_now() < r->start + r->warm)
        s->gemm_f32(r->k, a, b, c, nr, mr, nr, 1);
    for (int w = 0; w < WINDOWS; w++) {
        double begin = sl_now(), end = r->start + r->warm + (w + 1) * r->window, now;
        int64_t calls = 0;
        do {
            for (int i = 0; i < CALLS; i++)
                s->gemm_f32(r->k, a, b, c, nr, mr, nr, 1);
            calls += CALLS;
            now = sl_now();
        } while (now < end);
        r->rate[w][item] = 2.0 * (double)mr * nr * (double)r->k * (double)calls / (now - begin);
    }
}

double sl_measure_gflops(int threads, double seconds) {
    sl_cpu cpu;
    sl_cpu_detect(&cpu);
    peak_run *r = calloc(1, sizeof *r);
    if (!r)
        return 0;
    r->kernels = sl_kernels_select(SL_ISA_AUTO);
    int64_t panel = r->kernels->gemm_mr + r->kernels->gemm_nr, tile = panel * panel;
    /* Both panels in three quarters of L1; deep enough for the tile's loads and stores not to
     * count. */
    r->k = (cpu.l1d ? cpu.l1d : DEFAULT_L1) * 3 / 4 / (int64_t)sizeof(float) / panel;
    r->stride = (panel * r->k + tile + 4096) / 1024 * 1024;
    r->memory =
        sl_alloc((size_t)(threads * r->stride) * sizeof(float), "the measurement of the peak");
    double best = 0;
    if (r->memory) {
        r->warm = seconds / (2 * WINDOWS + 1); /* clocks settle, threads wake */
        r->window = 2 * r->warm;
        r->start = sl_now();
        sl_parallel(threads, peak_item, r);
        for (int w = 0; w < WINDOWS; w++) {
            double sum = 0;
            for (int i = 0; i < threads; i++)
                sum += r->rate[w][i];
            best = sum > best ? sum : best;
        }
        sl_free(r->memory);
    }
    free(r);
    return best / 1e9;
}

typedef struct {
    const sl_kernels *kernels;
    double start, seconds;
    double rate[SL_MAX_THREADS];
} bf16_run;

static void bf16_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    bf16_run *r = ctx;
    enum { ROUNDS = 1 << 14 };
    double begin = sl_now(), now, flop = 0;
    do {
        flop += (double)r->kernels->peak_bf16(ROUNDS);
        now = sl_now();
    } while (now < r->start + r->seconds);
    r->rate[item] = flop / (now - begin);
}

double sl_measure_bf16_gflops(int threads, double seconds) {
    bf16_run *r = calloc(1, sizeof *r);
    double sum = 0;
    if (!r)
        return 0;
    r->kernels = sl_kernels_select(SL_ISA_AUTO);
    for (int pass = 0; pass < 2 && r->kernels->bf16_unit; pass++) { /* the first wakes threads and clocks */
        r->start = sl_now(), r->seconds = seconds / 2, sum = 0;
        sl_parallel(threads, bf16_item, r);
        for (int i = 0; i < threads; i++)
            sum += r->rate[i];
    }
    free(r);
    return sum / 1e9;
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
    sl_parallel(threads, touch_item, r);
    begin = sl_now();
    do {
        double start = sl_now();
        sl_parallel(threads, stream_item, r);
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
