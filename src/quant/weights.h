/* Weights of a model as codes and scales. */
#ifndef SL_QUANT_WEIGHTS_H
#define SL_QUANT_WEIGHTS_H

#include "model/model.h"
#include "formats/options.h"
#include "formats/seen.h"

/* A matrix [rows, cols] of a checkpoint. */
typedef struct {
    int tensor; /* in the parameter table */
    sl_quantiser q;
    sl_grid grid;
    int64_t rows, cols, scales, outers;
    uint8_t *code;       /* [rows, cols], a byte each */
    float *scale;        /* [scales], as sl_quant_blocks lays them out */
    uint8_t *scale_code; /* [scales], their bytes; NULL of fp32 scales */
    float *outer;        /* [outers]; NULL without second scales */
} sl_quant_matrix;

typedef struct {
    int count;
    sl_quant_matrix *matrix;
} sl_quant_weights;

/* Room for the matrices that the options round: the linear layers of the blocks, head and embeddings by flag. NULL
 * with a message. */
sl_quant_weights *sl_quant_weights_new(const sl_params *p, const sl_quant_options *o);
void sl_quant_weights_free(sl_quant_weights *w);
/* Rounds p's. Fails where one is not finite. */
int sl_quant_weights_round(sl_quant_weights *w, const sl_kernels *k, const sl_params *p);
sl_quant_matrix *sl_quant_matrix_of(const sl_quant_weights *w, int tensor); /* NULL: it is not rounded */
/* Gives a model these weights in place of its own: the values that the codes stand for, and codes where layers take
 * those. */
int sl_quant_weights_apply(const sl_quant_weights *w, sl_model *m);
/* Adds what rounding changed: p's matrices, which are those of w, against `before`, in the layout of p->w. */
void sl_quant_weights_error(const sl_quant_weights *w, const sl_params *p, const float *before, sl_quant_error *e);
/* Does the table hold one matrix for embeddings and head, of which only one is to be rounded? */
int sl_quant_weights_check(const sl_config *c, const sl_quant_options *o);

#endif
