#include "data/corpus.h"

#include "base/err.h"
#include "base/text.h"
#include "data/dataset.h"
#include "data/tokenizer.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* snprintf into a path; fails if it does not fit. */
__attribute__((format(printf, 2, 3))) static int make_path(char path[SL_PATH_CHARS], const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(path, SL_PATH_CHARS, fmt, ap);
    va_end(ap);
    return n >= 0 && n < SL_PATH_CHARS ? 0 : sl_fail_usage("data.corpus: path too long: %.100s...", path);
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool is_there(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n > k && !strcmp(s + n - k, end);
}

static int open_text(sl_part *p, const char *path) {
    if (make_path(p->path, "%s", path) || sl_map_open(&p->map, path))
        return -1;
    p->there = true;
    p->text = (const char *)p->map.p;
    p->n = p->map.n;
    return p->n ? 0 : sl_fail("%s: the file is empty", path);
}

static int open_bin(sl_corpus *c, int split, const char *path) {
    c->is_bin = true;
    c->part[split].there = true;
    return make_path(c->part[split].path, "%s", path) || sl_bin_open(&c->part[split].bin, path) ? -1 : 0;
}

/* ---- A folder of texts ------------------------------------------------------------------------- */

static int is_text_name(const struct dirent *e) { return e->d_name[0] != '.' && ends_with(e->d_name, ".txt"); }

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* Appends a document and its line end, with a boundary line before it unless it is the first. */
static int join(sl_part *p, const sl_map *m) {
    static const char boundary[] = SL_DOCUMENT_LINE;
    size_t extra = sizeof boundary + 1;
    char *grown = m->n < SIZE_MAX - p->n - extra ? realloc(p->joined, p->n + m->n + extra) : NULL;
    if (!grown)
        return sl_fail("%s: out of memory for %zu bytes of text", p->path, p->n + m->n);
    p->joined = grown;
    if (p->n) {
        memcpy(grown + p->n, boundary, sizeof boundary - 1);
        p->n += sizeof boundary - 1;
    }
    memcpy(grown + p->n, m->p, m->n);
    p->n += m->n;
    if (m->n && grown[p->n - 1] != '\n')
        grown[p->n++] = '\n';
    return 0;
}

static int open_texts(sl_part *p, const char *folder) {
    struct dirent **entry;
    int count = scandir(folder, &entry, is_text_name, by_name);
    if (count < 0)
        return sl_fail_errno("cannot read the folder", folder);
    int rc = make_path(p->path, "%s", folder);
    for (int i = 0; i < count; i++) {
        char path[SL_PATH_CHARS];
        sl_map m = {0};
        if (!rc && !(rc = make_path(path, "%s/%s", folder, entry[i]->d_name)) && !(rc = sl_map_open(&m, path)))
            rc = join(p, &m);
        sl_map_close(&m);
        free(entry[i]);
    }
    free(entry);
    if (rc)
        return -1;
    p->there = true;
    p->text = p->joined;
    return p->n ? 0
                : sl_fail("%s: no text in this folder: it must hold train.txt (and val.txt), train.bin (and val.bin) "
                          "or other *.txt files", folder);
}

/* ---- Finding it -------------------------------------------------------------------------------- */

static int open_folder(sl_corpus *c, const char *folder) {
    char path[SL_PATH_CHARS];
    if (make_path(c->folder, "%s", folder) || make_path(path, "%s/train.txt", folder))
        return -1;
    if (is_there(path)) {
        if (open_text(&c->part[SL_TRAIN], path) || make_path(path, "%s/val.txt", folder))
            return -1;
        return is_there(path) ? open_text(&c->part[SL_VAL], path) : 0;
    }
    if (make_path(path, "%s/train.bin", folder))
        return -1;
    if (is_there(path)) {
        if (open_bin(c, SL_TRAIN, path) || make_path(path, "%s/val.bin", folder))
            return -1;
        return is_there(path) ? open_bin(c, SL_VAL, path) : 0;
    }
    return open_texts(&c->part[SL_TRAIN], folder);
}

static int open_file(sl_corpus *c, const char *path) {
    const char *slash = strrchr(path, '/');
    if (!sl_bin_looks_like(path))
        return make_path(c->folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".") ||
                       open_text(&c->part[SL_TRAIN], path)
                   ? -1
                   : 0;
    if (open_bin(c, SL_TRAIN, path))
        return -1;
    char val[SL_PATH_CHARS];
    if (!ends_with(path, "_train.bin"))
        return 0;
    if (make_path(val, "%.*s_val.bin", (int)(strlen(path) - strlen("_train.bin")), path))
        return -1;
    return is_there(val) ? open_bin(c, SL_VAL, val) : 0;
}

int sl_corpus_find(const char *name, char path[SL_PATH_CHARS]) {
    const char *data = getenv("SINKLAB_DATA");
    char quoted[SL_QUOTE_CHARS];
    data = data && *data ? data : "data/corpora";
    if (!*name)
        return sl_fail_usage("data.corpus is empty; give a prepared corpus, a text file, a folder or a token bin");
    if (!strchr(name, '/') && name[0] != '.') {
        if (make_path(path, "%s/%s", data, name))
            return -1;
        if (is_folder(path))
            return 0;
    }
    if (make_path(path, "%s", name))
        return -1;
    if (is_folder(path) || is_there(path))
        return 0;
    if (make_path(path, "%s_train.bin", name))
        return -1;
    if (is_there(path))
        return 0;
    return sl_fail_usage("data.corpus: %s is neither a prepared corpus in %s nor a file or folder; "
                         "`./data/prepare.py --list` shows what can be prepared", sl_quote(quoted, name), data);
}

int sl_corpus_open(sl_corpus *c, const char *name) {
    char path[SL_PATH_CHARS];
    memset(c, 0, sizeof *c);
    if (sl_corpus_find(name, path) || (is_folder(path) ? open_folder : open_file)(c, path)) {
        sl_corpus_close(c);
        return -1;
    }
    return 0;
}

void sl_corpus_close(sl_corpus *c) {
    for (int s = 0; s < 2; s++) {
        sl_map_close(&c->part[s].map);
        sl_bin_close(&c->part[s].bin);
        free(c->part[s].joined);
    }
    memset(c, 0, sizeof *c);
}
