/* Losses of a quantised model, window by window, beside those of the unquantised one. */
#ifndef SL_QUANT_EVALUATE_H
#define SL_QUANT_EVALUATE_H

#include "data/dataset.h"
#include "model/model.h"
#include "quant/interval.h"

/* Sets loss[windows]: mean loss of each of so many validation windows, a multiple of the model's batch, skip as of
 * sl_windows. NaN of a window without targets. */
int sl_quant_window_losses(sl_model *m, const sl_dataset *d, int64_t windows, int64_t skip, double *loss);
/* The largest batch of at most `most` windows that divides them. */
int64_t sl_quant_batch(int64_t windows, int64_t most);

#endif
