#include "probe/measures.h"

#include "base/threads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 128 }; /* channels of one item; a cut by shape alone */

typedef struct {
    sl_residual *r;
    const sl_kernels *k;
    const float *h;
    double *norms;
    int32_t *leaders;
    int64_t windows, blocks;
} residual_job;

/* Totals of a block of channels; every item has its own channels, so nothing needs folding. */
static void add_columns(const residual_job *j, int64_t first) {
    sl_residual *r = j->r;
    int64_t n = r->dim - first < COLUMNS ? r->dim - first : COLUMNS;
    const float *h = j->h + first;
    j->k->abs_stats(j->windows, n, h, r->seq * r->dim, r->sum_abs0 + first, r->sum_sq0 + first,
                    r->max0 + first);
    for (int64_t w = 0; w < j->windows; w++)
        j->k->abs_stats(r->seq - 1, n, h + (w * r->seq + 1) * r->dim, r->dim, r->sum_abs + first,
                        r->sum_sq + first, r->max + first);
}

/* The channel of the largest |x|, the lowest of equals. */
static int32_t leader(int64_t n, const float *x) {
    int32_t at = 0;
    for (int64_t j = 1; j < n; j++)
        if (fabsf(x[j]) > fabsf(x[at]))
            at = (int32_t)j;
    return at;
}

static void add_rows(const residual_job *j, int64_t window) {
    const sl_residual *r = j->r;
    const float *h = j->h + window * r->seq * r->dim;
    double others = 0;
    for (int64_t t = 1; t < r->seq; t++) {
        others += sqrt(j->k->sumsq(r->dim, h + t * r->dim));
        j->leaders[window * r->seq + t] = leader(r->dim, h + t * r->dim);
    }
    j->norms[2 * window] = sqrt(j->k->sumsq(r->dim, h));
    j->norms[2 * window + 1] = others;
}

static void residual_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const residual_job *j = ctx;
    if (item < j->blocks)
        add_columns(j, item * COLUMNS);
    else
        add_rows(j, item - j->blocks);
}

void sl_residual_add(sl_residual *r, const sl_kernels *k, int64_t windows, const float *h, double *window_norms,
                     int32_t *leaders) {
    residual_job job = {r, k, h, window_norms, leaders, windows, (r->dim + COLUMNS - 1) / COLUMNS};
    sl_parallel(job.blocks + windows, residual_item, &job);
    for (int64_t w = 0; w < windows; w++) {
        r->norm0 += window_norms[2 * w];
        r->norm_others += window_norms[2 * w + 1];
        for (int64_t t = 1; t < r->seq; t++)
            r->led[leaders[w * r->seq + t]]++;
    }
    r->windows += windows;
}

void sl_residual_mean_abs(const sl_residual *r, bool with_token0, double *mean) {
    double n = (double)(r->windows * (r->seq - !with_token0));
    for (int64_t j = 0; j < r->dim; j++)
        mean[j] = ((with_token0 ? r->sum_abs0[j] : 0) + r->sum_abs[j]) / n;
}

/* Largest value; NaN if one is NaN (which fmax would hide). */
static double largest(int64_t n, const float *x) {
    double m = 0;
    for (int64_t j = 0; j < n; j++)
        if (x[j] > m || isnan(x[j]))
            m = x[j];
    return m;
}

static double larger(double a, double b) { return isnan(a) || a > b ? a : b; }

sl_residual_figures sl_residual_measure(const sl_residual *r, double *scratch) {
    sl_residual_figures f = {NAN, NAN, NAN, -1, NAN, NAN, NAN, NAN, NAN};
    double *mean = scratch, *sorted = scratch + r->dim;
    double tokens = (double)(r->windows * r->seq);
    if (r->windows == 0)
        return f;
    sl_residual_mean_abs(r, true, mean);
    f.top1_permille = sl_top1_permille(r->dim, mean, sorted);
    for (int64_t j = 0; j < r->dim; j++)
        mean[j] = (r->sum_sq0[j] + r->sum_sq[j]) / tokens;
    f.kurtosis_h = sl_kurtosis_h(r->dim, mean);
    f.max = largest(r->dim, r->max0);
    if (r->seq == 1)
        return f;
    f.kurtosis_h_no_token0 = sl_kurtosis_h(r->dim, r->sum_sq); /* a factor common to all channels cancels */
    f.max_no_token0 = largest(r->dim, r->max);
    f.max = larger(f.max, f.max_no_token0);
    sl_residual_mean_abs(r, false, mean);
    f.m2 = sl_m2(r->dim, mean, sorted, &f.m2_dim);
    f.m2_share = f.m2_dim < 0 ? NAN : r->led[f.m2_dim] / (double)(r->windows * (r->seq - 1));
    f.token0_norm_ratio = r->norm0 / (r->norm_others / (double)(r->seq - 1));
    return f;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A sorted copy; false if a value is NaN, which has no place in an order. */
static bool sort_into(int64_t n, const double *x, double *sorted) {
    for (int64_t j = 0; j < n; j++)
        if (isnan(x[j]))
            return false;
    memcpy(sorted, x, (size_t)n * sizeof *x);
    qsort(sorted, (size_t)n, sizeof *x, ascending);
    return true;
}

double sl_median(int64_t n, const double *x, double *scratch) {
    if (n == 0 || !sort_into(n, x, scratch))
        return NAN;
    return (scratch[(n - 1) / 2] + scratch[n / 2]) / 2;
}

double sl_m2(int64_t n, const double *mean_abs, double *scratch, int64_t *dim) {
    *dim = -1;
    double median = sl_median(n, mean_abs, scratch);
    if (!(median > 0))
        return NAN;
    *dim = 0;
    while (mean_abs[*dim] != scratch[n - 1])
        ++*dim;
    return scratch[n - 1] / median;
}

double sl_top1_permille(int64_t n, const double *mean_abs, double *scratch) {
    if (!sort_into(n, mean_abs, scratch))
        return NAN;
    int64_t count = (n + 999) / 1000;
    double top = 0, all = 0;
    for (int64_t j = 0; j < n; j++) {
        all += scratch[j];
        if (j >= n - count)
            top += scratch[j];
    }
    return 1000 * top / all;
}

double sl_kurtosis_h(int64_t n, const double *mean_sq) {
    double second = 0, fourth = 0;
    for (int64_t j = 0; j < n; j++) {
        second += mean_sq[j];
        fourth += mean_sq[j] * mean_sq[j];
    }
    return fourth * (double)n / (second * second);
}
