/* Transformations of a model's weights after which the unquantised model is the same function, up to rounding, and its
 * activations are easier to round. They change the linear layers of the blocks that read a norm's output, and what
 * stands before them; a model built with the same options has the operations that they need besides
 * (ops/quant/quantise.h). */
#ifndef SL_QUANT_TRANSFORM_H
#define SL_QUANT_TRANSFORM_H

#include "config/config.h"
#include "program/params.h"
#include "formats/options.h"

/* Can the transformations of *o be made of such a model? If not: a message that names the key. */
int sl_transform_check(const sl_config *c, const sl_quant_options *o);

/* Gamma migration (Outlier Suppression, arXiv 2209.13325): the weight of each block norm moves into the layers behind
 * it. A bias (DyT, Derf) is divided by it, and so is what a gate (gated_norm) reads, where W_down takes it: out =
 * q(W_down y) y with y = gamma z becomes q(W_down diag(gamma) z) z, and that times gamma is out. */
int sl_migrate_gamma(const sl_config *c, sl_params *p);

/* SmoothQuant (arXiv 2211.10438): channel j of a norm's output is divided by s_j = max|X_j|^alpha / max|W_j|^(1 -
 * alpha), at least 1e-5, W over the linear layers behind it; it folds into weight, bias and the gate's W_down as
 * above, with 1/s for gamma, since dividing the weight alone would change the gate. channel_max(ctx, layer, ffn)
 * gives max|X_j|, [dim]; NULL, with a message, ends it. */
int sl_smooth(const sl_config *c, sl_params *p, double alpha,
              const float *(*channel_max)(void *ctx, int64_t layer, bool ffn), void *ctx);

/* Rotation (QuaRot, arXiv 2404.00456; ops/quant/rotate.h): every linear layer of the blocks reads R x. Where it folds
 * (sl_rotation_folds) the norm's weight moves on and the whole stream is rotated; else, and at the inputs of o_proj and
 * down_proj always, x is rotated as it comes, that of gated_norm behind its gate. */
int sl_rotate_weights(const sl_config *c, sl_params *p, uint64_t seed);

#endif
