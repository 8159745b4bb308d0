/* Optimizer step: global gradient norm and one step of train.optimizer over the flat parameter block, cut by
 * shape. The kinds are the rows of tables/optim.inc. */
#ifndef SL_TRAIN_OPTIM_H
#define SL_TRAIN_OPTIM_H

#include "model/model.h"

/* Euclidean norm of all gradients; NaN or infinite if any of them is. Same bits for any thread count. */
double sl_optim_grad_norm(sl_optim *o);
/* One step with gradients times grad_scale; `step` counts from 1 for bias corrections. Sets the gradients to
 * zero. */
void sl_optim_step(sl_optim *o, double lr, double grad_scale, int64_t step);
void sl_optim_zero_grad(sl_optim *o);
/* Fails if there are more threads than the optimizer was made for. */
int sl_optim_check_threads(const sl_optim *o);
sl_model *sl_optim_model(const sl_optim *o); /* NULL of NULL */

/* Learning rate of step 0, 1, ... (train.steps - 1): linear warm-up, then train.schedule. */
double sl_learning_rate(const sl_config *c, int64_t step);

#endif
