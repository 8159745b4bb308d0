/* Threads. Work is cut into `items` by shape alone, never by the number of threads, and each item
 * is computed whole by one thread; so results do not depend on how many there are. */
#ifndef SL_BASE_THREADS_H
#define SL_BASE_THREADS_H

#include "base/cpu.h"
#include "sinklab.h" /* sl_threads_set(), sl_threads() */

enum { SL_MAX_THREADS = 512 };

/* sl_threads_set(n), and thread i stays on hardware thread i of sl_cpu_places(). Where the
 * environment binds OpenMP's threads (OMP_PROC_BIND and the like) that is left as it is, with a
 * warning. Fails, with threads that are free to move, when the system refuses. sl_threads_set() alone
 * leaves threads free. */
int sl_threads_start(int n, enum sl_pin pin);
/* The variable of the environment that decides over binding: its name; NULL = none is set. */
const char *sl_threads_bound_by(void);
/* The NUMA nodes that the threads run on (pinned) or may run on; at least one. */
int sl_threads_nodes(const int **node);

typedef void (*sl_item_fn)(void *ctx, int64_t item, int thread);
/* fn(ctx, i, thread) for all i < items; `thread` in 0..sl_threads()-1 (index for per-thread scratch). Each
 * thread starts on its own contiguous share, the same one every time (so that memory it touched first is
 * near it), in rising order; one that is done takes items from the others' shares. A core that is slow,
 * because another program or its other hardware thread is busy, then holds nobody up: make items small
 * enough that there are several a thread. Not to be
 * nested, and not to be called from two threads of a program at once. */
void sl_parallel(int64_t items, sl_item_fn fn, void *ctx);
/* fn(ctx, i, i) by thread i itself for all i < n <= sl_threads(): for what belongs to a thread. */
void sl_each_thread(int n, sl_item_fn fn, void *ctx);

#endif
