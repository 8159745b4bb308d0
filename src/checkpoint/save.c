#include "base/err.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "model/match.h"
#include "model/model.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/internal.h"
#include "checkpoint/hf_config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* ---------------------------------------------------------------- removing */

void sl_folder_remove(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            sl_sys.unlinkat(fd, e->d_name, 0);
    closedir(d);
    sl_sys.rmdir(path);
}

/* The same for a checkpoint: it stops being one at once, so that no reader meets a half of it. */
static void retire(const char *base, int64_t step, enum sl_folder_kind kind) {
    char from[SL_PATH], to[SL_PATH];
    if (sl_folder_path(from, base, step, kind) < 0 || sl_folder_path(to, base, step, SL_TMP) < 0)
        return;
    if (sl_sys.rename(from, to) == 0)
        sl_folder_remove(to);
}

/* ---------------------------------------------------------------- writing */

/* A file of the checkpoint being written; notes its size and hash. */
static int start_file(const char *dir, enum sl_done_file file, char path[SL_PATH], sl_writer *w) {
    return sl_path(path, "%s/%s", dir, sl_done_name[file]) < 0 ? -1 : sl_writer_open(w, path);
}

static int finish_file(sl_writer *w, enum sl_done_file file, sl_done *d) {
    d->has[file] = true;
    d->size[file] = w->size;
    return sl_writer_finish(w, &d->hash[file]);
}

static int write_text(const char *dir, enum sl_done_file file, const char *text, size_t n,
                      sl_done *d) {
    char path[SL_PATH];
    sl_writer w;
    if (start_file(dir, file, path, &w) < 0 || sl_writer_put(&w, text, n) < 0)
        return -1;
    return finish_file(&w, file, d);
}

static int write_tensors(const char *dir, enum sl_done_file file, sl_st_entry *e, int n,
                         sl_done *d) {
    static const char *const key[] = {"format"}, *const value[] = {
                                                     "pt"}; /* transformers wants it */
    char path[SL_PATH];
    sl_writer w;
    if (start_file(dir, file, path, &w) < 0 || sl_st_put(&w, e, n, key, value, 1) < 0)
        return -1;
    return finish_file(&w, file, d);
}

/* Entries of a block (w, m or v) of the parameter table, names with a prefix, for the tensors that have at least
 * so many moments; their number. */
static int fill_entries(const sl_params *p, const char *prefix, const float *block, int moments,
                        sl_st_entry *e) {
    int n = 0;
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        if (t->moments < moments)
            continue;
        e[n] = (sl_st_entry){.meta = {.dtype = SL_F32, .ndim = t->ndim}, .data = block + t->offset};
        snprintf(e[n].meta.name, sizeof e[n].meta.name, "%s%s", prefix, t->name);
        memcpy(e[n].meta.shape, t->shape, (size_t)t->ndim * sizeof t->shape[0]);
        n++;
    }
    return n;
}

static int write_params(const char *dir, const sl_params *p, sl_done *d) {
    sl_st_entry *e = calloc((size_t)p->count * 2 + 1, sizeof *e);
    if (!e)
        return sl_fail("out of memory for a checkpoint's list of tensors");
    int rc = write_tensors(dir, SL_DONE_MODEL, e, fill_entries(p, "", p->w, 0, e), d);
    if (rc == 0 && p->m) {
        int n = fill_entries(p, "m.", p->m, 1, e);
        n += fill_entries(p, "v.", p->v, 2, e + n);
        rc = write_tensors(dir, SL_DONE_OPTIMIZER, e, n, d);
    }
    free(e);
    return rc;
}

static int write_config_yaml(const char *dir, const sl_config *c, sl_done *d) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    int rc = f ? sl_config_dump(c, f) : sl_fail("out of memory for config.yaml");
    if (f && fclose(f) != 0 && rc == 0)
        rc = sl_fail("out of memory for config.yaml");
    if (rc == 0)
        rc = write_text(dir, SL_DONE_CONFIG_YAML, text, n, d);
    free(text);
    return rc;
}

static int write_config_json(const char *dir, const sl_config *c, const sl_params *p, sl_done *d) {
    const sl_tensor *t = sl_checkpoint_tensor(p, SL_EMBEDDING);
    if (!t)
        return sl_fail("the model has no tensor %s; a checkpoint needs it", SL_EMBEDDING);
    sl_config built = *c;
    if (sl_match_params(&built, (int32_t)t->shape[0]))
        return -1;
    char *text = sl_hf_config_text(&built, (int32_t)t->shape[0]);
    int rc = text ? write_text(dir, SL_DONE_CONFIG_JSON, text, strlen(text), d) : -1;
    free(text);
    return rc;
}

/* Doubles go as hexadecimal floats: exact, and NaN has a form (it has none in JSON's numbers). */
static int write_state(const char *dir, const sl_train_state *s, sl_done *d) {
    char text[512];
    int n = snprintf(text, sizeof text,
                     "{\n  \"version\": %d,\n  \"step\": %" PRId64 ",\n  \"tokens\": %" PRId64
                     ",\n  \"skipped\": %" PRId64 ",\n  \"loss_mean\": \"%a\",\n"
                     "  \"best_val_loss\": \"%a\",\n  \"train_seconds\": \"%a\",\n  \"data_hash\": \"%016" PRIx64
                     "\"\n}\n",
                     SL_CHECKPOINT_VERSION, s->step, s->tokens, s->skipped, s->loss_mean,
                     s->best_val_loss, s->train_seconds, s->data_hash);
    return write_text(dir, SL_DONE_STATE, text, (size_t)n, d);
}

static int write_folder(const char *dir, const sl_config *c, const sl_params *p,
                        const sl_train_state *s) {
    sl_done d = {.has = {false}};
    if (sl_sys.mkdir(dir, 0777) < 0)
        return errno == EEXIST ? sl_fail("%s is in the way; move it away", dir)
                               : sl_fail_errno("cannot create folder", dir);
    if (write_params(dir, p, &d) < 0 || write_config_json(dir, c, p, &d) < 0 ||
        write_config_yaml(dir, c, &d) < 0 || write_state(dir, s, &d) < 0 || sl_fsync_dir(dir) < 0 ||
        sl_done_write(dir, &d) < 0)
        return -1;
    return sl_fsync_dir(dir);
}

/* ---------------------------------------------------------------- saving */

/* What crashes left behind: unfinished folders, and predecessors whose successor is in place. */
static void clean(const char *base) {
    sl_folder *list;
    int n = sl_folder_scan(base, &list);
    for (int i = 0; i < n; i++) {
        char path[SL_PATH];
        if (list[i].kind == SL_TMP && sl_folder_path(path, base, list[i].step, SL_TMP) == 0)
            sl_folder_remove(path);
        if (list[i].kind == SL_OLD && i > 0 && list[i - 1].step == list[i].step &&
            list[i - 1].kind == SL_WHOLE)
            retire(base, list[i].step, SL_OLD);
    }
    if (n >= 0)
        free(list);
}

static void keep_newest(const char *base, int64_t saved, int keep) {
    sl_folder *list;
    int n = sl_folder_scan(base, &list), kept = 1;
    for (int i = 0; i < n; i++) {
        char path[SL_PATH];
        if (list[i].kind == SL_TMP || (list[i].kind == SL_WHOLE && list[i].step == saved) ||
            sl_folder_path(path, base, list[i].step, list[i].kind) < 0 ||
            sl_folder_check_complete(path) < 0)
            continue;
        if (++kept > keep)
            retire(base, list[i].step, list[i].kind);
    }
    if (n >= 0)
        free(list);
}

static int make_folder(const char *path) {
    if (sl_sys.mkdir(path, 0777) == 0) {
        char parent[SL_PATH];
        return sl_path(parent, "%s/..", path) < 0 ? -1 : sl_fsync_dir(parent);
    }
    return errno == EEXIST ? 0 : sl_fail_errno("cannot create folder", path);
}

/* RUN/checkpoints, made if need be, locked until the descriptor is closed. */
static int open_base(const char *run_dir, char base[SL_PATH]) {
    if (sl_path(base, "%s/checkpoints", run_dir) < 0 || make_folder(run_dir) < 0 ||
        make_folder(base) < 0)
        return -1;
    int fd = open(base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return sl_is_folder(base) ? sl_fail_errno("cannot open", base)
                                  : sl_fail("%s is a link or a file where checkpoints go; move it away", base);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        close(fd);
        return sl_fail(
            "%s: another process is saving a checkpoint there; give each run its own folder", base);
    }
    return fd;
}

static int put_in_place(const char *base, int64_t step) {
    char tmp[SL_PATH], whole[SL_PATH], old[SL_PATH];
    if (sl_folder_path(tmp, base, step, SL_TMP) < 0 ||
        sl_folder_path(whole, base, step, SL_WHOLE) < 0 ||
        sl_folder_path(old, base, step, SL_OLD) < 0)
        return -1;
    bool replaces = sl_path_exists("%s", whole);
    if (replaces && !sl_is_folder(whole))
        return sl_fail("%s is a link or a file, no checkpoint of this run; move it away", whole);
    if (replaces && sl_sys.rename(whole, old) < 0)
        return sl_fail_errno("cannot rename", whole);
    if (sl_sys.rename(tmp, whole) < 0)
        return sl_fail_errno("cannot rename", tmp); /* the one that stepped aside is still seen */
    if (sl_fsync_dir(base) < 0)
        return -1;
    if (replaces)
        retire(base, step, SL_OLD);
    return 0;
}

static int save(const char *run_dir, const sl_config *c, const sl_params *p,
                const sl_train_state *s, int keep) {
    char base[SL_PATH], tmp[SL_PATH];
    int lock = open_base(run_dir, base);
    if (lock < 0)
        return -1;
    clean(base);
    int rc = sl_folder_path(tmp, base, s->step, SL_TMP);
    if (rc == 0)
        rc = write_folder(tmp, c, p, s);
    if (rc == 0)
        rc = put_in_place(base, s->step);
    if (rc == 0)
        keep_newest(base, s->step, keep);
    else
        sl_folder_remove(tmp);
    close(lock);
    return rc;
}

int sl_checkpoint_save(const char *run_dir, const sl_config *c, const sl_params *p,
                       const sl_train_state *s, int keep) {
    if (save(run_dir, c, p, s, keep) < 0)
        return sl_fail_prefix("checkpoint of step %" PRId64 " not saved", s->step);
    return 0;
}

void sl_checkpoint_clean(const char *run_dir) {
    char base[SL_PATH];
    int lock = open_base(run_dir, base);
    if (lock < 0)
        return;
    clean(base);
    close(lock);
}

int sl_model_save(sl_model *m, const char *run_dir, const sl_train_state *s, int keep) {
    if (!m)
        return sl_fail("cannot save a model that is NULL; was its creation checked?");
    if (sl_model_params(m)->halves)
        return sl_fail("cannot save a compact model: its matrices are rounded; create it without SL_MODEL_COMPACT");
    return sl_model_read_params(m) ? -1
                                   : sl_checkpoint_save(run_dir, sl_model_config_given(m), sl_model_params(m), s, keep);
}
