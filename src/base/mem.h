/* Memory: 64-byte aligned, zeroed blocks. Nothing is allocated inside a training step; every buffer
 * has its place before the first one.
 *
 * Large blocks (from 4 MiB on) are fresh pages, huge ones where the system gives them. On a machine
 * of several NUMA nodes a page lies on the node of the thread that first writes it, so each kind of
 * block is written first by the threads that will use it, or is interleaved. The number of threads
 * (and their pinning) must be set before. Placement never changes a result. */
#ifndef SL_BASE_MEM_H
#define SL_BASE_MEM_H

#include <stddef.h>

#define SL_ALIGN 64

/* n zero bytes, aligned to SL_ALIGN (to 2 MiB from 4 MiB on). NULL with a message naming `what` on failure.
 * The pages of a large block are first written in the contiguous shares of sl_parallel: for what is
 * used by rows or elements. */
void *sl_alloc(size_t n, const char *what);
/* The same, interleaved over the nodes that the threads run on: for what every thread reads whole.
 * Without libnuma, or where the system refuses, as sl_alloc. */
void *sl_alloc_shared(size_t n, const char *what);
/* `threads` parts of `each` bytes, one after the other, part i first written by thread i: scratch. */
void *sl_alloc_threads(int threads, size_t each, const char *what);
/* As sl_alloc, but with no page of a large block written: for buffers that overlap or are cut each on
 * its own. sl_touch() then places one of them (zero bytes still) as sl_alloc does; what is left out,
 * and what is smaller than a page for each thread, goes to its first writer. */
void *sl_alloc_untouched(size_t n, const char *what);
void sl_touch(void *p, size_t n);
void sl_free(void *p);

/* The NUMA node that each of the n pages at these addresses lies on, -1 = not known (not written
 * yet, no libnuma, not allowed). */
void sl_page_nodes(int n, void *const *page, int *node);

#endif
