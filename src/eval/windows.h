/* The one loop over windows: batches of a data set, one after the other, for whoever measures a model on them. */
#ifndef SL_EVAL_WINDOWS_H
#define SL_EVAL_WINDOWS_H

#include "data/dataset.h"
#include "model/model.h"

/* A batch: the model's batch * seq rows, window after window. */
typedef struct {
    int64_t first, n; /* windows first.. behind those left out, so many of those asked for */
    const int32_t *in, *target;
    const uint8_t *mark; /* of each row (sl_dataset_mark), or NULL: the data has none */
} sl_batch;

/* What stands behind the last window asked for, where it does not fill its batch. */
enum sl_fill {
    SL_FILL_NO_LOSS, /* rows of token 0 with target -1 */
    SL_FILL_WINDOWS  /* the windows that follow; behind the last validation window the first again */
};

typedef struct {
    enum sl_split split; /* SL_VAL: in the text's order; SL_TRAIN: in that of training with the model's seed */
    int64_t windows;
    enum sl_fill fill;
    int64_t skip; /* so many windows stand in front and are left out, or SL_SPREAD */
} sl_windows;

/* Of validation: spread evenly over the text, whose beginning is of one book or one hand. Else one after the other. */
enum { SL_SPREAD = -1 };

/* How many validation windows there are of `wanted` (0: all) behind those left out; -1 with a message: none. */
int64_t sl_val_windows(const sl_dataset *d, int64_t wanted, int64_t skip);
/* The number in the text of the i-th of these windows of validation; behind the last of the text the first again. */
int64_t sl_val_window(const sl_dataset *d, const sl_windows *w, int64_t i);

/* Runs what it wants of the model on a batch; returns 0, or -1 with a message. The batch is gone afterwards. */
typedef int (*sl_batch_fn)(void *ctx, sl_model *m, const sl_batch *b);

/* fn for each batch of these windows, in their order. Returns 0, or -1 with the message of the first that failed, or
 * because sl_stop_when()'s function says so. */
int sl_each_batch(sl_model *m, const sl_dataset *d, sl_windows w, sl_batch_fn fn, void *ctx);

#endif
