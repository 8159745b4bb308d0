#include "train/rundir.h"

#include "base/cpu.h"
#include "base/err.h"
#include "base/log.h"
#include "base/threads.h"
#include "data/corpus.h"
#include "io/file.h"
#include "io/tfevents.h"
#include "model/model.h"
#include "version.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int make_folders(const char *path) {
    char p[4096];
    snprintf(p, sizeof p, "%s", path);
    for (char *s = p + 1; *s; s++)
        if (*s == '/') {
            *s = 0;
            if (mkdir(p, 0777) && errno != EEXIST)
                return sl_fail_errno("cannot make folder", p);
            *s = '/';
        }
    if (mkdir(p, 0777) && errno != EEXIST)
        return sl_fail_errno("cannot make folder", p);
    return 0;
}

static void join(const sl_rundir *r, const char *name, char out[4200]) {
    snprintf(out, 4200, "%s/%s", r->path, name);
}

/* A line that cannot be read is kept aside, in <file>.damaged, and said. */
static int put_aside(const char *path, const char *line, size_t n) {
    char aside[4220];
    snprintf(aside, sizeof aside, "%s.damaged", path);
    FILE *f = fopen(aside, "a");
    bool written = f && fwrite(line, 1, n, f) == n;
    if ((f && fclose(f)) || !written)
        return sl_fail_errno("cannot write", aside);
    return 0;
}

/* The lines of f whose "step" is at most `last`, copied to `to`. An unfinished last line is what a crash leaves. */
static int copy_until(FILE *f, FILE *to, const char *path, int64_t last) {
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    int rc = 0, damaged = 0;
    while (rc == 0 && (n = getline(&line, &room, f)) > 0 && line[n - 1] == '\n') {
        json_t *o = json_loadb(line, (size_t)n, 0, NULL), *step = json_object_get(o, "step");
        bool readable = json_is_integer(step), wanted = readable && json_integer_value(step) <= last;
        json_decref(o);
        if (!readable)
            damaged++, rc = put_aside(path, line, (size_t)n);
        else if (!wanted)
            break;
        else if (fwrite(line, 1, (size_t)n, to) != (size_t)n)
            rc = sl_fail_errno("cannot write", path);
    }
    free(line);
    if (damaged)
        sl_warn("%s: %d lines cannot be read; they are kept in %s.damaged", path, damaged, path);
    return rc;
}

/* Keeps the lines whose "step" is at most `last`. Lines are in order of step. */
static int cut_after(const char *path, int64_t last) {
    if (access(path, F_OK) && errno == ENOENT)
        return 0;
    FILE *f = sl_open_regular(path);
    char *kept = NULL;
    size_t n = 0;
    FILE *to = f ? open_memstream(&kept, &n) : NULL;
    int rc = !f ? -1 : !to ? sl_fail("out of memory for %s", path) : copy_until(f, to, path, last);
    if (f)
        fclose(f);
    if (to && fclose(to) && rc == 0)
        rc = sl_fail("out of memory for %s", path);
    if (rc == 0)
        rc = sl_write_file(path, kept, n);
    free(kept);
    return rc;
}

static FILE *open_lines(const sl_rundir *r, const char *name, bool resume, int64_t last) {
    char path[4200];
    join(r, name, path);
    if (resume && cut_after(path, last))
        return NULL;
    FILE *f = fopen(path, resume ? "a" : "w");
    if (!f)
        sl_fail_errno("cannot write", path);
    return f;
}

static double wall_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A file of this process alone, also where another has this second's: readers take files in the order of names, and
 * what comes after a record that was cut off is lost. */
static int open_events(sl_rundir *r, int64_t last) {
    char host[58] = "", name[100];
    double now = wall_time();
    gethostname(host, sizeof host - 1);
    for (long long seconds = (long long)now; !r->events; seconds++) {
        snprintf(name, sizeof name, "events.out.tfevents.%lld.%s", seconds, host);
        join(r, name, r->events_path);
        if (!(r->events = fopen(r->events_path, "wx")) && errno != EEXIST)
            return sl_fail_errno("cannot write", r->events_path);
    }
    return sl_tfevents_begin(r->events, now, last + 1) || fflush(r->events)
               ? sl_fail_errno("cannot write", r->events_path)
               : 0;
}

/* The numbers of a line of the file `name`, as <name without .jsonl>/<key>. One that is not finite is null there, and
 * left out here. */
static int write_events(const sl_rundir *r, const char *name, json_t *o) {
    char tag[SL_TFEVENTS_TAG];
    const char *key;
    json_t *value;
    int64_t step = json_integer_value(json_object_get(o, "step"));
    double now = wall_time();
    json_object_foreach(o, key, value) {
        if (!json_is_number(value) || strcmp(key, "step") == 0)
            continue;
        snprintf(tag, sizeof tag, "%.*s/%s", (int)strcspn(name, "."), name, key);
        if (sl_tfevents_scalar(r->events, now, step, tag, (float)json_number_value(value)))
            return sl_fail_errno("cannot write", r->events_path);
    }
    return fflush(r->events) ? sl_fail_errno("cannot write", r->events_path) : 0;
}

/* At once or not at all: --resume reads it before there is a checkpoint. */
static int write_config(const sl_rundir *r, const sl_config *c) {
    char path[4200], *text = NULL;
    size_t n = 0;
    join(r, "config.yaml", path);
    FILE *f = open_memstream(&text, &n);
    int rc = f ? sl_config_dump(c, f) : sl_fail("out of memory for %s", path);
    if (f && fclose(f) && rc == 0)
        rc = sl_fail("out of memory for %s", path);
    if (rc == 0)
        rc = sl_write_file(path, text, n);
    free(text);
    return rc;
}

/* One process at a time may train in a folder. The lock ends with the process, however it ends. Who asks whether one
 * is training there (sl_rundir_in_use) has it for a moment. */
static int lock_folder(sl_rundir *r) {
    enum { TRIES = 20 };
    r->lock = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->lock < 0)
        return sl_fail_errno("cannot open", r->path);
    for (int i = 0; flock(r->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK; i++) {
        if (i == TRIES)
            return sl_fail("%s: another process is training there; wait for it, or give another --out", r->path);
        usleep(10000);
    }
    return 0;
}

bool sl_rundir_in_use(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool used = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    return used;
}

static bool holds(const char *path, const char *name) {
    char file[4200];
    return snprintf(file, sizeof file, "%s/%s", path, name) < (int)sizeof file && access(file, F_OK) == 0;
}

bool sl_rundir_holds_run(const char *path) { return holds(path, "config.yaml"); }

const char *sl_rundir_foreign(const char *path) {
    static const char *const ours[] = {"result.json", "env.json", "metrics.jsonl", "probe.jsonl", "checkpoints"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours && !sl_rundir_holds_run(path); i++)
        if (holds(path, ours[i]))
            return ours[i];
    return NULL;
}

int sl_rundir_claim(sl_rundir *r, const char *path, bool make) {
    *r = (sl_rundir){.lock = -1};
    if (strlen(path) >= sizeof r->path - 64)
        return sl_fail_usage("the path of the run folder is too long");
    snprintf(r->path, sizeof r->path, "%s", path);
    r->made = make && access(path, F_OK) != 0;
    if ((make && make_folders(path)) || lock_folder(r)) {
        r->made = false; /* the other process that is there has it */
        sl_rundir_close(r);
        return -1;
    }
    return 0;
}

int sl_rundir_open(sl_rundir *r, const sl_config *c, bool resume, int64_t last) {
    char result[4200];
    join(r, "result.json", result);
    if (unlink(result) && errno != ENOENT) /* of an earlier end, which is not this run's any more */
        return sl_fail_errno("cannot replace", result);
    if (write_config(r, c) || sl_rundir_write_json(r, "env.json", sl_environment(c)) ||
        !(r->metrics = open_lines(r, "metrics.jsonl", resume, last)) ||
        !(r->probe = open_lines(r, "probe.jsonl", resume, last)))
        return -1;
    return c->train_tensorboard ? open_events(r, last) : 0;
}

bool sl_rundir_is_nowhere(const sl_rundir *r) { return r->lock < 0; }

int sl_rundir_check(const sl_rundir *r) {
    struct stat held, there;
    if (sl_rundir_is_nowhere(r))
        return 0;
    if (fstat(r->lock, &held) == 0 && stat(r->path, &there) == 0 && held.st_dev == there.st_dev &&
        held.st_ino == there.st_ino)
        return 0;
    return sl_fail(
        "%s: the run folder was removed or renamed while the run was training; nothing more is written. Where it is "
        "still there under another name, go on with --out THAT --resume",
        r->path);
}

void sl_rundir_close(sl_rundir *r) {
    if (r->metrics)
        fclose(r->metrics);
    if (r->probe)
        fclose(r->probe);
    if (r->events)
        fclose(r->events);
    if (r->made)
        rmdir(r->path); /* still empty: it never became a run */
    if (r->lock >= 0)
        close(r->lock);
    *r = (sl_rundir){.lock = -1};
}

int sl_rundir_line(const sl_rundir *r, FILE *f, const char *name, json_t *o) {
    if (sl_rundir_is_nowhere(r) || sl_rundir_check(r)) {
        json_decref(o);
        return sl_rundir_is_nowhere(r) ? 0 : -1;
    }
    /* All bits of a loss, which is a double, so that runs can be compared; what is probed is fp32. */
    size_t digits = f == r->metrics ? 17 : 9;
    int rc = json_dumpf(o, f, JSON_COMPACT | JSON_REAL_PRECISION(digits));
    if (rc || fputc('\n', f) == EOF || fflush(f)) {
        char path[4200];
        join(r, name, path);
        rc = sl_fail_errno("cannot write", path);
    } else if (r->events)
        rc = write_events(r, name, o);
    json_decref(o);
    return rc;
}

int sl_rundir_write_json(const sl_rundir *r, const char *name, json_t *o) {
    char path[4200], *text = o ? json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (text && sl_rundir_is_nowhere(r)) {
        free(text);
        return 0;
    }
    join(r, name, path);
    int rc = !text                ? sl_fail("out of memory for %s", path)
             : sl_rundir_check(r) ? -1
                                  : sl_write_file(path, text, strlen(text));
    free(text);
    return rc;
}

/* The text as an absolute path, so that it is found from any folder; NULL of a synthetic one. */
static char *corpus_path(const sl_config *c) {
    char path[SL_PATH_CHARS];
    return sl_synthetic_named(c->data_corpus) || sl_corpus_find(c->data_corpus, path) ? NULL : realpath(path, NULL);
}

/* The tokenizer, bpe:FILE and gguf:FILE with the absolute path; NULL of one without a file. */
static char *tokenizer_spec(const sl_config *c) {
    const char *spec = c->data_tokenizer, *file = strchr(spec, ':');
    bool named = file && (strncmp(spec, "bpe:", 4) == 0 || strncmp(spec, "gguf:", 5) == 0);
    char *path = named ? realpath(file + 1, NULL) : NULL, *full = NULL;
    if (path && asprintf(&full, "%.*s%s", (int)(file + 1 - spec), spec, path) < 0)
        full = NULL;
    free(path);
    return full;
}

json_t *sl_environment(const sl_config *c) {
    sl_cpu cpu;
    char *corpus = corpus_path(c), *tokenizer = tokenizer_spec(c);
    sl_cpu_detect(&cpu);
    json_t *o = json_pack("{s:s*, s:s*, s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:s}", "corpus", corpus, "tokenizer",
                     tokenizer, "cpu", cpu.model, "tier", sl_model_place(c), "precision",
                     sl_model_precision(c) == SL_PRECISION_BF16 ? "bf16" : "fp32", "threads", sl_threads(), "cores",
                     cpu.cores, "compiler", "gcc-compatible " __VERSION__, "version", sl_version(),
                     "git", sl_git);
    free(corpus);
    free(tokenizer);
    return o;
}
