#include "simd/tier.h"
#include "simd/vec_math.h"

/* Each function of ffn.inc, of a gate and of the other projection, and its slope together with its value. */

SL_VEC vf silu(vf a) { return v_mul(a, v_sigmoid(a)); }
SL_VEC vf silu_slope(vf a, vf *value) { /* q + a q (1 - q), q = sigmoid(a) */
    vf rest, q = v_sigmoid_pair(a, &rest), aq = v_mul(a, q);
    *value = aq;
    return v_fma(aq, rest, q);
}

SL_VEC vf sigmoid(vf a) { return v_sigmoid(a); }
SL_VEC vf sigmoid_slope(vf a, vf *value) { /* q (1 - q) */
    vf rest;
    *value = v_sigmoid_pair(a, &rest);
    return v_mul(*value, rest);
}

/* The normal distribution function, (1 + erf(a / sqrt 2)) / 2 */
SL_VEC vf normal_cdf(vf a) {
    vf half = v_set1(0.5f);
    return v_fma(half, v_erf(v_mul(a, v_set1(0x1.6a09e6p-1f))), half);
}
SL_VEC vf gelu(vf a) { return v_mul(a, normal_cdf(a)); }
SL_VEC vf gelu_slope(vf a, vf *value) { /* cdf(a) + a e^(-a^2/2) / sqrt(2 pi) */
    vf cdf = normal_cdf(a);
    vf bell = v_mul(v_exp(v_mul(v_mul(a, a), v_set1(-0.5f))), v_set1(0x1.988454p-2f));
    *value = v_mul(a, cdf);
    return v_fma(a, bell, cdf);
}

SL_VEC vf positive(vf a) { return v_max(v_zero(), a); } /* this order keeps NaN */
SL_VEC vf relu2(vf a) { return v_mul(positive(a), positive(a)); }
SL_VEC vf relu2_slope(vf a, vf *value) { /* 2 max(a, 0) */
    vf p = positive(a);
    *value = v_mul(p, p);
    return v_add(p, p);
}

SL_VEC vf relu(vf a) { return positive(a); }
SL_VEC vf relu_slope(vf a, vf *value) {
    *value = positive(a);
    return v_sel(v_gt(a, v_zero()), v_set1(1.0f), v_zero());
}

/* a (1 + tanh z) / 2 = a sigmoid(2 z), z = sqrt(2 / pi) (a + 0.044715 a^3). Beyond 16 the sigmoid is 0 or 1, and a cube
 * might overflow. */
SL_VEC vf gelu_tanh_clamp(vf a) { return v_max(v_set1(-16.0f), v_min(v_set1(16.0f), a)); }
SL_VEC vf gelu_tanh_twice(vf a) { /* 2 z */
    vf cubic = v_fma(v_mul(a, a), v_set1(0x1.2444f2p-4f), v_set1(0x1.988454p+0f));
    return v_mul(a, cubic);
}
SL_VEC vf gelu_tanh(vf a) { return v_mul(a, v_sigmoid(gelu_tanh_twice(gelu_tanh_clamp(a)))); }
SL_VEC vf gelu_tanh_slope(vf a, vf *value) { /* q + a q (1 - q) 2 z', q = sigmoid(2 z) */
    vf c = gelu_tanh_clamp(a), rest, q = v_sigmoid_pair(gelu_tanh_twice(c), &rest);
    vf steep = v_fma(v_mul(c, c), v_set1(0x1.b6676cp-3f), v_set1(0x1.988454p+0f));
    *value = v_mul(a, q);
    return v_fma(v_mul(v_mul(c, q), rest), steep, q);
}

/* c sigmoid(1.702 c), c = min(a, 7) */
#define CLAMP 7.0f
#define STEEP 0x1.b3b646p+0f
SL_VEC vf clamped_silu(vf a) {
    vf c = v_min(v_set1(CLAMP), a); /* this order keeps NaN */
    return v_mul(c, v_sigmoid(v_mul(v_set1(STEEP), c)));
}
SL_VEC vf clamped_silu_slope(vf a, vf *value) { /* q + 1.702 c q (1 - q), q = sigmoid(1.702 c); 0 above 7 */
    vf c = v_min(v_set1(CLAMP), a), w = v_mul(v_set1(STEEP), c), rest, q = v_sigmoid_pair(w, &rest);
    *value = v_mul(c, q);
    return v_sel(v_gt(a, v_set1(CLAMP)), v_zero(), v_fma(v_mul(w, q), rest, q));
}

/* 1 + max(-7, min(a, 7)) */
SL_VEC vf clamped_plus_one(vf a) {
    return v_add(v_set1(1.0f), v_max(v_set1(-CLAMP), v_min(v_set1(CLAMP), a)));
}
SL_VEC vf clamped_plus_one_slope(vf a, vf *value) {
    *value = clamped_plus_one(a);
    return v_sel(v_gt(v_max(a, v_sub(v_zero(), a)), v_set1(CLAMP)), v_zero(), v_set1(1.0f));
}

SL_VEC vf same(vf a) { return a; }
SL_VEC vf same_slope(vf a, vf *value) {
    *value = a;
    return v_set1(1.0f);
}

/* The kernels of one kind over rows of T, fp32 or bf16. */
#define KERNELS(name, gated, act, other, T, suffix)                                                \
    SL_VEC void name##_fwd##suffix##_at(int64_t i, int c, const T *gate, const T *up, T *y) {      \
        vf h = act(v_get_n(gate + i, c));                                                          \
        v_put_n(y + i, gated ? v_mul(h, other(v_get_n(up + i, c))) : h, c);                        \
    }                                                                                              \
    void SL_FN(name##_fwd##suffix)(int64_t n, const T *gate, const T *up, T *y) {                  \
        V_EACH(n, name##_fwd##suffix##_at, gate, up, y);                                           \
    }                                                                                              \
    SL_VEC void name##_bwd##suffix##_at(int64_t i, int c, const T *gate, const T *up, const T *dy, \
                                        T *dgate, T *dup) {                                        \
        vf h, u, slope = act##_slope(v_get_n(gate + i, c), &h), g = v_get_n(dy + i, c);            \
        if (!gated) {                                                                              \
            v_put_n(dgate + i, v_mul(g, slope), c);                                                \
            return;                                                                                \
        }                                                                                          \
        vf across = other##_slope(v_get_n(up + i, c), &u);                                         \
        v_put_n(dgate + i, v_mul(v_mul(g, u), slope), c);                                          \
        v_put_n(dup + i, v_mul(v_mul(g, h), across), c);                                           \
    }                                                                                              \
    void SL_FN(name##_bwd##suffix)(int64_t n, const T *gate, const T *up, const T *dy, T *dgate,   \
                                   T *dup) {                                                       \
        V_EACH(n, name##_bwd##suffix##_at, gate, up, dy, dgate, dup);                              \
    }
#define FFN(name, gated, act, other, hf, help)                                                     \
    KERNELS(name, gated, act, other, float, )                                                      \
    KERNELS(name, gated, act, other, sl_bf16, _bf16)
#include "simd/ffn.inc"
