/* A small model's parameter table whose contents are a function of a number. */
#ifndef SL_TESTS_CHECKPOINT_FIXTURE_H
#define SL_TESTS_CHECKPOINT_FIXTURE_H

#include "base/err.h"
#include "scratch.h"
#include "checkpoint/checkpoint.h"

#include <math.h>

enum { FIXTURE_TENSORS = 4, FIXTURE_FLOATS = 64 };

typedef struct {
    sl_params p;
    sl_tensor tensor[FIXTURE_TENSORS];
    float block[4][FIXTURE_FLOATS]; /* w, g, m, v */
} fixture;

static const float fixture_gap = -123456; /* between tensors; must not be touched */

static inline void fixture_make(fixture *f) {
    static const struct {
        const char *name;
        int ndim;
        int64_t shape[2], offset;
    } t[FIXTURE_TENSORS] = {
        {"model.embed_tokens.weight", 2, {5, 4}, 0},
        {"model.layers.0.input_layernorm.weight", 1, {4, 0}, 24},
        {"model.layers.0.self_attn.q_proj.weight", 2, {3, 4}, 32},
        {"model.layers.0.self_attn.k_proj.weight", 2, {2, 4}, 44},
    };
    memset(f, 0, sizeof *f);
    for (int i = 0; i < FIXTURE_TENSORS; i++) {
        sl_tensor *x = &f->tensor[i];
        strcpy(x->name, t[i].name);
        x->ndim = t[i].ndim;
        x->shape[0] = t[i].shape[0];
        x->shape[1] = t[i].shape[1];
        x->size = x->shape[0] * (x->ndim == 2 ? x->shape[1] : 1);
        x->offset = t[i].offset;
        x->moments = sl_params_moments(SL_OPTIM_adamw, x);
        f->p.params += x->size;
    }
    f->p.tensor = f->tensor;
    f->p.count = FIXTURE_TENSORS;
    f->p.floats = FIXTURE_FLOATS;
    f->p.w = f->block[0];
    f->p.g = f->block[1];
    f->p.m = f->block[2];
    f->p.v = f->block[3];
    for (int b = 0; b < 4; b++)
        for (int i = 0; i < FIXTURE_FLOATS; i++)
            f->block[b][i] = fixture_gap;
}

static inline float fixture_value(int64_t number, int block, int64_t i) {
    return (float)(number * 1000 + block * 100 + i) * 0.1f;
}

static inline void fixture_fill(fixture *f, int64_t number) {
    for (int b = 0; b < 4; b++)
        for (int t = 0; t < FIXTURE_TENSORS; t++)
            for (int64_t i = 0; i < f->tensor[t].size; i++)
                f->block[b][f->tensor[t].offset + i] =
                    fixture_value(number, b, f->tensor[t].offset + i);
}

/* Are w, m and v those of `number`, bit for bit, and the gaps untouched? */
static inline bool fixture_is(const fixture *f, int64_t number) {
    fixture want;
    fixture_make(&want);
    fixture_fill(&want, number);
    return !memcmp(f->block[0], want.block[0], sizeof want.block[0]) &&
           !memcmp(f->block[2], want.block[2], 2 * sizeof want.block[0]);
}

static inline sl_train_state fixture_state(int64_t step, int64_t number) {
    return (sl_train_state){.step = step,
                            .tokens = number * 4096,
                            .skipped = 3,
                            .loss_mean = 1.0 / 3 + (double)number,
                            .best_val_loss = NAN,
                            .train_seconds = 0.1,
                            .data_hash = UINT64_MAX - (uint64_t)number};
}

static inline int fixture_save(const char *run, int64_t step, int64_t number, int keep) {
    fixture f;
    sl_config c;
    sl_config_defaults(&c);
    fixture_make(&f);
    fixture_fill(&f, number);
    sl_train_state s = fixture_state(step, number);
    return sl_checkpoint_save(run, &c, &f.p, &s, keep);
}

/* Loads a folder; the number whose contents it has, -1 if it is refused, and fails on a mixture. */
static inline int64_t fixture_load(const char *dir, int64_t *step) {
    fixture f;
    sl_train_state s;
    fixture_make(&f);
    if (sl_checkpoint_load(dir, &f.p, &s) < 0) {
        fixture empty;
        fixture_make(&empty);
        ck_assert_mem_eq(f.block, empty.block, sizeof f.block);
        ck_assert(*sl_error() && !strchr(sl_error(), '\n'));
        return -1;
    }
    int64_t number = s.tokens / 4096;
    sl_train_state want = fixture_state(s.step, number);
    ck_assert_msg(fixture_is(&f, number), "%s loads but has wrong contents", dir);
    ck_assert(s.skipped == want.skipped && s.loss_mean == want.loss_mean &&
              s.train_seconds == want.train_seconds && s.data_hash == want.data_hash && isnan(s.best_val_loss));
    if (step)
        *step = s.step;
    return number;
}

#endif
