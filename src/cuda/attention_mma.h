/* Attention in bf16 on the tensor cores, head_dim a multiple of 8 up to 128, in the manner of FlashAttention-2. Four
 * warps a block; each has its own rows of scores (queries; going back for dk and dv, keys) and goes over tiles of the
 * others, which come through shared memory two deep. Scores, weights and their gradients stay in registers: what a
 * product leaves there is the next one's operand. head_dim is padded with zeros to HD. */
#ifndef SL_CUDA_ATTENTION_MMA_H
#define SL_CUDA_ATTENTION_MMA_H

#include "cuda/attention_parts.h"
#include "cuda/mma.h"

enum { SLC_MMA_THREADS = 128 };

/* For weights that are rounded to bf16: 2 ulp, 0 below 2^-126. */
static __device__ __forceinline__ float slc_exp2(float x) {
#ifdef SL_CUDA_EMU
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* A tile in shared memory: rows of HD elements, pieces of 16 bytes permuted within a row so that eight rows' pieces of
 * one column lie in different banks. */
template <int HD> static __device__ __forceinline__ slc_bf16 *slc_piece(slc_bf16 *tile, int row, int piece) {
    int bytes = row * (2 * HD) + (piece ^ (HD >= 64 ? row & 7 : row >> 1 & 3)) * 16;
    return (slc_bf16 *)((char *)tile + bytes);
}

template <int HD> struct slc_tile_view {
    typedef slc_bf16 type;
    slc_bf16 *tile;
    __device__ float operator()(int row, int d) const { return slc_from_bf16(slc_piece<HD>(tile, row, d / 8)[d % 8]); }
};

/* Rows first.. of a head on their way into a tile; zeros beyond seq and hd. A thread has the same piece of every
 * STEP-th row, in the same place of it. */
template <int HD, int ROWS>
static __device__ __forceinline__ void slc_fetch(slc_bf16 *tile, const slc_bf16 *from, int64_t ld, int first, int seq,
                                                 int hd) {
    enum { STEP = SLC_MMA_THREADS / (HD / 8) };
    int row = (int)threadIdx.x / (HD / 8), piece = (int)threadIdx.x % (HD / 8);
    slc_bf16 *to = slc_piece<HD>(tile, row, piece);
    const slc_bf16 *at = from + (int64_t)(first + row) * (int)ld + piece * 8;
    SLC_UNROLL
    for (int i = 0; i < ROWS / STEP; i++, at += STEP * ld) {
        bool in = first + row + i * STEP < seq && piece * 8 < hd; /* else nothing is read */
        slc_copy_async(to + i * STEP * HD, at, in ? 16 : 0);
    }
}

/* Operand a: rows row0.. + 15, columns 16 k... */
template <int HD> static __device__ __forceinline__ void slc_operand_a(uint32_t a[4], slc_bf16 *tile, int row0, int k) {
    int lane = (int)threadIdx.x % 32;
    slc_ldmatrix(a, slc_piece<HD>(tile, row0 + lane % 16, 2 * k + lane / 16));
}
/* Operands b[0..1] and b[2..3] of two neighbours of 8 columns, which are rows row0.. + 15 of the tile; depth is its
 * columns 16 k... */
template <int HD> static __device__ __forceinline__ void slc_operand_b(uint32_t b[4], slc_bf16 *tile, int row0, int k) {
    int lane = (int)threadIdx.x % 32;
    slc_ldmatrix(b, slc_piece<HD>(tile, row0 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
}
/* The same of columns 16 n.. of the tile; depth is its rows row0.. + 15. */
template <int HD>
static __device__ __forceinline__ void slc_operand_bt(uint32_t b[4], slc_bf16 *tile, int row0, int n) {
    int lane = (int)threadIdx.x % 32;
    slc_ldmatrix_trans(b, slc_piece<HD>(tile, row0 + lane % 16, 2 * n + lane / 16));
}
/* Columns 16 k.. of a product's result as operand a. */
static __device__ __forceinline__ void slc_operand_of(uint32_t a[4], const float (*s)[4], int k) {
    a[0] = slc_pack_bf16(s[2 * k][0], s[2 * k][1]);
    a[1] = slc_pack_bf16(s[2 * k][2], s[2 * k][3]);
    a[2] = slc_pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
    a[3] = slc_pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
}

template <int N> static __device__ __forceinline__ void slc_clear(float (*c)[4]) {
    SLC_UNROLL
    for (int i = 0; i < N; i++)
        c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0;
}

/* s[., 8 N] = WM times 16 rows of a tile times the first 8 N rows of another, transposed. Both operands are read anew
 * each time: registers are what decides how many blocks run at once. */
template <int HD, int WM, int N>
static __device__ __forceinline__ void slc_scores(float (*s)[N][4], slc_bf16 *tile, int row0, slc_bf16 *others) {
    SLC_UNROLL
    for (int w = 0; w < WM; w++)
        slc_clear<N>(s[w]);
    SLC_UNROLL
    for (int k = 0; k < HD / 16; k++) {
        uint32_t a[WM][4], b[4];
        SLC_UNROLL
        for (int w = 0; w < WM; w++)
            slc_operand_a<HD>(a[w], tile, row0 + 16 * w, k);
        SLC_UNROLL
        for (int n = 0; n < N / 2; n++) {
            slc_operand_b<HD>(b, others, 16 * n, k);
            SLC_UNROLL
            for (int w = 0; w < WM; w++) {
                slc_mma(s[w][2 * n], a[w], b);
                slc_mma(s[w][2 * n + 1], a[w], b + 2);
            }
        }
    }
}

/* c += s others; s is [., 8 N], rows of `others` its depth */
template <int HD, int WM, int N>
static __device__ __forceinline__ void slc_gather(float (*c)[HD / 8][4], const float (*s)[N][4], slc_bf16 *others) {
    SLC_UNROLL
    for (int k = 0; k < N / 2; k++) {
        uint32_t a[WM][4], b[4];
        SLC_UNROLL
        for (int w = 0; w < WM; w++)
            slc_operand_of(a[w], s[w], k);
        SLC_UNROLL
        for (int n = 0; n < HD / 16; n++) {
            slc_operand_bt<HD>(b, others, 16 * k, n);
            SLC_UNROLL
            for (int w = 0; w < WM; w++) {
                slc_mma(c[w][2 * n], a[w], b);
                slc_mma(c[w][2 * n + 1], a[w], b + 2);
            }
        }
    }
}

/* Rows row0.. + 15 of a tile that this warp alone still uses, from its results times lo (rows g) and hi (g + 8), and on
 * to memory as position first of a head. */
template <int HD>
static __device__ __forceinline__ void slc_leave(slc_bf16 *tile, int row0, const float (*c)[4], float lo, float hi,
                                                 slc_bf16 *to, int64_t ld, int first, int seq, int hd) {
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp();
    SLC_UNROLL
    for (int n = 0; n < HD / 8; n++) {
        *(uint32_t *)(slc_piece<HD>(tile, row0 + g, n) + 2 * t) = slc_pack_bf16(lo * c[n][0], lo * c[n][1]);
        *(uint32_t *)(slc_piece<HD>(tile, row0 + g + 8, n) + 2 * t) = slc_pack_bf16(hi * c[n][2], hi * c[n][3]);
    }
    __syncwarp();
    SLC_UNROLL
    for (int i = 0; i < 16 * HD / 8 / 32; i++) {
        int e = lane + 32 * i, row = e / (HD / 8), piece = e % (HD / 8);
        if (first + row < seq && piece * 8 < hd)
            *(uint4 *)(to + (first + row) * ld + piece * 8) = *(const uint4 *)slc_piece<HD>(tile, row0 + row, piece);
    }
}

/* Gradients of 16 rotated rows, from position first on, to those before the rotation. */
template <int HD>
static __device__ __forceinline__ void slc_turn_back(const float *turn, float (*c)[4], int first, int seq) {
    int lane = (int)threadIdx.x % 32;
    SLC_UNROLL
    for (int n = 0; n < HD / 16; n++)
        SLC_UNROLL
        for (int r = 0; r < 2; r++) {
            int at = first + lane / 4 + 8 * r;
            float4 v = at < seq ? *(const float4 *)(turn + ((int64_t)at * (HD / 2) + 8 * n + 2 * (lane % 4)) * 2)
                                : make_float4(0, 0, 0, 0);
            const float cosine[2] = {v.x, v.z}, sine[2] = {v.y, v.w};
            SLC_UNROLL
            for (int i = 0; i < 2; i++) {
                float *x = &c[n][2 * r + i], *y = &c[n + HD / 16][2 * r + i], lo = *x, hi = *y;
                *x = lo * cosine[i] + hi * sine[i];
                *y = hi * cosine[i] - lo * sine[i];
            }
        }
}

/* ---- forward */

/* BLOCKS: that a multiprocessor shall have at once, which bounds registers. */
template <int HD, int WM> struct slc_forward_shape {
    enum { Q = 64 * WM, K = 64, SHARED = (Q + 4 * K) * HD * (int)sizeof(slc_bf16), BLOCKS = 2 };
};

/* Scores of 16 rows against 8 N keys to powers of 2, less the row's largest; scale > 0. run: of both rows of a thread;
 * what was summed before is to be multiplied by the factor. */
template <int N>
static __device__ __forceinline__ void slc_soften(float (*s)[4], float scale, slc_running run[2], float factor[2]) {
    float max[2] = {-INFINITY, -INFINITY}, base[2];
    SLC_UNROLL
    for (int n = 0; n < N; n++)
        SLC_UNROLL
        for (int i = 0; i < 4; i++)
            max[i / 2] = fmaxf(max[i / 2], s[n][i]);
    SLC_UNROLL
    for (int r = 0; r < 2; r++) {
        max[r] = fmaxf(run[r].max, scale * slc_lanes_max(max[r], 4));
        base[r] = slc_finite(max[r]);
        factor[r] = slc_exp2(run[r].max - base[r]);
        run[r] = {max[r], run[r].sum * factor[r]};
    }
    SLC_UNROLL
    for (int n = 0; n < N; n++)
        SLC_UNROLL
        for (int i = 0; i < 4; i++) {
            s[n][i] = slc_exp2(fmaf(s[n][i], scale, -base[i / 2]));
            run[i / 2].sum += s[n][i];
        }
}

/* -infinity where a query does not see a key; rows are queries q0.. and columns keys k0.., or transposed. */
template <int N, bool TRANSPOSED>
static __device__ __forceinline__ void slc_hide(const slc_attention &p, float (*s)[4], int q0, int k0) {
    int lane = (int)threadIdx.x % 32, row = lane / 4, column = 2 * (lane % 4);
    int queries = TRANSPOSED ? 8 * N : 16, keys = TRANSPOSED ? 16 : 8 * N;
    if (k0 + keys - 1 <= q0 && q0 + queries - 1 - k0 < (int)p.window)
        return;
    /* how far a query is behind a key */
    int behind = TRANSPOSED ? q0 + column - k0 - row : q0 + row - k0 - column;
    SLC_UNROLL
    for (int n = 0; n < N; n++)
        SLC_UNROLL
        for (int i = 0; i < 4; i++) {
            int here = behind + (TRANSPOSED ? 1 : -1) * (8 * n + i % 2 - i / 2 * 8);
            s[n][i] = here >= 0 && here < (int)p.window ? s[n][i] : -INFINITY;
        }
}

/* Of the other kinds: weights into s, and gradients into dp; 0 where a query does not see a key. stat and delta are of
 * rows g and g + 8; transposed, where rows are keys, of columns. */
template <int N, bool TRANSPOSED>
static __device__ __forceinline__ void slc_weigh_tile(const slc_attention &p, float (*s)[4], float (*dp)[4], int q0,
                                                      int k0, const float *stat, const float *delta) {
    int lane = (int)threadIdx.x % 32;
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = 8 * n + 2 * (lane % 4) + i % 2;
            int q = TRANSPOSED ? column : row, k = TRANSPOSED ? row : column;
            slc_weighed w = {0, 0};
            if (q0 + q < (int)p.seq && slc_sees(p, q0 + q, k0 + k))
                w = slc_weigh(p, s[n][i] * p.scale, dp ? dp[n][i] : 0, stat[TRANSPOSED ? q : i / 2],
                              delta ? delta[TRANSPOSED ? q : i / 2] : 0);
            s[n][i] = w.p;
            if (dp)
                dp[n][i] = w.ds;
        }
}

/* What an extra adds to a warp's rows, to each of the four lanes' share of a sum that are added in the end. */
template <int HD>
static __device__ __forceinline__ void slc_add_extra(const slc_attention &p, const slc_head<slc_bf16> &h, slc_bf16 *q,
                                                     int row0, slc_running run[2], float (*o)[4]) {
    int lane = (int)threadIdx.x % 32;
    float factor[2], weight[2];
    SLC_UNROLL
    for (int r = 0; r < 2; r++) {
        slc_tile_view<HD> rows = {q};
        float z = SLC_LOG2E * slc_extra_logit(p, h.head, h.kv, rows, row0 + lane / 4 + 8 * r, 4);
        float max = fmaxf(run[r].max, z);
        factor[r] = slc_exp2(run[r].max - max), weight[r] = slc_exp2(z - max);
        run[r] = {max, run[r].sum * factor[r] + (lane % 4 == 0 ? weight[r] : 0)};
    }
    SLC_UNROLL
    for (int i = 0; i < HD / 8 * 4; i++) {
        int d = i / 4 * 8 + 2 * (lane % 4) + i % 2, r = i / 2 % 2;
        float value = p.extra == SLC_EXTRA_KEY_VALUE && d < h.hd ? p.bias_v[h.kv * h.hd + d] : 0;
        o[i / 4][i % 4] = factor[r] * o[i / 4][i % 4] + weight[r] * value;
    }
}

static __device__ __forceinline__ bool slc_sees_none(const slc_attention &p, int q0, int rows, int k0, int keys) {
    return k0 > q0 + rows - 1 || q0 - (k0 + keys - 1) >= (int)p.window;
}

template <int HD, int WM, bool SOFTMAX>
__global__ void __launch_bounds__(SLC_MMA_THREADS, slc_forward_shape<HD, WM>::BLOCKS) slc_mma_forward(slc_attention p) {
    typedef slc_forward_shape<HD, WM> S;
    enum { N = S::K / 8 };
    SLC_DYNAMIC(slc_bf16, q);
    slc_bf16 *k = q + S::Q * HD, *v = k + 2 * S::K * HD;
    slc_head<slc_bf16> h = slc_head_at<slc_bf16>(p, blockIdx.x / p.heads, blockIdx.x % p.heads);
    int lane = (int)threadIdx.x % 32, row0 = (int)threadIdx.x / 32 * 16 * WM;
    int q0 = ((int)gridDim.y - 1 - (int)blockIdx.y) * S::Q, own = q0 + row0; /* those with most keys first */
    int first = slc_first_key(p, q0) / S::K, end = (min(q0 + S::Q, h.seq) + S::K - 1) / S::K;
    float o[WM][HD / 8][4], s[WM][N][4], factor[2], scale = p.scale * SLC_LOG2E;
    slc_running run[WM][2];
    SLC_UNROLL
    for (int w = 0; w < WM; w++) {
        slc_clear<HD / 8>(o[w]);
        run[w][0] = run[w][1] = {-INFINITY, 0};
    }
    slc_fetch<HD, S::Q>(q, h.q, p.ld, q0, h.seq, h.hd);
    /* The clipped softmax needs the sum of exponentials before it has a weight: a round over the keys before. */
    for (int round = !SOFTMAX && p.rows == SLC_ROWS_CLIPPED ? 0 : 1; round < 2; round++) {
        slc_fetch<HD, S::K>(k, h.k, p.ld, first * S::K, h.seq, h.hd);
        slc_fetch<HD, S::K>(v, h.v, p.ld, first * S::K, h.seq, h.hd);
        slc_copy_commit();
        for (int t = first; t < end; t++) {
            int stage = (t - first) % 2, k0 = t * S::K;
            slc_copy_wait<0>();
            __syncthreads(); /* this tile is there, and nobody reads the one before */
            if (t + 1 < end) {
                slc_fetch<HD, S::K>(k + (1 - stage) * S::K * HD, h.k, p.ld, k0 + S::K, h.seq, h.hd);
                slc_fetch<HD, S::K>(v + (1 - stage) * S::K * HD, h.v, p.ld, k0 + S::K, h.seq, h.hd);
                slc_copy_commit();
            }
            if (slc_sees_none(p, own, 16 * WM, k0, S::K))
                continue;
            slc_scores<HD, WM>(s, q, row0, k + stage * S::K * HD);
            SLC_UNROLL
            for (int w = 0; w < WM; w++) {
                if (SOFTMAX || round == 0) {
                    slc_hide<N, false>(p, s[w], own + 16 * w, k0);
                    slc_soften<N>(s[w], scale, run[w], factor);
                    SLC_UNROLL
                    for (int n = 0; SOFTMAX && n < HD / 8; n++)
                        for (int i = 0; i < 4; i++)
                            o[w][n][i] *= factor[i / 2];
                } else {
                    float stat[2];
                    for (int r = 0; r < 2; r++)
                        stat[r] = p.rows == SLC_ROWS_CLIPPED
                                          ? run[w][r].max
                                          : slc_stat_of(p, h.stat, own + 16 * w + lane / 4 + 8 * r);
                    slc_weigh_tile<N, false>(p, s[w], NULL, own + 16 * w, k0, stat, NULL);
                }
            }
            if (SOFTMAX || round == 1)
                slc_gather<HD, WM>(o, s, v + stage * S::K * HD);
        }
        __syncthreads();
        if (SOFTMAX && p.extra != SLC_EXTRA_NONE)
            SLC_UNROLL
            for (int w = 0; w < WM; w++)
                slc_add_extra<HD>(p, h, q, row0 + 16 * w, run[w], o[w]);
        SLC_UNROLL
        for (int i = 0; i < 2 * WM; i++) {
            slc_running *r = &run[i / 2][i % 2];
            if (SOFTMAX || round == 0) {
                r->sum = slc_lanes_sum(r->sum, 4);
                r->max = (r->max + log2f(r->sum)) / SLC_LOG2E; /* the statistic from now on */
            }
        }
    }
    SLC_UNROLL
    for (int w = 0; w < WM; w++) {
        for (int r = 0; r < 2; r++) {
            int at = own + 16 * w + lane / 4 + 8 * r;
            if (lane % 4 == 0 && at < h.seq && (SOFTMAX || p.rows == SLC_ROWS_CLIPPED))
                h.stat[at] = run[w][r].max;
            factor[r] = SOFTMAX ? 1 / run[w][r].sum : 1;
        }
        slc_leave<HD>(q, row0 + 16 * w, o[w], factor[0], factor[1], h.o, p.ldo, own + 16 * w, h.seq, h.hd);
    }
}

/* ---- backward */

enum { SLC_MMA_BACK = 64 }; /* queries of a block for dq, keys of one for dk and dv */
template <int HD> struct slc_dq_shape {
    enum { K = 64,
           SHARED = (2 * SLC_MMA_BACK + 4 * K) * HD * (int)sizeof(slc_bf16) + 4 * SLC_MMA_BACK * (int)sizeof(float),
           BLOCKS = HD > 64 ? 2 : 3 };
};
template <int HD> struct slc_dkv_shape {
    enum { Q = 32,
           SHARED = (2 * SLC_MMA_BACK + 4 * Q) * HD * (int)sizeof(slc_bf16) + 4 * Q * (int)sizeof(float),
           BLOCKS = HD > 64 ? 2 : 3 };
};

/* delta = dout . out of the block's queries. */
template <int HD>
static __device__ __forceinline__ void slc_mma_delta(const slc_attention &p, const slc_head<slc_bf16> &h, int q0,
                                                     slc_bf16 *dout, float *delta) {
    enum { LANES = HD / 8, ROWS = SLC_MMA_THREADS / LANES };
    SLC_UNROLL
    for (int i = 0; i < SLC_MMA_BACK / ROWS; i++) {
        int row = i * ROWS + (int)threadIdx.x / LANES, piece = (int)threadIdx.x % LANES;
        float sum = 0;
        if (q0 + row < h.seq && piece * 8 < h.hd) {
            uint4 a = *(const uint4 *)(h.out + (q0 + row) * p.ldo + piece * 8);
            uint4 b = *(const uint4 *)slc_piece<HD>(dout, row, piece);
            const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
            SLC_UNROLL
            for (int j = 0; j < 4; j++) {
                sum = fmaf(__uint_as_float(x[j] << 16), __uint_as_float(y[j] << 16), sum);
                sum = fmaf(__uint_as_float(x[j] & 0xffff0000u), __uint_as_float(y[j] & 0xffff0000u), sum);
            }
        }
        sum = slc_lanes_sum(sum, LANES);
        if (piece == 0)
            delta[row] = sum + (q0 + row < h.seq ? slc_null_delta(p, h, q0 + row) : 0);
    }
    __syncthreads();
}

/* The softmax's weights and gradients of 16 queries against 8 N keys, from scores and dp. */
template <int N>
static __device__ __forceinline__ void slc_soft_gradients(const slc_attention &p, float (*s)[4], float (*dp)[4], int q0,
                                                          int k0, const float stat[2], const float delta[2]) {
    float scale = p.scale * SLC_LOG2E;
    slc_hide<N, false>(p, s, q0, k0);
    SLC_UNROLL
    for (int n = 0; n < N; n++)
        SLC_UNROLL
        for (int i = 0; i < 4; i++) {
            s[n][i] = slc_exp2(fmaf(s[n][i], scale, -stat[i / 2]));
            dp[n][i] = s[n][i] * (dp[n][i] - delta[i / 2]);
        }
}

/* What the clipped softmax sums for delta. */
template <int N>
static __device__ __forceinline__ void slc_clip_sums(const slc_attention &p, const float (*s)[4], const float (*dp)[4],
                                                     int q0, int k0, const float stat[2], float sum[2]) {
    int lane = (int)threadIdx.x % 32;
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++)
            if (slc_sees(p, q0 + lane / 4 + i / 2 * 8, k0 + 8 * n + 2 * (lane % 4) + i % 2)) {
                float w = expf(s[n][i] * p.scale - stat[i / 2]);
                sum[i / 2] += w * slc_clip(p, w, dp[n][i]).ds;
            }
}

template <int HD, bool SOFTMAX>
__global__ void __launch_bounds__(SLC_MMA_THREADS, slc_dq_shape<HD>::BLOCKS) slc_mma_dq(slc_attention p) {
    typedef slc_dq_shape<HD> S;
    enum { N = S::K / 8, Q = SLC_MMA_BACK };
    SLC_DYNAMIC(slc_bf16, q);
    slc_bf16 *dout = q + Q * HD, *k = dout + Q * HD, *v = k + 2 * S::K * HD;
    float *stats = (float *)(v + 2 * S::K * HD), *deltas = stats + Q, *extra = deltas + Q;
    slc_head<slc_bf16> h = slc_head_at<slc_bf16>(p, blockIdx.x / p.heads, blockIdx.x % p.heads);
    int lane = (int)threadIdx.x % 32, row0 = (int)threadIdx.x / 32 * 16, tid = (int)threadIdx.x;
    int block = (int)gridDim.y - 1 - (int)blockIdx.y, q0 = block * Q, own = q0 + row0;
    int first = slc_first_key(p, q0) / S::K, end = (min(q0 + Q, h.seq) + S::K - 1) / S::K;
    float dq[1][HD / 8][4], s[1][N][4], dp[1][N][4], stat[2], delta[2] = {0, 0}, sum[2] = {0, 0};
    slc_clear<HD / 8>(dq[0]);
    slc_fetch<HD, Q>(q, h.q, p.ld, q0, h.seq, h.hd);
    slc_fetch<HD, Q>(dout, h.dout, p.ldo, q0, h.seq, h.hd);
    slc_copy_commit();
    if (tid < Q)
        stats[tid] = q0 + tid < h.seq ? slc_stat_of(p, h.stat, q0 + tid) : 0;
    /* The clipped softmax's delta takes a round over the keys before. */
    for (int round = !SOFTMAX && p.rows == SLC_ROWS_CLIPPED ? 0 : 1; round < 2; round++) {
        slc_fetch<HD, S::K>(k, h.k, p.ld, first * S::K, h.seq, h.hd);
        slc_fetch<HD, S::K>(v, h.v, p.ld, first * S::K, h.seq, h.hd);
        slc_copy_commit();
        slc_copy_wait<1>();
        __syncthreads();
        if (SOFTMAX)
            slc_mma_delta<HD>(p, h, q0, dout, deltas);
        for (int r = 0; r < 2; r++) {
            stat[r] = stats[row0 + lane / 4 + 8 * r] * (SOFTMAX ? SLC_LOG2E : 1);
            delta[r] = SOFTMAX ? deltas[row0 + lane / 4 + 8 * r] : sum[r];
        }
        for (int t = first; t < end; t++) {
            int stage = (t - first) % 2, k0 = t * S::K;
            slc_copy_wait<0>();
            __syncthreads();
            if (t + 1 < end) {
                slc_fetch<HD, S::K>(k + (1 - stage) * S::K * HD, h.k, p.ld, k0 + S::K, h.seq, h.hd);
                slc_fetch<HD, S::K>(v + (1 - stage) * S::K * HD, h.v, p.ld, k0 + S::K, h.seq, h.hd);
                slc_copy_commit();
            }
            if (slc_sees_none(p, own, 16, k0, S::K))
                continue;
            slc_scores<HD, 1>(s, q, row0, k + stage * S::K * HD);
            slc_scores<HD, 1>(dp, dout, row0, v + stage * S::K * HD);
            if (round == 0) {
                slc_clip_sums<N>(p, s[0], dp[0], own, k0, stat, sum);
                continue;
            }
            if (SOFTMAX)
                slc_soft_gradients<N>(p, s[0], dp[0], own, k0, stat, delta);
            else
                slc_weigh_tile<N, false>(p, s[0], dp[0], own, k0, stat, delta);
            slc_gather<HD, 1>(dq, dp, k + stage * S::K * HD);
        }
        __syncthreads();
        for (int r = 0; r < 2 && round == 0; r++) {
            sum[r] = slc_lanes_sum(sum[r], 4);
            if (lane % 4 == 0)
                deltas[row0 + lane / 4 + 8 * r] = sum[r];
        }
        __syncthreads();
    }
    if (tid < Q && q0 + tid < h.seq && (SOFTMAX || p.rows == SLC_ROWS_CLIPPED))
        h.delta[q0 + tid] = deltas[tid];
    if (SOFTMAX && slc_extra_learns(p)) {
        slc_extra_gradients(p, h, slc_tile_view<HD>{q}, slc_tile_view<HD>{dout}, stats, deltas, Q, min(Q, h.seq - q0),
                            extra, extra + Q, slc_partial(p, h.window, h.head, block, gridDim.y));
        SLC_UNROLL
        for (int i = 0; i < HD / 8 * 4; i++) {
            int d = i / 4 * 8 + 2 * (lane % 4) + i % 2, row = row0 + lane / 4 + i / 2 % 2 * 8;
            if (p.extra != SLC_EXTRA_LOGIT && d < h.hd)
                dq[0][i / 4][i % 4] += extra[row] * p.bias_k[h.kv * h.hd + d];
        }
    }
    if (p.turn)
        slc_turn_back<HD>(p.turn, dq[0], own, h.seq);
    slc_leave<HD>(q, row0, dq[0], p.scale, p.scale, h.dq, p.ld, own, h.seq, h.hd);
}

/* The softmax's weights and gradients of 16 keys against 8 N queries: transposed, stat (of base 2) and delta by
 * columns. */
template <int N>
static __device__ __forceinline__ void slc_soft_gradients_t(const slc_attention &p, float (*s)[4], float (*dp)[4],
                                                            int q0, int k0, const float *stat, const float *delta) {
    int lane = (int)threadIdx.x % 32;
    float scale = p.scale * SLC_LOG2E;
    slc_hide<N, true>(p, s, q0, k0);
    SLC_UNROLL
    for (int n = 0; n < N; n++) {
        float2 of_stat = *(const float2 *)(stat + 8 * n + 2 * (lane % 4));
        float2 of_delta = *(const float2 *)(delta + 8 * n + 2 * (lane % 4));
        SLC_UNROLL
        for (int i = 0; i < 4; i++) {
            s[n][i] = slc_exp2(fmaf(s[n][i], scale, -(i % 2 ? of_stat.y : of_stat.x)));
            dp[n][i] = s[n][i] * (dp[n][i] - (i % 2 ? of_delta.y : of_delta.x));
        }
    }
}

/* What a block of keys reads of the queries: tiles of one head of the group after the other. */
template <int HD> struct slc_queries {
    enum { Q = slc_dkv_shape<HD>::Q };
    slc_bf16 *q, *dout;  /* two tiles each */
    float *stat, *delta; /* [2][Q] */
    const slc_bf16 *of_q, *of_dout;      /* the head, at position 0 */
    const float *of_stat, *of_delta;
    float mine = 0;      /* on its way: a stat or a delta */

    __device__ __forceinline__ void begin(const slc_head<slc_bf16> &h) {
        of_q = h.q, of_dout = h.dout, of_stat = h.stat, of_delta = h.delta;
    }
    __device__ __forceinline__ void next_head(const slc_attention &p) {
        of_q += p.head_dim, of_dout += p.head_dim, of_stat += p.seq, of_delta += p.seq;
    }
    /* Tile t on its way to a stage; land() ends it. */
    template <bool SOFTMAX> __device__ __forceinline__ void fetch(const slc_attention &p, int t, int stage) {
        slc_fetch<HD, Q>(q + stage * Q * HD, of_q, p.ld, t * Q, (int)p.seq, (int)p.head_dim);
        slc_fetch<HD, Q>(dout + stage * Q * HD, of_dout, p.ldo, t * Q, (int)p.seq, (int)p.head_dim);
        slc_copy_commit();
        int at = t * Q + (int)threadIdx.x % Q;
        bool in = at < (int)p.seq;
        if ((int)threadIdx.x < Q) /* queries that are not there have no weight */
            mine = SOFTMAX ? in ? of_stat[at] * SLC_LOG2E : INFINITY : in ? slc_stat_of(p, of_stat, at) : 0;
        else if ((int)threadIdx.x < 2 * Q)
            mine = in && (SOFTMAX || p.rows == SLC_ROWS_CLIPPED) ? of_delta[at] : 0;
    }
    __device__ __forceinline__ void land(int stage) {
        if ((int)threadIdx.x < 2 * Q)
            ((int)threadIdx.x < Q ? stat : delta)[stage * Q + (int)threadIdx.x % Q] = mine;
    }
};

template <int HD, bool SOFTMAX>
__global__ void __launch_bounds__(SLC_MMA_THREADS, slc_dkv_shape<HD>::BLOCKS) slc_mma_dkv(slc_attention p) {
    enum { Q = slc_dkv_shape<HD>::Q, N = Q / 8, K = SLC_MMA_BACK };
    SLC_DYNAMIC(slc_bf16, k);
    slc_bf16 *v = k + K * HD;
    slc_queries<HD> x;
    x.q = v + K * HD, x.dout = x.q + 2 * Q * HD, x.stat = (float *)(x.dout + 2 * Q * HD), x.delta = x.stat + 2 * Q;
    int64_t window = blockIdx.x / p.kv_heads, head = blockIdx.x % p.kv_heads * (p.heads / p.kv_heads);
    slc_head<slc_bf16> h = slc_head_at<slc_bf16>(p, window, head);
    int row0 = (int)threadIdx.x / 32 * 16, k0 = (int)blockIdx.y * K, own = k0 + row0;
    int first = k0 / Q, end = (slc_end_query(p, k0 + K - 1) + Q - 1) / Q, t = first;
    int left = (end - first) * (int)(p.heads / p.kv_heads), stage = 0;
    float dk[1][HD / 8][4], dv[1][HD / 8][4], s[1][N][4], dp[1][N][4];
    slc_clear<HD / 8>(dk[0]);
    slc_clear<HD / 8>(dv[0]);
    slc_fetch<HD, K>(k, h.k, p.ld, k0, h.seq, h.hd);
    slc_fetch<HD, K>(v, h.v, p.ld, k0, h.seq, h.hd);
    x.begin(h);
    x.template fetch<SOFTMAX>(p, first, 0);
    for (; left > 0; left--, stage = 1 - stage) {
        int q0 = t * Q;
        slc_copy_wait<0>();
        x.land(stage);
        __syncthreads();
        if (++t == end) {
            t = first;
            x.next_head(p);
        }
        if (left > 1)
            x.template fetch<SOFTMAX>(p, t, 1 - stage);
        if (slc_sees_none(p, q0, Q, own, 16))
            continue;
        slc_bf16 *q = x.q + stage * Q * HD, *dout = x.dout + stage * Q * HD;
        slc_scores<HD, 1>(s, k, row0, q);
        slc_scores<HD, 1>(dp, v, row0, dout);
        if (SOFTMAX)
            slc_soft_gradients_t<N>(p, s[0], dp[0], q0, own, x.stat + stage * Q, x.delta + stage * Q);
        else
            slc_weigh_tile<N, true>(p, s[0], dp[0], q0, own, x.stat + stage * Q, x.delta + stage * Q);
        slc_gather<HD, 1>(dv, s, dout);
        slc_gather<HD, 1>(dk, dp, q);
    }
    if (p.turn)
        slc_turn_back<HD>(p.turn, dk[0], own, h.seq);
    slc_leave<HD>(k, row0, dk[0], p.scale, p.scale, h.dk, p.ld, own, h.seq, h.hd);
    slc_leave<HD>(v, row0, dv[0], 1, 1, h.dv, p.ld, own, h.seq, h.hd);
}

/* ---- launching */

template <int HD, int WM, bool SOFTMAX> static void slc_mma_run_forward(slc_stream s, const slc_attention *p) {
    typedef slc_forward_shape<HD, WM> S;
    auto kernel = slc_mma_forward<HD, WM, SOFTMAX>;
    SLC_MORE_SHARED(kernel, S::SHARED);
    SLC_LAUNCH(kernel, dim3(p->batch * p->heads, slc_div_up(p->seq, S::Q)), SLC_MMA_THREADS, S::SHARED, s, *p);
}

template <int HD, bool SOFTMAX> static void slc_mma_run_backward(slc_stream s, const slc_attention *p) {
    int64_t blocks = slc_div_up(p->seq, SLC_MMA_BACK);
    auto dq = slc_mma_dq<HD, SOFTMAX>;
    auto dkv = slc_mma_dkv<HD, SOFTMAX>;
    SLC_MORE_SHARED(dq, slc_dq_shape<HD>::SHARED);
    SLC_MORE_SHARED(dkv, slc_dkv_shape<HD>::SHARED);
    SLC_LAUNCH(dq, dim3(p->batch * p->heads, blocks), SLC_MMA_THREADS, slc_dq_shape<HD>::SHARED, s, *p);
    SLC_LAUNCH(dkv, dim3(p->batch * p->kv_heads, blocks), SLC_MMA_THREADS, slc_dkv_shape<HD>::SHARED, s, *p);
}

#endif
