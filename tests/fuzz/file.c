#include "fuzz.h"

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
