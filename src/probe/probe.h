/* Sink and outlier measurements on the activations of forward passes (taps of sinklab.h). Each
 * measure is defined, with its source, in probe/measures.h; the taking of maxima and means over
 * layers, in sinklab.h. */
#ifndef SL_PROBE_PROBE_H
#define SL_PROBE_PROBE_H

#include "model/model.h"

#include <jansson.h>

/* sl_probe_add() with marks, 0 or 1 of each row of the batch: the result then also has att0_trigger and att0_other,
 * the mean attention to token 0 of marked queries and of the others (per head in "layers"). NULL: no marks. */
int sl_probe_add_marked(sl_probe *p, const sl_model *m, const uint8_t *mark);
/* What sl_probe_json() says, as an object; NULL with a message when out of memory. Files get it
 * with JSON_REAL_PRECISION(7). */
json_t *sl_probe_result(const sl_probe *p, const sl_model *m, bool profile);

#endif
