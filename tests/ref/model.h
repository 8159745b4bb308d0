/* The decoder in double complex, from a configuration and a table of named parameters. It shares no
 * code with the engine but the names of tensors and of configuration keys; tests/golden pins it,
 * and the engine, to an independent PyTorch implementation. */
#ifndef REF_MODEL_H
#define REF_MODEL_H

#include "config/config.h"
#include "program/params.h"
#include "ref/ops.h"

typedef struct {
    const sl_config *config;
    const sl_params *table; /* names, shapes and offsets; its values are not read */
    const ref_c *w;         /* parameter values, table->floats of them, at the table's offsets */
    int32_t vocab;
    int64_t batch, seq;
    ref_c **values; /* the evaluation's own: v of the first layer of rwkv7 */
    ref_c **anchor; /* the evaluation's own: anchors of q, k, v, gate inputs */
    ref_c *null; /* NULL, or where a layer's attention leaves what its queries did not use, of each row */
} ref_model;

/* Mean cross-entropy over targets >= 0, as a training pass (of experts with a capacity). token_loss: batch*seq values
 * or NULL; logits: batch*seq*vocab or NULL. A tensor that is missing or of another shape ends the program: the table
 * is part of what is tested. */
ref_c ref_model_loss(const ref_model *m, const int32_t *in, const int32_t *target,
                     ref_c *token_loss, ref_c *logits);

/* What the gradient is of: the same plus the routers' losses times their coefficients. */
ref_c ref_model_objective(const ref_model *m, const int32_t *in, const int32_t *target);

/* n floats as complex numbers, allocated. */
ref_c *ref_from_float(int64_t n, const float *w);

/* Derivative of the objective along direction (table->floats values). */
double ref_model_slope(const ref_model *m, const int32_t *in, const int32_t *target,
                       const double *direction);

/* The attention of the block whose tensors are named <prefix>...: "model.layers.0.self_attn." */
ref_attend ref_model_attend(const ref_model *m, const char *prefix);

#endif
