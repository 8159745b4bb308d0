#include "cli/share.h"

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* PREFIX of PREFIX/bin/sinklab, which this program is; false where the system does not tell. */
static bool find_prefix(char prefix[SL_SHARE_CHARS]) {
    ssize_t n = readlink("/proc/self/exe", prefix, SL_SHARE_CHARS - 1);
    char *slash = NULL;
    prefix[n > 0 ? n : 0] = '\0';
    for (int i = 0; i < 2; i++)
        if ((slash = strrchr(prefix, '/')))
            *slash = '\0';
    return slash;
}

int sl_share_find(const char *verb, const char *name, char path[SL_SHARE_CHARS]) {
    char prefix[SL_SHARE_CHARS];
    if (find_prefix(prefix) &&
        snprintf(path, SL_SHARE_CHARS, "%s/share/sinklab/%s", prefix, name) < SL_SHARE_CHARS && access(path, R_OK) == 0)
        return 0;
    if (snprintf(path, SL_SHARE_CHARS, "%s/%s", SL_SHARE_DIR, name) < SL_SHARE_CHARS && access(path, R_OK) == 0)
        return 0;
    return sl_fail("%s: there is no %s, neither in ../share/sinklab beside the program's folder nor in %s; build "
                   "sinklab in its source tree, or install it with `meson install`", verb, name, SL_SHARE_DIR);
}
