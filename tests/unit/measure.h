/* What unit tests of measures share: arrays, random values, and comparison. */
#ifndef SL_TESTS_MEASURE_H
#define SL_TESTS_MEASURE_H

#include "base/mem.h"
#include "base/rng.h"
#include "simd/kernels.h"

#include <check.h>
#include <math.h>

static inline const sl_kernels *kernels(void) { return sl_kernels_select(SL_ISA_AUTO); }

/* n of them, to be freed by sl_free(). */
static inline double *doubles(int64_t n) { return sl_alloc((size_t)n * sizeof(double), "test"); }
static inline float *floats(int64_t n) { return sl_alloc((size_t)n * sizeof(float), "test"); }

/* Normal values, the same for the same `sub`. */
static inline float *random_floats(int64_t n, uint64_t sub) {
    sl_rng r = sl_rng_make(1, SL_STREAM_TEST, sub);
    float *x = floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)sl_rng_normal(&r);
    return x;
}

/* |a - b| <= rel * |b|, NaN never. */
static inline void ck_close(double a, double b, double rel) {
    ck_assert_msg(fabs(a - b) <= rel * fabs(b), "%.17g is not %.17g within %g", a, b, rel);
}

#endif
