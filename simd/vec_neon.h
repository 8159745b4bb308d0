/* vec.h for AArch64 Advanced SIMD. There are no masked accesses, so partial ones go through a copy.
 */
#ifndef SL_SIMD_VEC_NEON_H
#define SL_SIMD_VEC_NEON_H

#ifndef __aarch64__
#error "the neon tier needs AArch64"
#endif

#include <arm_neon.h>

#define VL 4

typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vm;
typedef struct {
    float64x2_t lo, hi;
} vd;

SL_VEC vf v_zero(void) { return vdupq_n_f32(0); }
SL_VEC vf v_set1(float a) { return vdupq_n_f32(a); }
SL_VEC vf v_load(const float *p) { return vld1q_f32(p); }
SL_VEC void v_store(float *p, vf a) { vst1q_f32(p, a); }
SL_VEC vf v_load_n(const float *p, int n) {
    if (SL_FULL(n))
        return v_load(p);
    float t[VL] = {0};
    for (int i = 0; i < n; i++)
        t[i] = p[i];
    return v_load(t);
}
SL_VEC void v_store_n(float *p, vf a, int n) {
    if (SL_FULL(n)) {
        v_store(p, a);
        return;
    }
    float t[VL];
    v_store(t, a);
    for (int i = 0; i < n; i++)
        p[i] = t[i];
}

SL_VEC vi vi_load_n(const int32_t *p, int n) {
    if (SL_FULL(n))
        return vld1q_s32(p);
    int32_t t[VL] = {0};
    for (int i = 0; i < n; i++)
        t[i] = p[i];
    return vld1q_s32(t);
}
SL_VEC void vi_store_low8_n(uint8_t *p, vi a, int n) {
    uint8_t t[2 * VL];
    uint16x4_t h = vmovn_u32(vreinterpretq_u32_s32(a));
    vst1_u8(t, vmovn_u16(vcombine_u16(h, h)));
    memcpy(p, t, (size_t)n);
}

SL_VEC vi v_bits(vf a) { return vreinterpretq_s32_f32(a); }
SL_VEC vf v_float(vi a) { return vreinterpretq_f32_s32(a); }
SL_VEC vi vi_set1(int32_t a) { return vdupq_n_s32(a); }
SL_VEC vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
SL_VEC vi vi_sub(vi a, vi b) { return vsubq_s32(a, b); }
SL_VEC vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
#define vi_sra(a, k) vshrq_n_s32(a, k)
SL_VEC vf v_from_int(vi a) { return vcvtq_f32_s32(a); }

SL_VEC vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
SL_VEC vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }
SL_VEC vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }
SL_VEC vf v_div(vf a, vf b) { return vdivq_f32(a, b); }
SL_VEC vf v_sqrt(vf a) { return vsqrtq_f32(a); }
SL_VEC vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
SL_VEC vf v_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
SL_VEC vf v_muladd(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }

/* Not FMAX and FMIN, which treat NaN otherwise than vec.h promises. */
SL_VEC vf v_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
SL_VEC vf v_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
SL_VEC vf v_abs(vf a) { return vabsq_f32(a); }
SL_VEC vf v_neg(vf a) { return vnegq_f32(a); }
SL_VEC vf v_copysign(vf mag, vf sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, mag); }

SL_VEC vm v_lt(vf a, vf b) { return vcltq_f32(a, b); }
SL_VEC vm v_gt(vf a, vf b) { return vcgtq_f32(a, b); }
SL_VEC vm v_isnan(vf a) { return vmvnq_u32(vceqq_f32(a, a)); }
SL_VEC vf v_sel(vm m, vf yes, vf no) { return vbslq_f32(m, yes, no); }
SL_VEC vf v_head(vf a, int n, vf rest) {
    const int32_t lane[VL] = {0, 1, 2, 3};
    return SL_FULL(n) ? a : vbslq_f32(vcltq_s32(vld1q_s32(lane), vdupq_n_s32(n)), a, rest);
}

/* The conversion gives 0 for NaN. */
SL_VEC vf v_scale2(vf a, vf e) {
    return v_float(vaddq_s32(v_bits(a), vshlq_n_s32(vcvtq_s32_f32(e), 23)));
}

SL_VEC float v_reduce_add(vf a) {
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
SL_VEC float v_reduce_max(vf a) {
    float32x2_t lo = vget_low_f32(a), hi = vget_high_f32(a);
    float32x2_t b = vbsl_f32(vcgt_f32(lo, hi), lo, hi);
    float x = vget_lane_f32(b, 0), y = vget_lane_f32(b, 1);
    return x > y ? x : y;
}

SL_VEC vf v_load_bf16_n(const sl_bf16 *p, int n) {
    sl_bf16 t[VL] = {0};
    if (!SL_FULL(n)) {
        for (int i = 0; i < n; i++)
            t[i] = p[i];
        p = t;
    }
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
SL_VEC void v_store_bf16_n(sl_bf16 *p, vf a, int n) {
    uint32x4_t u = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t r = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
    r = vbslq_u32(v_isnan(a), vorrq_u32(u, vdupq_n_u32(0x400000)), r);
    uint16x4_t h = vshrn_n_u32(r, 16);
    if (SL_FULL(n)) {
        vst1_u16(p, h);
        return;
    }
    sl_bf16 t[VL];
    vst1_u16(t, h);
    for (int i = 0; i < n; i++)
        p[i] = t[i];
}

SL_VEC vd vd_zero(void) { return (vd){vdupq_n_f64(0), vdupq_n_f64(0)}; }
SL_VEC vd vd_load_n(const double *p, int n) {
    double t[VL] = {0};
    if (!SL_FULL(n)) {
        for (int i = 0; i < n; i++)
            t[i] = p[i];
        p = t;
    }
    return (vd){vld1q_f64(p), vld1q_f64(p + 2)};
}
SL_VEC void vd_store_n(double *p, vd a, int n) {
    if (SL_FULL(n)) {
        vst1q_f64(p, a.lo);
        vst1q_f64(p + 2, a.hi);
        return;
    }
    double t[VL];
    vst1q_f64(t, a.lo);
    vst1q_f64(t + 2, a.hi);
    for (int i = 0; i < n; i++)
        p[i] = t[i];
}
SL_VEC vd vd_add(vd a, vd b) { return (vd){vaddq_f64(a.lo, b.lo), vaddq_f64(a.hi, b.hi)}; }
SL_VEC vd vd_from_float(vf x) { return (vd){vcvt_f64_f32(vget_low_f32(x)), vcvt_high_f64_f32(x)}; }
SL_VEC vd vd_add_float(vd a, vf x) { return vd_add(a, vd_from_float(x)); }
SL_VEC vd vd_add_square(vd a, vf x) {
    vd b = vd_from_float(x);
    return (vd){vfmaq_f64(a.lo, b.lo, b.lo), vfmaq_f64(a.hi, b.hi, b.hi)};
}
SL_VEC double vd_reduce_add(vd a) {
    float64x2_t b = vaddq_f64(a.lo, a.hi);
    return vgetq_lane_f64(b, 0) + vgetq_lane_f64(b, 1);
}

SL_VEC void v_transpose(vf r[VL]) {
    float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    r[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    r[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    r[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

#endif
