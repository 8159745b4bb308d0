/* Threads. Work is cut into `items` by shape alone, never by the number of threads, and each item
 * is computed whole by one thread; so results do not depend on how many there are. */
#ifndef SL_BASE_THREADS_H
#define SL_BASE_THREADS_H

#include "sinklab.h" /* sl_threads_set(), sl_threads() */

enum { SL_MAX_THREADS = 512 };

typedef void (*sl_item_fn)(void *ctx, int64_t item, int thread);
/* fn(ctx, i, thread) for all i < items; contiguous static split, `thread` in 0..sl_threads()-1
 * (index for per-thread scratch). Not to be nested. */
void sl_parallel(int64_t items, sl_item_fn fn, void *ctx);
/* The same with items handed out one by one as threads come free; for uneven items. */
void sl_parallel_dynamic(int64_t items, sl_item_fn fn, void *ctx);

#endif
