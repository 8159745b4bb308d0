#include "io/file.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <xxhash.h>

static int sys_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

sl_sys_calls sl_sys = {sys_open, write, fsync, close, rename, mkdir, unlinkat, rmdir};

static bool is_null(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3); }

/* Non-blocking: opening a FIFO must not wait for a writer before it can be refused. */
static int open_regular(const char *path, struct stat *st) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return sl_fail_errno("cannot open", path);
    int rc = fstat(fd, st) < 0                       ? sl_fail_errno("cannot stat", path)
             : !S_ISREG(st->st_mode) && !is_null(st) ? sl_fail("cannot read %s: not a regular file", path)
                                                     : 0;
    if (rc == 0)
        return fd;
    close(fd);
    return -1;
}

FILE *sl_open_regular(const char *path) {
    struct stat st;
    int fd = open_regular(path, &st);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "rb");
    if (fd >= 0 && !f) {
        sl_fail_errno("cannot open", path);
        close(fd);
    }
    return f;
}

bool sl_same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int sl_map_open(sl_map *m, const char *path) {
    static const unsigned char empty[1];
    struct stat st;
    *m = (sl_map){NULL, 0};
    int fd = open_regular(path, &st), rc = 0;
    if (fd < 0)
        return -1;
    if (st.st_size == 0) {
        m->p = empty;
    } else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = sl_fail_errno("cannot map", path);
        else
            *m = (sl_map){p, (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

/* Whole pages within: a page is dropped, and read from the file again where somebody asks for it. */
void sl_map_release(const unsigned char *p, size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (page - (uintptr_t)p % page) % page;
    if (n >= before + page)
        madvise((void *)(uintptr_t)(p + before), (n - before) / page * page, MADV_DONTNEED); /* a hint */
}

void sl_map_close(sl_map *m) {
    if (m->n)
        munmap((void *)(uintptr_t)m->p, m->n);
    *m = (sl_map){NULL, 0};
}

/* ---- writing */

static void forget(sl_writer *w) {
    XXH3_freeState(w->hash);
    free(w->beside);
    free(w->target);
    *w = (sl_writer){.fd = -1};
}

int sl_writer_abandon(sl_writer *w) {
    if (w->fd >= 0)
        sl_sys.close(w->fd);
    if (w->beside)
        sl_sys.unlinkat(AT_FDCWD, w->beside, 0);
    forget(w);
    return -1;
}

/* A file of its own beside `path`, under a name that nobody can have taken. */
static int create_beside(sl_writer *w) {
    size_t room = strlen(w->target) + 32;
    w->beside = malloc(room);
    if (!w->beside)
        return sl_fail("out of memory for the name of %s", w->path);
    for (int tries = 0; tries < 100; tries++) {
        uint64_t r = 0;
        if (getrandom(&r, sizeof r, 0) != (ssize_t)sizeof r)
            break;
        snprintf(w->beside, room, "%s.%016llx.tmp", w->target, (unsigned long long)r);
        w->fd = sl_sys.open(w->beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (w->fd >= 0 || errno != EEXIST)
            break;
    }
    if (w->fd >= 0)
        return 0;
    free(w->beside);
    w->beside = NULL; /* nothing is there to be removed */
    return sl_fail_errno("cannot create", w->path);
}

int sl_writer_open(sl_writer *w, const char *path) {
    struct stat st;
    *w = (sl_writer){.fd = -1, .path = path, .hash = XXH3_createState()};
    if (!w->hash)
        return sl_fail("out of memory for the hash of %s", path);
    XXH3_64bits_reset(w->hash);
    /* What a link leads to is replaced, not the link; a device or a pipe stays what it is. */
    w->target = realpath(path, NULL);
    if (!w->target)
        w->target = strdup(path);
    int rc;
    if (!w->target) {
        rc = sl_fail("out of memory for the name of %s", path);
    } else if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        w->fd = sl_sys.open(path, O_WRONLY | O_TRUNC | O_CLOEXEC, 0666);
        rc = w->fd < 0 ? sl_fail_errno("cannot create", path) : 0;
    } else {
        rc = create_beside(w);
    }
    if (rc)
        forget(w);
    return rc;
}

int sl_writer_put(sl_writer *w, const void *p, size_t n) {
    XXH3_64bits_update(w->hash, p, n);
    w->size += n;
    for (const char *at = p; n > 0;) {
        ssize_t k = sl_sys.write(w->fd, at, n < (1u << 30) ? n : (1u << 30));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0) {
            if (k == 0)
                errno = ENOSPC; /* what a write of nothing means on a regular file */
            sl_fail_errno("cannot write", w->path);
            return sl_writer_abandon(w);
        }
        at += k;
        n -= (size_t)k;
    }
    return 0;
}

int sl_writer_finish(sl_writer *w, uint64_t *hash) {
    /* Pipes and devices have nothing to synchronise and say EINVAL. */
    if (sl_sys.fsync(w->fd) < 0 && errno != EINVAL && errno != ENOTSUP) {
        sl_fail_errno("cannot flush to disk", w->path);
        return sl_writer_abandon(w);
    }
    int fd = w->fd;
    w->fd = -1;
    if (sl_sys.close(fd) < 0) {
        sl_fail_errno("cannot close", w->path);
        return sl_writer_abandon(w);
    }
    if (w->beside && sl_sys.rename(w->beside, w->target)) {
        sl_fail_errno("cannot create", w->path);
        return sl_writer_abandon(w);
    }
    if (hash)
        *hash = XXH3_64bits_digest(w->hash);
    forget(w);
    return 0;
}

int sl_write_file(const char *path, const void *p, size_t n) {
    sl_writer w;
    return sl_writer_open(&w, path) || sl_writer_put(&w, p, n) || sl_writer_finish(&w, NULL) ? -1 : 0;
}

int sl_fsync_dir(const char *path) {
    int fd = sl_sys.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return sl_fail_errno("cannot open folder", path);
    /* Some network file systems cannot synchronise a folder and say EINVAL. */
    int rc =
        sl_sys.fsync(fd) < 0 && errno != EINVAL ? sl_fail_errno("cannot flush folder", path) : 0;
    sl_sys.close(fd);
    return rc;
}
