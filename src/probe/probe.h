/* Sink and outlier measurements on the activations of forward passes (taps of sinklab.h). Each
 * measure is defined, with its source, in probe/measures.h; the taking of maxima and means over
 * layers, in sinklab.h. */
#ifndef SL_PROBE_PROBE_H
#define SL_PROBE_PROBE_H

#include "model/model.h"
#include "probe/measures.h"

#include <jansson.h>

/* sl_probe_add() with marks, 0 or 1 of each row of the batch: the result then also has att0_trigger and att0_other,
 * the mean attention to token 0 of marked queries and of the others (per head in "layers"). NULL: no marks. */
int sl_probe_add_marked(sl_probe *p, const sl_model *m, const uint8_t *mark);
/* What sl_probe_json() says, as an object; NULL with a message when out of memory. Files get it
 * with JSON_REAL_PRECISION(7). */
json_t *sl_probe_result(const sl_probe *p, const sl_model *m, bool profile);

/* The sink dimensions of layer 0..layers over what was added. scratch: 2*dim. */
sl_sink_dims sl_probe_sink_dims(const sl_probe *p, int64_t layer, double *scratch);

/* The attention of a block in the last pass; layer -1: its sizes only. */
sl_attention_rows sl_probe_attention_rows(const sl_model *m, int64_t layer);
/* Its weights of a head in one window: [seq, seq] into map. rows: scratch, sl_attention_thread_floats(seq) a thread. */
void sl_probe_attention_map(const sl_kernels *k, const sl_attention_rows *a, int64_t window, int64_t head, float *map,
                            float *rows);

/* ---- the measures of probe/detail.h on a model made for inference with taps */
enum sl_measure {
    SL_MEASURE_CONTRIBUTION,
    SL_MEASURE_NORMS,
    SL_MEASURE_DYNAMICS,
    SL_MEASURE_SINGULAR,
    SL_MEASURE_OUTLIERS,
    SL_MEASURE_GATES,
    SL_MEASURE_DEPTH,
    SL_MEASURE_RECURRENCE,
    SL_MEASURE_ANCHORS,
    SL_MEASURES
};
typedef struct {
    const char *name, *help;
} sl_measure_info;
extern const sl_measure_info sl_measure_table[]; /* SL_MEASURES rows and one with a NULL name */

typedef struct sl_detail sl_detail;
/* measures: bits 1 << sl_measure; windows: that will be added in all; sinks: of layers 0..layers, from a probe over the
 * same windows. */
sl_detail *sl_detail_create(const sl_model *m, unsigned measures, int64_t windows, const sl_sink_dims *sinks);
void sl_detail_free(sl_detail *d);
/* Adds the pass that m has just done. */
int sl_detail_add(sl_detail *d, const sl_model *m);
/* An object with one member a measure: an array over layers. Ends the adding. NULL with a message when out of memory.
 *   contribution  blocks: head (array), projected
 *   norms         layers 0..L (L: the final norm): attn and ffn (null without): in, out, the shares of the sink
 *   dimensions
 *   dynamics      layers 0..L: dims, an array of {dim, strength, mean, constant_share, same_sign, across_sequences,
 *                 across_positions, agreement}; over the first SL_DYNAMICS_WINDOWS windows
 *   singular      blocks: token ({position, norm}: the row of greatest norm that leaves the block), and for the maps
 *   down (the
 *                 down projection), block, chain (this block after all before): sigma, second, converged, cos_state
 *                 (with the
 *                 stream of that token), cos_update (with what the block added to it); null where there is no such map
 *   outliers      layers 0..L, by class norm_attn, norm_ffn, q, k, v, attention_output, down_input: the figures of
 *                 sl_outlier_figures
 *   gates         layers 0..L: attn and ffn (null without a gate): elements, channels (correlations), bins: array of
 *                 [lower edge of |y|, share of the elements, mean gate or null]
 *   depth         layers 0..L: residual (model.residual), attn and ffn (null where nothing mixes): in and last, figures
 *                 of the mixture and of its last source ({max, max_no_token0, m2, m2_dim, kurtosis_h,
 *                 token0_norm_ratio}); weight, weight_token0, contribution (arrays over the sources: means, and shares
 *                 of the sums of norms); entropy, top1, null (1 - sum of the weights; null with a softmax),
 *                 constant_share; and for any model with model.attention=softmax1 null_evidence of the layer
 *                 ({token0, others}: means over tokens of 1 - sum of the weights of keys, mean over heads); why (of
 *                 null_evidence where it is null: {name: reason})
 *   recurrence    blocks: mixer; share (of tokens 0 to 4 in the queries behind them and their convolution, mean over
 *                 heads) and uniform (what even weights would give), of attention too; head (array of {att0,
 *                 contribution, over_output, half_life, weight_token0, weight, key_token0_ratio, input_token0_ratio,
 *                 rms_token0, rms, below_eps, state_half, state_end, state_token0, state_peak, stable_rank}: means, and
 *                 ratios of means, of sl_recurrence_sums); gate ({token0, mean, closed}: mean |g(z)| of token 0 and of
 *                 the others, share of theirs below .05); norm_in ({max, max_no_token0, m2, m2_dim, kurtosis_h,
 *                 weight_ratio: the norm's weight at m2_dim over the median one}: of what the mixer's own norm reads);
 *                 alignment of attention behind two or more layers without it ({peaks_before: is token 0's largest |h|
 *                 larger behind the last of them than behind all others, spike: how large, between: mean over the
 *                 others of it by the smaller of the spikes around them, 1 at most}; arXiv 2608.12149, whose token is
 *                 the one that attention goes to most); why (of what is null: {name: reason})
 *   anchors       blocks: anchor and own ({q, k, v, gate: mean over tokens and columns of what the anchor, or the
 *                 layer's own, is multiplied by, in absolute value; gate null without one}); sink_logit (means over
 *                 heads and the later queries that see it of q.k with the key of token 0, scaled, before a softcap:
 *                 {all, anchor, own: the parts of it that come through either}); share (anchor / all); why (of what is
 *                 null: {name: reason}) */
enum { SL_DYNAMICS_WINDOWS = 128 };
json_t *sl_detail_result(sl_detail *d);

#endif
