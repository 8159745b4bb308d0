#include "quant/interval.h"

#include <math.h>

/* P(|T| <= t): the finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4. */
static double student_share(double t, int64_t df) {
    double theta = atan(t / sqrt((double)df)), c = cos(theta), s = sin(theta), term = df % 2 ? c : 1, sum = 0;
    for (int64_t k = df % 2 ? 1 : 0; k < df - 1; k += 2) {
        sum += term;
        term *= c * c * (double)(k + 1) / (double)(k + 2);
    }
    return df % 2 ? (theta + s * sum) * 2 / acos(-1) : s * sum;
}

double sl_student_quantile(double p, int64_t df) {
    double lo = 0, hi = 1;
    while (student_share(hi, df) < p)
        hi *= 2;
    for (int i = 0; i < 60; i++) {
        double mid = (lo + hi) / 2;
        if (student_share(mid, df) < p)
            lo = mid;
        else
            hi = mid;
    }
    return (lo + hi) / 2;
}

sl_interval sl_mean_interval(int64_t n, const double *x, const double *y) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++)
        mean += (x[i] - (y ? y[i] : 0)) / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double r = x[i] - (y ? y[i] : 0) - mean;
        square += r * r;
    }
    double half = n > 1 ? sl_student_quantile(0.95, n - 1) * sqrt(square / (double)(n - 1) / (double)n) : NAN;
    return (sl_interval){mean, half, n};
}
