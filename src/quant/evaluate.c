#include "quant/evaluate.h"

#include "base/err.h"
#include "eval/windows.h"

#include <math.h>
#include <stdlib.h>

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

typedef struct {
    float *token_loss;
    double *loss;
} window_losses;

static int add_windows(void *ctx, sl_model *m, const sl_batch *b) {
    window_losses *l = ctx;
    int64_t seq = sl_model_shape(m).seq;
    if (sl_model_forward(m, b->in, b->target, NULL, l->token_loss) < 0)
        return -1;
    for (int64_t i = 0; i < b->n; i++)
        l->loss[b->first + i] = window_mean(seq, b->target + i * seq, l->token_loss + i * seq);
    return 0;
}

int sl_quant_window_losses(sl_model *m, const sl_dataset *d, int64_t windows, int64_t skip, double *loss) {
    int64_t rows = sl_model_shape(m).batch * sl_model_shape(m).seq;
    window_losses l = {malloc((size_t)rows * sizeof(float)), loss};
    int rc = l.token_loss ? sl_each_batch(m, d, (sl_windows){SL_VAL, windows, SL_FILL_NO_LOSS, skip}, add_windows, &l)
                          : sl_fail("out of memory for the losses of a batch");
    free(l.token_loss);
    return rc;
}
