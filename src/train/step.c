#include "train/train.h"

#include <math.h>
#include <string.h>

sl_step_result sl_train_step(sl_model *m, sl_optim *o, const int32_t *in, const int32_t *target,
                             int64_t accumulate, int64_t step,
                             bool (*apply)(void *ctx, double loss, double norm), void *ctx) {
    const sl_config *c = sl_model_config(m);
    int64_t tokens = sl_model_batch(m) * sl_model_seq(m);
    sl_step_result r = {.lr = sl_learning_rate(c, step)};
    for (int64_t i = 0; i < accumulate; i++)
        r.loss += sl_model_forward_backward(m, in + i * tokens, target + i * tokens, 1.0f / (float)accumulate);
    r.loss /= (double)accumulate;
    r.grad_norm = sl_optim_grad_norm(o);
    r.skipped = !isfinite(r.loss) || !isfinite(r.grad_norm) || (apply && !apply(ctx, r.loss, r.grad_norm));
    if (r.skipped) {
        sl_optim_zero_grad(o);
        return r;
    }
    double scale = c->train_clip_norm > 0 && r.grad_norm > c->train_clip_norm ? c->train_clip_norm / r.grad_norm : 1;
    sl_optim_step(o, r.lr, scale, step + 1);
    return r;
}

double sl_evaluate(sl_model *m, const sl_dataset *d, int64_t windows, int32_t *in, int32_t *target) {
    int64_t batch = sl_model_batch(m), seq = sl_model_seq(m), have = sl_dataset_windows(d, SL_VAL);
    double sum = 0;
    windows = windows < have ? windows : have;
    for (int64_t at = 0; at < windows; at += batch) {
        int64_t n = windows - at < batch ? windows - at : batch;
        for (int64_t i = 0; i < n; i++)
            sl_dataset_val_window(d, at + i, in + i * seq, target + i * seq);
        for (int64_t i = n * seq; i < batch * seq; i++)
            in[i] = 0, target[i] = -1; /* rows without a loss fill the last batch */
        sum += sl_model_forward(m, in, target, NULL) * (double)n;
    }
    return windows ? sum / (double)windows : NAN;
}
