/* Whole files, read through a map. */
#ifndef SL_DATA_FILE_H
#define SL_DATA_FILE_H

#include <stddef.h>

typedef struct {
    const char *data; /* "" for an empty file */
    size_t n;
} sl_file;

/* A regular file, read only. A file that others cut short while it is mapped ends the process (SIGBUS), as with
 * any map. */
int sl_file_map(sl_file *f, const char *path);
void sl_file_unmap(sl_file *f);

#endif
