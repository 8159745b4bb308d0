#include "probe/detail.h"

#include "base/threads.h"

#include <math.h>
#include <string.h>

enum { COLUMNS = 128 }; /* channels of one item; a cut by shape alone */

typedef struct {
    sl_outliers *o;
    const sl_outlier_rows *x;
    double *window; /* per window: max, max without token 0, kurtosis */
    uint64_t *bins; /* per thread */
} job;

/* The upper half of |x|'s bits orders magnitudes, in steps of at most 1/128 of the value. */
static uint32_t bin_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7fffffff) >> 16;
}

static double bin_edge(uint32_t bin) {
    uint32_t bits = bin << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double largest(double a, float x) { return isnan(x) || fabsf(x) > a ? fabs((double)x) : a; }

/* Fourth standardised moment of all values of a window, around their mean. */
static double kurtosis(const sl_outlier_rows *r, const float *x) {
    double n = (double)(r->seq * r->dim), mean = 0, second = 0, fourth = 0;
    for (int64_t t = 0; t < r->seq; t++)
        for (int64_t c = 0; c < r->dim; c++)
            mean += x[t * r->ld + c];
    mean /= n;
    for (int64_t t = 0; t < r->seq; t++)
        for (int64_t c = 0; c < r->dim; c++) {
            double d = x[t * r->ld + c] - mean, d2 = d * d;
            second += d2;
            fourth += d2 * d2;
        }
    return fourth / n / (second / n * (second / n));
}

static void add_window(const job *j, int64_t window, int thread) {
    const sl_outlier_rows *r = j->x;
    const float *x = r->x + window * r->seq * r->ld;
    uint64_t *bins = j->bins + (size_t)thread * SL_OUTLIER_BINS;
    double max = 0, others = 0;
    for (int64_t t = 0; t < r->seq; t++)
        for (int64_t c = 0; c < r->dim; c++) {
            float v = x[t * r->ld + c];
            bins[bin_of(v)]++;
            if (t == 0 && !isnan(max))
                max = largest(max, v);
            else if (t > 0 && !isnan(others))
                others = largest(others, v);
        }
    j->window[3 * window] = isnan(max) || max > others ? max : others;
    j->window[3 * window + 1] = others;
    j->window[3 * window + 2] = kurtosis(r, x);
}

static void add_columns(const job *j, int64_t first) {
    const sl_outlier_rows *r = j->x;
    int64_t end = first + COLUMNS < r->dim ? first + COLUMNS : r->dim;
    for (int64_t t = 0; t < r->windows * r->seq; t++)
        for (int64_t c = first; c < end; c++)
            j->o->sum_sq[c] += (double)r->x[t * r->ld + c] * r->x[t * r->ld + c];
}

static void item(void *ctx, int64_t i, int thread) {
    const job *j = ctx;
    if (i < j->x->windows)
        add_window(j, i, thread);
    else
        add_columns(j, (i - j->x->windows) * COLUMNS);
}

void sl_outliers_add(sl_outliers *o, const sl_outlier_rows *x, double *window, uint64_t *bins) {
    job j = {o, x, window, bins};
    size_t threads = (size_t)sl_threads();
    memset(bins, 0, threads * SL_OUTLIER_BINS * sizeof *bins);
    sl_parallel(x->windows + (x->dim + COLUMNS - 1) / COLUMNS, item, &j);
    for (size_t i = 0; i < threads * SL_OUTLIER_BINS; i++)
        o->bins[i % SL_OUTLIER_BINS] += bins[i];
    for (int64_t w = 0; w < x->windows; w++) {
        o->max = isnan(window[3 * w]) || window[3 * w] > o->max ? window[3 * w] : o->max;
        o->max_no_token0 =
            isnan(window[3 * w + 1]) || window[3 * w + 1] > o->max_no_token0 ? window[3 * w + 1] : o->max_no_token0;
        o->kurtosis += window[3 * w + 2];
    }
    o->windows += x->windows;
    o->rows += x->windows * x->seq;
}

/* Median magnitude, linear within its bin. */
static double median_of(const uint64_t *bins, double n) {
    double below = 0;
    for (uint32_t b = 0; b < SL_OUTLIER_BINS; b++) {
        if (below + (double)bins[b] >= n / 2 && bins[b])
            return bin_edge(b) + (bin_edge(b + 1) - bin_edge(b)) * (n / 2 - below) / (double)bins[b];
        below += (double)bins[b];
    }
    return NAN;
}

sl_outlier_figures sl_outliers_measure(const sl_outliers *o, double *scratch) {
    sl_outlier_figures f = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, -1};
    double *rms = scratch;
    int64_t over = 0;
    if (o->windows == 0 || isnan(o->max))
        return f;
    for (int64_t c = 0; c < o->dim; c++)
        rms[c] = o->sum_sq[c] / (double)o->rows;
    f.kurtosis_h = sl_kurtosis_h(o->dim, rms);
    for (int64_t c = 0; c < o->dim; c++)
        rms[c] = sqrt(rms[c]);
    f.max = o->max;
    f.max_no_token0 = o->rows > o->windows ? o->max_no_token0 : NAN;
    f.max_over_median = o->max / median_of(o->bins, (double)o->rows * (double)o->dim);
    f.kurtosis = o->kurtosis / (double)o->windows;
    f.channel_max_over_median = sl_m2(o->dim, rms, scratch + o->dim, &f.channel);
    double median = sl_median(o->dim, rms, scratch + o->dim);
    for (int64_t c = 0; c < o->dim; c++)
        over += rms[c] > 6 * median;
    f.channels_over_6 = median > 0 ? (double)over / (double)o->dim : NAN;
    return f;
}
