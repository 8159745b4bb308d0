#include "train/train.h"

#include "base/clock.h"
#include "base/err.h"

#include <math.h>

/* Drops what the batches so far have left. */
static void leave_off(sl_optim *o) {
    sl_optim_zero_grad(o);
    sl_model_end_step(sl_optim_model(o), false);
}

/* Who has a say in a step. */
typedef struct {
    sl_step_around around;
    sl_apply_fn *apply; /* NULL: nobody else */
    void *ctx;
} conditions;

static int check(const sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate, int64_t step) {
    if (sl_model_check_pass(sl_optim_model(o), false, in, target, accumulate) || sl_optim_check_threads(o))
        return -1;
    return accumulate < 1 || step < 0 ? sl_fail("sl_train_step: %lld batches in step %lld; the least are 1 and 0",
                                                (long long)accumulate, (long long)step)
                                      : 0;
}

/* Gradients of all batches. r->stopped: left off. */
static int accumulate_batches(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate,
                              const conditions *c, sl_step_result *r) {
    sl_model *m = sl_optim_model(o);
    sl_shape shape = sl_model_shape(m);
    int64_t tokens = shape.batch * shape.seq;
    for (int64_t i = 0; i < accumulate; i++) {
        double loss;
        if (i > 0 && c->around.stop && c->around.stop()) {
            leave_off(o);
            r->skipped = r->stopped = true;
            return 0;
        }
        if (sl_model_forward_backward(m, in + i * tokens, target + i * tokens, 1.0f / (float)accumulate, &loss)) {
            leave_off(o);
            return -1;
        }
        r->loss += loss;
    }
    r->loss /= (double)accumulate;
    return 0;
}

static void update(sl_optim *o, int64_t step, const conditions *c, sl_step_result *r) {
    sl_model *m = sl_optim_model(o);
    double clip = sl_model_config(m)->train_clip_norm, start = sl_now();
    r->grad_norm = sl_optim_grad_norm(o);
    r->norm_seconds = sl_now() - start;
    r->skipped = !isfinite(r->loss) || !isfinite(r->grad_norm) || r->loss > c->around.most_loss ||
                 (c->apply && !c->apply(c->ctx, r->loss, r->grad_norm));
    start = sl_now();
    if (r->skipped)
        sl_optim_zero_grad(o);
    else
        sl_optim_step(o, r->lr, clip > 0 && r->grad_norm > clip ? clip / r->grad_norm : 1, step + 1);
    sl_model_end_step(m, !r->skipped);
    r->update_seconds = sl_now() - start;
}

static int step_on_device(sl_model *m, const int32_t *in, const int32_t *target, int64_t accumulate, int64_t step,
                          const conditions *c, sl_step_result *r) {
    sl_device_step s = {.accumulate = accumulate, .step = step + 1, .lr = r->lr, .most_loss = c->around.most_loss,
                        .apply = c->apply, .ctx = c->ctx, .meanwhile = c->around.meanwhile,
                        .meanwhile_ctx = c->around.ctx, .seconds = sl_model_seconds(m)};
    sl_device_result done;
    if (sl_model_device(m)->train(sl_model_device_run(m), in, target, &s, &done))
        return -1;
    r->loss = done.loss, r->grad_norm = done.grad_norm, r->skipped = done.skipped;
    return 0;
}

static int run_step(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate, int64_t step,
                    const conditions *c, sl_step_result *result) {
    if (check(o, in, target, accumulate, step))
        return -1;
    sl_model *m = sl_optim_model(o);
    sl_step_result r = {.lr = sl_learning_rate(sl_model_config(m), step)};
    if (sl_model_device(m)) {
        if (step_on_device(m, in, target, accumulate, step, c, &r))
            return -1;
    } else {
        if (accumulate_batches(o, in, target, accumulate, c, &r))
            return -1;
        if (!r.stopped)
            update(o, step, c, &r);
    }
    *result = r;
    return 0;
}

int sl_train_step(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate, int64_t step,
                  sl_apply_fn *apply, void *ctx, sl_step_result *result) {
    return run_step(o, in, target, accumulate, step, &(conditions){{.most_loss = INFINITY}, apply, ctx}, result);
}

int sl_train_step_in_run(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate, int64_t step,
                         const sl_step_around *a, sl_step_result *result) {
    return run_step(o, in, target, accumulate, step, &(conditions){*a, NULL, NULL}, result);
}
