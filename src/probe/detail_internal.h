/* What the two files of the detail probe share: its sums. */
#ifndef SL_PROBE_DETAIL_INTERNAL_H
#define SL_PROBE_DETAIL_INTERNAL_H

#include "probe/detail.h"
#include "probe/probe.h"

enum detail_class { CLASS_NORM_ATTN, CLASS_NORM_FFN, CLASS_Q, CLASS_K, CLASS_V, CLASS_OUT, CLASS_DOWN, CLASSES };

/* The row of greatest norm that leaves a block. */
typedef struct {
    double norm;
    int64_t position;
    float *state, *update; /* it, and what the block added to it */
} extreme_row;

/* Of a mixture over depth: its weights, itself, its last source. */
typedef struct {
    sl_depth_sums sums;
    sl_residual in, last;
} mixture_detail;

/* Values of a recurrent mixer's own gate, those of token 0 apart: |g(z)|, and how many are below .05. */
typedef struct {
    double n0, sum0, n, sum, closed;
} own_gate_sums;

/* Of layer i and the block that reads it; of the last layer: the final norm. [2]: attention, feed-forward. */
typedef struct {
    sl_contribution contribution;
    sl_share norm_in[2], norm_out[2];
    sl_outliers outliers[CLASSES];
    sl_gate_score gate[2];
    float *sink; /* per sink dimension: kept windows x seq */
    extreme_row row;
    mixture_detail mixture[2];
    sl_null_evidence null;
    sl_anchor_sums anchors;
    sl_recurrence_sums *recurrence; /* of each head; NULL: neither a state nor attention */
    sl_residual own_norm_in; /* of a recurrent mixer's own norm, with the weight of each channel; dim 0: none */
    float *own_norm_weight;
    own_gate_sums own_gate; /* of a recurrent mixer's own gate */
    double stream0;         /* sum over windows of max |h| of token 0 in the stream */
} layer_detail;

struct sl_detail {
    const sl_model *model;
    const sl_kernels *kernels;
    unsigned measures;
    int threads; /* that there is scratch for */
    sl_shape shape;
    int64_t kept_windows, windows; /* of dynamics; added */
    layer_detail *layer;           /* layers + 1 */
    sl_block_map *map;             /* layers */
    sl_sink_dims *sinks;           /* layers + 1 */
    float *a, *b, *rows;           /* scratch: two taps; attention */
    double *doubles;
    int32_t *leaders; /* as sl_residual_add() needs them */
    uint64_t *bins;
    sl_gate_sums *gate_parts;
    int64_t first_query; /* of recurrence */
    sl_recurrence_scratch recurrence;
    void **block; /* all that was allocated */
    int blocks, block_capacity;
    bool failed;
};

static inline bool detail_wants(const sl_detail *d, enum sl_measure m) { return d->measures >> m & 1; }

/* Is the layer attention by softmax1, whose queries may leave a part of their weight unused? */
bool detail_leaves(const sl_detail *d, int64_t i);

/* `n` items of `size` zero bytes that live as long as d; NULL and d->failed when memory is out. */
void *detail_take(sl_detail *d, int64_t n, size_t size);

#endif
