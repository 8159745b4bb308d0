/* Sink and outlier measurements on the activations of one forward pass (taps of model.h).
 * Definitions: the table in the header of each function in probe.c; sources in brackets. */
#ifndef SL_PROBE_PROBE_H
#define SL_PROBE_PROBE_H

#include "model/model.h"

#include <jansson.h>

typedef struct sl_probe sl_probe; /* accumulators and scratch, allocated once */

sl_probe *sl_probe_create(const sl_model *m);
void sl_probe_free(sl_probe *p);
void sl_probe_reset(sl_probe *p);
/* Adds the activations of the forward pass that m has just done (batch*seq tokens). */
void sl_probe_add(sl_probe *p, const sl_model *m);
/* Result object. Top level: max, max_no_token0, m2, m2_layer, m2_dim, top1_permille, kurtosis_h, lambda_min,
 * lambda_at_sink, att0, sink_rate, attention_entropy, value_norm_ratio, token0_norm_ratio, gate_mean, gate_std (the
 * last two null without gate), tokens; "layers": array of per-layer objects (residual measures 0..L; attention
 * measures per block with per-head arrays). profile: also "channel_mean_abs" (dim values a layer) and norm weights. */
json_t *sl_probe_result(const sl_probe *p, const sl_model *m, bool profile);

#endif
