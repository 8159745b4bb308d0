/* Optimizer step: global gradient norm and AdamW over the flat parameter block, in chunks cut by shape. */
#ifndef SL_TRAIN_OPTIM_H
#define SL_TRAIN_OPTIM_H

#include "model/model.h"

/* Euclidean norm of all gradients; NaN or infinite if any of them is. Same bits for any thread count. */
double sl_optim_grad_norm(sl_optim *o);
/* One AdamW step (Loshchilov & Hutter, arXiv 1711.05101) with gradients times grad_scale; `step` counts from 1
 * for the bias correction. Sets the gradients to zero. */
void sl_optim_step(sl_optim *o, double lr, double grad_scale, int64_t step);
void sl_optim_zero_grad(sl_optim *o);
sl_model *sl_optim_model(const sl_optim *o); /* NULL of NULL */

/* Learning rate of step 0, 1, ... (train.steps - 1): linear warm-up, then train.schedule. */
double sl_learning_rate(const sl_config *c, int64_t step);

#endif
