/* Training: the run of `sinklab train` and its parts (one step: sinklab.h). */
#ifndef SL_TRAIN_TRAIN_H
#define SL_TRAIN_TRAIN_H

#include "config/config.h"
#include "data/dataset.h"
#include "model/model.h"
#include "train/optim.h"

/* Mean losses over the targets of validation windows; NaN where there were none. */
typedef struct {
    double all;
    double trigger, other; /* of marked positions and of all others (sl_dataset_mark); NaN without marks */
} sl_losses;

/* Over the first `windows` validation windows (all if fewer), in the model's own batches. in, target: scratch of
 * batch*seq values. */
int sl_evaluate(sl_model *m, const sl_dataset *d, int64_t windows, int32_t *in, int32_t *target,
                sl_losses *losses);

/* Where the loaded checkpoint has no channel means for model.sink_nullify, measures them: on the first
 * SL_MEASURED_WINDOWS windows of the training order (in whole batches), with nothing replaced. in, target: as above. */
enum { SL_MEASURED_WINDOWS = 64 };
int sl_measure_states(sl_model *m, const sl_dataset *d, int32_t *in, int32_t *target);

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
