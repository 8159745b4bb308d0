/* Training: one step as a function (used by tests and by other programs), and the run of `sinklab train`. */
#ifndef SL_TRAIN_TRAIN_H
#define SL_TRAIN_TRAIN_H

#include "config/config.h"
#include "data/dataset.h"
#include "model/model.h"
#include "train/optim.h"

#include <stdbool.h>

typedef struct {
    double loss;      /* mean over the step's windows, nats per token */
    double lr, grad_norm; /* before clipping */
    bool skipped;     /* NaN loss or gradient: parameters untouched, gradients zeroed */
} sl_step_result;

/* Forward and backward over `accumulate` batches (in, target: accumulate*batch*seq tokens, batch after batch),
 * clipping to train.clip_norm, AdamW with the learning rate of `step` (from 0). apply(loss, norm) false
 * skips the update; NULL: skip only what is not finite. */
sl_step_result sl_train_step(sl_model *m, sl_optim *o, const int32_t *in, const int32_t *target,
                             int64_t accumulate, int64_t step, bool (*apply)(void *ctx, double loss, double norm),
                             void *ctx);

/* Mean loss over the first `windows` validation windows (all if fewer), in the model's own batches. in, target:
 * scratch of batch*seq values. */
double sl_evaluate(sl_model *m, const sl_dataset *d, int64_t windows, int32_t *in, int32_t *target);

typedef struct {
    const char *out;    /* run directory */
    bool resume;
} sl_run_options;

/* The whole run: opens data, trains, evaluates, probes, checkpoints, writes config.yaml, env.json,
 * metrics.jsonl, probe.jsonl, result.json. SIGINT and SIGTERM save a checkpoint and end it with a message. Fails
 * if the folder holds a run and resume is not given, or the loss guard stops it. */
int sl_train_run(const sl_config *c, const sl_run_options *o);

/* `train --dry-run`: prints parameters, memory, FLOP and the time that the run will take, from a few timed
 * steps on this machine. Writes no file. */
int sl_train_dry_run(const sl_config *c);

#endif
