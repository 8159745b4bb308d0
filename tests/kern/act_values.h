/* The activations of simd/ffn.inc in double, each with a bound of the kernels' error derived from that of exp in
 * simd/vec_math.h; a new row has its function and slope here. Included by act.c alone. */
#ifndef SL_TESTS_KERN_ACT_VALUES_H
#define SL_TESTS_KERN_ACT_VALUES_H

#include "kern.h"
#include "ref.h"

struct value {
    double want, bound;
};

/* ---- sigmoid and silu with the errors of 1/(1 + exp(-x)) in binary32. exp enters 1 + e with
 * weight e/(1 + e) = 1 - q; then an addition and a division. exp(-x) may overflow, or the result be
 * flushed, when q is below the least normal number. */
static double sigmoid_error(double x) {
    double q = d_sigmoid(x);
    return q * (EXP_REL * (1 - q) + 2 * U) + SMALLEST;
}

static struct value sigmoid(double x) {
    return (struct value){d_sigmoid(x), sigmoid_error(x)};
}

static struct value silu(double x) {
    if (isinf(x))
        return (struct value){x > 0 ? x : -0.0, SMALLEST};
    return (struct value){d_silu(x), fabs(x) * (sigmoid_error(x) + U * d_sigmoid(x)) + 4 * TINY};
}

/* 1 - q as e^-x q, which keeps its digits where q is near 1: the errors of both and a product. */
static double complement_error(double x) {
    double t = d_sigmoid(-x);
    return t * (2 * EXP_REL + 3 * U) + SMALLEST;
}

static struct value sigmoid_slope(double x) {
    double q = d_sigmoid(x), t = d_sigmoid(-x);
    return (struct value){q * t, t * sigmoid_error(x) + q * complement_error(x) + 2 * U * q * t};
}

/* silu' = q + x q (1 - q) */
static struct value silu_slope(double x) {
    if (isinf(x))
        return (struct value){x > 0, 4 * U};
    double q = d_sigmoid(x), t = d_sigmoid(-x), dq = sigmoid_error(x), dt = complement_error(x);
    double y = q + x * q * t;
    return (struct value){y, dq + fabs(x) * (q * dt + t * dq + 3 * U * q * t) + U * fabs(y)};
}

/* Phi from (1 + erf(x/sqrt 2))/2: erf near 1 is off by 2 ulp = 2 u, rounding its argument by 2 u
 * moves it by at most 1 u (x erf' < 1/2), the addition by u; halved. Relative accuracy of the left
 * tail is not promised. */
#define CDF_ERROR (2 * U)

static struct value gelu(double x) {
    if (isinf(x))
        return (struct value){x > 0 ? x : -0.0, SMALLEST};
    double y = d_gelu(x);
    return (struct value){y, fabs(x) * CDF_ERROR + 2 * U * fabs(y) + 4 * TINY};
}

/* gelu' = Phi + x phi, phi = exp(-x^2/2)/sqrt(2 pi): rounding x^2/2 twice moves exp by x^2 u. */
static struct value gelu_slope(double x) {
    if (isinf(x))
        return (struct value){x > 0, 4 * U};
    double phi = exp(-x * x / 2) * 0.39894228040143267794, cdf = d_normal_cdf(x), y = cdf + x * phi;
    double phi_error = phi * (EXP_REL + x * x * U + 2 * U);
    return (struct value){y, CDF_ERROR + fabs(x) * (phi_error + U * phi + SMALLEST) + U * fabs(y)};
}

/* GELU by tanh is x sigmoid(w), w = 2 sqrt(2/pi) (x + 0.044715 x^3): rounding w moves it by q (1 - q) |w| times
 * 4 u. Kernels take the sigmoid as 0 or 1 beyond 16. */
static double gelu_tanh_arg(double x) { return GELU_TANH_2 * (x + 0.044715 * x * x * x); }
static double gelu_tanh_moved(double w) { return 4 * U * fabs(w) * d_sigmoid(w) * d_sigmoid(-w); }

static struct value gelu_tanh(double x) {
    if (isinf(x))
        return (struct value){x > 0 ? x : -0.0, SMALLEST};
    double w = gelu_tanh_arg(x), q = d_sigmoid(w);
    return (struct value){x * q, fabs(x) * (sigmoid_error(w) + gelu_tanh_moved(w) + U * q) + 4 * TINY};
}

/* q + x q (1 - q) w' */
static struct value gelu_tanh_slope(double x) {
    if (fabs(x) > 16)
        return (struct value){x > 0, 4 * U};
    double w = gelu_tanh_arg(x), q = d_sigmoid(w), t = d_sigmoid(-w), steep = GELU_TANH_2 * (1 + 3 * 0.044715 * x * x);
    double dq = sigmoid_error(w) + gelu_tanh_moved(w), dt = complement_error(w) + gelu_tanh_moved(w);
    double y = q + x * q * t * steep;
    return (struct value){y, dq + fabs(x) * steep * (q * dt + t * dq + 8 * U * q * t) + U * fabs(y)};
}

static struct value relu(double x) { return (struct value){x > 0 || isnan(x) ? x : 0, TINY}; }
static struct value relu_slope(double x) { return (struct value){x > 0 ? 1 : 0, 0}; }

static struct value relu2(double x) {
    double y = x > 0 ? x * x : isnan(x) ? x : 0;
    return (struct value){y, 2 * U * y + TINY};
}
static struct value relu2_slope(double x) { return (struct value){x > 0 || isnan(x) ? 2 * x : 0, TINY}; }

/* c sigmoid(w), w = 1.702 c, c = min(x, 7): rounding w moves q by q (1 - q) |w| u. */
static double clamped_arg(double x) { return STEEP * fmin(x, 7); }
static double clamped_moved(double w) { return U * fabs(w) * d_sigmoid(w) * d_sigmoid(-w); }

static struct value clamped_silu(double x) {
    double w = clamped_arg(x), q = d_sigmoid(w), c = fmin(x, 7);
    if (isnan(x) || x == -INFINITY)
        return (struct value){isnan(x) ? x : -0.0, SMALLEST};
    return (struct value){c * q, fabs(c) * (sigmoid_error(w) + clamped_moved(w) + U * q) + 4 * TINY};
}

/* q + w q (1 - q) */
static struct value clamped_silu_slope(double x) {
    double w = clamped_arg(x), q = d_sigmoid(w), t = d_sigmoid(-w), y = q + w * q * t;
    if (isnan(x) || x > 7 || x == -INFINITY)
        return (struct value){isnan(x) ? x : 0, SMALLEST};
    double dq = sigmoid_error(w) + clamped_moved(w), dt = complement_error(w) + clamped_moved(w);
    return (struct value){y, dq + fabs(w) * (q * dt + t * dq + 4 * U * q * t) + U * fabs(y)};
}

static struct value clamped_plus_one(double x) {
    double y = 1 + (isnan(x) ? x : fmax(-7, fmin(7, x)));
    return (struct value){y, U * fabs(y)};
}
static double clamped_plus_one_slope(double x) { return fabs(x) > 7 ? 0 : 1; }

static struct value same(double x) { return (struct value){x, 0}; }
static double same_slope(double x) {
    (void)x;
    return 1;
}

/* a * b, a with an error, b exact; one rounding. */
static struct value times(struct value a, double b) {
    double want = a.want * b;
    return (struct value){want, a.bound * fabs(b) + 2 * U * fabs(want) +
                                    TINY * (4 + fabs(b) + fabs(a.want))};
}

/* Both with errors. */
static struct value product(struct value a, struct value b) {
    struct value y = times(a, b.want);
    y.bound += (fabs(a.want) + a.bound) * b.bound;
    return y;
}

static struct value exactly(double x) { return (struct value){x, 0}; }

#endif
