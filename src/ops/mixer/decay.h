/* What recurrent mixers have in common that decay by exp(-A softplus(z)). */
#ifndef SL_OPS_MIXER_DECAY_H
#define SL_OPS_MIXER_DECAY_H

#include "program/program.h"

/* y = log(1 + exp(z)) of n numbers; y is not z. scratch: 2n floats. The relative error is a few roundings. */
void sl_softplus(const sl_kernels *k, int64_t n, const float *z, float *scratch, float *y);

/* Starts, as Mamba's: softplus of it is log-uniform in [.001, .1] (sl_param_spec.draw). */
void sl_draw_dt_bias(const sl_tensor *t, sl_rng *rng, float *w);

#endif
