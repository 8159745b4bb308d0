#include "base/threads.h"

#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static int threads = 1;

/* ---- binding
 * OpenMP may end threads and make others between regions, and new ones inherit the mask of the
 * first; so each thread looks, as it enters a region, whether it is bound as it should be now. */
static sl_cpu_mask mask_of[SL_MAX_THREADS]; /* where the threads belong */
static int generation;                      /* of mask_of; 0 = never bound */
static _Thread_local int bound;             /* the generation that this thread obeys */
static atomic_int refused;                  /* errno of a binding */
static int node[SL_MAX_NODES], nodes;       /* of the threads; 0 = not asked yet */

static void bind_thread(int i) {
    if (bound == generation)
        return;
    bound = generation;
    if (sl_cpu_bind(mask_of[i]))
        atomic_store(&refused, errno);
}

static void bind_item(void *ctx, int64_t item, int thread) { (void)ctx, (void)item, (void)thread; }

const char *sl_threads_bound_by(void) {
    static const char *const name[] = {"OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        if (getenv(name[i]))
            return name[i];
    return NULL;
}

/* All threads back to the mask that the process had. */
static void unpin(void) {
    if (!sl_cpu_release(mask_of[0]))
        return;
    for (int i = 1; i < SL_MAX_THREADS; i++)
        memcpy(mask_of[i], mask_of[0], sizeof *mask_of);
    generation++;
    bind_thread(0);
}

static void add_node(int id) {
    for (int i = 0; i < nodes; i++)
        if (node[i] == id)
            return;
    if (nodes < SL_MAX_NODES)
        node[nodes++] = id;
}

static int pin_threads(enum sl_pin pin) {
    sl_place *place = calloc(SL_MAX_THREADS, sizeof *place);
    if (!place || sl_cpu_places(place, threads, pin) == 0) {
        free(place);
        return sl_fail("out of memory for the places of threads");
    }
    sl_cpu_keep();
    memset(mask_of, 0, sizeof mask_of);
    for (int i = 0; i < threads; i++) {
        mask_of[i][place[i].cpu / 8] = (unsigned char)(1u << place[i].cpu % 8);
        add_node(place[i].node);
    }
    free(place);
    generation++;
    atomic_store(&refused, 0);
    bind_thread(0);
    sl_each_thread(threads, bind_item, NULL);
    int error = atomic_load(&refused);
    if (!error)
        return 0;
    nodes = 0;
    unpin();
    return sl_fail("pin: cannot bind threads to hardware threads (%s); use pin=off", strerror(error));
}

int sl_threads_set(int n) {
    unpin();
    nodes = 0;
    threads = n > 0 ? n : sl_cpu_default_threads();
    if (threads > SL_MAX_THREADS)
        threads = SL_MAX_THREADS;
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    return threads;
}

int sl_threads_start(int n, enum sl_pin pin) {
    sl_cpu cpu;
    sl_threads_set(n);
    sl_cpu_detect(&cpu);
    if (threads > cpu.usable)
        sl_warn(
            "threads=%d: this process may use %d hardware threads, and more only wait for each other; threads=0 takes "
            "what is there",
            threads, cpu.usable);
    if (pin == SL_PIN_OFF)
        return 0;
    if (!sl_threads_bound_by())
        return pin_threads(pin);
    sl_warn("pin is left to %s, which the environment sets", sl_threads_bound_by());
    return 0;
}

int sl_threads_nodes(const int **list) {
    if (nodes == 0) {
        sl_cpu c;
        sl_cpu_detect(&c);
        for (int i = 0; i < c.nodes; i++)
            if (c.node[i].logical)
                add_node(c.node[i].id);
        if (nodes == 0)
            add_node(0);
    }
    *list = node;
    return nodes;
}

/* ---- work */

int sl_threads(void) { return threads; }

/* The items that a thread has left: those of its own share, taken from the front by whoever comes. */
typedef struct {
    _Alignas(64) _Atomic int64_t next;
    int64_t end;
} share;

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
    static share shares[SL_MAX_THREADS]; /* not on the stack, which may be small; one region runs at a time */
    for (int t = 0; t < team; t++) {
        atomic_init(&shares[t].next, items * t / team);
        shares[t].end = items * (t + 1) / team;
    }
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        bind_thread(thread);
        for (int t = 0; t < team; t++)
            work_on(&shares[(thread + t) % team], fn, ctx, thread);
    }
}

void sl_each_thread(int n, sl_item_fn fn, void *ctx) {
    if (threads == 1 || n <= 1) {
        for (int i = 0; i < n; i++)
            fn(ctx, i, 0);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        bind_thread(thread);
        for (int i = thread; i < n; i += omp_get_num_threads())
            fn(ctx, i, thread);
    }
}
