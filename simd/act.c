#include "simd/tier.h"
#include "simd/vec_math.h"

#define MAP(name)                                                                                  \
    SL_VEC void name##_at(int64_t i, int c, const float *x, float *y) {                            \
        v_store_n(y + i, v_##name(v_load_n(x + i, c)), c);                                         \
    }                                                                                              \
    void SL_FN(name)(int64_t n, const float *x, float *y) { V_EACH(n, name##_at, x, y); }
MAP(exp)
MAP(log)
MAP(sigmoid)
MAP(tanh)
MAP(erf)

SL_VEC void silu_at(int64_t i, int c, const float *x, float *y) {
    vf a = v_load_n(x + i, c);
    v_store_n(y + i, v_mul(a, v_sigmoid(a)), c);
}
void SL_FN(silu_fwd)(int64_t n, const float *x, float *y) { V_EACH(n, silu_at, x, y); }

/* silu'(a) = q + a q (1 - q) where q = sigmoid(a) */
SL_VEC vf silu_slope(vf a, vf q, vf rest) { return v_fma(v_mul(a, q), rest, q); }

SL_VEC void silu_bwd_at(int64_t i, int c, const float *x, const float *dy, float *dx) {
    vf a = v_load_n(x + i, c), rest, q = v_sigmoid_pair(a, &rest);
    v_store_n(dx + i, v_mul(v_load_n(dy + i, c), silu_slope(a, q, rest)), c);
}
void SL_FN(silu_bwd)(int64_t n, const float *x, const float *dy, float *dx) {
    V_EACH(n, silu_bwd_at, x, dy, dx);
}

SL_VEC void sigmoid_bwd_at(int64_t i, int c, const float *x, const float *dy, float *dx) {
    vf rest, q = v_sigmoid_pair(v_load_n(x + i, c), &rest);
    v_store_n(dx + i, v_mul(v_load_n(dy + i, c), v_mul(q, rest)), c);
}
void SL_FN(sigmoid_bwd)(int64_t n, const float *x, const float *dy, float *dx) {
    V_EACH(n, sigmoid_bwd_at, x, dy, dx);
}

SL_VEC void tanh_bwd_at(int64_t i, int c, const float *x, const float *dy, float *dx) {
    vf t = v_tanh(v_load_n(x + i, c));
    v_store_n(dx + i, v_mul(v_load_n(dy + i, c), v_fnma(t, t, v_set1(1.0f))), c);
}
void SL_FN(tanh_bwd)(int64_t n, const float *x, const float *dy, float *dx) {
    V_EACH(n, tanh_bwd_at, x, dy, dx);
}

SL_VEC void relu_at(int64_t i, int c, const float *x, float *y) {
    vf a = v_load_n(x + i, c);
    v_store_n(y + i, v_sel(v_lt(a, v_zero()), v_zero(), a), c);
}
void SL_FN(relu_fwd)(int64_t n, const float *x, float *y) { V_EACH(n, relu_at, x, y); }

SL_VEC void relu_bwd_at(int64_t i, int c, const float *x, const float *dy, float *dx) {
    vm on = v_gt(v_load_n(x + i, c), v_zero());
    v_store_n(dx + i, v_sel(on, v_load_n(dy + i, c), v_zero()), c);
}
void SL_FN(relu_bwd)(int64_t n, const float *x, const float *dy, float *dx) {
    V_EACH(n, relu_bwd_at, x, dy, dx);
}

/* The normal distribution function, (1 + erf(a / sqrt 2)) / 2 */
SL_VEC vf normal_cdf(vf a) {
    vf half = v_set1(0.5f);
    return v_fma(half, v_erf(v_mul(a, v_set1(0x1.6a09e6p-1f))), half);
}
SL_VEC void gelu_at(int64_t i, int c, const float *x, float *y) {
    vf a = v_load_n(x + i, c);
    v_store_n(y + i, v_mul(a, normal_cdf(a)), c);
}
void SL_FN(gelu_fwd)(int64_t n, const float *x, float *y) { V_EACH(n, gelu_at, x, y); }

/* gelu'(a) = cdf(a) + a e^(-a^2/2) / sqrt(2 pi) */
SL_VEC void gelu_bwd_at(int64_t i, int c, const float *x, const float *dy, float *dx) {
    vf a = v_load_n(x + i, c);
    vf bell = v_mul(v_exp(v_mul(v_mul(a, a), v_set1(-0.5f))), v_set1(0x1.988454p-2f));
    v_store_n(dx + i, v_mul(v_load_n(dy + i, c), v_fma(a, bell, normal_cdf(a))), c);
}
void SL_FN(gelu_bwd)(int64_t n, const float *x, const float *dy, float *dx) {
    V_EACH(n, gelu_bwd_at, x, dy, dx);
}

SL_VEC void swiglu_at(int64_t i, int c, const float *gate, const float *up, float *y) {
    vf a = v_load_n(gate + i, c);
    v_store_n(y + i, v_mul(v_mul(a, v_sigmoid(a)), v_load_n(up + i, c)), c);
}
void SL_FN(swiglu_fwd)(int64_t n, const float *gate, const float *up, float *y) {
    V_EACH(n, swiglu_at, gate, up, y);
}

SL_VEC void swiglu_bwd_at(int64_t i, int c, const float *gate, const float *up, const float *dy,
                          float *dgate, float *dup) {
    vf a = v_load_n(gate + i, c), u = v_load_n(up + i, c), g = v_load_n(dy + i, c);
    vf rest, q = v_sigmoid_pair(a, &rest);
    v_store_n(dgate + i, v_mul(v_mul(g, u), silu_slope(a, q, rest)), c);
    v_store_n(dup + i, v_mul(g, v_mul(a, q)), c);
}
void SL_FN(swiglu_bwd)(int64_t n, const float *gate, const float *up, const float *dy, float *dgate,
                       float *dup) {
    V_EACH(n, swiglu_bwd_at, gate, up, dy, dgate, dup);
}

SL_VEC void gate_at(int64_t i, int c, const float *b, const float *y, float *out) {
    v_store_n(out + i, v_mul(v_sigmoid(v_load_n(b + i, c)), v_load_n(y + i, c)), c);
}
void SL_FN(gate_fwd)(int64_t n, const float *b, const float *y, float *out) {
    V_EACH(n, gate_at, b, y, out);
}

SL_VEC void gate_bwd_at(int64_t i, int c, const float *b, const float *y, const float *dout,
                        float *dy, float *db) {
    vf rest, q = v_sigmoid_pair(v_load_n(b + i, c), &rest);
    vf g = v_load_n(dout + i, c), a = v_load_n(y + i, c), qg = v_mul(q, g);
    v_store_n(dy + i, qg, c);
    v_store_n(db + i, v_mul(v_mul(qg, a), rest), c);
}
void SL_FN(gate_bwd)(int64_t n, const float *b, const float *y, const float *dout, float *dy,
                     float *db) {
    V_EACH(n, gate_bwd_at, b, y, dout, dy, db);
}

SL_VEC void gate_mul_at(int64_t i, int c, float offset, const float *q, const float *y,
                        float *out) {
    v_store_n(out + i, v_mul(v_add(v_load_n(q + i, c), v_set1(offset)), v_load_n(y + i, c)), c);
}
void SL_FN(gate_mul)(int64_t n, float offset, const float *q, const float *y, float *out) {
    V_EACH(n, gate_mul_at, offset, q, y, out);
}

SL_VEC void add_at(int64_t i, int c, const float *x, float *y) {
    v_store_n(y + i, v_add(v_load_n(y + i, c), v_load_n(x + i, c)), c);
}
void SL_FN(add)(int64_t n, const float *x, float *y) { V_EACH(n, add_at, x, y); }

SL_VEC void scale_at(int64_t i, int c, float a, float *x) {
    v_store_n(x + i, v_mul(v_load_n(x + i, c), v_set1(a)), c);
}
void SL_FN(scale)(int64_t n, float a, float *x) { V_EACH(n, scale_at, a, x); }
