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
SL_VEC void silu_bwd_at(int64_t i, int c, const float *x, const float *dy, float *dx) {
    vf a = v_load_n(x + i, c), rest, q = v_sigmoid_pair(a, &rest);
    v_store_n(dx + i, v_mul(v_load_n(dy + i, c), v_fma(v_mul(a, q), rest, q)), c);
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

SL_VEC void softcap_fwd_at(int64_t i, int c, float in, float out, float *x) {
    v_store_n(x + i, v_mul(v_set1(out), v_tanh(v_mul(v_set1(in), v_load_n(x + i, c)))), c);
}
void SL_FN(softcap_fwd)(int64_t n, float in, float out, float *x) { V_EACH(n, softcap_fwd_at, in, out, x); }

SL_VEC void softcap_bwd_at(int64_t i, int c, float inverse, const float *y, const float *delta, int step, float *dy) {
    vf t = v_mul(v_load_n(y + i, c), v_set1(inverse)), f = v_fnma(t, t, v_set1(1.0f));
    vf d = step ? v_load_n(delta + i, c) : v_set1(*delta);
    v_store_n(dy + i, v_fma(v_sub(v_load_n(dy + i, c), d), f, d), c);
}
void SL_FN(softcap_bwd)(int64_t n, float out, const float *y, const float *delta, int step, float *dy) {
    V_EACH(n, softcap_bwd_at, 1 / out, y, delta, step, dy);
}

/* The gate over rows of T; its input b and the gradient dy are fp32 always. */
#define GATE(T, suffix)                                                                            \
    SL_VEC void gate_fwd##suffix##_at(int64_t i, int c, float factor, const float *b, const T *y,  \
                                      T *out) {                                                    \
        vf q = v_mul(v_set1(factor), v_sigmoid(v_load_n(b + i, c)));                               \
        v_put_n(out + i, v_mul(q, v_get_n(y + i, c)), c);                                          \
    }                                                                                              \
    void SL_FN(gate_fwd##suffix)(int64_t n, float factor, const float *b, const T *y, T *out) {    \
        V_EACH(n, gate_fwd##suffix##_at, factor, b, y, out);                                       \
    }                                                                                              \
    SL_VEC void gate_bwd##suffix##_at(int64_t i, int c, float factor, const float *b, const T *y,  \
                                      const T *dout, float *dy, T *db) {                           \
        vf rest, q = v_mul(v_set1(factor), v_sigmoid_pair(v_load_n(b + i, c), &rest));             \
        vf a = v_get_n(y + i, c), qg = v_mul(q, v_get_n(dout + i, c));                             \
        v_store_n(dy + i, qg, c);                                                                  \
        v_put_n(db + i, v_mul(v_mul(qg, a), rest), c);                                             \
    }                                                                                              \
    void SL_FN(gate_bwd##suffix)(int64_t n, float factor, const float *b, const T *y,              \
                                 const T *dout, float *dy, T *db) {                                \
        V_EACH(n, gate_bwd##suffix##_at, factor, b, y, dout, dy, db);                              \
    }
GATE(float, )
GATE(sl_bf16, _bf16)

SL_VEC void gate_mul_at(int64_t i, int c, float offset, const float *q, const float *y,
                        float *out) {
    v_store_n(out + i, v_mul(v_add(v_load_n(q + i, c), v_set1(offset)), v_load_n(y + i, c)), c);
}
void SL_FN(gate_mul)(int64_t n, float offset, const float *q, const float *y, float *out) {
    V_EACH(n, gate_mul_at, offset, q, y, out);
}

SL_VEC void clip_at(int64_t i, int c, float t, float *x) {
    vf a = v_min(v_set1(t), v_load_n(x + i, c)); /* this order keeps NaN */
    v_store_n(x + i, v_max(v_set1(-t), a), c);
}
void SL_FN(clip_fwd)(int64_t n, float t, float *x) { V_EACH(n, clip_at, t, x); }

SL_VEC void clip_bwd_at(int64_t i, int c, float t, const float *y, float *dy) {
    vm inside = v_lt(v_abs(v_load_n(y + i, c)), v_set1(t));
    v_store_n(dy + i, v_sel(inside, v_load_n(dy + i, c), v_zero()), c);
}
void SL_FN(clip_bwd)(int64_t n, float t, const float *y, float *dy) {
    V_EACH(n, clip_bwd_at, t, y, dy);
}

SL_VEC void add_at(int64_t i, int c, const float *x, float *y) {
    v_store_n(y + i, v_add(v_load_n(y + i, c), v_load_n(x + i, c)), c);
}
void SL_FN(add)(int64_t n, const float *x, float *y) { V_EACH(n, add_at, x, y); }

SL_VEC void sum_at(int64_t i, int c, const float *a, const float *b, float *y) {
    v_store_n(y + i, v_add(v_load_n(a + i, c), v_load_n(b + i, c)), c);
}
void SL_FN(sum)(int64_t n, const float *a, const float *b, float *y) { V_EACH(n, sum_at, a, b, y); }

SL_VEC void scale_at(int64_t i, int c, float a, float *x) {
    v_store_n(x + i, v_mul(v_load_n(x + i, c), v_set1(a)), c);
}
void SL_FN(scale)(int64_t n, float a, float *x) { V_EACH(n, scale_at, a, x); }
