#include "train/follow.h"

#include "base/err.h"
#include "config/config.h"
#include "train/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_LINE = 4 << 20 }; /* bytes of a line; a probe with profile of a large model has some hundred thousand */

/* ---- lines */

static void end_line(sl_follow_lines *l, void (*line)(void *, const json_t *), void *ctx) {
    json_t *o = l->skips ? NULL : json_loadb(l->line, l->length, 0, NULL);
    if (json_is_object(o))
        line(ctx, o);
    else
        l->unreadable++;
    json_decref(o);
    l->length = 0, l->skips = false;
}

static int keep(sl_follow_lines *l, const char *p, size_t n) {
    l->skips = l->skips || n > MOST_LINE - l->length;
    if (l->skips || n == 0)
        return 0;
    if (l->length + n > l->room) {
        size_t room = 2 * (l->length + n);
        char *grown = realloc(l->line, room);
        if (!grown)
            return sl_fail("out of memory for a line of %zu bytes", l->length + n);
        l->line = grown, l->room = room;
    }
    memcpy(l->line + l->length, p, n);
    l->length += n;
    return 0;
}

int sl_follow_feed(sl_follow_lines *l, const char *p, size_t n, void (*line)(void *, const json_t *), void *ctx) {
    while (n > 0) {
        const char *end = memchr(p, '\n', n);
        size_t part = end ? (size_t)(end - p) : n;
        if (keep(l, p, part))
            return -1;
        if (end)
            end_line(l, line, ctx), part++;
        p += part, n -= part;
    }
    return 0;
}

/* ---- files */

/* Opens the file if it is there and a regular one; -1: it is not. */
static int open_lines(const sl_follow *f, const char *name, struct stat *st) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a FIFO would make it wait */
    if (fd >= 0 && (fstat(fd, st) || !S_ISREG(st->st_mode))) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool begins_anew(const sl_follow_lines *l, const struct stat *st) {
    return l->open && (l->device != st->st_dev || l->inode != st->st_ino || l->at > st->st_size);
}

static void restart(sl_follow_lines *l, const struct stat *st) {
    l->open = true, l->device = st->st_dev, l->inode = st->st_ino;
    l->at = 0, l->length = 0, l->skips = false, l->unreadable = 0;
}

/* What the file has more than before; forget: called first where it is another one now. 1: something, 0: nothing. */
static int read_lines(sl_follow *f, sl_follow_lines *l, const char *name, void (*forget)(sl_follow *),
                      void (*line)(void *, const json_t *)) {
    struct stat st;
    char piece[1 << 14];
    int fd = open_lines(f, name, &st), rc = 0;
    if (fd < 0)
        return 0;
    if (begins_anew(l, &st))
        forget(f);
    if (!l->open || begins_anew(l, &st))
        restart(l, &st);
    ssize_t n;
    while (rc >= 0 && (n = pread(fd, piece, sizeof piece, l->at)) > 0) {
        l->at += n;
        rc = sl_follow_feed(l, piece, (size_t)n, line, f) ? -1 : 1;
    }
    close(fd);
    return rc;
}

static double number(const json_t *o, const char *key) {
    const json_t *x = json_object_get(o, key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

static int64_t step_of(const json_t *o) {
    const json_t *x = json_object_get(o, "step");
    return json_is_integer(x) && json_integer_value(x) >= 0 ? json_integer_value(x) : -1;
}

static void take_metrics(void *ctx, const json_t *o) {
    sl_follow *f = ctx;
    f->step = step_of(o);
    f->seconds = number(o, "seconds");
    f->tokens_per_s = number(o, "tokens_per_s");
    sl_series_add(&f->loss, number(o, "loss"));
    sl_series_add(&f->val_loss, number(o, "val_loss"));
}

static void take_probe(void *ctx, const json_t *o) {
    sl_follow *f = ctx;
    f->probe_step = step_of(o);
    sl_series_add(&f->m2, number(o, "m2"));
    sl_series_add(&f->most, number(o, "max"));
}

static void forget_metrics(sl_follow *f) {
    f->step = -1, f->seconds = f->tokens_per_s = NAN;
    f->loss = f->val_loss = (sl_series){.per = 0};
}

static void forget_probes(sl_follow *f) {
    f->probe_step = -1;
    f->m2 = f->most = (sl_series){.per = 0};
}

/* A configuration of another version, or none yet, tells no number of steps. */
static void read_steps(sl_follow *f) {
    char path[4200];
    sl_config c;
    snprintf(path, sizeof path, "%s/config.yaml", f->path);
    sl_config_defaults(&c);
    f->steps = sl_config_read(&c, path) == 0 ? c.train_steps : 0;
}

static enum sl_follow_state state_of(const sl_follow *f, bool used) {
    char path[4200];
    snprintf(path, sizeof path, "%s/result.json", f->path);
    struct stat st;
    json_t *o = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? json_load_file(path, 0, NULL) : NULL;
    const char *status = json_string_value(json_object_get(o, "status"));
    enum sl_follow_state s = status && strcmp(status, "finished") == 0  ? SL_FOLLOW_FINISHED
                             : status && strcmp(status, "stopped") == 0 ? SL_FOLLOW_STOPPED
                             : used                                     ? SL_FOLLOW_RUNNING
                                                                        : SL_FOLLOW_ENDED;
    json_decref(o);
    return s;
}

/* ---- interface */

int sl_follow_open(sl_follow *f, const char *run) {
    *f = (sl_follow){.steps = 0};
    if (strlen(run) >= sizeof f->path)
        return sl_fail_usage("the path of the run folder is too long");
    strcpy(f->path, run);
    forget_metrics(f);
    forget_probes(f);
    char done[4200];
    snprintf(done, sizeof done, "%s/DONE", run);
    if (access(done, F_OK) == 0)
        return sl_fail("%s is a checkpoint; give the run folder that it is in", run);
    if (!sl_rundir_holds_run(run) && !sl_rundir_in_use(run))
        return sl_fail("%s holds no run; give the folder that `sinklab train --out` was given", run);
    return 0;
}

int sl_follow_poll(sl_follow *f) {
    enum sl_follow_state before = f->state;
    /* Asked first: when nobody trains any more, all that there will be is there. */
    bool used = sl_rundir_in_use(f->path);
    if (access(f->path, F_OK))
        return sl_fail_errno("cannot read", f->path);
    if (f->steps == 0)
        read_steps(f);
    int metrics = read_lines(f, &f->metrics, "metrics.jsonl", forget_metrics, take_metrics);
    int probes = metrics < 0 ? -1 : read_lines(f, &f->probes, "probe.jsonl", forget_probes, take_probe);
    if (probes < 0)
        return -1;
    f->state = state_of(f, used);
    return metrics || probes || f->state != before;
}

void sl_follow_close(sl_follow *f) {
    free(f->metrics.line);
    free(f->probes.line);
    f->metrics.line = f->probes.line = NULL;
}

double sl_follow_eta(const sl_follow *f) {
    if (f->state != SL_FOLLOW_RUNNING || f->step <= 0 || f->step > f->steps)
        return NAN;
    return (double)(f->steps - f->step) * f->seconds / (double)f->step;
}

const char *sl_follow_state_name(enum sl_follow_state s) {
    static const char *const names[] = {"running", "finished", "stopped", "ended"};
    return names[s];
}

static json_t *real(double x) { return isfinite(x) ? json_real(x) : json_null(); }
static json_t *last(const sl_series *s) { return s->per ? json_real(s->last) : json_null(); }
static json_t *whole(int64_t n, int64_t unknown) { return n == unknown ? json_null() : json_integer(n); }

json_t *sl_follow_json(const sl_follow *f) {
    return json_pack("{s:s%, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "run", f->path,
                     strlen(f->path), "state", sl_follow_state_name(f->state), "step", whole(f->step, -1), "steps",
                     whole(f->steps, 0), "loss", last(&f->loss), "val_loss", last(&f->val_loss), "tokens_per_s",
                     real(f->tokens_per_s), "seconds", real(f->seconds), "eta", real(sl_follow_eta(f)), "probe_step",
                     whole(f->probe_step, -1), "m2", last(&f->m2), "max", last(&f->most), "unreadable_lines",
                     (json_int_t)(f->metrics.unreadable + f->probes.unreadable));
}
