#include "base/mem.h"

#include "base/err.h"
#include "base/threads.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef SL_HAVE_NUMA
#include <numaif.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)
#define LARGE (2 * HUGE_PAGE)
#define PAGE ((size_t)4096) /* the smallest there is */

/* Lies in the SL_ALIGN bytes before a block. */
typedef struct {
    void *base;
    size_t mapped; /* bytes at base; 0: from malloc */
} header;

static void *fail(size_t n, const char *what) {
    sl_fail("out of memory: %zu bytes for %s; use a smaller model, batch or window", n, what);
    return NULL;
}

static void *small_block(size_t n, const char *what) {
    char *base = aligned_alloc(SL_ALIGN, SL_ALIGN + (n + SL_ALIGN - 1) / SL_ALIGN * SL_ALIGN);
    if (!base)
        return fail(n, what);
    *(header *)base = (header){base, 0};
    return memset(base + SL_ALIGN, 0, n);
}

/* Pages that nobody has written yet. The address space around them is for the alignment and the
 * header. */
static void *fresh_pages(size_t n, bool huge, const char *what) {
    if (n > SIZE_MAX / 2)
        return fail(n, what);
    size_t mapped = n + 2 * HUGE_PAGE;
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return fail(n, what);
    char *p = base + SL_ALIGN;
    p += (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    ((header *)(p - SL_ALIGN))[0] = (header){base, mapped};
#ifdef MADV_HUGEPAGE
    madvise(p, n, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* best effort */
#endif
    return p;
}

void sl_free(void *p) {
    if (!p)
        return;
    header h = *(header *)((char *)p - SL_ALIGN);
    if (h.mapped)
        munmap(h.base, h.mapped);
    else
        free(h.base);
}

/* ---- first writes */

typedef struct {
    char *p;
    size_t n;
    int parts;
} touching;

static char *page_of(const touching *t, int64_t part) {
    char *at = t->p + t->n / (size_t)t->parts * (size_t)part;
    return part == t->parts ? t->p + t->n : at - (uintptr_t)at % PAGE;
}

/* One write a page: the kernel makes it of zeros then. */
static void touch_part(void *ctx, int64_t part, int thread) {
    (void)thread;
    const touching *t = ctx;
    char *end = page_of(t, part + 1), *at = page_of(t, part);
    for (at = at < t->p ? t->p : at; at < end; at += PAGE - (uintptr_t)at % PAGE)
        *(volatile char *)at = 0;
}

static void touch(void *p, size_t n, int parts) {
    sl_each_thread(parts, touch_part, &(touching){p, n, parts});
}

void sl_touch(void *p, size_t n) {
    if (n / PAGE >= (size_t)sl_threads())
        touch(p, n, sl_threads());
}

static void interleave(void *p, size_t n) {
#ifdef SL_HAVE_NUMA
    enum { BITS = 8 * sizeof(unsigned long) };
    const int *node;
    int nodes = sl_threads_nodes(&node);
    unsigned long mask[SL_MAX_CPUS / BITS] = {0};
    for (int i = 0; i < nodes; i++)
        mask[node[i] / BITS] |= 1ul << node[i] % BITS;
    if (nodes > 1) /* best effort: containers may not be allowed to */
        mbind(p, n, MPOL_INTERLEAVE, mask, SL_MAX_CPUS, 0);
#else
    (void)p, (void)n;
#endif
}

void *sl_alloc_untouched(size_t n, const char *what) {
    return n < LARGE ? small_block(n, what) : fresh_pages(n, true, what);
}

void *sl_alloc(size_t n, const char *what) {
    void *p = sl_alloc_untouched(n, what);
    if (p && n >= LARGE)
        touch(p, n, sl_threads());
    return p;
}

void *sl_alloc_shared(size_t n, const char *what) {
    void *p = sl_alloc_untouched(n, what);
    if (p && n >= LARGE) {
        interleave(p, n);
        touch(p, n, sl_threads());
    }
    return p;
}

void *sl_alloc_threads(int threads, size_t each, const char *what) {
    const int *node;
    if (threads < 1 || each > SIZE_MAX / (size_t)threads)
        return fail(SIZE_MAX, what);
    size_t n = each * (size_t)threads;
    bool one_node = sl_threads_nodes(&node) == 1;
    if (n < PAGE || (n < LARGE && one_node))
        return small_block(n, what);
    /* A huge page would hold parts of several threads, and so of several nodes. */
    void *p = fresh_pages(n, one_node || each >= LARGE, what);
    if (p)
        touch(p, n, threads);
    return p;
}

/* ---- where pages lie */

void sl_page_nodes(int n, void *const *page, int *node) {
    for (int i = 0; i < n; i++)
        node[i] = -1;
#ifdef SL_HAVE_NUMA
    bool known = move_pages(0, (unsigned long)n, (void **)(uintptr_t)page, NULL, node, 0) == 0;
    for (int i = 0; i < n; i++)
        if (!known || node[i] < 0) /* -ENOENT: not written yet */
            node[i] = -1;
#else
    (void)page;
#endif
}
