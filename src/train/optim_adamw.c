#include "base/threads.h"
#include "train/optim_kind.h"

#include <math.h>
#include <string.h>

typedef struct {
    const sl_optim *o;
    float c1, c2; /* bias corrections 1 - beta^step */
} adamw_job;

static void chunk_item(void *ctx, int64_t i, int thread) {
    (void)thread;
    const adamw_job *j = ctx;
    const sl_optim *o = j->o;
    const sl_optim_chunk *c = &o->chunk[i];
    const sl_tensor *t = &o->p->tensor[c->tensor];
    const sl_params *p = o->p;
    if (t->moments < 2)
        return;
    o->k->adamw(c->n, p->w + c->offset, p->g + c->offset, p->m + c->offset, p->v + c->offset,
                (float)o->grad_scale, (float)sl_optim_rate(o, t), (float)o->config->train_betas[0],
                (float)o->config->train_betas[1], (float)o->config->train_eps,
                (float)sl_optim_decay(o, t), j->c1, j->c2);
    memset(p->g + c->offset, 0, (size_t)c->n * sizeof(float));
}

void sl_optim_adamw_step(sl_optim *o) {
    adamw_job j = {o, (float)(1 - pow(o->config->train_betas[0], (double)o->step)),
                   (float)(1 - pow(o->config->train_betas[1], (double)o->step))};
    sl_parallel(o->chunks, chunk_item, &j);
}

const sl_optim_kind sl_optim_adamw = {NULL, NULL, sl_optim_adamw_step};
