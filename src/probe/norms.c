#include "probe/measures.h"

#include "base/threads.h"

#include <math.h>

enum { COLUMNS = 128 }; /* channels of one item; a cut by shape alone */

typedef struct {
    sl_gate *g;
    int64_t rows;
    const float *values;
} gate_job;

static void gate_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const gate_job *j = ctx;
    int64_t dim = j->g->dim, first = item * COLUMNS;
    int64_t n = dim - first < COLUMNS ? dim - first : COLUMNS;
    double *restrict sum = j->g->sum + first, *restrict sum_sq = j->g->sum_sq + first;
    for (int64_t t = 0; t < j->rows; t++) {
        const float *restrict x = j->values + t * dim + first;
        for (int64_t c = 0; c < n; c++) {
            sum[c] += x[c];
            sum_sq[c] += (double)x[c] * x[c];
        }
    }
}

void sl_gate_add(sl_gate *g, int64_t rows, const float *values) {
    gate_job job = {g, rows, values};
    sl_parallel((g->dim + COLUMNS - 1) / COLUMNS, gate_item, &job);
    g->rows += rows;
}

sl_gate_figures sl_gate_measure(int count, const sl_gate *const *gates) {
    sl_gate_figures f = {NAN, NAN, INFINITY, -INFINITY};
    double n = 0, sum = 0, sum_sq = 0;
    for (int i = 0; i < count; i++) {
        const sl_gate *g = gates[i];
        if (g->rows == 0)
            continue;
        n += (double)g->rows * (double)g->dim;
        for (int64_t c = 0; c < g->dim; c++) {
            double mean = g->sum[c] / (double)g->rows;
            sum += g->sum[c];
            sum_sq += g->sum_sq[c];
            f.channel_min = fmin(f.channel_min, mean);
            f.channel_max = fmax(f.channel_max, mean);
        }
    }
    f.mean = sum / n;
    f.std = sqrt(fmax(sum_sq / n - f.mean * f.mean, 0));
    if (isnan(f.mean))
        f.std = f.channel_min = f.channel_max = NAN;
    return f;
}

double sl_lambda_min(int64_t dim, const float *weight) {
    double least = INFINITY;
    for (int64_t j = 0; j < dim; j++)
        if (isnan(weight[j]) || fabs((double)weight[j]) < least)
            least = fabs((double)weight[j]);
    return least;
}
