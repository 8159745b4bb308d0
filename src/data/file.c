#include "data/file.h"

#include "base/err.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int map(sl_file *f, int fd, const char *path) {
    struct stat st;
    if (fstat(fd, &st))
        return sl_fail_errno("cannot read", path);
    if (!S_ISREG(st.st_mode))
        return sl_fail("cannot read %s: not a regular file", path);
    f->data = "";
    f->n = (size_t)st.st_size;
    if (!f->n)
        return 0;
    void *p = mmap(NULL, f->n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return sl_fail_errno("cannot map", path);
    f->data = p;
    return 0;
}

int sl_file_map(sl_file *f, const char *path) {
    *f = (sl_file){0};
    /* O_NONBLOCK: a pipe given by mistake must fail, not wait. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return sl_fail_errno("cannot open", path);
    int rc = map(f, fd, path);
    close(fd);
    return rc;
}

void sl_file_unmap(sl_file *f) {
    if (f->n)
        munmap((void *)f->data, f->n);
    *f = (sl_file){0};
}
