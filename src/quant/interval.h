/* Means and their intervals. */
#ifndef SL_QUANT_INTERVAL_H
#define SL_QUANT_INTERVAL_H

#include <stdint.h>

/* mean - half .. mean + half holds the expectation with 95 % if the values are independent and normal (Student). half
 * is NaN of fewer than two values. */
typedef struct {
    double mean, half;
    int64_t n;
} sl_interval;
/* Of x[i] - y[i], or of x[i] with y NULL. */
sl_interval sl_mean_interval(int64_t n, const double *x, const double *y);
/* t with P(|T| <= t) = p of Student's distribution with df degrees of freedom. */
double sl_student_quantile(double p, int64_t df);

#endif
