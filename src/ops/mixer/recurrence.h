/* What probes see of a mixer that keeps a state, one form for all of them. Of a head, with S [value_dim, key_dim] that
 * is 0 before a window:
 *   S_t = decay_t S_{t-1} (I - weight_t k_t k_t^T) + weight_t v_t k_t^T,  o_t = S_t q_t + skip v_t
 * without the delta rule S_t = decay_t S_{t-1} + weight_t v_t k_t^T. */
#ifndef SL_OPS_MIXER_RECURRENCE_H
#define SL_OPS_MIXER_RECURRENCE_H

#include "program/program.h"

typedef struct {
    int64_t heads, key_dim, value_dim;
    bool rule;   /* the delta rule */
    bool decays; /* decay is not 1 throughout */
    bool weighs; /* weight is not 1 throughout */
} sl_recurrence_sizes;

/* Of one head in one window, filled by `head` below. */
typedef struct {
    float *q, *k, *v;               /* [seq, key_dim] twice, as the form has them; [seq, value_dim] */
    float *decay, *weight, *length; /* [seq]; length: of k before it is normalised, if it is */
    float skip;
} sl_recurrence_head;

/* After a forward of a model that keeps the input of the operation, part core of the block, and its saved[0]. */
typedef struct {
    sl_recurrence_sizes (*sizes)(const sl_op *core);
    void (*head)(const sl_op *core, const sl_exec *x, int64_t window, int64_t head, sl_recurrence_head *to);
} sl_recurrence_kind;

extern const sl_recurrence_kind sl_delta_recurrence, sl_ssd_recurrence;

#endif
