#include "checkpoint/checkpoint.h"

#include "base/err.h"
#include "checkpoint/internal.h"
#include "families/foreign.h"
#include "io/safetensors.h"
#include "model/model.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* ---------------------------------------------------------------- loading */

static int64_t get_count(const json_t *root, const char *key, bool *ok) {
    const json_t *v = json_object_get(root, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        *ok = false;
    return json_integer_value(v);
}

static double get_double(const json_t *root, const char *key, bool *ok) {
    const char *text = json_string_value(json_object_get(root, key));
    char *end = NULL;
    double v = text ? strtod(text, &end) : 0;
    if (!text || end == text || *end)
        *ok = false;
    return v;
}

static uint64_t get_hash(const json_t *root, const char *key, bool *ok) {
    const char *text = json_string_value(json_object_get(root, key));
    char *end = NULL;
    uint64_t v = text ? strtoull(text, &end, 16) : 0;
    if (!text || end - text != 16 || *end)
        *ok = false;
    return v;
}

static int parse_state(const char *dir, const sl_map *m, sl_train_state *s) {
    json_error_t e;
    json_t *root = json_loadb((const char *)m->p, m->n, JSON_REJECT_DUPLICATES, &e);
    bool ok = root != NULL;
    int64_t version = get_count(root, "version", &ok);
    *s = (sl_train_state){
        .step = get_count(root, "step", &ok),
        .tokens = get_count(root, "tokens", &ok),
        .skipped = get_count(root, "skipped", &ok),
        .loss_mean = get_double(root, "loss_mean", &ok),
        .best_val_loss = get_double(root, "best_val_loss", &ok),
        .train_seconds = get_double(root, "train_seconds", &ok),
        .data_hash = get_hash(root, "data_hash", &ok),
    };
    json_decref(root);
    if (version > SL_CHECKPOINT_VERSION)
        return sl_fail("%s: made by a newer sinklab: format %" PRId64
                       " in state.json, this one reads up "
                       "to %d; update sinklab",
                       dir, version, SL_CHECKPOINT_VERSION);
    if (ok && version < 1)
        return sl_fail("%s/state.json: format %" PRId64 " has never been written; the file is damaged", dir, version);
    return ok ? 0 : sl_fail("%s/state.json: a value is missing or of the wrong type", dir);
}

/* The files of a verified checkpoint, mapped. */
typedef struct {
    sl_map map[SL_DONE_FILES];
    sl_st_file *model, *optimizer; /* optimizer may be NULL */
    sl_train_state state;
} parts;

static void close_parts(parts *c) {
    sl_st_close(c->model);
    sl_st_close(c->optimizer);
    for (int i = 0; i < SL_DONE_FILES; i++)
        sl_map_close(&c->map[i]);
}

static sl_st_file *open_tensors(const char *dir, const sl_map *m, enum sl_done_file file) {
    char path[SL_PATH];
    return sl_path(path, "%s/%s", dir, sl_done_name[file]) < 0
               ? NULL
               : sl_st_open_memory(m->p, m->n, path);
}

/* Verifies everything; what is read later comes from the very bytes that were hashed. To be closed
 * after a failure too. */
static int open_parts(const char *dir, parts *c) {
    sl_done d;
    *c = (parts){.model = NULL};
    if (sl_done_read(dir, &d) < 0)
        return -1;
    for (int i = 0; i < SL_DONE_FILES; i++)
        if (d.has[i] && sl_done_map(dir, &d, (enum sl_done_file)i, &c->map[i]) < 0)
            return -1;
    if (!(c->model = open_tensors(dir, &c->map[SL_DONE_MODEL], SL_DONE_MODEL)))
        return -1;
    if (d.has[SL_DONE_OPTIMIZER] &&
        !(c->optimizer = open_tensors(dir, &c->map[SL_DONE_OPTIMIZER], SL_DONE_OPTIMIZER)))
        return -1;
    return parse_state(dir, &c->map[SL_DONE_STATE], &c->state);
}

static int verify(const char *dir) {
    parts c;
    int rc = open_parts(dir, &c);
    close_parts(&c);
    return rc;
}

/* A model made for inference may do without the states of a run (sl_program_state): they can be measured anew. */
static bool absent_state(const sl_st_file *f, const sl_params *p, const sl_tensor *t) {
    return t->state && !p->m && !sl_st_find(f, t->name);
}

static bool lacks_states(const sl_st_file *f, const sl_params *p) {
    for (int i = 0; i < p->count; i++)
        if (absent_state(f, p, &p->tensor[i]))
            return true;
    return false;
}

/* Reads (dst not NULL) or only checks the tensors of the table under a prefix, those with at least so many moments. */
static int read_block(const sl_st_file *f, const sl_params *p, const char *prefix, int moments, float *dst) {
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        if (t->moments < moments || absent_state(f, p, t))
            continue;
        char name[sizeof t->name + 2];
        snprintf(name, sizeof name, "%s%s", prefix, t->name);
        int rc = dst ? sl_st_read_f32(f, name, t->ndim, t->shape, dst + t->offset)
                     : sl_st_check_f32(f, name, t->ndim, t->shape);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* The same of values, those that are kept in bf16 rounded. */
static int read_values(const sl_st_file *f, sl_params *p) {
    int64_t most = 0;
    for (int i = 0; i < p->count; i++)
        most = p->tensor[i].bf16 && p->tensor[i].size > most ? p->tensor[i].size : most;
    float *scratch = malloc((size_t)(most + 1) * sizeof *scratch);
    if (!scratch)
        return sl_fail("out of memory for a tensor of %" PRId64 " values", most);
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        if (absent_state(f, p, t))
            continue;
        sl_st_read_f32(f, t->name, t->ndim, t->shape, t->bf16 ? scratch : p->w + t->offset);
        if (t->bf16)
            sl_params_set(p, t, 0, t->size, scratch);
    }
    free(scratch);
    return 0;
}

/* States of a run whose intervention is off now, or another one. */
static bool unused_state(const sl_params *p, const char *name) {
    static const char state[] = ".channel_mean";
    const char *last = strrchr(name, '.');
    return !p->m && last && strncmp(last, state, sizeof state - 1) == 0;
}

static int refuse_extra(const char *dir, const sl_st_file *f, const sl_params *p) {
    for (int i = 0; i < sl_st_count(f); i++) {
        const char *name = sl_st_at(f, i)->name;
        if (!sl_checkpoint_tensor(p, name) && !unused_state(p, name))
            return sl_fail("%s/model.safetensors: tensor %s is not one of this model; does the "
                           "configuration belong to it?",
                           dir, name);
    }
    return 0;
}

/* Is the state that of the same optimizer? */
static int check_kind(const char *dir, const parts *c, const sl_params *p) {
    sl_config saved;
    const sl_map *m = &c->map[SL_DONE_CONFIG_YAML];
    sl_config_defaults(&saved);
    if (sl_config_parse(&saved, (const char *)m->p, m->n, sl_done_name[SL_DONE_CONFIG_YAML]) < 0)
        return sl_fail_prefix("%s", dir);
    if (saved.train_optimizer == p->optimizer)
        return 0;
    return sl_fail("%s: holds the state of train.optimizer=%s: training cannot go on from it with %s", dir,
                   sl_choices_optim[saved.train_optimizer].name, sl_choices_optim[p->optimizer].name);
}

static int check_optimizer(const char *dir, const parts *c, const sl_params *p) {
    if (!c->optimizer)
        return sl_fail("%s: saved without optimizer state: training cannot go on from it", dir);
    if (check_kind(dir, c, p) < 0 || read_block(c->optimizer, p, "m.", 1, NULL) < 0 ||
        read_block(c->optimizer, p, "v.", 2, NULL) < 0)
        return -1;
    int needed = 0;
    for (int i = 0; i < p->count; i++)
        needed += p->tensor[i].moments;
    if (sl_st_count(c->optimizer) != needed)
        return sl_fail("%s/optimizer.safetensors: %d tensors where %d are needed", dir,
                       sl_st_count(c->optimizer), needed);
    return 0;
}

/* Of weights that are no numbers every figure would be one that means nothing. */
static int check_finite(const char *dir, const sl_params *p) {
    enum { BLOCK = 1024 };
    float w[BLOCK];
    for (int i = 0; i < p->count; i++)
        for (int64_t j = 0, n; j < p->tensor[i].size; j += n) {
            n = p->tensor[i].size - j < BLOCK ? p->tensor[i].size - j : BLOCK;
            sl_params_get(p, &p->tensor[i], j, n, w);
            for (int64_t k = 0; k < n; k++)
                if (!isfinite(w[k]))
                    return sl_fail("%s: tensor %s holds what is not a number: the training that wrote it had diverged, "
                                   "or the file is damaged",
                                   dir, p->tensor[i].name);
        }
    return 0;
}

static int load_ours(const char *dir, sl_params *p, sl_train_state *s) {
    parts c;
    bool moments = s && p->m;
    int rc = open_parts(dir, &c);
    if (rc == 0 &&
        (read_block(c.model, p, "", 0, NULL) < 0 || refuse_extra(dir, c.model, p) < 0 ||
         (moments && check_optimizer(dir, &c, p) < 0)))
        rc = -1;
    if (rc == 0)
        rc = read_values(c.model, p);
    if (rc == 0) {
        p->state_missing = lacks_states(c.model, p);
        if (moments) {
            read_block(c.optimizer, p, "m.", 1, p->m);
            read_block(c.optimizer, p, "v.", 2, p->v);
        }
        if (s)
            *s = c.state;
    }
    close_parts(&c);
    return rc;
}

static int load_foreign(const char *path, sl_params *p) {
    sl_foreign *f = sl_foreign_open(path);
    int rc = f ? sl_foreign_load(f, p) : -1;
    sl_foreign_close(f);
    return rc;
}

/* A folder of ours has these, finished or not. */
static bool is_ours(const char *dir) {
    return sl_path_exists("%s/DONE", dir) || sl_path_exists("%s/state.json", dir) ||
           sl_path_exists("%s/optimizer.safetensors", dir);
}

/* In this order: one of ours that its run has just taken away is none of others. */
bool sl_checkpoint_foreign(const char *dir) { return !is_ours(dir) && sl_path_exists("%s", dir); }

int sl_checkpoint_load(const char *dir, sl_params *p, sl_train_state *s) {
    bool ours = is_ours(dir);
    if (s && !ours)
        return sl_fail("%s: a model without optimizer state: training cannot go on from it", dir);
    if ((ours ? load_ours(dir, p, s) : load_foreign(dir, p)) < 0)
        return -1;
    return check_finite(dir, p);
}

int sl_model_load(sl_model *m, const char *dir, sl_train_state *s) {
    if (!m)
        return sl_fail("cannot load into a model that is NULL; was its creation checked?");
    return sl_checkpoint_load(dir, sl_model_params(m), s) || sl_model_params_written(m) ? -1 : 0;
}

static int read_our_config(const char *dir, sl_config *c) {
    char path[SL_PATH];
    sl_done d;
    sl_map m;
    if (sl_done_read(dir, &d) < 0 || sl_done_map(dir, &d, SL_DONE_CONFIG_YAML, &m) < 0)
        return -1;
    sl_config_defaults(c);
    int rc = sl_path(path, "%s/config.yaml", dir);
    if (rc == 0)
        rc = sl_config_parse(c, (const char *)m.p, m.n, path);
    if (rc == 0 && sl_config_check(c) < 0)
        rc = sl_fail_prefix("%s", path);
    sl_map_close(&m);
    return rc;
}

/* The rows of our embedding matrix. */
static int read_our_vocab(const char *dir, int32_t *vocab) {
    char path[SL_PATH];
    if (sl_path(path, "%s/model.safetensors", dir) < 0)
        return -1;
    sl_st_file *f = sl_st_open(path);
    if (!f)
        return -1;
    const sl_st_tensor *t = sl_st_find(f, SL_EMBEDDING);
    int rc = 0;
    if (!t || t->ndim != 2 || t->shape[0] < 1 || t->shape[0] > INT32_MAX)
        rc = sl_fail("%s: no embedding matrix %s in it: not a language model of a known kind", path, SL_EMBEDDING);
    else
        *vocab = (int32_t)t->shape[0];
    sl_st_close(f);
    return rc;
}

int sl_checkpoint_config(const char *path, sl_config *c, int32_t *vocab) {
    if (is_ours(path))
        return read_our_config(path, c) || read_our_vocab(path, vocab) ? -1 : 0;
    sl_foreign *f = sl_foreign_open(path);
    int rc = f ? sl_foreign_config(f, c, vocab) : -1;
    sl_foreign_close(f);
    return rc;
}

/* ---------------------------------------------------------------- finding */

static _Thread_local char passed_over[2048];

const char *sl_checkpoint_passed_over(void) { return passed_over; }

static int look_for_newest(const char *base, char dir[4096]) {
    sl_folder *list;
    int n = sl_folder_scan(base, &list), found = -1, tried = 0;
    if (n < 0)
        return -1;
    for (int i = 0; i < n && found < 0; i++) {
        char path[SL_PATH];
        if (list[i].kind == SL_TMP)
            continue;
        tried++;
        if (sl_folder_path(path, base, list[i].step, list[i].kind) == 0 && verify(path) == 0) {
            if (strlen(path) >= 4096)
                break;
            strcpy(dir, path);
            found = i;
        } else if (!*passed_over) {
            snprintf(passed_over, sizeof passed_over, "%s", sl_error());
        }
    }
    free(list);
    if (found >= 0)
        return 0;
    return tried ? sl_fail("no whole checkpoint in %s; of the newest: %.900s", base, passed_over)
                 : sl_fail("no checkpoint in %s yet", base);
}

/* A run that is training may take the newest away while it is looked at: then there is another one already. */
static int resolve_run(const char *base, char dir[4096]) {
    int rc = look_for_newest(base, dir);
    for (int again = 0; rc < 0 && again < 20; again++) {
        struct timespec pause = {0, 5000000};
        nanosleep(&pause, NULL);
        *passed_over = 0;
        rc = look_for_newest(base, dir);
    }
    return rc;
}

/* Of files a GGUF one alone is a whole model. */
static int check_file(const char *path) {
    static const char magic[] = "GGUF";
    sl_map m;
    if (sl_map_open(&m, path))
        return -1;
    bool gguf = m.n >= sizeof magic - 1 && !memcmp(m.p, magic, sizeof magic - 1);
    sl_map_close(&m);
    return gguf ? 0 : sl_fail_usage("%s is a file, and not a GGUF one; give the folder that holds it", path);
}

int sl_checkpoint_resolve(const char *path, char dir[SL_DIR_CHARS]) {
    char base[SL_PATH];
    struct stat st;
    *passed_over = 0;
    if (stat(path, &st) < 0)
        return sl_fail_errno("cannot open checkpoint", path);
    if (strlen(path) >= 4096 || sl_path(base, "%s/checkpoints", path) < 0)
        return sl_fail("path too long: %.200s...", path);
    strcpy(dir, path);
    if (!S_ISDIR(st.st_mode))
        return check_file(path);
    if (is_ours(path)) {
        sl_done d;
        return sl_done_read(path, &d);
    }
    if (sl_path_exists("%s", base))
        return resolve_run(base, dir);
    if (!sl_path_exists("%s/model.safetensors", path) && !sl_path_exists("%s/model.safetensors.index.json", path))
        return sl_fail("%s: no checkpoint there: neither DONE, nor a checkpoints folder, nor model.safetensors or its "
                       "index", path);
    return sl_path_exists("%s/config.json", path) ? 0 : sl_fail("%s: model.safetensors without a config.json", path);
}

/* Looks again where a run has taken away the checkpoint that was found. */
int sl_checkpoint_open(const char *path, char dir[SL_DIR_CHARS], sl_config *c, int32_t *vocab) {
    for (int again = 0; again < 20; again++) {
        if (sl_checkpoint_resolve(path, dir))
            return -1;
        if (sl_checkpoint_config(dir, c, vocab) == 0)
            return 0;
        if (sl_path_exists("%s", dir))
            return -1;
    }
    return -1;
}

int sl_checkpoint_list(const char *run_dir, int64_t *step) {
    char base[SL_PATH];
    sl_folder *list;
    if (sl_path(base, "%s/checkpoints", run_dir) < 0)
        return -1;
    int n = sl_folder_scan(base, &list), complete = 0;
    if (n < 0)
        return -1;
    for (int i = 0; i < n; i++) {
        char path[SL_PATH];
        if (list[i].kind == SL_TMP || sl_folder_path(path, base, list[i].step, list[i].kind) < 0 ||
            sl_folder_check_complete(path) < 0)
            continue;
        if (complete++ == 0)
            *step = list[i].step;
    }
    free(list);
    return complete;
}

bool sl_checkpoint_none(const char *run_dir) {
    char base[SL_PATH];
    sl_folder *list;
    if (sl_path(base, "%s/checkpoints", run_dir) < 0)
        return false;
    int n = sl_folder_scan(base, &list);
    if (n < 0)
        return false;
    bool none = true;
    for (int i = 0; i < n; i++)
        none = none && list[i].kind == SL_TMP;
    free(list);
    return none;
}
