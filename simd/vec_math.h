/* exp, log, sigmoid, tanh and erf over the operations of vec.h, inlined. Coefficients: minimax fits
 * of the relative error (Remez in 200-bit arithmetic, then rounded to float). Every tier gives the
 * same bits. The bounds given here are tested by the kernel runner; over every 61st float the worst
 * were 0.88 (exp), 0.85 (log), 2.4 (sigmoid), 1.4 (tanh) and 1.2 (erf) units in the last place. */
#ifndef SL_SIMD_VEC_MATH_H
#define SL_SIMD_VEC_MATH_H

#include "simd/vec.h"

/* e^x to 1.2 ULP. Above ln(FLT_MAX) it is +inf, below ln(FLT_MIN) = -87.34 it is 0 (results that
 * would be subnormal are flushed); NaN stays NaN. x = n ln2 + r with ln2 in two parts (n times the
 * first part cancels exactly), e^r by a polynomial. */
SL_VEC vf v_exp(vf x) {
    const vf magic = v_set1(0x1.8p23f); /* adding it rounds to an integer */
    vf n = v_sub(v_fma(x, v_set1(0x1.715476p+0f), magic), magic);
    vf r = v_fnma(n, v_set1(0x1.62e43p-1f), x);
    r = v_fnma(n, v_set1(-0x1.05c61p-29f), r);
    vf p = v_fma(v_set1(0x1.6a2428p-10f), r, v_set1(0x1.1239e4p-7f));
    p = v_fma(p, r, v_set1(0x1.5558f2p-5f));
    p = v_fma(p, r, v_set1(0x1.555492p-3f));
    p = v_fma(p, r, v_set1(0x1.fffffcp-2f));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    vf y = v_scale2(p, n);
    y = v_sel(v_lt(x, v_set1(-0x1.5d589ep+6f)), v_zero(), y);
    return v_sel(v_gt(x, v_set1(0x1.62e42ep+6f)), v_set1(__builtin_inff()), y);
}

/* ln x to 1 ULP, subnormals too; -inf at 0, NaN below.
 * x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); e times the first part of ln2 is exact. */
SL_VEC vf v_log(vf x) {
    vm tiny = v_lt(x, v_set1(0x1p-126f));
    vf z = v_sel(tiny, v_mul(x, v_set1(0x1p23f)), x);
    vi u = vi_sub(v_bits(z), vi_set1(0x3f3504f3)); /* minus the bits of sqrt(1/2) */
    vf e = v_add(v_from_int(vi_sra(u, 23)), v_sel(tiny, v_set1(-23.0f), v_zero()));
    vf f = v_float(vi_add(vi_and(u, vi_set1(0x007fffff)), vi_set1(0x3f3504f3)));
    f = v_sub(f, v_set1(1.0f));
    vf p = v_fma(v_set1(-0x1.41fdbap-4f), f, v_set1(0x1.07db2cp-3f));
    p = v_fma(p, f, v_set1(-0x1.0ce22cp-3f));
    p = v_fma(p, f, v_set1(0x1.226cf4p-3f));
    p = v_fma(p, f, v_set1(-0x1.547842p-3f));
    p = v_fma(p, f, v_set1(0x1.99a5a4p-3f));
    p = v_fma(p, f, v_set1(-0x1.00022p-2f));
    p = v_fma(p, f, v_set1(0x1.55554ap-2f));
    /* f - f^2/2 + f^3 p + e ln2, small terms first */
    vf ff = v_mul(f, f);
    vf y = v_fma(v_mul(f, p), ff, v_mul(e, v_set1(0x1.7f7d1cp-20f)));
    y = v_fma(ff, v_set1(-0.5f), y);
    y = v_add(y, f);
    y = v_fma(e, v_set1(0x1.62e4p-1f), y);
    y = v_sel(v_lt(x, v_set1(__builtin_inff())), y, x); /* +inf and NaN */
    y = v_sel(v_gt(x, v_zero()), y, v_sel(v_isnan(x), x, v_set1(-__builtin_inff())));
    return v_sel(v_lt(x, v_zero()), v_set1(__builtin_nanf("")), y);
}

/* 1/(1 + e^-x) to 2.5 ULP; 0 below -88.72. */
SL_VEC vf v_sigmoid(vf x) { return v_div(v_set1(1.0f), v_add(v_set1(1.0f), v_exp(v_neg(x)))); }

/* sigmoid(x) and 1 - sigmoid(x). The latter is e^-x sigmoid(x), which keeps its digits where
 * sigmoid(x) is nearly 1; it is 1 where e^-x may have overflowed. */
SL_VEC vf v_sigmoid_pair(vf x, vf *complement) {
    vf one = v_set1(1.0f), e = v_exp(v_neg(x)), q = v_div(one, v_add(one, e));
    *complement = v_sel(v_lt(x, v_set1(-80.0f)), one, v_mul(e, q));
    return q;
}

/* tanh x to 2 ULP: x + x^3 P(x^2) up to 0.625, 1 - 2/(e^2x + 1) beyond. */
SL_VEC vf v_tanh(vf x) {
    vf a = v_abs(x), z = v_mul(a, a);
    vf p = v_fma(v_set1(-0x1.76ac0cp-8f), z, v_set1(0x1.5256d4p-6f));
    p = v_fma(p, z, v_set1(-0x1.b84448p-5f));
    p = v_fma(p, z, v_set1(0x1.110768p-3f));
    p = v_fma(p, z, v_set1(-0x1.555534p-2f));
    vf small = v_fma(v_mul(a, z), p, a);
    vf big = v_div(v_set1(2.0f), v_add(v_exp(v_add(a, a)), v_set1(1.0f)));
    big = v_sub(v_set1(1.0f), big);
    return v_copysign(v_sel(v_lt(a, v_set1(0.625f)), small, big), x);
}

/* erf x to 2 ULP: x + x P(x^2) up to 0.921875, 1 - e^Q(|x|) beyond with Q a fit of ln erfc; 1
 * from 3.95. */
SL_VEC vf v_erf(vf x) {
    vf a = v_min(v_set1(3.95f), v_abs(x)), z = v_mul(x, x); /* this order keeps NaN */
    vf p = v_fma(v_set1(-0x1.3988b6p-11f), z, v_set1(0x1.471b8ep-8f));
    p = v_fma(p, z, v_set1(-0x1.b6869ep-6f));
    p = v_fma(p, z, v_set1(0x1.ce1a2ep-4f));
    p = v_fma(p, z, v_set1(-0x1.8126e4p-2f));
    p = v_fma(p, z, v_set1(0x1.06eba6p-3f));
    vf small = v_fma(x, p, x);
    vf q = v_fma(v_set1(0x1.9ae868p-13f), a, v_set1(-0x1.8ee112p-9f));
    q = v_fma(q, a, v_set1(0x1.6c2a4ap-6f));
    q = v_fma(q, a, v_set1(-0x1.a9b416p-4f));
    q = v_fma(q, a, v_set1(-0x1.463cc4p-1f));
    q = v_fma(q, a, v_set1(-0x1.20af58p+0f));
    q = v_fma(q, a, v_set1(-0x1.9a638ap-13f));
    vf big = v_copysign(v_sub(v_set1(1.0f), v_exp(q)), x);
    return v_sel(v_lt(a, v_set1(0.921875f)), small, big);
}

#endif
