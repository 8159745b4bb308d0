#include "probe/detail.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

enum { ROUNDS = 2000 };

static double dot(int64_t n, const double *x, const double *y) {
    double s = 0;
    for (int64_t i = 0; i < n; i++)
        s += x[i] * y[i];
    return s;
}

/* Scales to length 1; the length it had. */
static double normalise(int64_t n, double *x) {
    double length = sqrt(dot(n, x, x));
    for (int64_t i = 0; length > 0 && i < n; i++)
        x[i] /= length;
    return length;
}

static void remove_direction(int64_t n, const double *unit, double *x) {
    double along = dot(n, unit, x);
    for (int64_t i = 0; i < n; i++)
        x[i] -= along * unit[i];
}

/* Leading left singular vector orthogonal to `other` (NULL: of all) into u; its singular value. */
static double iterate(const sl_linear *m, const double *other, double *u, double *y, double *x, bool *converged) {
    sl_rng rng = sl_rng_make(0, SL_STREAM_INIT, 0);
    double sigma = 0;
    for (int64_t i = 0; i < m->rows; i++)
        u[i] = sl_rng_normal(&rng);
    normalise(m->rows, u);
    *converged = false;
    for (int round = 0; round < ROUNDS && !*converged; round++) {
        double before = sigma;
        m->transposed(m->map, u, x);
        m->apply(m->map, x, y);
        if (other)
            remove_direction(m->rows, other, y);
        sigma = sqrt(normalise(m->rows, y));
        memcpy(u, y, (size_t)m->rows * sizeof *u);
        *converged = sigma == 0 || fabs(sigma - before) <= 1e-12 * sigma;
    }
    return sigma;
}

sl_singular sl_leading_singular(const sl_linear *m, double *u, double *scratch) {
    double *y = scratch, *second = y + m->rows, *x = second + m->rows;
    bool ignored;
    sl_singular s = {0};
    s.sigma = iterate(m, NULL, u, y, x, &s.converged);
    s.second = iterate(m, u, second, y, x, &ignored);
    return s;
}

double sl_alignment(int64_t n, const double *u, const float *x) {
    double uu = 0, xx = 0, ux = 0;
    for (int64_t i = 0; i < n; i++) {
        uu += u[i] * u[i];
        xx += (double)x[i] * x[i];
        ux += u[i] * x[i];
    }
    return uu > 0 && xx > 0 ? fabs(ux) / sqrt(uu * xx) : NAN;
}
