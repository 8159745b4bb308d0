/* Sink channels of the rows that a norm reads, replaced by 0 or by their mean (model.sink_nullify): the K channels whose
 * running mean is largest in |.|. What is normalised, a, and what the statistics are taken from, b, are each the row as
 * it is or the row with these channels replaced; y = gain (a - mean(b)) r(b):
 *   both: a and b are replaced, as if the stream had no sink; output: only a; denominator: only b.
 * The means are a tensor of the checkpoint without gradient, <prefix>.channel_mean. A training step uses those of the
 * steps before it and then moves them towards the means of its own batch, so that a pass, a resumed run and decoding see
 * constants. A channel whose mean is 0 is never chosen: nothing is replaced in the first step. */
#ifndef SL_OPS_NULLIFY_H
#define SL_OPS_NULLIFY_H

#include "program/program.h"

enum { SL_NULLIFY_CHANNELS = 64 }; /* most channels of a norm */

typedef struct sl_nullify {
    bool statistics, outputs; /* is b another row than the one given; is a not b */
    bool to_mean;
    int means;                /* parameter [dim] */
    int64_t most;
    int64_t count, channel[SL_NULLIFY_CHANNELS]; /* those of the pass, the largest first, */
    float value[SL_NULLIFY_CHANNELS];            /* and what stands there instead */
    int64_t rows;             /* in sum */
    float sum[];              /* [dim], over the passes since the last step */
} sl_nullify;

/* For a norm of op->dim_in channels with or without statistics; without them "output" is "both". NULL with a message
 * (and b->failed) where memory is out, or for "denominator" of a norm that has none. */
sl_nullify *sl_nullify_new(sl_program *b, const sl_op *op, const char *prefix, bool statistics);

/* Begins a pass: chooses the channels. */
void sl_nullify_choose(const sl_op *op, const sl_exec *x);
/* n rows with the channels replaced, into scratch [n, dim]; returns scratch. */
const float *sl_nullify_rows(const sl_op *op, int64_t n, const float *rows, float *scratch);

/* Ends a step of one or more passes: if it was applied, the means move towards those of its rows. The first ones are
 * taken as they are. */
void sl_nullify_end_step(const sl_op *op, const sl_exec *x, bool applied);

#endif
