#include "program/params.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

/* [optimizer][is it a matrix of a block] */
static const int moments[][2] = {
#define OPTIM(name, matrix, other, help) {other, matrix},
#include "tables/optim.inc"
#undef OPTIM
};

int sl_params_moments(int optimizer, const sl_tensor *t) {
    return moments[optimizer][t->matrix];
}

int sl_params_find(const sl_params *p, const char *name) {
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->tensor[i].name, name) == 0)
            return i;
    return -1;
}

int sl_params_allocate(sl_params *p, int optimizer, bool training) {
    size_t bytes = (size_t)p->floats * sizeof(float);
    bool second = false;
    p->optimizer = optimizer;
    for (int i = 0; i < p->count; i++) {
        p->tensor[i].moments = sl_params_moments(optimizer, &p->tensor[i]);
        second = second || p->tensor[i].moments == 2;
    }
    /* Products read and write matrices whole, with all threads; moments are the optimizer's alone. */
    if (!(p->w = sl_alloc_shared(bytes, "parameters")))
        return -1;
    if (!training)
        return 0;
    p->g = sl_alloc_shared(bytes, "gradients");
    p->m = sl_alloc(bytes, "optimizer moments");
    p->v = second ? sl_alloc(bytes, "optimizer moments") : NULL;
    return p->g && p->m && (!second || p->v) ? 0 : -1;
}

void sl_params_init(sl_params *p, uint64_t seed) {
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        float *w = p->w + t->offset;
        sl_rng r = sl_rng_make(seed, SL_STREAM_INIT, sl_hash64(t->name, strlen(t->name)));
        if (t->init == SL_INIT_DRAW) {
            t->draw(t, &r, w);
            continue;
        }
        float value = t->init == SL_INIT_VALUE ? t->init_std : t->init == SL_INIT_ONES ? 1.0f : 0.0f;
        for (int64_t j = 0; j < t->size; j++)
            w[j] = t->init == SL_INIT_NORMAL ? (float)(t->init_std * sl_rng_normal(&r)) : value;
    }
}

int sl_params_take(sl_params *p, const sl_params *from) {
    bool missing = false;
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        int at = sl_params_find(from, t->name);
        if (t->state && (at < 0 || from->state_missing) && !p->m)
            missing = true;
        else if (at < 0 || from->tensor[at].size != t->size)
            return sl_fail("tensor %s: the model that weights are taken from has none of that size", t->name);
    }
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        int at = sl_params_find(from, t->name);
        if (at >= 0)
            memcpy(p->w + t->offset, from->w + from->tensor[at].offset, (size_t)t->size * sizeof *p->w);
    }
    p->state_missing = missing;
    return 0;
}

void sl_params_free(sl_params *p) {
    sl_free(p->w), sl_free(p->g), sl_free(p->m), sl_free(p->v);
    free(p->tensor);
    *p = (sl_params){0};
}
