/* Sink and outlier measurements on the activations of forward passes (taps of sinklab.h). Each
 * measure is defined, with its source, in probe/measures.h; the taking of maxima and means over
 * layers, in sinklab.h. */
#ifndef SL_PROBE_PROBE_H
#define SL_PROBE_PROBE_H

#include "model/model.h"

#include <jansson.h>

/* What sl_probe_json() says, as an object; NULL with a message when out of memory. Files get it
 * with JSON_REAL_PRECISION(7). */
json_t *sl_probe_result(const sl_probe *p, const sl_model *m, bool profile);

#endif
