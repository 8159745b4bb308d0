#include "simd/tier.h"
#include "simd/vec_math.h"

/* Each function act(a) of ffn.inc, and its slope act'(a) together with its value. */

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

/* The kernels of one kind over rows of T, fp32 or bf16. */
#define KERNELS(name, gated, act, T, suffix)                                                       \
    SL_VEC void name##_fwd##suffix##_at(int64_t i, int c, const T *gate, const T *up, T *y) {      \
        vf h = act(v_get_n(gate + i, c));                                                          \
        v_put_n(y + i, gated ? v_mul(h, v_get_n(up + i, c)) : h, c);                               \
    }                                                                                              \
    void SL_FN(name##_fwd##suffix)(int64_t n, const T *gate, const T *up, T *y) {                  \
        V_EACH(n, name##_fwd##suffix##_at, gate, up, y);                                           \
    }                                                                                              \
    SL_VEC void name##_bwd##suffix##_at(int64_t i, int c, const T *gate, const T *up, const T *dy, \
                                        T *dgate, T *dup) {                                        \
        vf h, slope = act##_slope(v_get_n(gate + i, c), &h), g = v_get_n(dy + i, c);               \
        vf dh = gated ? v_mul(g, v_get_n(up + i, c)) : g;                                          \
        v_put_n(dgate + i, v_mul(dh, slope), c);                                                   \
        if (gated)                                                                                 \
            v_put_n(dup + i, v_mul(g, h), c);                                                      \
    }                                                                                              \
    void SL_FN(name##_bwd##suffix)(int64_t n, const T *gate, const T *up, const T *dy, T *dgate,   \
                                   T *dup) {                                                       \
        V_EACH(n, name##_bwd##suffix##_at, gate, up, dy, dgate, dup);                              \
    }
#define FFN(name, gated, act, hf, help)                                                            \
    KERNELS(name, gated, act, float, )                                                             \
    KERNELS(name, gated, act, sl_bf16, _bf16)
#include "simd/ffn.inc"
