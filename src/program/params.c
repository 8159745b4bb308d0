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
    if (p->halves && !(p->w16 = sl_alloc_shared((size_t)p->halves * sizeof *p->w16, "parameters in bf16")))
        return -1;
    if (!training)
        return 0;
    p->g = sl_alloc_shared(bytes, "gradients");
    p->m = sl_alloc(bytes, "optimizer moments");
    p->v = second ? sl_alloc(bytes, "optimizer moments") : NULL;
    return p->g && p->m && (!second || p->v) ? 0 : -1;
}

void sl_params_set(sl_params *p, const sl_tensor *t, int64_t first, int64_t n, const float *x) {
    if (t->bf16)
        p->kernels->to_bf16(n, x, p->w16 + t->offset + first);
    else
        memcpy(p->w + t->offset + first, x, (size_t)n * sizeof *x);
}

void sl_params_get(const sl_params *p, const sl_tensor *t, int64_t first, int64_t n, float *x) {
    if (t->bf16)
        p->kernels->from_bf16(n, p->w16 + t->offset + first, x);
    else
        memcpy(x, p->w + t->offset + first, (size_t)n * sizeof *x);
}

/* SL_INIT_NORMAL and SL_INIT_UNIFORM */
static void draw_random(sl_params *p, const sl_tensor *t, sl_rng *r) {
    bool normal = t->init == SL_INIT_NORMAL;
    float x[256];
    for (int64_t j = 0, n; j < t->size; j += n) {
        n = t->size - j < 256 ? t->size - j : 256;
        for (int64_t i = 0; i < n; i++)
            x[i] = (float)(t->init_std * (normal ? sl_rng_normal(r) : 2 * sl_rng_uniform(r) - 1));
        sl_params_set(p, t, j, n, x);
    }
}

static void fill(sl_params *p, const sl_tensor *t, float value) {
    for (int64_t j = 0; j < t->size; j++)
        sl_params_set(p, t, j, 1, &value);
}

void sl_params_init(sl_params *p, uint64_t seed) {
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        sl_rng r = sl_rng_make(seed, SL_STREAM_INIT, sl_hash64(t->name, strlen(t->name)));
        if (t->init == SL_INIT_NORMAL || t->init == SL_INIT_UNIFORM) {
            draw_random(p, t, &r);
            continue;
        }
        if (t->init == SL_INIT_DRAW) /* none that is bf16 */
            t->draw(t, &r, p->w + t->offset);
        else
            fill(p, t, t->init == SL_INIT_VALUE ? t->init_std : t->init == SL_INIT_ONES ? 1.0f : 0.0f);
    }
}

static void copy(sl_params *p, const sl_tensor *t, const sl_params *from, const sl_tensor *its) {
    float x[256];
    for (int64_t j = 0, n; j < t->size; j += n) {
        n = t->size - j < 256 ? t->size - j : 256;
        sl_params_get(from, its, j, n, x);
        sl_params_set(p, t, j, n, x);
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
            copy(p, t, from, &from->tensor[at]);
    }
    p->state_missing = missing;
    return 0;
}

void sl_params_free(sl_params *p) {
    sl_free(p->w), sl_free(p->w16), sl_free(p->g), sl_free(p->m), sl_free(p->v);
    free(p->tensor);
    *p = (sl_params){0};
}
