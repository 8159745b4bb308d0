/* Files: whole files mapped for reading; checked, hashed and fsync'ed writing. What can fail on a
 * full or broken disk goes through sl_sys, so that a test can make the n-th call fail. */
#ifndef SL_IO_FILE_H
#define SL_IO_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The system calls of writing, as in POSIX. Only tests change them. */
typedef struct {
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*write)(int fd, const void *p, size_t n);
    int (*fsync)(int fd);
    int (*close)(int fd);
    int (*rename)(const char *from, const char *to);
    int (*mkdir)(const char *path, mode_t mode);
    int (*unlinkat)(int folder, const char *name, int flags);
    int (*rmdir)(const char *path);
} sl_sys_calls;
extern sl_sys_calls sl_sys;

/* A whole regular file, mapped read-only; p is never NULL after an open that succeeded. */
typedef struct {
    const unsigned char *p;
    size_t n;
} sl_map;
int sl_map_open(sl_map *m, const char *path);
void sl_map_close(sl_map *m); /* also after a failed open, or of a zeroed struct */

typedef struct {
    int fd;
    const char *path; /* the caller's, for messages */
    uint64_t size;    /* bytes put so far */
    void *hash;       /* XXH3 state over them */
} sl_writer;
/* Creates or truncates. After a failure of open, put or finish nothing is left to free, and a
 * regular file that is half written has been removed. */
int sl_writer_open(sl_writer *w, const char *path);
int sl_writer_put(sl_writer *w, const void *p, size_t n);
/* Closes, frees, and removes the file unless it is a device, a pipe or a link that the user named.
 */
int sl_writer_abandon(sl_writer *w); /* always -1 */
/* Flushes to the disk and closes; the XXH3-64 of the bytes goes to *hash unless NULL. */
int sl_writer_finish(sl_writer *w, uint64_t *hash);

int sl_fsync_dir(const char *path);

#endif
