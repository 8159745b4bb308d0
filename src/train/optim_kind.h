/* Inside of optimizers: what their files share. */
#ifndef SL_TRAIN_OPTIM_KIND_H
#define SL_TRAIN_OPTIM_KIND_H

#include "program/params.h"
#include "simd/kernels.h"
#include "train/optim.h"

typedef struct {
    /* Makes o->own if it needs any; NULL: nothing to make. 0, or -1 with a message. */
    int (*create)(sl_optim *o);
    void (*free)(sl_optim *o); /* of what create made, perhaps in part; NULL with create */
    /* One step with what o says of it. Sets the gradients to zero, each while it is in the cache. */
    void (*step)(sl_optim *o);
} sl_optim_kind;

#define OPTIM(name, matrix, other, help) extern const sl_optim_kind sl_optim_##name;
#include "tables/optim.inc"
#undef OPTIM

/* A piece of one tensor; pieces are cut by shape alone. */
typedef struct {
    int tensor;
    int64_t offset, n; /* floats, from the start of the block */
} sl_optim_chunk;

struct sl_optim {
    sl_model *model;
    const sl_config *config; /* the model's, as are the next two */
    const sl_kernels *k;
    sl_params *p;
    const sl_optim_kind *kind;
    void *own;   /* of the kind */
    int threads; /* that there may be scratch for */
    sl_optim_chunk *chunk;
    int64_t chunks;
    double *sumsq; /* of each chunk */
    /* of the step in progress */
    double lr, grad_scale;
    int64_t step; /* from 1 */
};

/* The weight decay of a tensor under the configuration, and its learning rate in this step. */
double sl_optim_decay(const sl_optim *o, const sl_tensor *t);
double sl_optim_rate(const sl_optim *o, const sl_tensor *t);
/* One AdamW step of every tensor with two moments; their gradients become zero. */
void sl_optim_adamw_step(sl_optim *o);

#endif
