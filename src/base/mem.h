/* Memory: 64-byte aligned, zeroed, page-granular blocks. Nothing is allocated inside a training
 * step; every buffer has its place before the first one. */
#ifndef SL_BASE_MEM_H
#define SL_BASE_MEM_H

#include <stddef.h>

#define SL_ALIGN 64

/* n zero bytes, aligned to SL_ALIGN (to 2 MiB from 4 MiB on, and huge pages advised). NULL with a message naming `what` on failure. */
void *sl_alloc(size_t n, const char *what);
void sl_free(void *p);

#endif
