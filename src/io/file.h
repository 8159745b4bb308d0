/* Files: whole files mapped for reading; checked, hashed and fsync'ed writing. What can fail on a
 * full or broken disk goes through sl_sys, so that a test can make the n-th call fail. */
#ifndef SL_IO_FILE_H
#define SL_IO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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

/* A whole regular file (or /dev/null, empty), mapped read-only; p is never NULL after an open that succeeded. */
typedef struct {
    const unsigned char *p;
    size_t n;
} sl_map;
int sl_map_open(sl_map *m, const char *path);
/* Bytes p .. p + n - 1 of a map are not read again soon: their pages need not stay in memory. */
void sl_map_release(const unsigned char *p, size_t n);
void sl_map_close(sl_map *m); /* also after a failed open, or of a zeroed struct */

/* A regular file for reading, or /dev/null as an empty one; NULL with a message. A FIFO, another device or a folder is
   refused at once. */
FILE *sl_open_regular(const char *path);
/* Whether two paths are one file, through links too. */
bool sl_same_file(const char *a, const char *b);

/* A file that is whole or not there: it is written beside, under another name, and put in its place when it is
 * finished. A link stays one: what it leads to is replaced. A device or a pipe is written into as it is. */
typedef struct {
    int fd;
    const char *path; /* the caller's */
    char *target;     /* what it leads to */
    char *beside;     /* what is written until then; NULL: target itself */
    uint64_t size;    /* bytes put so far */
    void *hash;       /* XXH3 state over them */
} sl_writer;
/* After a failure of open, put or finish nothing is left to free, nor a file that is half written. */
int sl_writer_open(sl_writer *w, const char *path);
int sl_writer_put(sl_writer *w, const void *p, size_t n);
/* Closes, frees, and removes what has been written. */
int sl_writer_abandon(sl_writer *w); /* always -1 */
/* Flushes to the disk, closes and puts the file in its place; the XXH3-64 of the bytes goes to *hash unless NULL. */
int sl_writer_finish(sl_writer *w, uint64_t *hash);

/* All of it. */
int sl_write_file(const char *path, const void *p, size_t n);

int sl_fsync_dir(const char *path);

#endif
