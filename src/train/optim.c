#include "train/optim_kind.h"

#include "base/err.h"
#include "base/threads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 16384 }; /* floats; four arrays of it fit L2 */

static const sl_optim_kind *const kinds[] = {
#define OPTIM(name, matrix, other, help) &sl_optim_##name,
#include "tables/optim.inc"
#undef OPTIM
};

double sl_optim_decay(const sl_optim *o, const sl_tensor *t) {
    const sl_config *c = o->config;
    bool on = t->decay == SL_DECAY_MATRIX || (t->decay == SL_DECAY_NORM && c->train_decay_norms);
    return on ? c->train_weight_decay : 0;
}

double sl_optim_rate(const sl_optim *o, const sl_tensor *t) { return o->lr * (double)t->rate; }

static void cut(sl_optim *o) {
    for (int i = 0; i < o->p->count; i++) {
        const sl_tensor *t = &o->p->tensor[i];
        for (int64_t at = 0; at < t->size; at += CHUNK)
            o->chunk[o->chunks++] =
                (sl_optim_chunk){i, t->offset + at, t->size - at < CHUNK ? t->size - at : CHUNK};
    }
}

sl_optim *sl_optim_create(sl_model *m) {
    sl_params *p = m ? sl_model_params(m) : NULL;
    if (!p || !p->g) {
        sl_fail("sl_optim_create: needs a model that was created for training");
        return NULL;
    }
    const sl_config *c = sl_model_config(m);
    sl_optim *o = calloc(1, sizeof *o);
    int64_t chunks = 0;
    for (int i = 0; i < p->count; i++)
        chunks += (p->tensor[i].size + CHUNK - 1) / CHUNK;
    if (o) {
        *o = (sl_optim){.model = m, .config = c, .k = sl_kernels_select((enum sl_isa)c->isa), .p = p,
                        .kind = kinds[p->optimizer], .threads = sl_threads()};
        o->chunk = malloc((size_t)(chunks + 1) * sizeof *o->chunk);
        o->sumsq = malloc((size_t)(chunks + 1) * sizeof *o->sumsq);
    }
    if (!o || !o->chunk || !o->sumsq)
        sl_fail("out of memory for the optimizer");
    else if (!o->kind->create || o->kind->create(o) == 0) {
        cut(o);
        return o;
    }
    sl_optim_free(o);
    return NULL;
}

void sl_optim_free(sl_optim *o) {
    if (!o)
        return;
    if (o->kind->free)
        o->kind->free(o);
    free(o->chunk);
    free(o->sumsq);
    free(o);
}

sl_model *sl_optim_model(const sl_optim *o) { return o ? o->model : NULL; }

int sl_optim_check_threads(const sl_optim *o) {
    return sl_threads() <= o->threads
               ? 0
               : sl_fail("the optimizer was made for %d threads and there are %d; call sl_threads_set before it is "
                         "made", o->threads, sl_threads());
}

static void sumsq_item(void *ctx, int64_t i, int thread) {
    (void)thread;
    sl_optim *o = ctx;
    o->sumsq[i] = o->k->sumsq(o->chunk[i].n, o->p->g + o->chunk[i].offset);
}

double sl_optim_grad_norm(sl_optim *o) {
    double sum = 0;
    sl_parallel(o->chunks, sumsq_item, o);
    for (int64_t i = 0; i < o->chunks; i++)
        sum += o->sumsq[i];
    return sqrt(sum);
}

void sl_optim_step(sl_optim *o, double lr, double grad_scale, int64_t step) {
    o->lr = lr;
    o->grad_scale = grad_scale;
    o->step = step;
    o->kind->step(o);
}

void sl_optim_zero_grad(sl_optim *o) {
    memset(o->p->g, 0, (size_t)o->p->floats * sizeof(float));
    if (sl_model_device(o->model))
        sl_model_device(o->model)->put_params(sl_model_device_run(o->model), SL_BLOCK_G);
}

static const double pi = 3.14159265358979323846;

double sl_learning_rate(const sl_config *c, int64_t step) {
    double peak = c->train_lr, floor = peak * c->train_min_lr_ratio;
    double warmup = (double)c->train_warmup, steps = (double)c->train_steps, at = (double)step;
    if (at < warmup)
        return peak * (at + 1) / warmup;
    if (c->train_schedule == SL_SCHEDULE_COSINE) {
        double share = steps > warmup ? (at - warmup) / (steps - warmup) : 1;
        return floor + (peak - floor) * 0.5 * (1 + cos(pi * fmin(share, 1)));
    }
    if (c->train_schedule == SL_SCHEDULE_WSD) {
        double decay = steps * c->train_decay_fraction, left = steps - at;
        return left < decay ? floor + (peak - floor) * fmax(left, 0) / decay : peak;
    }
    return peak;
}
