/* Attention in fp32 arithmetic, for any head_dim and either precision: blocks of queries against tiles of as many keys,
 * through shared memory. Thread (ty, tx) of side x side has rows ty + side r and columns tx + side c of a tile of
 * scores, and rows ty + side r and columns tx, tx + side ... of what is head_dim wide. */
#ifndef SL_CUDA_ATTENTION_GENERAL_H
#define SL_CUDA_ATTENTION_GENERAL_H

#include "cuda/attention_parts.h"

template <typename T> struct slc_plain_view {
    typedef T type;
    const float *p;
    int ld;
    __device__ float operator()(int row, int d) const { return p[row * ld + d]; }
};

/* Shared memory: rows of head_dim floats, an odd number apart, so that a column's elements lie in different banks. */
static __host__ __device__ inline int slc_wide(int hd) { return hd | 1; }

template <int R, int N> struct slc_general {
    enum { TILE = R * N, THREADS = N * N, WEIGHTS_LD = TILE + 1 };

    template <typename T>
    static __device__ void load(float *to, const T *from, int64_t ld, int first, int seq, int hd) {
        for (int e = (int)threadIdx.x; e < TILE * hd; e += THREADS) {
            int r = e / hd, d = e % hd;
            to[r * slc_wide(hd) + d] = first + r < seq ? slc_load(from + (first + r) * ld + d) : 0;
        }
    }
    template <typename T>
    static __device__ void store(T *to, const float *from, float scale, int64_t ld, int first, int seq, int hd) {
        for (int e = (int)threadIdx.x; e < TILE * hd; e += THREADS) {
            int r = e / hd, d = e % hd;
            if (first + r < seq)
                slc_store(to + (first + r) * ld + d, scale * from[r * slc_wide(hd) + d]);
        }
    }
    static __device__ void zero(float *to, int hd) {
        for (int e = (int)threadIdx.x; e < TILE * slc_wide(hd); e += THREADS)
            to[e] = 0;
    }
    /* s = a b^T */
    static __device__ void scores(float s[R][R], const float *a, const float *b, int hd) {
        int tx = (int)threadIdx.x % N, ty = (int)threadIdx.x / N, ld = slc_wide(hd);
        for (int i = 0; i < R * R; i++)
            s[i / R][i % R] = 0;
        for (int d = 0; d < hd; d++)
            for (int r = 0; r < R; r++)
                for (int c = 0; c < R; c++)
                    s[r][c] = fmaf(a[(ty + N * r) * ld + d], b[(tx + N * c) * ld + d], s[r][c]);
    }
    static __device__ void put(float *weights, const float s[R][R]) {
        int tx = (int)threadIdx.x % N, ty = (int)threadIdx.x / N;
        for (int r = 0; r < R; r++)
            for (int c = 0; c < R; c++)
                weights[(ty + N * r) * WEIGHTS_LD + tx + N * c] = s[r][c];
    }
    /* to += weights b, or the transpose of weights: row and column say how far its elements lie apart. */
    static __device__ void add(float *to, const float *weights, int row, int column, const float *b, int hd) {
        int tx = (int)threadIdx.x % N, ty = (int)threadIdx.x / N, ld = slc_wide(hd);
        for (int d = tx; d < hd; d += N) {
            float sum[R] = {};
            for (int j = 0; j < TILE; j++)
                for (int r = 0; r < R; r++)
                    sum[r] = fmaf(weights[(ty + N * r) * row + j * column], b[j * ld + d], sum[r]);
            for (int r = 0; r < R; r++)
                to[(ty + N * r) * ld + d] += sum[r];
        }
    }
    /* rows of `to` by factors */
    static __device__ void scale(float *to, const float factor[R], int hd) {
        int tx = (int)threadIdx.x % N, ty = (int)threadIdx.x / N;
        for (int r = 0; r < R; r++)
            for (int d = tx; d < hd; d += N)
                to[(ty + N * r) * slc_wide(hd) + d] *= factor[r];
    }
};

/* Room in shared memory: so many tiles head_dim wide, two of weights, four numbers a row. */
template <int R, int N> static int64_t slc_general_shared(int64_t hd, int tiles) {
    typedef slc_general<R, N> G;
    return (int64_t)sizeof(float) * (tiles * G::TILE * slc_wide((int)hd) + 2 * G::TILE * G::WEIGHTS_LD + 4 * G::TILE);
}

/* Takes a tile of raw scores into the rows' running sums; they become exponentials, less the largest. factor: of what
 * was summed before. */
template <int R, int N>
static __device__ void slc_general_run(const slc_attention &p, float s[R][R], int q0, int k0, slc_running run[R],
                                       float factor[R]) {
    int tx = (int)threadIdx.x % N, ty = (int)threadIdx.x / N;
    for (int r = 0; r < R; r++) {
        float max = run[r].max, sum = 0;
        for (int c = 0; c < R; c++) {
            bool seen = slc_sees(p, q0 + ty + N * r, k0 + tx + N * c);
            s[r][c] = seen ? s[r][c] * p.scale : -INFINITY;
            max = fmaxf(max, s[r][c]);
        }
        max = slc_lanes_max(max, N);
        for (int c = 0; c < R; c++)
            sum += s[r][c] = expf(s[r][c] - slc_finite(max));
        factor[r] = expf(run[r].max - slc_finite(max));
        run[r] = {max, run[r].sum * factor[r] + slc_lanes_sum(sum, N)};
    }
}

template <typename T, int R, int N> __global__ void slc_general_forward(slc_attention p) {
    typedef slc_general<R, N> G;
    SLC_DYNAMIC(float, room);
    slc_head<T> h = slc_head_at<T>(p, blockIdx.x / p.heads, blockIdx.x % p.heads);
    int tx = (int)threadIdx.x % N, ty = (int)threadIdx.x / N, hd = h.hd, wide = G::TILE * slc_wide(hd);
    int q0 = (int)blockIdx.y * G::TILE, end = min(q0 + G::TILE, h.seq);
    float *q = room, *o = q + wide, *k = o + wide, *v = k + wide, *weights = v + wide;
    slc_running run[R];
    float s[R][R], factor[R], stat[R];
    bool softmax = p.rows == SLC_ROWS_SOFTMAX;
    G::load(q, h.q, p.ld, q0, h.seq, hd);
    G::zero(o, hd);
    __syncthreads();
    for (int r = 0; r < R; r++) {
        run[r] = {-INFINITY, 0};
        if (p.extra == SLC_EXTRA_NONE)
            continue;
        run[r] = {slc_extra_logit(p, h.head, h.kv, slc_plain_view<T>{q, slc_wide(hd)}, ty + N * r, N), 1};
        for (int d = tx; p.extra == SLC_EXTRA_KEY_VALUE && d < hd; d += N)
            o[(ty + N * r) * slc_wide(hd) + d] = p.bias_v[h.kv * hd + d];
    }
    for (int k0 = slc_first_key(p, q0); p.rows == SLC_ROWS_CLIPPED && k0 < end; k0 += G::TILE) {
        G::load(k, h.k, p.ld, k0, h.seq, hd);
        __syncthreads();
        G::scores(s, q, k, hd);
        slc_general_run<R, N>(p, s, q0, k0, run, factor);
        __syncthreads();
    }
    for (int r = 0; r < R; r++)
        stat[r] = p.rows == SLC_ROWS_CLIPPED ? run[r].max + logf(run[r].sum)
                                             : softmax ? 0 : slc_stat_of(p, h.stat, q0 + ty + N * r);
    for (int k0 = slc_first_key(p, q0); k0 < end; k0 += G::TILE) {
        G::load(k, h.k, p.ld, k0, h.seq, hd);
        G::load(v, h.v, p.ld, k0, h.seq, hd);
        __syncthreads();
        G::scores(s, q, k, hd);
        if (softmax) {
            slc_general_run<R, N>(p, s, q0, k0, run, factor);
            G::scale(o, factor, hd);
        }
        for (int i = 0; !softmax && i < R * R; i++) {
            int r = i / R, c = i % R;
            s[r][c] = slc_sees(p, q0 + ty + N * r, k0 + tx + N * c)
                          ? slc_weigh(p, s[r][c] * p.scale, 0, stat[r], 0).p : 0;
        }
        G::put(weights, s);
        __syncthreads();
        G::add(o, weights, G::WEIGHTS_LD, 1, v, hd);
        __syncthreads();
    }
    for (int r = 0; r < R; r++) {
        factor[r] = softmax ? 1 / run[r].sum : 1;
        if ((softmax || p.rows == SLC_ROWS_CLIPPED) && tx == 0 && q0 + ty + N * r < h.seq)
            h.stat[q0 + ty + N * r] = run[r].max + logf(run[r].sum);
    }
    G::scale(o, factor, hd);
    __syncthreads();
    G::store(h.o, o, 1, p.ldo, q0, h.seq, hd);
}

/* Raw scores s and gradients dp of weights, to weights and gradients of raw scores but for the scale. */
template <int R, int N>
static __device__ void slc_general_weigh(const slc_attention &p, float s[R][R], float dp[R][R], int q0, int k0,
                                         const float *stat, const float *delta) {
    int tx = (int)threadIdx.x % N, ty = (int)threadIdx.x / N;
    for (int r = 0; r < R; r++)
        for (int c = 0; c < R; c++) {
            int i = ty + N * r, q = q0 + i;
            slc_weighed w = {0, 0};
            if (q < (int)p.seq && slc_sees(p, q, k0 + tx + N * c))
                w = slc_weigh(p, s[r][c] * p.scale, dp[r][c], stat[i], delta[i]);
            s[r][c] = w.p, dp[r][c] = w.ds;
        }
}

/* delta of the block's queries, which are in q and dout, into shared memory and scratch. */
template <typename T, int R, int N>
static __device__ void slc_general_delta(const slc_attention &p, const slc_head<T> &h, int q0, const float *q,
                                         const float *dout, float *k, float *v, const float *stat, float *delta) {
    typedef slc_general<R, N> G;
    int tx = (int)threadIdx.x % N, ty = (int)threadIdx.x / N, hd = h.hd, end = min(q0 + G::TILE, h.seq);
    float s[R][R], dp[R][R], sum[R] = {};
    for (int r = 0; r < R; r++)
        for (int d = tx; p.rows == SLC_ROWS_SOFTMAX && q0 + ty + N * r < h.seq && d < hd; d += N)
            sum[r] += dout[(ty + N * r) * slc_wide(hd) + d] * slc_load(h.out + (q0 + ty + N * r) * p.ldo + d);
    for (int k0 = slc_first_key(p, q0); p.rows == SLC_ROWS_CLIPPED && k0 < end; k0 += G::TILE) {
        G::load(k, h.k, p.ld, k0, h.seq, hd);
        G::load(v, h.v, p.ld, k0, h.seq, hd);
        __syncthreads();
        G::scores(s, q, k, hd);
        G::scores(dp, dout, v, hd);
        for (int i = 0; i < R * R; i++) {
            int r = i / R, row = ty + N * r;
            float w = expf(s[r][i % R] * p.scale - stat[row]);
            if (q0 + row < h.seq && slc_sees(p, q0 + row, k0 + tx + N * (i % R)))
                sum[r] += w * slc_clip(p, w, dp[r][i % R]).ds;
        }
        __syncthreads();
    }
    for (int r = 0; r < R; r++) {
        int row = ty + N * r;
        sum[r] = slc_lanes_sum(sum[r], N);
        sum[r] += q0 + row < h.seq ? slc_null_delta(p, h, q0 + row) : 0;
        if (tx == 0)
            delta[row] = sum[r];
        if (tx == 0 && q0 + row < h.seq)
            h.delta[q0 + row] = sum[r];
    }
    __syncthreads();
}

/* dq of a block of queries, their deltas, and the extra's gradients. */
template <typename T, int R, int N> __global__ void slc_general_dq(slc_attention p) {
    typedef slc_general<R, N> G;
    SLC_DYNAMIC(float, room);
    slc_head<T> h = slc_head_at<T>(p, blockIdx.x / p.heads, blockIdx.x % p.heads);
    int hd = h.hd, wide = G::TILE * slc_wide(hd), q0 = (int)blockIdx.y * G::TILE, end = min(q0 + G::TILE, h.seq);
    float *q = room, *dout = q + wide, *dq = dout + wide, *k = dq + wide, *v = k + wide, *weights = v + wide;
    float *stat = weights + 2 * G::TILE * G::WEIGHTS_LD, *delta = stat + G::TILE, *extra = delta + G::TILE;
    float s[R][R], dp[R][R];
    G::load(q, h.q, p.ld, q0, h.seq, hd);
    G::load(dout, h.dout, p.ldo, q0, h.seq, hd);
    G::zero(dq, hd);
    if ((int)threadIdx.x < G::TILE)
        stat[threadIdx.x] = q0 + (int)threadIdx.x < h.seq ? slc_stat_of(p, h.stat, q0 + (int)threadIdx.x) : 0;
    __syncthreads();
    slc_general_delta<T, R, N>(p, h, q0, q, dout, k, v, stat, delta);
    for (int k0 = slc_first_key(p, q0); k0 < end; k0 += G::TILE) {
        G::load(k, h.k, p.ld, k0, h.seq, hd);
        G::load(v, h.v, p.ld, k0, h.seq, hd);
        __syncthreads();
        G::scores(s, q, k, hd);
        G::scores(dp, dout, v, hd);
        slc_general_weigh<R, N>(p, s, dp, q0, k0, stat, delta);
        G::put(weights, dp);
        __syncthreads();
        G::add(dq, weights, G::WEIGHTS_LD, 1, k, hd);
        __syncthreads();
    }
    if (slc_extra_learns(p)) {
        slc_plain_view<T> q_rows = {q, slc_wide(hd)}, dout_rows = {dout, slc_wide(hd)};
        slc_extra_gradients(p, h, q_rows, dout_rows, stat, delta, G::TILE, end - q0, extra, extra + G::TILE,
                            slc_partial(p, h.window, h.head, blockIdx.y, gridDim.y));
        for (int e = (int)threadIdx.x; p.extra != SLC_EXTRA_LOGIT && e < G::TILE * hd; e += G::THREADS)
            dq[e / hd * slc_wide(hd) + e % hd] += extra[e / hd] * p.bias_k[h.kv * hd + e % hd];
        __syncthreads();
    }
    G::store(h.dq, dq, p.scale, p.ld, q0, h.seq, hd);
}

/* dk and dv of a block of keys, over the heads of the group and the queries that see one of them. Needs the deltas. */
template <typename T, int R, int N> __global__ void slc_general_dkv(slc_attention p) {
    typedef slc_general<R, N> G;
    SLC_DYNAMIC(float, room);
    int64_t window = blockIdx.x / p.kv_heads, kv = blockIdx.x % p.kv_heads, group = p.heads / p.kv_heads;
    int hd = (int)p.head_dim, seq = (int)p.seq, wide = G::TILE * slc_wide(hd), k0 = (int)blockIdx.y * G::TILE;
    int end = slc_end_query(p, k0 + G::TILE - 1);
    float *k = room, *v = k + wide, *dk = v + wide, *dv = dk + wide, *q = dv + wide, *dout = q + wide;
    float *weights = dout + wide, *grads = weights + G::TILE * G::WEIGHTS_LD;
    float *stat = grads + G::TILE * G::WEIGHTS_LD, *delta = stat + G::TILE;
    float s[R][R], dp[R][R];
    slc_head<T> h = slc_head_at<T>(p, window, kv * group);
    G::load(k, h.k, p.ld, k0, seq, hd);
    G::load(v, h.v, p.ld, k0, seq, hd);
    G::zero(dk, hd);
    G::zero(dv, hd);
    for (int64_t i = 0; i < group; i++) {
        h = slc_head_at<T>(p, window, kv * group + i);
        for (int q0 = k0; q0 < end; q0 += G::TILE) {
            int at = q0 + (int)threadIdx.x;
            G::load(q, h.q, p.ld, q0, seq, hd);
            G::load(dout, h.dout, p.ldo, q0, seq, hd);
            if ((int)threadIdx.x < G::TILE) {
                stat[threadIdx.x] = at < seq ? slc_stat_of(p, h.stat, at) : 0;
                delta[threadIdx.x] = at < seq ? h.delta[at] : 0;
            }
            __syncthreads();
            G::scores(s, q, k, hd);
            G::scores(dp, dout, v, hd);
            slc_general_weigh<R, N>(p, s, dp, q0, k0, stat, delta);
            G::put(weights, s);
            G::put(grads, dp);
            __syncthreads();
            G::add(dv, weights, 1, G::WEIGHTS_LD, dout, hd);
            G::add(dk, grads, 1, G::WEIGHTS_LD, q, hd);
            __syncthreads();
        }
    }
    G::store(h.dk, dk, p.scale, p.ld, k0, seq, hd);
    G::store(h.dv, dv, 1, p.ld, k0, seq, hd);
}

template <typename T, int R, int N> static void slc_general_run_forward(slc_stream s, const slc_attention *p) {
    typedef slc_general<R, N> G;
    int64_t shared = slc_general_shared<R, N>(p->head_dim, 4);
    auto kernel = slc_general_forward<T, R, N>;
    SLC_MORE_SHARED(kernel, shared);
    SLC_LAUNCH(kernel, dim3(p->batch * p->heads, slc_div_up(p->seq, G::TILE)), G::THREADS, shared, s, *p);
}

template <typename T, int R, int N> static void slc_general_run_backward(slc_stream s, const slc_attention *p) {
    typedef slc_general<R, N> G;
    int64_t dq_shared = slc_general_shared<R, N>(p->head_dim, 5), shared = slc_general_shared<R, N>(p->head_dim, 6);
    auto dq = slc_general_dq<T, R, N>;
    auto dkv = slc_general_dkv<T, R, N>;
    SLC_MORE_SHARED(dq, dq_shared);
    SLC_MORE_SHARED(dkv, shared);
    SLC_LAUNCH(dq, dim3(p->batch * p->heads, slc_div_up(p->seq, G::TILE)), G::THREADS, dq_shared, s, *p);
    SLC_LAUNCH(dkv, dim3(p->batch * p->kv_heads, slc_div_up(p->seq, G::TILE)), G::THREADS, shared, s, *p);
}

#endif
