/* The references: double and complex double. Written from the formulas, not from the kernels. */
#ifndef SL_TESTS_KERN_REF_H
#define SL_TESTS_KERN_REF_H

#include <complex.h>
#include <math.h>
#include <stdint.h>
#undef I /* a name too short to lose */

#define STEP 0x1p-300 /* complex step: its square vanishes */
/* x + i*STEP, and the derivative read back. */
#define Z_STEP(x) ((x) + STEP * _Complex_I)
#define Z_SLOPE(z) (cimag(z) / STEP)

/* Phi(x), to full relative accuracy in the left tail. */
static inline double d_normal_cdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }

/* Phi(z) = 1/2 + phi(z) * sum z^(2n+1)/(2n+1)!!, terms of one sign for real z; for |z| < 8. */
static inline double complex z_normal_cdf(double complex z) {
    double complex term = z, sum = z;
    for (int n = 1; n < 200; n++)
        sum += term *= z * z / (2 * n + 1);
    return 0.5 + sum * cexp(-z * z / 2) * 0.39894228040143267794;
}

#define STEEP ((double)1.702f) /* as the kernels have it */
#define GELU_TANH_2 1.5957691216057307 /* 2 sqrt(2/pi) */

#define T double
#define FN(name) d_##name
#define EXP exp
#define LOG log
#define SQRT sqrt
#define RE(x) (x)
#include "forward.inc"
#undef T
#undef FN
#undef EXP
#undef LOG
#undef SQRT
#undef RE

#define T double complex
#define FN(name) z_##name
#define EXP cexp
#define LOG clog
#define SQRT csqrt
#define RE(x) creal(x)
#include "forward.inc"
#undef T
#undef FN
#undef EXP
#undef LOG
#undef SQRT
#undef RE

#endif
