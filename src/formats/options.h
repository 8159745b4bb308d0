/* How a model is to be quantised. */
#ifndef SL_FORMATS_OPTIONS_H
#define SL_FORMATS_OPTIONS_H

#include "config/config.h"
#include "formats/scheme.h"
#include "program/scope.h"

typedef struct sl_quant_options {
    const sl_scheme *scheme; /* NULL: nothing is rounded */
    /* Beside the linear layers of the blocks: the head with its input, the embeddings (weights alone), keys and
     * values. */
    bool head, embedding, kv;
    uint64_t keep[2]; /* sl_quant_keeps(): bits 1 << part, of the mixer's half of a block and the feed-forward's */
    /* Transformations, of which the unquantised model is the same function (quant/transform.h). */
    bool migrate, rotate;
    double smooth; /* alpha; < 0: none */
    uint64_t seed; /* of the rotation's signs */
    bool real;     /* integer products on the unit for them, not through exact fp32 ones */
    bool observe;  /* instead of rounding, collect what calibration needs (formats/seen.h) */
    bool errors;   /* sum up, place by place, what rounding changes */
} sl_quant_options;
_Static_assert(SL_PARTS <= 64, "a part is a bit of sl_quant_options.keep");

/* Does the linear layer of this place stay fp32, weights and input, while others of the blocks are rounded? */
static inline bool sl_quant_keeps(const sl_quant_options *o, sl_scope s) {
    return s.half != SL_HALF_NONE && o->keep[s.half - SL_HALF_ATTN] >> s.part & 1;
}

/* Where a model is rotated, every linear layer of its blocks reads R x. Does R fold into what is before the layers
 * that read a norm's output: does the norm commute with it (rmsnorm before the block, nothing else on the stream)? */
bool sl_rotation_folds(const sl_config *c);

#endif
