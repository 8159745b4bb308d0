/* What the kernels of attention.cu share: where things lie, the weights of the kinds, and the extras. */
#ifndef SL_CUDA_ATTENTION_PARTS_H
#define SL_CUDA_ATTENTION_PARTS_H

#include "cuda/attention.h"
#include "cuda/cu.h"

#define SLC_LOG2E 0x1.715476p+0f

/* One query head of a window, or one key/value head. Positions are ints: seq < 2^31. */
template <typename T> struct slc_head {
    int64_t window, head, kv;
    int seq, hd;
    const T *q, *k, *v, *dout, *out; /* at position 0 */
    T *o, *dq, *dk, *dv;
    float *stat;                     /* [seq] */
    float *delta;                    /* [seq], in scratch; backward */
};
template <typename T> static __device__ __forceinline__ slc_head<T> slc_head_at(const slc_attention &p, int64_t window,
                                                                              int64_t head) {
    slc_head<T> h;
    h.window = window, h.head = head, h.kv = head / (p.heads / p.kv_heads);
    h.seq = (int)p.seq, h.hd = (int)p.head_dim;
    int64_t row = window * p.seq, q = row * p.ld + head * p.head_dim, o = row * p.ldo + head * p.head_dim;
    int64_t k = row * p.ld + (p.heads + h.kv) * p.head_dim, v = k + p.kv_heads * p.head_dim;
    const T *qkv = (const T *)p.qkv;
    T *dqkv = (T *)p.dqkv;
    h.q = qkv + q, h.k = qkv + k, h.v = qkv + v;
    h.o = (T *)p.out + o, h.out = h.o, h.dout = (const T *)p.dout + o;
    h.dq = dqkv + q, h.dk = dqkv + k, h.dv = dqkv + v;
    h.stat = p.stat + (window * p.heads + head) * p.seq;
    h.delta = (float *)p.scratch + (window * p.heads + head) * p.seq;
    return h;
}

/* What the gradient of its null adds to delta: dn/ds_j = -n p_j, as if the zero had that value. */
template <typename T>
static __device__ __forceinline__ float slc_null_delta(const slc_attention &p, const slc_head<T> &h, int q) {
    return p.dnull ? p.dnull[h.window * p.seq + q] * p.nulls[(h.window * p.heads + h.head) * p.seq + q] : 0;
}

static __device__ __forceinline__ bool slc_sees(const slc_attention &p, int q, int k) {
    return k <= q && q - k < (int)p.window;
}
/* The first key that query q sees, and the query behind the last that sees key k. */
static __device__ __forceinline__ int slc_first_key(const slc_attention &p, int q) {
    return max(0, q + 1 - (int)p.window);
}
static __device__ __forceinline__ int slc_end_query(const slc_attention &p, int k) {
    return (int)(k + p.window < p.seq ? k + p.window : p.seq);
}

/* Of a query, for slc_weigh(). */
static __device__ __forceinline__ float slc_stat_of(const slc_attention &p, const float *stat, int q) {
    if (p.rows == SLC_ROWS_RELU)
        return 1.0f / (float)(q < (int)p.window ? q + 1 : (int)p.window);
    return p.rows == SLC_ROWS_SIGMOID ? 0 : stat[q];
}

/* The weight of a score z, scaled, and the gradient of z from dp, that of the weight. NaN stays. */
struct slc_weighed {
    float p, ds;
};
/* softmax's q of the clipped one, and its g */
static __device__ __forceinline__ slc_weighed slc_clip(const slc_attention &p, float q, float dp) {
    float y = fmaf(q, p.a, p.b);
    return {y <= 0 ? 0 : y >= 1 ? 1 : y, y <= 0 || y >= 1 ? 0 : dp * p.a};
}
static __device__ __forceinline__ slc_weighed slc_weigh(const slc_attention &p, float z, float dp, float stat,
                                                      float delta) {
    if (p.rows == SLC_ROWS_SIGMOID) {
        float w = 1 / (1 + expf(-z - p.a)), rest = 1 / (1 + expf(z + p.a));
        return {w, dp * (w * rest)};
    }
    if (p.rows == SLC_ROWS_RELU)
        return {z <= 0 ? 0 : z * stat, z <= 0 ? 0 : dp * stat};
    float q = expf(z - stat);
    if (p.rows == SLC_ROWS_SOFTMAX)
        return {q, q * (dp - delta)};
    slc_weighed c = slc_clip(p, q, dp);
    return {c.p, q * (c.ds - delta)};
}

/* The largest score and the sum of exponentials so far; nothing seen yet: -infinity and 0. */
struct slc_running {
    float max, sum;
};
static __device__ __forceinline__ float slc_finite(float max) { return max == -INFINITY ? 0 : max; }

/* Sum or largest over `lanes` neighbours of a warp, all lanes of which are here. */
static __device__ __forceinline__ float slc_lanes_sum(float x, int lanes) {
    for (int i = lanes / 2; i > 0; i /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}
static __device__ __forceinline__ float slc_lanes_max(float x, int lanes) {
    for (int i = lanes / 2; i > 0; i /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

/* ---- extras. Rows of q and dout are read by a view: float view(row, column). */

/* Natural and scaled; each of `lanes` neighbours gets it. */
template <typename view> static __device__ float slc_extra_logit(const slc_attention &p, int64_t head, int64_t kv,
                                                                 const view &q, int row, int lanes) {
    if (p.extra == SLC_EXTRA_LOGIT)
        return p.sinks[head];
    if (p.extra == SLC_EXTRA_ZERO)
        return 0;
    const float *key = p.bias_k + kv * p.head_dim;
    float sum = 0;
    for (int d = (int)threadIdx.x % lanes; d < (int)p.head_dim; d += lanes)
        sum += q(row, d) * key[d];
    return p.scale * slc_lanes_sum(sum, lanes);
}

/* Floats of the gradients of one head. */
static __host__ __device__ inline int64_t slc_extra_width(const slc_attention &p) {
    return p.extra == SLC_EXTRA_LOGIT       ? 1
           : p.extra == SLC_EXTRA_KEY       ? p.head_dim
           : p.extra == SLC_EXTRA_KEY_VALUE ? 2 * p.head_dim
                                            : 0;
}

/* Gradients of the extra's logit for `rows` queries into ds, and their sums of the extra's own gradients into partial.
 * stat and delta: of the rows; n of them count; weight: room for as many. All of it but partial in shared memory. Ends
 * with a barrier. */
template <typename view>
static __device__ void slc_extra_gradients(const slc_attention &p, const slc_head<typename view::type> &h,
                                           const view &q, const view &dout, const float *stat, const float *delta,
                                           int rows, int n, float *ds, float *weight, float *partial) {
    int hd = (int)p.head_dim, threads = (int)blockDim.x;
    for (int r = (int)threadIdx.x; r < rows; r += threads) {
        float dp = 0, w = r < n ? expf(slc_extra_logit(p, h.head, h.kv, q, r, 1) - stat[r]) : 0;
        for (int d = 0; p.extra == SLC_EXTRA_KEY_VALUE && d < hd; d++)
            dp += dout(r, d) * p.bias_v[h.kv * hd + d];
        weight[r] = w;
        ds[r] = r < n ? w * (dp - delta[r]) : 0;
    }
    __syncthreads();
    for (int d = (int)threadIdx.x; d < (int)slc_extra_width(p); d += threads) {
        float sum = 0;
        for (int r = 0; r < n; r++)
            sum += p.extra == SLC_EXTRA_LOGIT ? ds[r]
                   : d < hd                   ? p.scale * ds[r] * q(r, d)
                                              : weight[r] * dout(r, d - hd);
        partial[d] = sum;
    }
    __syncthreads();
}

/* Where the partial sums of all heads begin, behind the deltas. */
static __host__ __device__ inline int64_t slc_partial_at(const slc_attention &p) {
    return (p.batch * p.heads * p.seq + 63) / 64 * 64;
}
static __device__ __forceinline__ float *slc_partial(const slc_attention &p, int64_t window, int64_t head,
                                                   int64_t block, int64_t blocks) {
    return (float *)p.scratch + slc_partial_at(p) + ((window * p.heads + head) * blocks + block) * slc_extra_width(p);
}

/* Is there an extra whose gradients are wanted? */
static __host__ __device__ inline bool slc_extra_learns(const slc_attention &p) {
    return p.extra > SLC_EXTRA_ZERO;
}

#endif
