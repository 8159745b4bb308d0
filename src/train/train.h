/* Training: the run of `sinklab train` and its parts (one step: sinklab.h). */
#ifndef SL_TRAIN_TRAIN_H
#define SL_TRAIN_TRAIN_H

#include "config/config.h"
#include "data/dataset.h"
#include "model/model.h"
#include "train/optim.h"

/* What goes with a step of a run. */
typedef struct {
    double most_loss; /* a loss above it skips the step; INFINITY: none does */
    /* Asked before each batch but the first whether to leave off: the step then is as if it had not begun, and
     * r->stopped is set. A device takes all batches at once and does not ask. */
    bool (*stop)(void);
    /* Called while a device works, which has its batches by then: in and target may be written. Not on the CPU. */
    void (*meanwhile)(void *ctx);
    void *ctx;
} sl_step_around;
int sl_train_step_in_run(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate, int64_t step,
                         const sl_step_around *a, sl_step_result *r);

typedef struct {
    const char *out;    /* run directory */
    bool resume;
} sl_run_options;

/* The whole run: opens data, trains, evaluates, probes, checkpoints, writes config.yaml, env.json,
 * metrics.jsonl, probe.jsonl, result.json. SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGPIPE
 * save a checkpoint and end it with a message. Fails
 * if the folder holds a run and resume is not given, or the loss guard stops it. */
int sl_train_run(const sl_config *c, const sl_run_options *o);

/* `train --dry-run`: prints parameters, memory, FLOP and the time that the run will take, from a few timed
 * steps on this machine. Writes no file. */
int sl_train_dry_run(const sl_config *c);

#endif
