#include "base/mem.h"

#include "base/err.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

void *sl_alloc(size_t n, const char *what) {
    size_t align = n >= 2 * HUGE_PAGE ? HUGE_PAGE : SL_ALIGN;
    void *p = NULL;
    if (n > SIZE_MAX - align || !(p = aligned_alloc(align, (n + align - 1) / align * align + (n == 0) * align))) {
        sl_fail("out of memory: %zu bytes for %s; use a smaller model, batch or window", n, what);
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    if (align == HUGE_PAGE)
        madvise(p, n, MADV_HUGEPAGE); /* best effort */
#endif
    memset(p, 0, n);
    return p;
}

void sl_free(void *p) { free(p); }
