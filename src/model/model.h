/* A model: config -> parameter table + static program (list of operations over planned buffers). */
#ifndef SL_MODEL_MODEL_H
#define SL_MODEL_MODEL_H

#include "config/config.h"
#include "model/params.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct sl_model sl_model;

/* What precision means on this machine, under the config's isa: SL_PRECISION_BF16 where a bf16 unit is there and fp32 was
 * not asked for, else SL_PRECISION_FP32. */
int sl_model_precision(const sl_config *c);

/* Compiles the program for batches of `batch` windows of `seq` positions, and allocates everything.
 * training false: no gradients or moments, activations share memory unless taps is set.
 * taps: keep all residual, qkv and norm activations readable after a forward. NULL with a message. */
sl_model *sl_model_create(const sl_config *c, int32_t vocab, int64_t batch, int64_t seq, bool training,
                          bool taps);
/* A decoder: one new position for each of `batch` sequences a call, up to `cache` positions in all. */
sl_model *sl_model_create_decoder(const sl_config *c, int32_t vocab, int64_t batch, int64_t cache);
void sl_model_free(sl_model *m);
void sl_model_init(sl_model *m, uint64_t seed); /* initial weights, a function of seed and tensor name */
sl_params *sl_model_params(sl_model *m);
const sl_config *sl_model_config(const sl_model *m);
int32_t sl_model_vocab(const sl_model *m);
int64_t sl_model_batch(const sl_model *m);
int64_t sl_model_seq(const sl_model *m);

/* Mean cross-entropy (nats per target; targets < 0 are left out) of batch*seq tokens. token_loss: NULL or
 * batch*seq values. */
double sl_model_forward(sl_model *m, const int32_t *in, const int32_t *target, float *token_loss);
/* Forward and backward; gradients of loss*scale are added to params->g. */
double sl_model_forward_backward(sl_model *m, const int32_t *in, const int32_t *target, float scale);
/* Logits of all positions [batch*seq, vocab] into memory of the caller. */
void sl_model_logits(sl_model *m, const int32_t *in, float *logits);

/* Decoder: logits [batch, vocab] after token[batch] at `position` (0, 1, ... in order). */
void sl_model_decode(sl_model *m, const int32_t *token, int64_t position, float *logits);

/* ---- profile: time of each operation, summed over calls since the last reset. */
typedef struct {
    const char *kind, *label; /* e.g. "linear", "layers.0.attn.qkv" */
    double forward_s, backward_s;
    /* of one call; bytes count each buffer and matrix that it reads or writes once */
    double forward_flops, backward_flops, forward_bytes, backward_bytes;
} sl_op_profile;
void sl_model_profile(sl_model *m, bool on); /* off by default; on: resets */
int sl_model_profile_ops(const sl_model *m);
sl_op_profile sl_model_profile_op(const sl_model *m, int i);

/* ---- taps: valid after a forward until the next; need taps (or training) in create. */
/* Residual stream h_0..h_layers, [batch*seq, dim] fp32: h_0 embeddings, h_i output of block i-1. */
const float *sl_model_residual(const sl_model *m, int layer);
/* Valid until the next call (a bf16 program converts). q [heads], k [kv_heads] (after norm and rotary) and v [kv_heads] of a block, rows of `ld` floats. */
typedef struct {
    const float *q, *k, *v; /* row t: q + t*ld holds heads*head_dim floats */
    int64_t ld;
    float scale; /* scores = scale * q.k */
} sl_qkv_tap;
sl_qkv_tap sl_model_qkv(const sl_model *m, int layer);
/* Block norms: which = 0 attention input, 1 feed-forward input; layer = layers: the final norm (which 0). */
/* Effective weight vector (dim values) or NULL if the norm has none. */
const float *sl_model_norm_weight(const sl_model *m, int layer, int which);
/* Output of the norm, gate included, [batch*seq, dim]; scratch: batch*seq*dim floats, used if it must be
 * converted. */
const float *sl_model_norm_output(const sl_model *m, int layer, int which, float *scratch);
/* Gate values of a gated norm, [batch*seq, dim] into dst; false if this norm has no gate. */
bool sl_model_norm_gate(const sl_model *m, int layer, int which, float *dst);

/* FLOP of one token, forward and backward: 6 x matrix parameters + causal attention. */
double sl_model_flops_per_token(const sl_model *m);
int64_t sl_model_activation_bytes(const sl_model *m);

#endif
