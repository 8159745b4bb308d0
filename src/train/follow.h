/* Follows a run from outside, while another process trains or afterwards: what its files say so far. They are read as
 * they are found: a line that is not finished waits for its end, one that cannot be read is counted, files that are not
 * there yet or begin anew (--resume cuts them) are no fault. */
#ifndef SL_TRAIN_FOLLOW_H
#define SL_TRAIN_FOLLOW_H

#include "base/sparkline.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum sl_follow_state {
    SL_FOLLOW_RUNNING,
    SL_FOLLOW_FINISHED, /* these and the next: result.json says so */
    SL_FOLLOW_STOPPED,  /* by its guard or a failure */
    SL_FOLLOW_ENDED     /* nobody trains, and there is no result: interrupted, or killed */
};

/* A file of lines, and how far it was read. */
typedef struct {
    bool open; /* there was a file, this one: */
    dev_t device;
    ino_t inode;
    off_t at;
    char *line; /* the beginning of the next one */
    size_t length, room;
    bool skips; /* it is too long, and left out to its end */
    int64_t unreadable;
} sl_follow_lines;

typedef struct {
    char path[4096];
    enum sl_follow_state state;
    int64_t steps; /* train.steps; 0: not known */
    sl_follow_lines metrics, probes;
    int64_t step, probe_step;           /* of the last lines; -1: there is none */
    double seconds, tokens_per_s;       /* of the last line of metrics.jsonl; NaN: unknown */
    sl_series loss, val_loss, m2, most; /* most: the largest activation */
} sl_follow;

/* Fails where there is no run, nor one that begins. */
int sl_follow_open(sl_follow *f, const char *run);
/* Takes in what is new; 1: something, 0: nothing, -1: failed with a message. */
int sl_follow_poll(sl_follow *f);
void sl_follow_close(sl_follow *f);
/* Seconds to the last step at the mean speed so far; NaN: not known. */
double sl_follow_eta(const sl_follow *f);
/* {"run", "state", "step", "steps", "loss", "val_loss", "tokens_per_s", "seconds", "eta", "probe_step", "m2", "max",
 * "unreadable_lines"}, null where unknown; NULL when out of memory. */
json_t *sl_follow_json(const sl_follow *f);
/* "running", "finished", "stopped" or "ended". */
const char *sl_follow_state_name(enum sl_follow_state s);

/* n bytes more of a file of lines: calls line() with the object of each line that ends in them. -1 out of memory. */
int sl_follow_feed(sl_follow_lines *l, const char *p, size_t n, void (*line)(void *ctx, const json_t *o), void *ctx);

#endif
