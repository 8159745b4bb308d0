/* Residual sink dimensions: which they are, how much of a norm is theirs, and whether they are constants. */
#include "probe/detail.h"

#include <math.h>

/* Index of the weakest entry, the highest channel of equals. */
static int weakest(const sl_sink_dims *s) {
    int at = 0;
    for (int i = 1; i < s->count; i++)
        if (s->strength[i] <= s->strength[at])
            at = i;
    return at;
}

static void drop(sl_sink_dims *s, int at) {
    for (int i = at; i + 1 < s->count; i++) {
        s->dim[i] = s->dim[i + 1];
        s->strength[i] = s->strength[i + 1];
    }
    s->count--;
}

sl_sink_dims sl_find_sink_dims(int64_t n, const double *mean_abs, double *scratch) {
    sl_sink_dims s = {0};
    double median = sl_median(n, mean_abs, scratch);
    if (!(median > 0) || !isfinite(median))
        return s;
    for (int64_t j = 0; j < n; j++) {
        double strength = mean_abs[j] / median;
        if (strength < SL_SINK_STRENGTH)
            continue;
        if (s.count == SL_SINK_DIMS) {
            int least = weakest(&s);
            if (s.strength[least] >= strength)
                continue;
            drop(&s, least);
        }
        s.dim[s.count] = j;
        s.strength[s.count++] = strength;
    }
    return s;
}

/* Over tokens other than token 0. */
void sl_share_add(sl_share *s, const sl_kernels *k, int64_t windows, int64_t seq, int64_t dim, const float *x,
                  const sl_sink_dims *sinks) {
    for (int64_t t = 0; t < windows * seq; t++) {
        const float *row = x + t * dim;
        double part = 0;
        if (t % seq == 0)
            continue;
        for (int i = 0; i < sinks->count; i++)
            part += (double)row[sinks->dim[i]] * row[sinks->dim[i]];
        s->part += sqrt(part);
        s->whole += sqrt(k->sumsq(dim, row));
    }
}

/* ---- static or dynamic */

/* Standardises n values `step` apart into z (the same places), with 0 for their mean unless centred; false if there is
 * nothing left, but for rounding. */
static bool standardise(int64_t n, int64_t step, bool centred, const float *x, double *z) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; centred && i < n; i++)
        mean += x[i * step];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++) {
        double d = x[i * step] - mean;
        variance += d * d / (double)n;
    }
    if (!(variance > 1e-22 * mean * mean))
        return false;
    for (int64_t i = 0; i < n; i++)
        z[i * step] = (x[i * step] - mean) / sqrt(variance);
    return true;
}

/* Mean Pearson correlation (centred), or mean cosine, over all pairs of `lines` lines of n values each: of standardised
 * lines z, sum over pairs of z_a.z_b / n = (|sum_a z_a|^2 - sum_a |z_a|^2) / 2n, and |z_a|^2 = n. */
static double mean_agreement(int64_t lines, int64_t line_step, int64_t n, int64_t step, bool centred, const float *x,
                             double *z) {
    int64_t used = 0;
    double square = 0;
    double *line = z, *sum = z + (n - 1) * step + 1;
    for (int64_t i = 0; i < n; i++)
        sum[i] = 0;
    for (int64_t a = 0; a < lines; a++) {
        if (!standardise(n, step, centred, x + a * line_step, line))
            continue;
        used++;
        for (int64_t i = 0; i < n; i++)
            sum[i] += line[i * step];
    }
    for (int64_t i = 0; i < n; i++)
        square += sum[i] * sum[i] / (double)n;
    return used < 2 ? NAN : (square - (double)used) / ((double)used * (double)(used - 1));
}

sl_dynamics sl_dynamics_measure(int64_t windows, int64_t seq, const float *x, double *scratch) {
    double sum = 0, square = 0, n = (double)(windows * (seq - 1));
    int64_t positive = 0, negative = 0;
    for (int64_t t = 0; t < windows * seq; t++) {
        if (t % seq == 0)
            continue;
        sum += x[t];
        square += (double)x[t] * x[t];
        positive += x[t] > 0;
        negative += x[t] < 0;
    }
    sl_dynamics d = {.mean = sum / n, .constant_share = sum / n * (sum / n) / (square / n),
                     .same_sign = (double)(positive > negative ? positive : negative) / n};
    d.across_sequences = mean_agreement(windows, seq, seq - 1, 1, true, x + 1, scratch);
    d.across_positions = mean_agreement(seq - 1, 1, windows, seq, true, x + 1, scratch);
    d.agreement = mean_agreement(windows, seq, seq - 1, 1, false, x + 1, scratch);
    return d;
}
