/* Threads. Work is cut into `items` by shape alone, never by the number of threads, and each item
 * is computed whole by one thread; so results do not depend on how many there are. */
#ifndef SL_BASE_THREADS_H
#define SL_BASE_THREADS_H

#include "sinklab.h" /* sl_threads_set(), sl_threads() */

enum { SL_MAX_THREADS = 512 };

typedef void (*sl_item_fn)(void *ctx, int64_t item, int thread);
/* fn(ctx, i, thread) for all i < items; `thread` in 0..sl_threads()-1 (index for per-thread scratch). Each
 * thread starts on its own contiguous share, the same one every time (so that memory it touched first is
 * near it), in rising order; one that is done takes items from the others' shares. A core that is slow,
 * because another program or its other hardware thread is busy, then holds nobody up: make items small
 * enough that there are several a thread. Not to be nested. */
void sl_parallel(int64_t items, sl_item_fn fn, void *ctx);

#endif
