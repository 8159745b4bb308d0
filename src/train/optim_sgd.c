/* Stochastic gradient descent with momentum and decoupled weight decay (SGDW of arXiv 1711.05101); no Nesterov. */
#include "base/threads.h"
#include "train/optim_kind.h"

#include <string.h>

/* Plain C: it moves five floats for six operations, so memory sets its speed. */
static void sgd(int64_t n, float *restrict w, const float *restrict g, float *restrict m, float gscale,
                float lr, float momentum, float decay) {
    for (int64_t i = 0; i < n; i++) {
        m[i] = momentum * m[i] + gscale * g[i];
        w[i] -= lr * (m[i] + decay * w[i]);
    }
}

static void chunk_item(void *ctx, int64_t i, int thread) {
    (void)thread;
    const sl_optim *o = ctx;
    const sl_optim_chunk *c = &o->chunk[i];
    const sl_params *p = o->p;
    const sl_tensor *t = &p->tensor[c->tensor];
    sgd(c->n, p->w + c->offset, p->g + c->offset, p->m + c->offset, (float)o->grad_scale,
        (float)sl_optim_rate(o, t), (float)o->config->train_momentum, (float)sl_optim_decay(o, t));
    memset(p->g + c->offset, 0, (size_t)c->n * sizeof(float));
}

static void step(sl_optim *o) { sl_parallel(o->chunks, chunk_item, o); }

const sl_optim_kind sl_optim_sgd = {NULL, NULL, step};
