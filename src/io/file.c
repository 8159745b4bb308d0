#include "io/file.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static int sys_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

sl_sys_calls sl_sys = {sys_open, write, fsync, close, rename, mkdir, unlinkat, rmdir};

int sl_map_open(sl_map *m, const char *path) {
    static const unsigned char empty[1];
    *m = (sl_map){NULL, 0};
    /* Non-blocking: opening a FIFO must not wait for a writer before it can be refused. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return sl_fail_errno("cannot open", path);
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st) < 0) {
        rc = sl_fail_errno("cannot stat", path);
    } else if (!S_ISREG(st.st_mode)) {
        rc = sl_fail("cannot read %s: not a regular file", path);
    } else if (st.st_size == 0) {
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

void sl_map_close(sl_map *m) {
    if (m->n)
        munmap((void *)(uintptr_t)m->p, m->n);
    *m = (sl_map){NULL, 0};
}

int sl_writer_abandon(sl_writer *w) {
    struct stat st;
    if (w->fd >= 0)
        sl_sys.close(w->fd);
    if (lstat(w->path, &st) == 0 && S_ISREG(st.st_mode))
        sl_sys.unlinkat(AT_FDCWD, w->path, 0);
    XXH3_freeState(w->hash);
    *w = (sl_writer){.fd = -1};
    return -1;
}

int sl_writer_open(sl_writer *w, const char *path) {
    *w = (sl_writer){.fd = -1, .path = path, .hash = XXH3_createState()};
    if (!w->hash)
        return sl_fail("out of memory for the hash of %s", path);
    XXH3_64bits_reset(w->hash);
    w->fd = sl_sys.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        sl_fail_errno("cannot create", path);
        XXH3_freeState(w->hash);
        *w = (sl_writer){.fd = -1};
        return -1;
    }
    return 0;
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
    if (hash)
        *hash = XXH3_64bits_digest(w->hash);
    XXH3_freeState(w->hash);
    w->hash = NULL;
    return 0;
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
