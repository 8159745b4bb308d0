#include "ops/norm/nullify.h"

#include "base/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of a step's means in the running ones: a memory of about a hundred steps. */
static const float rate = 0.01f;

static float *means(const sl_op *op, const sl_exec *x) {
    return x->p->w + x->p->tensor[op->nullify->means].offset;
}

sl_nullify *sl_nullify_new(sl_program *b, const sl_op *op, const char *prefix, bool statistics) {
    const sl_config *c = b->config;
    int mode = c->model_sink_nullify_mode;
    if (mode == SL_NULLIFY_DENOMINATOR && !statistics) {
        sl_fail_usage("model.sink_nullify_mode=denominator needs a norm that divides by a statistic of the row, e.g. "
                      "rmsnorm or layernorm; with this model.norm take both");
        b->failed = true;
        return NULL;
    }
    sl_nullify *s = calloc(1, sizeof *s + (size_t)op->dim_in * sizeof *s->sum);
    if (!s) {
        sl_fail("out of memory while building the program");
        b->failed = true;
        return NULL;
    }
    s->statistics = mode != SL_NULLIFY_OUTPUT || !statistics;
    s->outputs = mode != SL_NULLIFY_BOTH && statistics;
    s->to_mean = c->model_sink_nullify_value == SL_NULLIFY_MEAN;
    s->most = c->model_sink_nullify;
    s->means = sl_program_state(b, prefix, "channel_mean", op->dim_in);
    return s;
}

/* Insertion into the list so far: of equal means the lower channel comes first. */
void sl_nullify_choose(const sl_op *op, const sl_exec *x) {
    sl_nullify *s = op->nullify;
    const float *mean = means(op, x);
    s->count = 0;
    for (int64_t j = 0; j < op->dim_in; j++) {
        int64_t at = s->count;
        while (at > 0 && fabsf(mean[s->channel[at - 1]]) < fabsf(mean[j]))
            at--;
        if (at >= s->most || mean[j] == 0)
            continue;
        s->count += s->count < s->most;
        memmove(s->channel + at + 1, s->channel + at, (size_t)(s->count - 1 - at) * sizeof *s->channel);
        s->channel[at] = j;
    }
    for (int64_t i = 0; i < s->count; i++)
        s->value[i] = s->to_mean ? mean[s->channel[i]] : 0;
}

const float *sl_nullify_rows(const sl_op *op, int64_t n, const float *rows, float *scratch) {
    const sl_nullify *s = op->nullify;
    memcpy(scratch, rows, (size_t)(n * op->dim_in) * sizeof *scratch);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < s->count; k++)
            scratch[i * op->dim_in + s->channel[k]] = s->value[k];
    return scratch;
}

void sl_nullify_end_step(const sl_op *op, const sl_exec *x, bool applied) {
    sl_nullify *s = op->nullify;
    float *mean = means(op, x);
    bool first = true;
    for (int64_t j = 0; j < op->dim_in; j++)
        first = first && mean[j] == 0;
    for (int64_t j = 0; applied && s->rows > 0 && j < op->dim_in; j++)
        mean[j] += (first ? 1 : rate) * (s->sum[j] / (float)s->rows - mean[j]);
    memset(s->sum, 0, (size_t)op->dim_in * sizeof *s->sum);
    s->rows = 0;
}
