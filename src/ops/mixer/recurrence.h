/* What probes see of a mixer that keeps a state, one form for all of them. Of a head, with S [value_dim, key_dim] that
 * is 0 before a window:
 *   S_t = decay_t S_{t-1} (I - weight_t k_t k_t^T) + weight_t v_t k_t^T,  o_t = S_t q_t + skip v_t
 * without the delta rule S_t = decay_t S_{t-1} + weight_t v_t k_t^T. With decays of channels
 *   S_t = S_{t-1} (diag(fade_t) - read_t erase_t^T) + v_t k_t^T,  o_t = S_t q_t + skip v_t
 * where decay_t is the geometric mean of fade_t and weight_t the share of what is held at read_t that is taken away. */
#ifndef SL_OPS_MIXER_RECURRENCE_H
#define SL_OPS_MIXER_RECURRENCE_H

#include "program/program.h"

typedef struct {
    int64_t heads, key_dim, value_dim;
    bool rule;   /* the delta rule */
    bool decays; /* decay is not 1 throughout */
    bool weighs; /* weight is not 1 throughout */
    bool channels; /* decays of channels */
    double eps;    /* of a norm of each head's output that is no sl_gate_norm; 0: none */
} sl_recurrence_sizes;

/* Of one head in one window, filled by `head` below. */
typedef struct {
    float *q, *k, *v;               /* [seq, key_dim] twice, as the form has them; [seq, value_dim] */
    float *decay, *weight, *length; /* [seq]; length: of k before it is normalised, if it is */
    float skip;
    float *fade, *read, *erase; /* [seq, key_dim] with decays of channels, else NULL */
} sl_recurrence_head;

/* After a forward of a model that keeps the inputs of the operation, part core of the block, and its saved[0]. */
typedef struct {
    sl_recurrence_sizes (*sizes)(const sl_op *core);
    void (*head)(const sl_op *core, const sl_exec *x, int64_t window, int64_t head, sl_recurrence_head *to);
} sl_recurrence_kind;

extern const sl_recurrence_kind sl_delta_recurrence, sl_ssd_recurrence, sl_wkv7_recurrence;

#endif
