#include "quant/evaluate.h"

#include "base/err.h"
#include "ops/quant/quantise.h"

#include <math.h>
#include <stdlib.h>

int sl_quant_check_points(const sl_model *m) {
    const sl_quant_point *p;
    for (int i = 0; (p = sl_model_quant_point(m, i)); i++)
        if (p->failed)
            return -1;
    return 0;
}

int64_t sl_quant_batch(int64_t windows, int64_t most) {
    int64_t batch = windows < most ? windows : most;
    while (windows % batch)
        batch--;
    return batch;
}

static double window_mean(int64_t seq, const int32_t *target, const float *loss) {
    double sum = 0;
    int64_t n = 0;
    for (int64_t t = 0; t < seq; t++)
        if (target[t] >= 0)
            sum += loss[t], n++;
    return n ? sum / (double)n : NAN;
}

int sl_quant_window_losses(sl_model *m, const sl_dataset *d, int64_t windows, double *loss) {
    int64_t batch = sl_model_shape(m).batch, seq = sl_model_shape(m).seq, tokens = batch * seq;
    int32_t *in = malloc((size_t)(2 * tokens) * sizeof *in), *target = in + tokens;
    float *token_loss = malloc((size_t)tokens * sizeof *token_loss);
    int rc = in && token_loss ? 0 : sl_fail("out of memory for a batch");
    for (int64_t at = 0; rc == 0 && at < windows; at += batch) {
        for (int64_t i = 0; i < batch; i++)
            sl_dataset_val_window(d, at + i, in + i * seq, target + i * seq);
        rc = sl_model_forward(m, in, target, NULL, token_loss) < 0 ? -1 : sl_quant_check_points(m);
        for (int64_t i = 0; rc == 0 && i < batch; i++)
            loss[at + i] = window_mean(seq, target + i * seq, token_loss + i * seq);
    }
    free(in), free(token_loss);
    return rc;
}
