/* Operations of a quantised model (formats/options.h): what stands before a linear layer, on its input. They are appended by
 * the builders of the layers, which call these whether the model is quantised or not. */
#ifndef SL_OPS_QUANT_QUANTISE_H
#define SL_OPS_QUANT_QUANTISE_H

#include "program/program.h"
#include "formats/options.h"
#include "formats/seen.h"

/* What is rounded, as results name it. */
enum sl_quant_class { SL_QUANT_POST_NORM, SL_QUANT_ATTENTION_OUT, SL_QUANT_DOWN_IN, SL_QUANT_KV, SL_QUANT_CLASSES };
extern const char *const sl_quant_class_names[SL_QUANT_CLASSES];

/* A place where activations [rows, dim] are rounded. */
typedef struct sl_quant_point {
    sl_scope scope;         /* of the layer that reads them, */
    char label[SL_SCOPE_CHARS]; /* as messages name it */
    enum sl_quant_class class;
    sl_quantiser q;         /* its blocks are those of this buffer */
    enum sl_range range;
    int64_t rows, dim;
    float lo, hi;           /* static: the range, from calibration */
    float scale, outer;     /* static: what follows from it, */
    sl_grid grid;           /* and (affine) the codes */
    bool observe;           /* takes seen instead of rounding */
    sl_seen *seen;          /* an observer's, or NULL */
    bool measure;           /* sum errors up */
    sl_quant_error error;
    bool failed;            /* a value was not finite; message set */
    /* Scratch: of blocks; of second scales, or of rows; an observer's [rows, dim] for its trials, or NULL. */
    float *amax, *block_scale, *block_outer, *trial;
} sl_quant_point;

/* For activations [rows, dim] of windows of seq rows. NULL with a message. */
sl_quant_point *sl_quant_point_new(const sl_program *b, sl_scope scope, enum sl_quant_class class, int64_t rows,
                                   int64_t dim, int64_t seq);
void sl_quant_point_free(sl_quant_point *p);
/* Sets a static range. */
void sl_quant_point_range(sl_quant_point *p, float lo, float hi);
/* Fills the scales of x: block_scale, of integers one for all rows or one a row. */
int sl_quant_point_scales(sl_quant_point *p, const sl_kernels *k, const float *x, int64_t ldx);
/* What the point does with x: y = the rounded x; an observer reads x alone. Failures stay in p->failed. */
void sl_quant_point_apply(sl_quant_point *p, const sl_kernels *k, const float *x, int64_t ldx, float *y, int64_t ldy);

/* Is the input of this layer rotated by an operation of its own (quant/transform.h)? */
bool sl_rotates(const sl_program *b, enum sl_quant_class class);
enum sl_quant_class sl_quant_class_of(sl_scope scope);

/* Appends what the options ask for before the layer of this place reads x [rows, dim], fp32: a rotation, an observer, a quantiser.
 * Returns what the layer is to read; x itself in a model that is not quantised. */
sl_buf sl_build_quantiser(sl_program *b, sl_scope scope, sl_buf x, int64_t dim);
/* The same before the head, whose place is its own flag. */
sl_buf sl_build_head_quantiser(sl_program *b, sl_buf x);
/* Rounds keys and values in the qkv rows, in scope, in the scheme's format of activations: a scale for each head and
 * position, or the blocks of the format; of a rotated model they are rotated for it, and back. */
void sl_build_kv_quantiser(sl_program *b, int64_t layer, sl_buf qkv);

#endif
