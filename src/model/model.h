/* A model: config -> parameter table + static program (list of operations over planned buffers).
 * What other programs need of it is in sinklab.h; here is what only the engine does with one. */
#ifndef SL_MODEL_MODEL_H
#define SL_MODEL_MODEL_H

#include "config/config.h"
#include "ops/attention/anchors.h"
#include "ops/mixer/gate_norm.h"
#include "ops/mixer/recurrence.h"
#include "program/device.h"
#include "program/params.h"
#include "program/scope.h"

/* What precision means on this machine, under the config's isa: SL_PRECISION_BF16 where a bf16 unit is there and
 * fp32 was not asked for, else SL_PRECISION_FP32. */
int sl_model_precision(const sl_config *c);
/* Where models of this configuration run: the name of a device, or the tier of kernels, "amx". Its measured peak, in
 * GFLOP/s in that precision with all threads, and its memory's GB/s. */
const char *sl_model_place(const sl_config *c);
double sl_model_peak_gflops(const sl_config *c);
double sl_model_bandwidth(const sl_config *c);

/* The parameter table, with the host's values. Where the model runs on a device (config's `device`), its values are the
 * ones in force: read_params brings the host's up to date, and params_written hands over what the host has written.
 * Both do nothing on the CPU; they return 0, or -1 with a message. */
sl_params *sl_model_params(sl_model *m);
int sl_model_read_params(const sl_model *m);
int sl_model_params_written(sl_model *m);
/* Both NULL on the CPU. */
const sl_device *sl_model_device(const sl_model *m);
sl_device_run *sl_model_device_run(const sl_model *m);
double *sl_model_seconds(const sl_model *m); /* NULL, or what the profile (below) is counted in */
/* As it is built: model.ffn or model.expert_ffn is the width in force. The second is what sl_model_create was given
 * (model.match_params changes the width). */
const sl_config *sl_model_config(const sl_model *m);
const sl_config *sl_model_config_given(const sl_model *m);
/* Parameters of a model of this configuration with just this width; -1 with a message. */
int64_t sl_model_count_params(const sl_config *c, int32_t vocab);

/* Can `passes` batches of these tokens be run? Fails without a model, or of the other kind, with
 * more threads than the model has scratch for, or with a token (or target, NULL: none) beyond the
 * vocabulary. */
int sl_model_check_pass(const sl_model *m, bool decoder, const int32_t *in, const int32_t *target,
                        int64_t passes);
/* Forward and backward of a checked batch; gradients of loss*scale are added to params->g. Returns 0, or -1 with the
 * message of the operation that failed, and gradients that mean nothing. */
int sl_model_forward_backward(sl_model *m, const int32_t *in, const int32_t *target, float scale, double *loss);

/* ---- quantised models (quant/run.h): fp32 but for what the options round; made for inference, without taps. */
struct sl_quant_options;
struct sl_quant_place;
struct sl_rotation;
struct sl_op;
sl_model *sl_model_create_quantised(const sl_config *c, int32_t vocab, int64_t batch, int64_t seq,
                                    const struct sl_quant_options *o);
/* The i-th place where activations are rounded or observed, in the order of a pass; false past the last. */
bool sl_model_quant_place(const sl_model *m, int i, struct sl_quant_place *p);
/* The place, and the rotation, whose result the layer of this scope reads; false, NULL without. */
bool sl_model_place_before(const sl_model *m, sl_scope scope, struct sl_quant_place *p);
const struct sl_rotation *sl_model_rotation_before(const sl_model *m, sl_scope scope);
/* The i-th linear layer that multiplies integers; NULL past the last. */
const struct sl_op *sl_model_int_linear(const sl_model *m, int i);
const sl_kernels *sl_model_kernels(const sl_model *m);

/* ---- what steps leave behind */
/* Ends a step of one or more passes: if it was applied, running means of channels (ops/norm/nullify.c) take in its
 * own, and biases of balance: bias are updated. Begins new sums. */
void sl_model_end_step(sl_model *m, bool applied);
/* Passes of a model made for inference measure the running means anew: true begins it, from a model without them, and
 * false ends it. */
void sl_model_measure_states(sl_model *m, bool on);
/* A checkpoint without states of this model was loaded (it was trained without model.sink_nullify). */
bool sl_model_states_missing(const sl_model *m);

/* ---- mixture of experts */
/* Of the last training pass: losses of the routers times their coefficients, which its gradients include and its loss
 * does not. */
double sl_model_router_loss(const sl_model *m);
typedef struct {
    int64_t experts, choices, dropped; /* of tokens by experts, over the passes of the step */
    const int64_t *count;              /* choices of each expert, the dropped ones included */
    double aux_loss, z_loss;           /* means over the passes, without their coefficients */
} sl_expert_load;
/* What the i-th mixture of the model did in the last ended step; false past the last one. */
bool sl_model_expert_load(const sl_model *m, int i, sl_expert_load *load);

/* ---- profile: time of each operation, summed over calls since the last reset. */
typedef struct {
    double seconds;      /* wall time; of operations that rows go through together, shared as workers were busy */
    double flops, bytes; /* of one call; bytes count each buffer and matrix that it reads or writes once */
} sl_op_cost;
typedef struct {
    const char *kind; /* e.g. "linear" */
    sl_scope scope;
    sl_op_cost forward, backward, weights; /* weights: sums over rows, gradients of parameters above all */
} sl_op_profile;
void sl_model_profile(sl_model *m, bool on); /* off by default; on: resets */
int sl_model_profile_ops(const sl_model *m);
sl_op_profile sl_model_profile_op(const sl_model *m, int i);

/* ---- taps beyond those of sinklab.h: what the parts of a block read. Only a model made for inference with taps has
 * them, unless it is given this flag, for they are several times as large: a training step pays nothing for them. */
enum { SL_MODEL_NO_PART_TAPS = 1 << 8 };
enum sl_tap {
    SL_TAP_ATTN_NORM_IN, /* input of the norm before attention (layer = layers: of the final norm), [dim]; norm_place
                          * post, output: of the norm behind it, and so below */
    SL_TAP_FFN_NORM_IN,  /* input of the norm before the feed-forward, [dim] */
    SL_TAP_ATTN_GATE_IN, /* y, the input of that norm's gate (layer = layers: of the final norm's), [dim] */
    SL_TAP_FFN_GATE_IN,
    SL_TAP_CORE,         /* attention output, heads side by side, before any gate on it */
    SL_TAP_OUT_IN,       /* input of the output projection: the same with its gate */
    SL_TAP_DOWN_IN,      /* input of the down projection */
    SL_TAPS
};
/* Columns of a tap; 0 if this model has no such tap at that layer. */
int64_t sl_model_tap_width(const sl_model *m, int layer, enum sl_tap tap);
/* The last pass's [batch*seq, width] into dst. false without it, or before a pass. */
bool sl_model_tap(const sl_model *m, int layer, enum sl_tap tap, float *dst);
/* The matrix that reads SL_TAP_OUT_IN or SL_TAP_DOWN_IN, [dim, width]; NULL without it. Of a compact model as it is
 * kept, and valid until the next call. */
const float *sl_model_projection(const sl_model *m, int layer, enum sl_tap tap);

/* The mixture that a half reads (which: 0 attention, 1 feed-forward; layer = layers, 0: the final norm) where
 * model.residual mixes, as the last pass left it. Of states that which stands behind the half; the final norm has none
 * of its own. */
typedef struct {
    int64_t sources, banked; /* source i of row t: bank + t*ld + i*dim, or, behind those, apart[i - banked] + t*dim */
    const float *bank, *apart[2];
    int64_t ld;
    const float *weight;  /* [rows, sources] */
    const float *mixture; /* [rows, dim] */
} sl_depth_tap;
/* How many sources it has; 0 without one. */
int64_t sl_model_depth_sources(const sl_model *m, int layer, int which);
/* sources 0 without one, before a pass, or where a device does not give them (a message says why). */
sl_depth_tap sl_model_depth(const sl_model *m, int layer, int which);

/* The stream between the halves of block `layer`, which its feed-forward reads, of a model whose taps can be read:
 * [batch*seq, dim] as sl_model_residual(). NULL where the halves are not one behind the other. */
const float *sl_model_mid(const sl_model *m, int layer);

/* The mixture of anchors into queries, keys and values (gate: into the gate's inputs) of a layer: which columns are of
 * which part, and a row of the last pass (sl_anchor_mixture_row). NULL, false without one, or before a pass. */
const sl_anchor_layout *sl_model_anchored(const sl_model *m, int layer, bool gate);
bool sl_model_anchored_row(const sl_model *m, int layer, bool gate, int64_t row, float *const coef[2],
                           float *const mixed[2]);

/* Can taps be read: after a forward pass of a model that keeps them? */
int sl_model_check_taps(const sl_model *m);

/* FLOP of one token, forward and backward: 6 x matrix parameters that it meets (of experts: the chosen ones) +
 * what the layers' mixers do beyond them. */
double sl_model_flops_per_token(const sl_model *m);
int64_t sl_model_activation_bytes(const sl_model *m);

/* ---- mixers */
/* Is the mixer of this layer attention, with queries, keys, values and weights of past positions? Only then is there
 * what sl_model_qkv and the next two give. */
bool sl_model_attends(const sl_model *m, int layer);

/* The state that the mixer of a layer keeps; false: it has none, or there are no taps as above. And a head of it in a
 * window of the last pass, behind sl_model_fetch_recurrence, which fails with a message. */
bool sl_model_recurrence(const sl_model *m, int layer, sl_recurrence_sizes *sizes);
int sl_model_fetch_recurrence(const sl_model *m, int layer);
void sl_model_recurrence_head(const sl_model *m, int layer, int64_t window, int64_t head, sl_recurrence_head *to);
/* Gate and norm of what it gives, NULL: there is neither. The norm's weight (NULL: there is no norm), and values of the
 * gate in the last pass into dst [batch*seq, width of SL_TAP_CORE], or to nowhere if it is NULL. */
const sl_gate_norm *sl_model_gate_norm(const sl_model *m, int layer, const float **weight, float *dst);

/* ---- how a block's scores become weights, and the logit of what joins the keys of query q (0 without). */
typedef struct {
    const sl_attention_kernels *kind;
    sl_attend attend; /* no band yet */
    int64_t window;   /* positions that a query sees at most */
    sl_softcap cap;
    bool extra;       /* something joins the keys */
} sl_attention_tap;
sl_attention_tap sl_model_attention(const sl_model *m, int layer);
float sl_model_attention_extra(const sl_model *m, int layer, int64_t head, const float *q);

#endif
