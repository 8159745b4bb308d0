#include "base/err.h"
#include "checkpoint/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int sl_path(char out[SL_PATH], const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, SL_PATH, fmt, ap);
    va_end(ap);
    return n < 0 || n >= SL_PATH ? sl_fail("path too long: %.200s...", out) : 0;
}

bool sl_path_exists(const char *fmt, ...) {
    char path[SL_PATH];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(path, sizeof path, fmt, ap);
    va_end(ap);
    return n >= 0 && n < SL_PATH && access(path, F_OK) == 0;
}

bool sl_is_folder(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

const sl_tensor *sl_checkpoint_tensor(const sl_params *p, const char *name) {
    for (int i = 0; i < p->count; i++)
        if (!strcmp(p->tensor[i].name, name))
            return &p->tensor[i];
    return NULL;
}

static const char *const suffix[] = {"", ".old", ".tmp"};

int sl_folder_path(char out[SL_PATH], const char *base, int64_t step, enum sl_folder_kind kind) {
    return sl_path(out, "%s/%08" PRId64 "%s", base, step, suffix[kind]);
}

static bool parse_name(const char *name, sl_folder *e) {
    for (int k = SL_WHOLE; k <= SL_TMP; k++) {
        char again[64];
        int64_t step;
        if (sscanf(name, "%18" SCNd64, &step) != 1 || step < 0)
            return false;
        snprintf(again, sizeof again, "%08" PRId64 "%s", step, suffix[k]);
        if (!strcmp(name, again)) {
            *e = (sl_folder){step, (enum sl_folder_kind)k};
            return true;
        }
    }
    return false;
}

static int newest_first(const void *a, const void *b) {
    const sl_folder *x = a, *y = b;
    if (x->step != y->step)
        return x->step > y->step ? -1 : 1;
    return (int)x->kind - (int)y->kind;
}

int sl_folder_scan(const char *base, sl_folder **list) {
    int n = 0, room = 0;
    *list = NULL;
    DIR *d = opendir(base);
    if (!d)
        return errno == ENOENT ? 0 : sl_fail_errno("cannot list", base);
    for (struct dirent *e; (e = readdir(d));) {
        sl_folder found;
        struct stat st;
        if (!parse_name(e->d_name, &found) || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) ||
            !S_ISDIR(st.st_mode))
            continue;
        if (n == room) {
            room = 2 * room + 16;
            sl_folder *more = realloc(*list, (size_t)room * sizeof **list);
            if (!more) {
                closedir(d);
                free(*list);
                return sl_fail("%s: out of memory for a list of checkpoints", base);
            }
            *list = more;
        }
        (*list)[n++] = found;
    }
    closedir(d);
    if (n)
        qsort(*list, (size_t)n, sizeof **list, newest_first);
    return n;
}

int sl_folder_check_complete(const char *dir) {
    sl_done d;
    return sl_done_read(dir, &d) < 0 ? -1 : sl_done_check_sizes(dir, &d);
}
