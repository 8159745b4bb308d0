#include "cuda/moe_parts.h"
#include "cuda/rows.h"

namespace {

/* What kernels of products know. T is the tile's. */
template <typename T> struct experts {
    slc_moe m;
    slc_moe_route t;
    const T *x, *w, *dout;
    T *gate, *up, *h;
    int64_t ldx, ldg, ldh, ldd;
    bool wide_x, wide_dim, wide_ffn; /* x and dout; matrices with rows of dim, of ffn */
    bool even;   /* ld of gate, up and h */
    bool apart;  /* h lies by slot, and the results of down are weighted, not h */
    float *y;    /* forward y, backward dplace */
    float *part; /* of dweight */
    float *dw;
};

/* The places that a block is about: block `index` of TILE places, experts ascending. */
struct places {
    int64_t e, first, n; /* n 0: none */
};
template <int TILE> __device__ places places_at(const slc_moe &m, const int32_t *offset, int64_t index) {
    for (int64_t e = 0, at = 0; e < m.experts; e++) {
        int64_t next = offset[e + 1], tiles = slc_div_up(next - at, TILE);
        if (index < tiles)
            return {e, at + index * TILE, next - at - index * TILE};
        index -= tiles;
        at = next;
    }
    return {0, 0, 0};
}
template <typename E> int64_t most_tiles(const slc_moe *m) { return m->rows * m->top / E::TILE + m->experts; }

template <typename T>
__device__ __forceinline__ const T *matrix_of(const experts<T> &x, int64_t e, int which) {
    return x.w + (e * 3 + which) * x.m.dim * x.m.ffn;
}
template <typename T> __device__ __forceinline__ int64_t row_of(const experts<T> &x, int64_t place) {
    return (uint32_t)x.t.slot[place] / (uint32_t)x.m.top;
}

template <typename T> __device__ __forceinline__ int64_t hidden_row(const experts<T> &x, int64_t place) {
    return x.apart ? x.t.slot[place] : place;
}
template <typename T> __device__ __forceinline__ float weight_of(const experts<T> &x, int64_t place) {
    return x.t.weight[x.t.slot[place]];
}

/* One or two values, at once where the address allows it (aligned). */
__device__ __forceinline__ void store_two(float *p, float a, float b, bool two, bool aligned) {
    if (two && aligned) {
        *(float2 *)p = make_float2(a, b);
        return;
    }
    p[0] = a;
    if (two)
        p[1] = b;
}
__device__ __forceinline__ void store_two(slc_bf16 *p, float a, float b, bool two, bool aligned) {
    if (two && aligned) {
        *(uint32_t *)p = slc_pack_bf16(a, b);
        return;
    }
    p[0] = slc_to_bf16(a);
    if (two)
        p[1] = slc_to_bf16(b);
}
__device__ __forceinline__ float2 load_two(const float *p, bool two) {
    return make_float2(p[0], two ? p[1] : 0);
}
__device__ __forceinline__ float2 load_two(const slc_bf16 *p, bool two) { /* ld is even */
    uint32_t v = two ? *(const uint32_t *)p : p[0];
    return make_float2(slc_from_bf16((slc_bf16)v), slc_from_bf16((slc_bf16)(v >> 16)));
}

__device__ __forceinline__ float normal_cdf(float a) { return fmaf(0.5f, erff(a * 0x1.6a09e6p-1f), 0.5f); }

__device__ __forceinline__ float activate(int act, float a) {
    float rest, q;
    if (act == SLC_MOE_GELU)
        return a * normal_cdf(a);
    q = sigmoid_pair(a, &rest);
    return act == SLC_MOE_SILU ? a * q : q;
}
__device__ __forceinline__ float slope(int act, float a, float *value) {
    float rest, q;
    if (act == SLC_MOE_GELU) {
        q = normal_cdf(a);
        *value = a * q;
        return fmaf(a, expf(a * a * -0.5f) * 0x1.988454p-2f, q);
    }
    q = sigmoid_pair(a, &rest);
    *value = act == SLC_MOE_SILU ? a * q : q;
    return act == SLC_MOE_SILU ? fmaf(a * q, rest, q) : q * rest;
}

/* h = w act(gate) up, and gate and up where backward needs them. */
template <typename E> __global__ void __launch_bounds__(TILE_THREADS) hidden(experts<typename E::T> x) {
    typedef typename E::T T;
    int64_t d = x.m.dim, f = x.m.ffn, across = slc_div_up(f, E::HALF), col0 = blockIdx.x % across * E::HALF;
    places p = places_at<E::TILE>(x.m, x.t.offset, blockIdx.x / across);
    if (p.n <= 0)
        return;
    const T *w = matrix_of(x, p.e, 0);
    E tile;
    tile.clear();
    tile.template add<false, false>(
        d, [&](int64_t i) -> const T * { return i < p.n ? x.x + row_of(x, p.first + i) * x.ldx : nullptr; }, d,
        x.wide_x,
        [&](int64_t j) -> const T * {
            int which;
            int64_t col = col0 + E::pair_of((int)j, &which);
            return col < f ? w + (which * f + col) * d : nullptr;
        },
        d, x.wide_dim);
    auto weight = [&](int i) { return i >= p.n ? 0 : x.apart ? 1 : weight_of(x, p.first + i); };
    tile.pairs(weight, [&](int i, int j, float weight, float gate, float gate2, float up, float up2) {
        int64_t place = p.first + i, col = col0 + j;
        if (i >= p.n || col >= f)
            return;
        bool two = col + 1 < f;
        if (x.m.training) {
            store_two(x.gate + place * x.ldg + col, gate, gate2, two, x.even);
            store_two(x.up + place * x.ldg + col, up, up2, two, x.even);
        }
        store_two(x.h + hidden_row(x, place) * x.ldh + col, weight * (activate(x.m.act, gate) * up),
                  weight * (activate(x.m.act, gate2) * up2), two, x.even);
    });
}

/* y = W_down h */
template <typename E> __global__ void __launch_bounds__(TILE_THREADS) down(experts<typename E::T> x) {
    typedef typename E::T T;
    int64_t d = x.m.dim, f = x.m.ffn, across = slc_div_up(d, E::TILE), col0 = blockIdx.x % across * E::TILE;
    places p = places_at<E::TILE>(x.m, x.t.offset, blockIdx.x / across);
    if (p.n <= 0)
        return;
    const T *w = matrix_of(x, p.e, 2);
    E tile;
    tile.clear();
    tile.template add<false, false>(
        f, [&](int64_t i) -> const T * { return i < p.n ? x.h + hidden_row(x, p.first + i) * x.ldh : nullptr; }, f,
        true, [&](int64_t j) -> const T * { return col0 + j < d ? w + (col0 + j) * f : nullptr; }, f, x.wide_ffn);
    tile.each([&](int i, int j, float v, float v2) {
        if (i >= p.n || col0 + j >= d)
            return;
        float weight = x.apart ? weight_of(x, p.first + i) : 1;
        store_two(x.y + (p.first + i) * d + col0 + j, weight * v, weight * v2, col0 + j + 1 < d, d % 2 == 0);
    });
}

/* Each row adds its places' y; `each` (4 or 1) columns a thread. */
__global__ void __launch_bounds__(128) combine(slc_moe m, const int32_t *place, const float *y, const float *residual,
                                               float *out, int each) {
    int64_t row = blockIdx.x, first = row * m.top, at = row * m.dim;
    for (int64_t c = threadIdx.x * each; c < m.dim; c += 128 * each) {
        float4 sum = make_float4(0, 0, 0, 0);
        if (residual)
            sum = each == 4 ? *(const float4 *)(residual + at + c) : make_float4(residual[at + c], 0, 0, 0);
        for (int64_t j = first; j < first + m.top; j++) {
            if (place[j] < 0)
                continue;
            const float *p = y + place[j] * m.dim + c;
            float4 v = each == 4 ? *(const float4 *)p : make_float4(*p, 0, 0, 0);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        if (each == 4)
            *(float4 *)(out + at + c) = sum;
        else
            out[at + c] = sum.x;
    }
}

/* From dh = W_down^T dout: parts of the gradient of the places' weights, and dgate and dup, which take the places of
 * gate and up. */
template <typename E> __global__ void __launch_bounds__(TILE_THREADS) hidden_back(experts<typename E::T> x) {
    typedef typename E::T T;
    int64_t d = x.m.dim, f = x.m.ffn, across = slc_div_up(f, E::TILE), tile_col = blockIdx.x % across,
            col0 = tile_col * E::TILE;
    places p = places_at<E::TILE>(x.m, x.t.offset, blockIdx.x / across);
    if (p.n <= 0)
        return;
    const T *w = matrix_of(x, p.e, 2);
    E tile;
    tile.clear();
    tile.template add<false, true>(
        d, [&](int64_t i) -> const T * { return i < p.n ? x.dout + row_of(x, p.first + i) * x.ldd : nullptr; }, d,
        x.wide_x, [&](int64_t k) -> const T * { return w + k * f + col0; }, f - col0, x.wide_ffn);
    tile.row_sums(
        [&](int i) { return i < p.n ? x.t.weight[x.t.slot[p.first + i]] : 0; },
        [&](int i, int j) {
            int64_t at = (p.first + i) * x.ldg + col0 + j;
            if (i >= p.n || col0 + j >= f)
                return make_float4(0, 0, 0, 0);
            float2 gate = load_two(x.gate + at, col0 + j + 1 < f), up = load_two(x.up + at, col0 + j + 1 < f);
            return make_float4(gate.x, gate.y, up.x, up.y);
        },
        [&](int i, int j, float weight, float4 gate_up, float dh, float dh2) {
            int64_t at = (p.first + i) * x.ldg + col0 + j;
            bool two = col0 + j + 1 < f;
            float value, value2, s = slope(x.m.act, gate_up.x, &value), s2 = slope(x.m.act, gate_up.y, &value2);
            if (i >= p.n || col0 + j >= f)
                return 0.0f;
            store_two(x.gate + at, dh * weight * gate_up.z * s, dh2 * weight * gate_up.w * s2, two, x.even);
            store_two(x.up + at, dh * weight * value, dh2 * weight * value2, two, x.even);
            return dh * (value * gate_up.z) + (two ? dh2 * (value2 * gate_up.w) : 0);
        },
        [&](int i, int part, float sum) {
            if (i < p.n)
                x.part[(p.first + i) * across * E::PARTS + tile_col * E::PARTS + part] = sum;
        });
}

/* The gradient of a place's x: W_gate^T dgate + W_up^T dup. */
template <typename E> __global__ void __launch_bounds__(TILE_THREADS) input_back(experts<typename E::T> x) {
    typedef typename E::T T;
    int64_t d = x.m.dim, f = x.m.ffn, across = slc_div_up(d, E::TILE), col0 = blockIdx.x % across * E::TILE;
    places p = places_at<E::TILE>(x.m, x.t.offset, blockIdx.x / across);
    if (p.n <= 0)
        return;
    E tile;
    tile.clear();
    for (int which = 0; which < 2; which++) {
        const T *a = which ? x.up : x.gate, *w = matrix_of(x, p.e, which);
        tile.template add<false, true>(
            f, [&](int64_t i) -> const T * { return i < p.n ? a + (p.first + i) * x.ldg : nullptr; }, f, true,
            [&](int64_t k) -> const T * { return w + k * d + col0; }, d - col0, x.wide_dim);
    }
    tile.each([&](int i, int j, float v, float v2) {
        if (i < p.n && col0 + j < d)
            store_two(x.y + (p.first + i) * d + col0 + j, v, v2, col0 + j + 1 < d, d % 2 == 0);
    });
}

/* A tile of one of the three weight gradients of an expert: a^T b over its places. Of gate and up a is dgate, dup, b is
 * x; of down a is dout, b is h. */
template <typename E> __global__ void __launch_bounds__(TILE_THREADS) weights_back(experts<typename E::T> x) {
    typedef typename E::T T;
    int64_t f_tiles = slc_div_up(x.m.ffn, E::TILE), tiles = f_tiles * slc_div_up(x.m.dim, E::TILE);
    int64_t tile_at = blockIdx.x % tiles;
    int64_t e = blockIdx.x / tiles / 3, first = x.t.offset[e], depth = x.t.offset[e + 1] - first;
    int which = (int)(blockIdx.x / tiles % 3);
    bool is_down = which == 2;
    int64_t f0 = tile_at % f_tiles * E::TILE, d0 = tile_at / f_tiles * E::TILE;
    int64_t f = x.m.ffn, d = x.m.dim;
    const T *inner = is_down ? x.h : which ? x.up : x.gate, *outer = is_down ? x.dout : x.x;
    int64_t ldi = is_down ? x.ldh : x.ldg, ldo = is_down ? x.ldd : x.ldx;
    if (depth <= 0)
        return;
    auto of_ffn = [&](int64_t k) -> const T * { return inner + (first + k) * ldi + f0; };
    auto of_dim = [&](int64_t k) -> const T * { return outer + row_of(x, first + k) * ldo + d0; };
    E tile;
    tile.clear();
    float *dw = x.dw + (e * 3 + which) * f * d;
    int64_t rows = is_down ? d - d0 : f - f0, cols = is_down ? f - f0 : d - d0, ld = is_down ? f : d;
    if (is_down)
        tile.template add<true, true>(depth, of_dim, d - d0, x.wide_x, of_ffn, f - f0, true);
    else
        tile.template add<true, true>(depth, of_ffn, f - f0, true, of_dim, d - d0, x.wide_x);
    bool even = ld % 2 == 0 && (uintptr_t)dw % 8 == 0;
    dw += is_down ? d0 * f + f0 : f0 * d + d0;
    tile.each([&](int i, int j, float v, float v2) {
        float *to = dw + i * ld + j;
        if (i < rows && j < cols)
            store_two(to, to[0] + v, (j + 1 < cols ? to[1] : 0) + v2, j + 1 < cols, even);
    });
}

/* ---- launches */

bool aligned(const void *p, int64_t ld) { return (uintptr_t)p % 16 == 0 && ld % 8 == 0; }

template <typename T>
experts<T> experts_of(const slc_moe *m, slc_moe_rows x, const void *weights, const slc_moe_route *t,
                      slc_moe_rows gate_up, slc_moe_rows h) {
    experts<T> a = {};
    a.m = *m, a.t = *t;
    a.x = (const T *)x.p, a.ldx = x.ld;
    a.w = (const T *)weights;
    a.gate = (T *)gate_up.p, a.ldg = gate_up.ld;
    a.up = a.gate ? a.gate + m->rows * m->top * gate_up.ld : nullptr;
    a.h = (T *)h.p, a.ldh = h.ld;
    a.wide_x = true;
    a.even = gate_up.ld % 2 == 0 && h.ld % 2 == 0;
    bool whole = m->dim * m->ffn % 8 == 0; /* matrices follow each other */
    a.wide_dim = whole && aligned(weights, m->dim);
    a.wide_ffn = whole && aligned(weights, m->ffn);
    return a;
}

template <typename E> void launch_hidden(slc_stream s, const slc_moe *m, experts<typename E::T> x) {
    SLC_MORE_SHARED(hidden<E>, E::SHARED);
    SLC_LAUNCH(hidden<E>, most_tiles<E>(m) * slc_div_up(m->ffn, E::HALF), TILE_THREADS, E::SHARED, s, x);
}
template <typename E> void launch_down(slc_stream s, const slc_moe *m, experts<typename E::T> x) {
    SLC_MORE_SHARED(down<E>, E::SHARED);
    SLC_LAUNCH(down<E>, most_tiles<E>(m) * slc_div_up(m->dim, E::TILE), TILE_THREADS, E::SHARED, s, x);
}

template <typename E> void backward(slc_stream s, const slc_moe *m, experts<typename E::T> x) {
    int64_t tiles = most_tiles<E>(m), f = slc_div_up(m->ffn, E::TILE), d = slc_div_up(m->dim, E::TILE);
    SLC_MORE_SHARED(hidden_back<E>, E::SHARED);
    SLC_MORE_SHARED(input_back<E>, E::SHARED);
    SLC_MORE_SHARED(weights_back<E>, E::SHARED);
    SLC_LAUNCH(hidden_back<E>, tiles * f, TILE_THREADS, E::SHARED, s, x);
    SLC_LAUNCH(input_back<E>, tiles * d, TILE_THREADS, E::SHARED, s, x);
    SLC_LAUNCH(weights_back<E>, m->experts * 3 * f * d, TILE_THREADS, E::SHARED, s, x);
}

} // namespace

size_t slc_moe_scratch_bytes(const slc_moe *m) { return slc_moe_scratch_at(m, nullptr).bytes; }

void slc_moe_forward(slc_stream s, const slc_moe *m, slc_moe_rows x, const void *weights, const slc_moe_route *t,
                     slc_moe_rows gate_up, slc_moe_rows h, const float *residual, float *out, void *room) {
    slc_moe_scratch a = slc_moe_scratch_at(m, room);
    if (m->bf16) {
        experts<slc_bf16> b = experts_of<slc_bf16>(m, x, weights, t, gate_up, h);
        b.y = a.y;
        launch_hidden<bf16_tile>(s, m, b);
        launch_down<bf16_tile>(s, m, b);
    } else {
        experts<float> b = experts_of<float>(m, x, weights, t, gate_up, h);
        b.y = a.y;
        launch_hidden<fp32_tile>(s, m, b);
        launch_down<fp32_tile>(s, m, b);
    }
    SLC_LAUNCH(combine, m->rows, 128, 0, s, *m, t->place, a.y, residual, out, m->dim % 4 == 0 ? 4 : 1);
}

void slc_moe_hidden(slc_stream s, const slc_moe *m, slc_moe_rows x, const void *weights, const slc_moe_route *t,
                    slc_moe_rows h) {
    experts<float> b = experts_of<float>(m, x, weights, t, {}, h);
    b.apart = true;
    launch_hidden<fp32_tile>(s, m, b);
}

void slc_moe_output(slc_stream s, const slc_moe *m, slc_moe_rows h, const void *weights, const slc_moe_route *t,
                    const float *residual, float *out, void *room) {
    slc_moe_scratch a = slc_moe_scratch_at(m, room);
    experts<float> b = experts_of<float>(m, {}, weights, t, {}, h);
    b.apart = true, b.y = a.y;
    launch_down<fp32_tile>(s, m, b);
    SLC_LAUNCH(combine, m->rows, 128, 0, s, *m, t->place, a.y, residual, out, m->dim % 4 == 0 ? 4 : 1);
}

void slc_moe_backward(slc_stream s, const slc_moe *m, slc_moe_rows x, const void *weights, const float *router,
                      const slc_moe_route *t, slc_moe_rows gate_up, slc_moe_rows h, const float *dout,
                      slc_moe_rows din, bool add, float *dweights, float *drouter, void *room) {
    slc_moe_scratch a = slc_moe_scratch_at(m, room);
    if (m->bf16) {
        experts<slc_bf16> b = experts_of<slc_bf16>(m, x, weights, t, gate_up, h);
        slc_round_rows(s, m->rows, m->dim, dout, a.dout, slc_moe_dout_ld(m));
        b.dout = a.dout, b.ldd = slc_moe_dout_ld(m), b.y = a.dplace, b.part = a.part, b.dw = dweights;
        backward<bf16_tile>(s, m, b);
    } else {
        experts<float> b = experts_of<float>(m, x, weights, t, gate_up, h);
        b.dout = dout, b.ldd = m->dim, b.y = a.dplace, b.part = a.part, b.dw = dweights;
        backward<fp32_tile>(s, m, b);
    }
    slc_moe_router_back(s, m, x, router, t, din, add, drouter, a);
}
