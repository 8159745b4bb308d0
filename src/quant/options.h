/* How a model is to be quantised. */
#ifndef SL_QUANT_OPTIONS_H
#define SL_QUANT_OPTIONS_H

#include "quant/scheme.h"

typedef struct sl_quant_options {
    const sl_scheme *scheme; /* NULL: nothing is rounded */
    /* Beside the linear layers of the blocks: the head with its input, the embeddings (weights alone), keys and values. */
    bool head, embedding, kv;
    /* Transformations, of which the unquantised model is the same function (quant/transform.h). */
    bool migrate, rotate;
    double smooth; /* alpha; < 0: none */
    uint64_t seed; /* of the rotation's signs */
    bool real;     /* integer products on the unit for them, not through exact fp32 ones */
    bool observe;  /* instead of rounding, collect what calibration needs (quant/seen.h) */
} sl_quant_options;

#endif
