#include "base/err.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

const char *const sl_done_name[SL_DONE_FILES] = {"model.safetensors", "config.json", "config.yaml",
                                                 "state.json", "optimizer.safetensors"};

enum { DONE_MAX = 1024 };
#define HEAD "sinklab checkpoint "

static size_t format(const sl_done *d, char out[DONE_MAX]) {
    int n = sprintf(out, HEAD "%d\n", SL_CHECKPOINT_VERSION);
    for (int i = 0; i < SL_DONE_FILES; i++)
        if (d->has[i])
            n += sprintf(out + n, "%016" PRIx64 " %" PRIu64 " %s\n", d->hash[i], d->size[i],
                         sl_done_name[i]);
    return (size_t)n;
}

int sl_done_write(const char *dir, const sl_done *d) {
    char path[SL_PATH], text[DONE_MAX];
    sl_writer w;
    if (sl_path(path, "%s/DONE", dir) < 0 || sl_writer_open(&w, path) < 0 ||
        sl_writer_put(&w, text, format(d, text)) < 0)
        return -1;
    return sl_writer_finish(&w, NULL);
}

/* One line at *at; moves it on. */
static bool parse_line(const char **at, sl_done *d) {
    uint64_t hash, size;
    char name[32];
    int n = 0;
    if (sscanf(*at, "%16" SCNx64 " %20" SCNu64 " %31s%n", &hash, &size, name, &n) != 3)
        return false;
    for (int i = 0; i < SL_DONE_FILES; i++)
        if (!strcmp(name, sl_done_name[i])) {
            d->has[i] = true;
            d->hash[i] = hash;
            d->size[i] = size;
        }
    *at += n + ((*at)[n] == '\n');
    return true;
}

static int parse(const char *dir, const char *text, size_t n, sl_done *d) {
    char again[DONE_MAX];
    int version = 0, at = 0;
    *d = (sl_done){.has = {false}};
    if (sscanf(text, HEAD "%9d%n", &version, &at) == 1 && version > SL_CHECKPOINT_VERSION)
        return sl_fail(
            "%s: made by a newer sinklab: checkpoint format %d, this one reads up to %d; "
            "update sinklab",
            dir, version, SL_CHECKPOINT_VERSION);
    const char *line = text + at + (text[at] == '\n');
    while (*line && parse_line(&line, d))
        ;
    bool whole = true;
    for (int i = 0; i < SL_DONE_OPTIMIZER; i++)
        whole = whole && d->has[i];
    /* What was understood must say all that the file says: then no byte of it can be wrong. */
    if (!whole || format(d, again) != n || memcmp(again, text, n))
        return sl_fail("%s: damaged checkpoint: DONE is not as written; use an older checkpoint",
                       dir);
    return 0;
}

int sl_done_read(const char *dir, sl_done *d) {
    char path[SL_PATH], text[DONE_MAX];
    if (sl_path(path, "%s/DONE", dir) < 0)
        return -1;
    if (!sl_path_exists("%s", path))
        return sl_fail("%s: unfinished checkpoint: no DONE in it; use an older checkpoint", dir);
    FILE *f = sl_open_regular(path);
    if (!f)
        return -1;
    size_t n = fread(text, 1, sizeof text - 1, f);
    int bad = ferror(f);
    fclose(f);
    text[n] = 0;
    return bad ? sl_fail("cannot read %s", path) : parse(dir, text, n, d);
}

static int wrong_size(const char *dir, const sl_done *d, int i, uint64_t size) {
    return sl_fail("%s: damaged checkpoint: %s has %" PRIu64 " bytes where DONE says %" PRIu64
                   "; use an older checkpoint",
                   dir, sl_done_name[i], size, d->size[i]);
}

int sl_done_check_sizes(const char *dir, const sl_done *d) {
    for (int i = 0; i < SL_DONE_FILES; i++) {
        char path[SL_PATH];
        struct stat st;
        if (!d->has[i])
            continue;
        if (sl_path(path, "%s/%s", dir, sl_done_name[i]) < 0)
            return -1;
        if (stat(path, &st) < 0)
            return sl_fail_errno("damaged checkpoint: cannot stat", path);
        if ((uint64_t)st.st_size != d->size[i])
            return wrong_size(dir, d, i, (uint64_t)st.st_size);
    }
    return 0;
}

int sl_done_map(const char *dir, const sl_done *d, enum sl_done_file file, sl_map *m) {
    char path[SL_PATH];
    if (sl_path(path, "%s/%s", dir, sl_done_name[file]) < 0 || sl_map_open(m, path) < 0)
        return -1;
    int rc = 0;
    if (m->n != d->size[file])
        rc = wrong_size(dir, d, file, m->n);
    else if (XXH3_64bits(m->p, m->n) != d->hash[file])
        rc = sl_fail("%s: damaged checkpoint: the hash of %s is not the one in DONE; use an older "
                     "checkpoint",
                     dir, sl_done_name[file]);
    if (rc < 0)
        sl_map_close(m);
    return rc;
}
