#include "eval/evaluate.h"

#include "base/err.h"
#include "base/log.h"
#include "eval/windows.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    float *token_loss;
    double *window_loss; /* or NULL */
    double loss[2];      /* of other positions, of marked ones */
    int64_t count[2];
} sums;

static double mean(double sum, int64_t count) { return count ? sum / (double)count : NAN; }

static int add_losses(void *ctx, sl_model *m, const sl_batch *b) {
    sums *s = ctx;
    int64_t seq = sl_model_shape(m).seq;
    if (sl_model_forward(m, b->in, b->target, NULL, s->token_loss))
        return -1;
    for (int64_t w = 0; w < b->n; w++) {
        double loss = 0;
        int64_t count = 0;
        for (int64_t i = w * seq; i < (w + 1) * seq; i++)
            if (b->target[i] >= 0) {
                s->loss[b->mark && b->mark[i]] += s->token_loss[i];
                s->count[b->mark && b->mark[i]]++;
                loss += s->token_loss[i];
                count++;
            }
        if (s->window_loss)
            s->window_loss[b->first + w] = mean(loss, count);
    }
    return 0;
}

int sl_evaluate(sl_model *m, const sl_dataset *d, int64_t windows, int64_t skip, sl_losses *losses,
                double *window_loss) {
    int64_t have = sl_dataset_windows(d, SL_VAL), rows = sl_model_shape(m).batch * sl_model_shape(m).seq;
    sums s = {.token_loss = malloc((size_t)rows * sizeof *s.token_loss), .window_loss = window_loss};
    sl_windows w = {SL_VAL, windows < have ? windows : have, SL_FILL_NO_LOSS, skip};
    int rc = s.token_loss ? sl_each_batch(m, d, w, add_losses, &s) : sl_fail("out of memory for the losses of a batch");
    free(s.token_loss);
    if (rc)
        return rc;
    bool marks = sl_dataset_has_marks(d);
    *losses = (sl_losses){.all = mean(s.loss[0] + s.loss[1], s.count[0] + s.count[1]),
                          .trigger = marks ? mean(s.loss[1], s.count[1]) : NAN,
                          .other = marks ? mean(s.loss[0], s.count[0]) : NAN};
    return 0;
}

static int measure_batch(void *ctx, sl_model *m, const sl_batch *b) {
    *(int64_t *)ctx += sl_model_shape(m).batch;
    return sl_model_forward(m, b->in, NULL, NULL, NULL);
}

int sl_measure_states(sl_model *m, const sl_dataset *d) {
    int64_t measured = 0;
    if (!sl_model_states_missing(m))
        return 0;
    sl_model_measure_states(m, true);
    enum sl_split from = sl_dataset_windows(d, SL_TRAIN) > 0 ? SL_TRAIN : SL_VAL;
    int rc = sl_each_batch(m, d, (sl_windows){from, SL_MEASURED_WINDOWS, SL_FILL_WINDOWS, 0}, measure_batch, &measured);
    sl_model_measure_states(m, false);
    sl_model_params(m)->state_missing = rc < 0; /* what was left off is no measurement */
    if (rc == 0)
        sl_info(
            "model.sink_nullify: the checkpoint holds no channel means; taken from %lld windows of the %s text",
            (long long)measured, from == SL_TRAIN ? "training" : "measured");
    return rc;
}
