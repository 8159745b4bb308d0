/* vec.h in plain C, one lane: for any CPU, and the reference for the others. */
#ifndef SL_SIMD_VEC_SCALAR_H
#define SL_SIMD_VEC_SCALAR_H

#define VL 1

typedef float vf;
typedef int32_t vi;
typedef int vm;
typedef double vd;

SL_VEC vf v_zero(void) { return 0.0f; }
SL_VEC vf v_set1(float a) { return a; }
SL_VEC vf v_load(const float *p) { return *p; }
SL_VEC void v_store(float *p, vf a) { *p = a; }
SL_VEC vf v_load_n(const float *p, int n) { return n ? *p : 0.0f; }
SL_VEC void v_store_n(float *p, vf a, int n) {
    if (n)
        *p = a;
}

SL_VEC vi vi_load_n(const int32_t *p, int n) { return n ? *p : 0; }
SL_VEC void vi_store_low8_n(uint8_t *p, vi a, int n) {
    if (n)
        *p = (uint8_t)a;
}

SL_VEC vi v_bits(vf a) {
    vi b;
    memcpy(&b, &a, sizeof b);
    return b;
}
SL_VEC vf v_float(vi a) {
    vf b;
    memcpy(&b, &a, sizeof b);
    return b;
}
SL_VEC vi vi_set1(int32_t a) { return a; }
SL_VEC vi vi_add(vi a, vi b) { return (vi)((uint32_t)a + (uint32_t)b); }
SL_VEC vi vi_sub(vi a, vi b) { return (vi)((uint32_t)a - (uint32_t)b); }
SL_VEC vi vi_and(vi a, vi b) { return a & b; }
#define vi_sra(a, k) ((a) >> (k)) /* arithmetic in gcc and clang */
SL_VEC vf v_from_int(vi a) { return (float)a; }

SL_VEC vf v_add(vf a, vf b) { return a + b; }
SL_VEC vf v_sub(vf a, vf b) { return a - b; }
SL_VEC vf v_mul(vf a, vf b) { return a * b; }
SL_VEC vf v_div(vf a, vf b) { return a / b; }
SL_VEC vf v_sqrt(vf a) { return __builtin_sqrtf(a); }

#if defined __FP_FAST_FMAF || defined __ARM_FEATURE_FMA
SL_VEC vf v_fma(vf a, vf b, vf c) { return __builtin_fmaf(a, b, c); }
SL_VEC vf v_muladd(vf a, vf b, vf c) { return __builtin_fmaf(a, b, c); }
#else
/* The product is exact in double, so the sum is the only rounding before that to float, and two
 * roundings differ from one only where the first lands on a tie of the second. There, and for
 * subnormal results, whose ties are elsewhere, the sum is rounded to odd instead (Boldo and
 * Melquiond 2008). */
SL_VEC vf v_fma(vf a, vf b, vf c) {
    double p = (double)a * b, s = p + c;
    int64_t u;
    memcpy(&u, &s, sizeof u);
    if ((u & 0x1fffffff) == 0x10000000 || (s < 0x1p-126 && s > -0x1p-126)) {
        double bb = s - p, err = (p - (s - bb)) + (c - bb);
        if ((err > 0 || err < 0) && !(u & 1))
            u += (err > 0) == (s > 0) ? 1 : -1;
        memcpy(&s, &u, sizeof s);
    }
    return (float)s;
}
SL_VEC vf v_muladd(vf a, vf b, vf c) { return a * b + c; }
#endif
SL_VEC vf v_fnma(vf a, vf b, vf c) { return v_fma(-a, b, c); }

SL_VEC vf v_max(vf a, vf b) { return a > b ? a : b; }
SL_VEC vf v_min(vf a, vf b) { return a < b ? a : b; }
SL_VEC vf v_abs(vf a) { return __builtin_fabsf(a); }
SL_VEC vf v_neg(vf a) { return -a; }
SL_VEC vf v_copysign(vf mag, vf sign) { return __builtin_copysignf(mag, sign); }

SL_VEC vm v_lt(vf a, vf b) { return a < b; }
SL_VEC vm v_gt(vf a, vf b) { return a > b; }
SL_VEC vm v_isnan(vf a) { return a != a; }
SL_VEC vf v_sel(vm m, vf yes, vf no) { return m ? yes : no; }
SL_VEC vf v_head(vf a, int n, vf rest) { return n ? a : rest; }

/* a * 2^e for integral e where a and the result are normal; NaN stays NaN; otherwise any value. */
SL_VEC vf v_scale2(vf a, vf e) {
    return e >= -300 && e <= 300 ? v_float(vi_add(v_bits(a), (vi)((uint32_t)(int)e << 23))) : a;
}

SL_VEC float v_reduce_add(vf a) { return a; }
SL_VEC float v_reduce_max(vf a) { return a; }

SL_VEC vf v_load_bf16_n(const sl_bf16 *p, int n) {
    return n ? v_float((vi)((uint32_t)*p << 16)) : 0.0f;
}
SL_VEC void v_store_bf16_n(sl_bf16 *p, vf a, int n) {
    uint32_t u = (uint32_t)v_bits(a);
    if (n)
        *p = (sl_bf16)(a != a ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

SL_VEC vd vd_zero(void) { return 0.0; }
SL_VEC vd vd_load_n(const double *p, int n) { return n ? *p : 0.0; }
SL_VEC void vd_store_n(double *p, vd a, int n) {
    if (n)
        *p = a;
}
SL_VEC vd vd_add(vd a, vd b) { return a + b; }
SL_VEC vd vd_add_float(vd a, vf x) { return a + x; }
SL_VEC vd vd_add_square(vd a, vf x) { return a + (double)x * x; } /* the product is exact */
SL_VEC double vd_reduce_add(vd a) { return a; }

/* r[i] lane j <-> r[j] lane i */
SL_VEC void v_transpose(vf r[VL]) { (void)r; }

#endif
