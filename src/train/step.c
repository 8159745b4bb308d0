#include "train/train.h"

#include "base/clock.h"
#include "base/err.h"

#include <math.h>

int sl_train_step(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate, int64_t step,
                  sl_apply_fn *apply, void *ctx, sl_step_result *result) {
    return sl_train_step_until(o, in, target, accumulate, step, apply, NULL, ctx, result);
}

/* Drops what the batches so far have left. */
static void leave_off(sl_optim *o) {
    sl_optim_zero_grad(o);
    sl_model_end_step(sl_optim_model(o), false);
}

int sl_train_step_until(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate, int64_t step,
                        sl_apply_fn *apply, sl_stop_fn *stop, void *ctx, sl_step_result *result) {
    sl_model *m = sl_optim_model(o);
    if (sl_model_check_pass(m, false, in, target, accumulate) || sl_optim_check_threads(o))
        return -1;
    if (accumulate < 1 || step < 0)
        return sl_fail("sl_train_step: %lld batches in step %lld; the least are 1 and 0",
                       (long long)accumulate, (long long)step);
    const sl_config *c = sl_model_config(m);
    sl_shape shape = sl_model_shape(m);
    int64_t tokens = shape.batch * shape.seq;
    sl_step_result r = {.lr = sl_learning_rate(c, step)};
    for (int64_t i = 0; i < accumulate; i++) {
        double loss;
        if (i > 0 && stop && stop(ctx)) {
            leave_off(o);
            r.skipped = r.stopped = true;
            *result = r;
            return 0;
        }
        if (sl_model_forward_backward(m, in + i * tokens, target + i * tokens, 1.0f / (float)accumulate, &loss)) {
            leave_off(o);
            return -1;
        }
        r.loss += loss;
    }
    r.loss /= (double)accumulate;
    double start = sl_now();
    r.grad_norm = sl_optim_grad_norm(o);
    r.norm_seconds = sl_now() - start;
    r.skipped =
        !isfinite(r.loss) || !isfinite(r.grad_norm) || (apply && !apply(ctx, r.loss, r.grad_norm));
    double scale = c->train_clip_norm > 0 && r.grad_norm > c->train_clip_norm ? c->train_clip_norm / r.grad_norm : 1;
    start = sl_now();
    if (r.skipped)
        sl_optim_zero_grad(o);
    else
        sl_optim_step(o, r.lr, scale, step + 1);
    sl_model_end_step(m, !r.skipped);
    r.update_seconds = sl_now() - start;
    *result = r;
    return 0;
}
