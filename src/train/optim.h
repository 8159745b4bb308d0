/* Optimizer step: global gradient norm and AdamW over the flat parameter block, in chunks cut by shape. */
#ifndef SL_TRAIN_OPTIM_H
#define SL_TRAIN_OPTIM_H

#include "config/config.h"
#include "model/params.h"
#include "simd/kernels.h"

#include <stdint.h>

typedef struct sl_optim sl_optim;

/* Weight decay applies to SL_DECAY_MATRIX tensors, and to SL_DECAY_NORM ones if train.decay_norms. NULL
 * with a message when memory is out. p must outlive it and have gradients and moments. */
sl_optim *sl_optim_create(const sl_config *c, const sl_kernels *k, sl_params *p);
void sl_optim_free(sl_optim *o);

/* Euclidean norm of all gradients; NaN or infinite if any of them is. Same bits for any thread count. */
double sl_optim_grad_norm(sl_optim *o);
/* One AdamW step (Loshchilov & Hutter, arXiv 1711.05101) with gradients times grad_scale; `step` counts from 1
 * for the bias correction. Sets the gradients to zero. */
void sl_optim_step(sl_optim *o, double lr, double grad_scale, int64_t step);
void sl_optim_zero_grad(sl_optim *o);

/* Learning rate of step 0, 1, ... (train.steps - 1): linear warm-up, then train.schedule. */
double sl_learning_rate(const sl_config *c, int64_t step);

#endif
