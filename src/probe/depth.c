#include "probe/detail.h"

#include <math.h>

/* A token's row: row t of the weights. Its contributions are norms of a_i v_i, relative to their sum. */
static void add_row(sl_depth_sums *s, const sl_kernels *k, const sl_depth_rows *x, int64_t t) {
    const float *a = x->weight + t * s->sources;
    double entropy = 0, top = 0, sum = 0;
    for (int64_t i = 0; i < s->sources; i++) {
        const float *v = i < x->banked ? x->bank + t * x->ld + i * x->dim : x->apart[i - x->banked] + t * x->dim;
        s->weight[i] += (double)a[i];
        s->square[i] += (double)a[i] * (double)a[i];
        s->norm[i] += (double)a[i] * sqrt(k->sumsq(x->dim, v));
        entropy -= a[i] > 0 ? (double)a[i] * log((double)a[i]) : 0;
        top = (double)a[i] > top ? (double)a[i] : top;
        sum += (double)a[i];
    }
    s->entropy += entropy;
    s->top += top;
    s->null += 1 - sum;
    s->tokens++;
}

void sl_depth_add(sl_depth_sums *s, const sl_kernels *k, const sl_depth_rows *x) {
    for (int64_t w = 0; w < x->windows; w++) {
        for (int64_t t = w * x->seq + 1; t < (w + 1) * x->seq; t++)
            add_row(s, k, x, t);
        for (int64_t i = 0; i < s->sources; i++)
            s->weight0[i] += (double)x->weight[w * x->seq * s->sources + i];
    }
    s->windows += x->windows;
}

double sl_depth_constant_share(const sl_depth_sums *s) {
    double constant = 0, all = 0, n = (double)s->tokens;
    for (int64_t i = 0; i < s->sources; i++) {
        constant += s->weight[i] / n * (s->weight[i] / n);
        all += s->square[i] / n;
    }
    return constant / all;
}
