#include "cli/share.h"

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The folder of this program; false where the system does not tell. */
static bool program_folder(char folder[SL_SHARE_CHARS]) {
    ssize_t n = readlink("/proc/self/exe", folder, SL_SHARE_CHARS - 1);
    folder[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
    return slash;
}

int sl_share_find(const char *verb, const char *name, char path[SL_SHARE_CHARS]) {
    char folder[SL_SHARE_CHARS];
    if (program_folder(folder) &&
        snprintf(path, SL_SHARE_CHARS, "%s/../share/sinklab/%s", folder, name) < SL_SHARE_CHARS &&
        access(path, R_OK) == 0)
        return 0;
    if (snprintf(path, SL_SHARE_CHARS, "%s/%s", SL_SHARE_DIR, name) < SL_SHARE_CHARS && access(path, R_OK) == 0)
        return 0;
    return sl_fail("%s: there is no %s, neither in ../share/sinklab beside the program's folder nor in %s; build "
                   "sinklab in its source tree, or install it with `meson install`", verb, name, SL_SHARE_DIR);
}
