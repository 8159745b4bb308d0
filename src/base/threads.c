#include "base/threads.h"

#include "base/cpu.h"

#include <omp.h>
#include <stdatomic.h>

static int threads = 1;

/* The items that a thread has left: those of its own share, taken from the front by whoever comes. */
typedef struct {
    _Alignas(64) _Atomic int64_t next;
    int64_t end;
} share;

int sl_threads_set(int n) {
    threads = n > 0 ? n : sl_cpu_default_threads();
    if (threads > SL_MAX_THREADS)
        threads = SL_MAX_THREADS;
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    return threads;
}

int sl_threads(void) { return threads; }

static void work_on(share *s, sl_item_fn fn, void *ctx, int thread) {
    while (atomic_load_explicit(&s->next, memory_order_relaxed) < s->end) {
        int64_t i = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
        if (i < s->end)
            fn(ctx, i, thread);
    }
}

void sl_parallel(int64_t items, sl_item_fn fn, void *ctx) {
    int team = items < threads ? (int)items : threads;
    if (team <= 1) {
        for (int64_t i = 0; i < items; i++)
            fn(ctx, i, 0);
        return;
    }
    share shares[SL_MAX_THREADS];
    for (int t = 0; t < team; t++) {
        atomic_init(&shares[t].next, items * t / team);
        shares[t].end = items * (t + 1) / team;
    }
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        for (int t = 0; t < team; t++)
            work_on(&shares[(thread + t) % team], fn, ctx, thread);
    }
}
