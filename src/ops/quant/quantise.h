/* Operations of a quantised model (formats/options.h): what stands before a linear layer, on its input. They are
 * appended by the builders of the layers, which call these whether the model is quantised or not. */
#ifndef SL_OPS_QUANT_QUANTISE_H
#define SL_OPS_QUANT_QUANTISE_H

#include "formats/options.h"
#include "formats/seen.h"
#include "program/program.h"

/* What is rounded, as results name it. */
enum sl_quant_class { SL_QUANT_POST_NORM, SL_QUANT_ATTENTION_OUT, SL_QUANT_DOWN_IN, SL_QUANT_KV, SL_QUANT_CLASSES };
extern const char *const sl_quant_class_names[SL_QUANT_CLASSES];

/* ---- a place where activations [rows, dim] are rounded or observed */

/* What it is. */
typedef struct {
    sl_scope scope;             /* of the layer that reads them, */
    char label[SL_SCOPE_CHARS]; /* as messages name it */
    enum sl_quant_class class;
    sl_quantiser q;             /* its blocks are those of this buffer */
    enum sl_range range;
    int64_t rows, dim;
} sl_quant_point;

/* A static range, from calibration, and what follows from it: scale or outer scale, and (affine) the code of 0. */
typedef struct {
    float lo, hi, scale, outer;
    int zero;
} sl_quant_range;

/* What changes: between passes the range and where an observer adds what it sees (NULL: nowhere), in passes the
 * errors and *seen. */
typedef struct {
    sl_quant_range range;
    sl_seen *seen;
    sl_quant_error error;
    int32_t refused; /* of a pass on a device: a value was not finite */
} sl_quant_state;

typedef struct sl_quant_place {
    const sl_quant_point *point;
    sl_quant_state *state;
} sl_quant_place;

/* The point of an operation that is a place; NULL of any other. */
const sl_quant_point *sl_quant_point_of(const sl_op *op);
/* The place that an operation is; false of any other. */
bool sl_quant_place_of(const sl_op *op, const sl_exec *x, sl_quant_place *p);
/* Sets a static range. */
void sl_quant_set_range(const sl_quant_place *p, float lo, float hi);

/* The i-th of SL_CLIP_TRIALS clipped ranges: this share of all that was seen. */
float sl_quant_trial_share(int i);
sl_quant_range sl_quant_trial_range(const sl_quant_point *p, const sl_seen *s, int i);

/* ---- in stages. Rows begin where the point's blocks do, which is what sl_quant_cut() cuts at; x has rows of `dim`. */

/* A point for activations [rows, dim] of windows of seq rows. */
sl_quant_point sl_quant_point_at(const sl_program *b, sl_scope scope, int64_t rows, int64_t dim, int64_t seq);
/* What a scale needs: rows, or whole windows. */
enum sl_cut sl_quant_cut(const sl_quant_point *p);
/* The grid of its numbers. */
sl_grid sl_quant_point_grid(const sl_quant_point *p, const sl_quant_range *r);
/* Floats that the two functions below need for so many rows. */
int64_t sl_quant_point_scratch(const sl_quant_point *p, int64_t rows);
/* The scales of x [rows, dim], at the start of scratch, as sl_quant_blocks() lays them out. Fails where a value that
 * they are taken from is not finite. */
int sl_quant_point_scales(const sl_quant_point *p, const sl_quant_range *r, const sl_kernels *k, int64_t rows,
                          const float *x, float *scratch);
/* y [rows, dim] = the rounded x. Fails where one is not finite. */
int sl_quant_point_round(const sl_quant_point *p, const sl_quant_range *r, const sl_kernels *k, int64_t rows,
                         const float *x, float *scratch, float *y);

/* Errors: a part for each block of rows, in shared scratch; the stage that folds them into the state. */
size_t sl_quant_errors_bytes(const sl_op *op);
/* Of a call of what sl_quant_cut() says: fn on each of its blocks, which there is scratch for, or on its window. */
int sl_quant_each_block(const sl_op *op, const sl_exec *x, const sl_span *s, const sl_quant_point *p,
                        int (*fn)(const sl_op *op, const sl_exec *x, const sl_span *s));
static inline sl_quant_error *sl_quant_errors(const sl_exec *x) { return (sl_quant_error *)(void *)x->shared; }
int sl_quant_fold_errors(const sl_op *op, const sl_exec *x, const sl_span *s);

/* ---- building */

/* Is the input of this layer rotated by an operation of its own (sl_rotation_folds)? */
bool sl_rotates(const sl_program *b, enum sl_quant_class class);
enum sl_quant_class sl_quant_class_of(sl_scope scope);
/* op works on the rows of v, of which there may be several to a position. */
void sl_op_rows_of(const sl_program *b, sl_op *op, sl_buf v);

/* Appends what the options ask for before the layer of this place reads x [rows, dim], fp32: a rotation, an observer, a
 * quantiser; of a layer that stays fp32 the rotation alone. Returns what the layer is to read; x itself in a model that
 * is not quantised. */
sl_buf sl_build_quantiser(sl_program *b, sl_scope scope, sl_buf x, int64_t dim);
/* The same before the head, whose place is its own flag. */
sl_buf sl_build_head_quantiser(sl_program *b, sl_buf x);
/* Rounds keys and values in the qkv rows, in place, in the scheme's format of activations: a scale for each head and
 * position, or the blocks of the format; of a rotated model they are rotated for it, and back. */
void sl_build_kv_quantiser(sl_program *b, int64_t layer, sl_buf qkv);
/* What such an operation does, to `heads` heads from column `first` on, the rows of its point. NULL of any other. */
typedef struct {
    sl_quant_point point;
    int64_t first, heads;
    struct sl_rotation *rotation; /* NULL: none */
} sl_kv_quantiser;
const sl_kv_quantiser *sl_kv_quantiser_of(const sl_op *op);

#endif
