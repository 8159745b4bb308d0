#include "train/train.h"

#include "base/err.h"
#include "base/log.h"

#include <math.h>
#include <stdlib.h>

int sl_train_step(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate,
                  int64_t step, sl_apply_fn *apply, void *ctx, sl_step_result *result) {
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
    for (int64_t i = 0; i < accumulate; i++)
        r.loss += sl_model_forward_backward(m, in + i * tokens, target + i * tokens, 1.0f / (float)accumulate);
    r.loss /= (double)accumulate;
    r.grad_norm = sl_optim_grad_norm(o);
    r.skipped =
        !isfinite(r.loss) || !isfinite(r.grad_norm) || (apply && !apply(ctx, r.loss, r.grad_norm));
    double scale = c->train_clip_norm > 0 && r.grad_norm > c->train_clip_norm ? c->train_clip_norm / r.grad_norm : 1;
    if (r.skipped)
        sl_optim_zero_grad(o);
    else
        sl_optim_step(o, r.lr, scale, step + 1);
    sl_model_end_step(m, !r.skipped);
    *result = r;
    return 0;
}

typedef struct {
    double loss[2]; /* of other positions, of marked ones */
    int64_t count[2];
} sums;

/* Of one batch: n windows with targets. */
static void add_losses(sums *s, const sl_dataset *d, int64_t n, int64_t seq, const int32_t *in, const int32_t *target,
                       const float *loss, uint8_t *mark) {
    for (int64_t w = 0; w < n; w++) {
        if (sl_dataset_has_marks(d))
            sl_dataset_mark(d, in + w * seq, mark);
        for (int64_t t = 0, i = w * seq; t < seq; t++, i++)
            if (target[i] >= 0) {
                s->loss[mark[t]] += loss[i];
                s->count[mark[t]]++;
            }
    }
}

static double mean(double sum, int64_t count) { return count ? sum / (double)count : NAN; }

int sl_evaluate(sl_model *m, const sl_dataset *d, int64_t windows, int32_t *in, int32_t *target,
                sl_losses *losses) {
    int64_t batch = sl_model_shape(m).batch, seq = sl_model_shape(m).seq,
            have = sl_dataset_windows(d, SL_VAL);
    sums s = {.loss = {0}};
    float *loss = malloc((size_t)(batch * seq) * sizeof *loss);
    uint8_t *mark = calloc((size_t)seq, 1);
    int rc = loss && mark ? 0 : sl_fail("out of memory for the losses of a batch");
    windows = windows < have ? windows : have;
    for (int64_t at = 0; rc == 0 && at < windows; at += batch) {
        int64_t n = windows - at < batch ? windows - at : batch;
        for (int64_t i = 0; i < n; i++)
            sl_dataset_val_window(d, at + i, in + i * seq, target + i * seq);
        for (int64_t i = n * seq; i < batch * seq; i++)
            in[i] = 0, target[i] = -1; /* rows without a loss fill the last batch */
        rc = sl_model_forward(m, in, target, NULL, loss);
        if (rc == 0)
            add_losses(&s, d, n, seq, in, target, loss, mark);
    }
    free(loss), free(mark);
    bool marks = sl_dataset_has_marks(d);
    *losses = (sl_losses){.all = mean(s.loss[0] + s.loss[1], s.count[0] + s.count[1]),
                          .trigger = marks ? mean(s.loss[1], s.count[1]) : NAN,
                          .other = marks ? mean(s.loss[0], s.count[0]) : NAN};
    return rc;
}

int sl_measure_states(sl_model *m, const sl_dataset *d, int32_t *in, int32_t *target) {
    int64_t batch = sl_model_shape(m).batch, seq = sl_model_shape(m).seq, at = 0;
    int rc = 0;
    if (!sl_model_states_missing(m))
        return 0;
    sl_model_measure_states(m, true);
    while (rc == 0 && at < SL_MEASURED_WINDOWS) {
        for (int64_t i = 0; i < batch; i++, at++)
            sl_dataset_train_window(d, (uint64_t)sl_model_config(m)->seed, at, in + i * seq, target + i * seq);
        rc = sl_model_forward(m, in, NULL, NULL, NULL);
    }
    sl_model_measure_states(m, false);
    if (rc == 0)
        sl_info("model.sink_nullify: the checkpoint holds no channel means; taken from %lld windows of the training text",
                (long long)at);
    return rc;
}
