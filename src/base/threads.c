#include "base/threads.h"

#include "base/cpu.h"

#include <omp.h>

static int threads = 1;

int sl_threads_set(int n) {
    threads = n > 0 ? n : sl_cpu_default_threads();
    if (threads > SL_MAX_THREADS)
        threads = SL_MAX_THREADS;
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    return threads;
}

int sl_threads(void) { return threads; }

void sl_parallel(int64_t items, sl_item_fn fn, void *ctx) {
    if (threads == 1 || items <= 1) {
        for (int64_t i = 0; i < items; i++)
            fn(ctx, i, 0);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < items; i++)
        fn(ctx, i, omp_get_thread_num());
}

void sl_parallel_dynamic(int64_t items, sl_item_fn fn, void *ctx) {
    if (threads == 1 || items <= 1) {
        for (int64_t i = 0; i < items; i++)
            fn(ctx, i, 0);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < items; i++)
        fn(ctx, i, omp_get_thread_num());
}
