#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char path[64];

const char *sl_fuzz_file(const uint8_t *data, size_t n) {
    snprintf(path, sizeof path, "/tmp/sinklab-fuzz-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n || close(fd) != 0) {
        perror(path);
        abort();
    }
    return path;
}

void sl_fuzz_file_end(void) { unlink(path); }

static char folder[] = "/tmp/sinklab-fuzz-XXXXXX";

static void remove_folder(void) {
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0); /* "." and ".." stay */
    if (d)
        closedir(d);
    rmdir(folder);
}

const char *sl_fuzz_folder(bool *made) {
    static bool is_made; /* what is random in the name does not tell: it may hold any letter */
    *made = !is_made;
    if (!is_made && (!mkdtemp(folder) || atexit(remove_folder)))
        abort();
    is_made = true;
    return folder;
}

void sl_fuzz_put(const char *name, const uint8_t *data, size_t n) {
    remove(name); /* some file systems write to the disk at a truncation */
    FILE *f = fopen(name, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f))
        abort();
}
