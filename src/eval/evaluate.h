/* What a model loses on windows that it was not trained on. */
#ifndef SL_EVAL_EVALUATE_H
#define SL_EVAL_EVALUATE_H

#include "data/dataset.h"
#include "model/model.h"

/* Mean losses over the targets of validation windows; NaN where there were none. */
typedef struct {
    double all;
    double trigger, other; /* of marked positions and of all others (sl_dataset_mark); NaN without marks */
} sl_losses;

/* Over so many validation windows (all if fewer), skip as of sl_windows. window_loss: NULL, or the mean loss of each of
 * them, NaN of one without targets. Returns 0, or -1 with a message and *losses untouched. */
int sl_evaluate(sl_model *m, const sl_dataset *d, int64_t windows, int64_t skip, sl_losses *losses,
                double *window_loss);

/* sl_measure_states(): where the loaded checkpoint has no channel means for model.sink_nullify, on the first
 * SL_MEASURED_WINDOWS windows of the training order (in whole batches; of the val part where there is no other), with
 * nothing replaced. */
enum { SL_MEASURED_WINDOWS = 64 };

#endif
