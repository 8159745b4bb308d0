#include "session/load.h"

#include "base/err.h"
#include "base/log.h"
#include "base/threads.h"
#include "checkpoint/checkpoint.h"
#include "data/corpus.h"
#include "io/file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int override(const sl_open_options *o, sl_config *c) {
    for (int i = 0; i < o->keys; i++)
        if (sl_config_override(c, o->key[i]))
            return -1;
    return 0;
}

static int change_keys(const sl_open_options *o, sl_config *c, const char *dir) {
    char difference[SL_DIFFERENCE_CHARS];
    sl_config trained = *c;
    if (override(o, c))
        return -1;
    if (sl_config_other_model(difference, &trained, c))
        return sl_fail_usage("%s: was trained as another model, %s; leave that key as it is", dir, difference);
    return sl_config_check(c);
}

static int set_bos(const char *bos, sl_config *c) {
    if (!bos)
        return 0;
    if (strlen(bos) >= sizeof c->data_bos_token)
        return sl_fail_usage("bos: a token of %zu bytes; at most %zu fit", strlen(bos), sizeof c->data_bos_token - 1);
    c->data_bos = strcmp(bos, "none") != 0;
    if (c->data_bos)
        strcpy(c->data_bos_token, bos);
    return 0;
}

int sl_config_change(sl_config *c, const sl_open_options *o, const char *name) {
    sl_config changed = *c;
    if (set_bos(o->bos, &changed) || change_keys(o, &changed, name))
        return -1;
    *c = changed;
    return 0;
}

/* The run that a checkpoint belongs to, RUN of RUN/checkpoints/STEP, as an absolute path; false of any other folder. */
static bool run_of(const char *dir, char run[SL_DIR_CHARS]) {
    char up[SL_DIR_CHARS + 8], *found;
    snprintf(up, sizeof up, "%s/..", dir);
    found = realpath(up, NULL);
    char *last = found ? strrchr(found, '/') : NULL;
    bool ours = last && strcmp(last, "/checkpoints") == 0 && last - found < SL_DIR_CHARS;
    if (ours)
        snprintf(run, SL_DIR_CHARS, "%.*s", (int)(last - found), found);
    free(found);
    return ours;
}

/* env.json of a run; NULL if there is none that can be read. */
static json_t *read_environment(const char *run) {
    char path[SL_DIR_CHARS + 16];
    sl_map m;
    snprintf(path, sizeof path, "%s/env.json", run);
    if (sl_map_open(&m, path))
        return NULL;
    json_t *env = json_loadb((const char *)m.p, m.n, JSON_REJECT_DUPLICATES, NULL);
    sl_map_close(&m);
    return env;
}

/* A relative name from the folders above the run, the nearest first: a project that was moved as a whole. */
static bool find_above(const char *run, const char *name, char found[SL_PATH_CHARS]) {
    static const char *const under[] = {"", "data/corpora/"};
    char up[SL_DIR_CHARS], path[2 * SL_DIR_CHARS];
    snprintf(up, sizeof up, "%s", run);
    for (char *end; *name && *name != '/' && (end = strrchr(up, '/'));) {
        *end = '\0';
        for (size_t i = 0; i < sizeof under / sizeof *under; i++) {
            snprintf(path, sizeof path, "%s/%s%s", up, under[i], name);
            if (sl_corpus_find(path, found) == 0)
                return true;
        }
    }
    return false;
}

/* Where a run's file is now, into value behind its first `prefix` bytes: where the run found it, as env.json says
 * (`recorded`), which a file of that name in this folder (`here`; NULL: there is none) need not be; else here; else
 * under its name in a folder above the run. */
static void look_for_file(char value[SL_CONFIG_STR], size_t prefix, const char *here, const char *run,
                          const char *recorded) {
    char above[SL_PATH_CHARS];
    if (here && recorded && sl_same_file(here, recorded))
        return;
    const char *found = recorded && access(recorded, F_OK) == 0           ? recorded
                        : !here && find_above(run, value + prefix, above) ? above
                                                                          : NULL;
    if (!found || strlen(found) >= SL_CONFIG_STR - prefix)
        return;
    if (found == above)
        sl_warn("%s is not where its run found it; reading %s", value + prefix, above);
    strcpy(value + prefix, found);
}

/* Text and tokenizer of a run, which is probed from any folder. */
static void look_for_files(sl_config *c, const char *dir) {
    char run[SL_DIR_CHARS], path[SL_PATH_CHARS];
    static const char *const kinds[] = {"bpe:", "gguf:"};
    if (!run_of(dir, run))
        return;
    json_t *env = read_environment(run);
    if (!sl_synthetic_named(c->data_corpus))
        look_for_file(c->data_corpus, 0, sl_corpus_find(c->data_corpus, path) ? NULL : path, run,
                      json_string_value(json_object_get(env, "corpus")));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t n = strlen(kinds[i]);
        const char *spec = json_string_value(json_object_get(env, "tokenizer")), *here = c->data_tokenizer + n;
        if (strncmp(c->data_tokenizer, kinds[i], n) == 0)
            look_for_file(c->data_tokenizer, n, access(here, F_OK) ? NULL : here, run,
                          spec && strncmp(spec, kinds[i], n) == 0 ? spec + n : NULL);
    }
    json_decref(env);
}

/* The rule of the tokenizer that will be in force. One that can't be opened is told of where it is needed: not all
 * verbs need it. */
static int take_bos_rule(const sl_open_options *o, sl_config *c) {
    sl_config will = *c;
    if (override(o, &will))
        return -1;
    sl_tokenizer *t = sl_synthetic_named(will.data_corpus) ? NULL : sl_tokenizer_open(will.data_tokenizer);
    c->data_bos = t ? sl_tokenizer_adds_bos(t) : c->data_bos;
    sl_tokenizer_close(t);
    return 0;
}

int sl_load_corpus(const char *corpus, sl_config *c) {
    if (corpus && strlen(corpus) >= sizeof c->data_corpus)
        return sl_fail_usage("--corpus: a path of %zu bytes; at most %zu fit", strlen(corpus),
                             sizeof c->data_corpus - 1);
    if (corpus)
        strcpy(c->data_corpus, corpus);
    return 0;
}

int sl_load_bos_id(const sl_config *c, int32_t *id) {
    sl_tokenizer *t = c->data_bos ? sl_dataset_open_tokenizer(c) : NULL;
    *id = t ? sl_tokenizer_bos(t) : -1;
    sl_tokenizer_close(t);
    return c->data_bos && !t ? -1 : 0;
}

/* Of what they were trained on nothing is known: no text need be kept from them. */
static int set_foreign(const sl_open_options *o, double measured, sl_config *c) {
    c->data_val_fraction = measured;
    return take_bos_rule(o, c);
}

int sl_load_config(const char *path, const sl_open_options *o, double measured, sl_config *c, char dir[SL_DIR_CHARS],
                   int32_t *vocab) {
    if (sl_checkpoint_open(path, dir, c, vocab))
        return -1;
    look_for_files(c, dir);
    c->device = SL_DEVICE_CPU; /* a run of a GPU can be read where none is */
    if ((sl_checkpoint_foreign(dir) && set_foreign(o, measured, c)) || sl_config_change(c, o, dir))
        return -1;
    if (*sl_checkpoint_passed_over())
        sl_warn("%s; reading %s instead", sl_checkpoint_passed_over(), dir);
    return sl_threads_start((int)c->threads, (enum sl_pin)c->pin);
}

int sl_config_take_init(sl_config *c, const char *path) {
    char dir[SL_DIR_CHARS];
    sl_config its, taken = *c;
    int32_t vocab;
    if (strlen(path) >= sizeof taken.train_init)
        return sl_fail_usage("train.init: a path of %zu bytes; at most %zu fit", strlen(path),
                             sizeof taken.train_init - 1);
    strcpy(taken.train_init, path);
    if (sl_checkpoint_open(path, dir, &its, &vocab) || sl_config_take_model(&taken, &its))
        return -1;
    *c = taken;
    return 0;
}

int sl_open(const char *path, const sl_open_options *o, sl_config *c, char dir[SL_DIR_CHARS], int32_t *vocab) {
    return sl_load_config(path, o, 1, c, dir, vocab);
}

sl_dataset *sl_open_data(const sl_config *c, const char *dir, int32_t vocab) {
    sl_tokenizer *t = sl_dataset_open_tokenizer(c);
    if (!t)
        return NULL;
    int32_t its = sl_tokenizer_vocab(t);
    sl_tokenizer_close(t);
    if (its == vocab || (its < vocab && sl_checkpoint_foreign(dir)))
        return sl_dataset_open(c);
    /* Before a large corpus is tokenized for nothing. */
    bool text = !sl_synthetic_named(c->data_corpus);
    sl_fail("the checkpoint has %d tokens, but %s=%s has %d; give the one it was trained with", vocab,
            text ? "data.tokenizer" : "data.corpus", text ? c->data_tokenizer : c->data_corpus, its);
    return NULL;
}

bool sl_load_moved_on(char dir[SL_DIR_CHARS]) {
    char newest[SL_DIR_CHARS], done[SL_DIR_CHARS + 8], said[2048];
    char *folder = strrchr(dir, '/');
    static const char under[] = "/checkpoints";
    snprintf(said, sizeof said, "%s", sl_error());
    snprintf(done, sizeof done, "%s/DONE", dir);
    /* dir is gone: its name alone tells the run. */
    if (!folder || (size_t)(folder - dir) < sizeof under ||
        strncmp(folder - (sizeof under - 1), under, sizeof under - 1) != 0 || access(done, F_OK) == 0)
        return false;
    snprintf(done, sizeof done, "%.*s", (int)(folder - dir - (int)(sizeof under - 1)), dir);
    if (sl_checkpoint_resolve(done, newest) || strcmp(newest, dir) == 0) {
        sl_fail("%s", said);
        return false;
    }
    sl_warn("%s was taken away by its run; reading %s", dir, newest);
    strcpy(dir, newest);
    return true;
}

int sl_load_weights(sl_model *m, char dir[SL_DIR_CHARS]) {
    while (sl_model_load(m, dir, NULL))
        if (!sl_load_moved_on(dir))
            return -1;
    return 0;
}

unsigned sl_load_compact(const sl_config *c, const char *dir) {
    return sl_checkpoint_foreign(dir) || sl_model_precision(c) == SL_PRECISION_BF16 ? SL_MODEL_COMPACT : 0;
}
