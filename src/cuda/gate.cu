#include "cuda/gate.h"

#include "cuda/mma.h"
#include "cuda/rows.h"

enum { WARPS = 4, WIDE = 256 };

/* fast: to a few 2^-22, for what is rounded to bf16. */
template <bool fast> static __device__ __forceinline__ float logistic(float x) {
    return fast ? __fdividef(1, 1 + __expf(-x)) : 1 / (1 + expf(-x));
}

template <bool fast = false> static __device__ __forceinline__ float act(int kind, float x, float *slope) {
    float q;
    switch (kind) {
    case SLC_GATE_SIGMOID:
        q = logistic<fast>(x);
        *slope = q * (1 - q);
        return q;
    case SLC_GATE_TANH:
        q = tanhf(x);
        *slope = 1 - q * q;
        return q;
    case SLC_GATE_SILU:
        q = logistic<fast>(x);
        *slope = q + x * q * (1 - q);
        return x * q;
    case SLC_GATE_RELU:
        *slope = x > 0;
        return x < 0 ? 0 : x;
    default:
        *slope = 1;
        return x;
    }
}

static int64_t blocks_for(int64_t items) { return slc_max(1, slc_min(slc_div_up(items, WIDE), 1 << 16)); }
#define EACH(i, n)                                                                                                     \
    for (int64_t i = (int64_t)blockIdx.x * WIDE + threadIdx.x, all_ = (int64_t)gridDim.x * WIDE; i < (n); i += all_)

/* dh NULL: h = inner(a), else da = dh inner'(a). */
template <typename T> __global__ void inner_kernel(slc_norm_gate g, const float *a, const float *dh, T *to) {
    EACH(i, g.rows * g.rank) {
        float slope, h = act(g.inner, a[i], &slope);
        slc_store(to + i / g.rank * g.ldr + i % g.rank, dh ? dh[i] * slope : h);
    }
}

static void inner(slc_stream s, const slc_norm_gate *g, const float *a, const float *dh, void *to) {
    int64_t blocks = blocks_for(g->rows * g->rank);
    if (g->bf16)
        SLC_LAUNCH(inner_kernel<slc_bf16>, blocks, WIDE, 0, s, *g, a, dh, (slc_bf16 *)to);
    else
        SLC_LAUNCH(inner_kernel<float>, blocks, WIDE, 0, s, *g, a, dh, (float *)to);
}

void slc_gate_inner(slc_stream s, const slc_norm_gate *g, const float *a, void *h) { inner(s, g, a, nullptr, h); }
void slc_gate_inner_back(slc_stream s, const slc_norm_gate *g, const float *a, const float *dh, void *da) {
    inner(s, g, a, dh, da);
}

template <typename T> __global__ void apply_kernel(slc_norm_gate g, const float *b, const T *y, T *out) {
    EACH(i, g.rows * g.dim) {
        int64_t r = i / g.dim, j = i % g.dim, at = r * g.ld + j;
        float slope, q = act(g.outer, b[g.gates == 1 ? r : i], &slope);
        slc_store(out + at, (g.factor * q + g.offset) * slc_load(y + at));
    }
}

void slc_gate_apply(slc_stream s, const slc_norm_gate *g, const float *b, const void *y, void *out) {
    int64_t blocks = blocks_for(g->rows * g->dim);
    if (g->bf16)
        SLC_LAUNCH(apply_kernel<slc_bf16>, blocks, WIDE, 0, s, *g, b, (const slc_bf16 *)y, (slc_bf16 *)out);
    else
        SLC_LAUNCH(apply_kernel<float>, blocks, WIDE, 0, s, *g, b, (const float *)y, (float *)out);
}

/* A warp a row. */
template <typename T>
__global__ void back_kernel(slc_norm_gate g, const float *b, const T *y, const T *dout, float *dy, T *db) {
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (r >= g.rows)
        return;
    float sum = 0, slope = 0, q = 0;
    if (g.gates == 1)
        q = act(g.outer, b[r], &slope);
    for (int64_t j = threadIdx.x % 32; j < g.dim; j += 32) {
        float d = slc_load(dout + r * g.ld + j), v = slc_load(y + r * g.ld + j);
        if (g.gates != 1)
            q = act(g.outer, b[r * g.dim + j], &slope);
        dy[r * g.dim + j] = (g.factor * q + g.offset) * d;
        if (g.gates != 1)
            slc_store(db + r * g.ld + j, g.factor * slope * d * v);
        else
            sum += d * v;
    }
    if (g.gates != 1)
        return;
    sum = slc_warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        slc_store(db + r, g.factor * slope * sum);
}

void slc_gate_back(slc_stream s, const slc_norm_gate *g, const float *b, const void *y, const void *dout, float *dy,
                   void *db) {
    int64_t blocks = slc_div_up(g->rows, WARPS);
    if (g->bf16)
        SLC_LAUNCH(back_kernel<slc_bf16>, blocks, 32 * WARPS, 0, s, *g, b, (const slc_bf16 *)y, (const slc_bf16 *)dout,
                   dy, (slc_bf16 *)db);
    else
        SLC_LAUNCH(back_kernel<float>, blocks, 32 * WARPS, 0, s, *g, b, (const float *)y, (const float *)dout, dy,
                   (float *)db);
}

/* ---- the whole gate. `across` warps of a block go through 16 rows together, K chunks of 32 channels each; a block has
 * as many such groups as fit. Of a chunk lane l (g = l / 4, t = l % 4) has the eight channels from 8t on, of rows g and
 * g + 8: as the operands of products by 16 channels it has them in the order 0 1 . 2 3, 4 5 . 6 7 where mma.h says
 * columns 2t . 2t + 8, and so have the weights; as results of products by 16 ranks, in four tiles of 8 columns, tile i
 * has its channels 2i, 2i + 1. Ranks come in blocks of 16, which are two tiles of 8. */

enum { MOST_WARPS = 12, GATE_PARTS = 128 };

/* Nobody knows x any more, and nothing is loaded ahead: addresses of weights, which no step changes, would else all be
 * kept in registers. */
#define FORGET(x) asm volatile("" : "+r"(x) : : "memory")

struct gate_place {
    int lane, warp, group, groups; /* warp: of its group */
    int channel;                   /* the lane's first of its warp's first chunk */
};
static __device__ __forceinline__ gate_place place_of(int across, int k) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    return {lane, warp % across, warp / across, (int)blockDim.x / 32 / across,
            32 * k * (warp % across) + 8 * (lane % 4)};
}

static __device__ __forceinline__ uint32_t part_of(const uint4 &v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
static __device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
static __device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/* W_down[ranks of tile n, channels of chunk k], for products by its channels. */
static __device__ __forceinline__ uint4 down_at(const slc_norm_gate &g, const gate_place &p, const slc_bf16 *w, int k,
                                                int n) {
    int r = 8 * n + p.lane / 4, j = p.channel + 32 * k;
    return r < g.rank && j < g.dim ? *(const uint4 *)(w + (uint32_t)(r * (int)g.dim + j)) : make_uint4(0, 0, 0, 0);
}

/* Ranks r and r + 1 of a row of W_up. */
static __device__ __forceinline__ uint32_t up_pair(const slc_norm_gate &g, const slc_bf16 *row, int r) {
    if (g.rank % 2 == 0)
        return r < g.rank ? *(const uint32_t *)(row + r) : 0;
    return (r < g.rank ? row[r] : 0) | (r + 1 < g.rank ? (uint32_t)row[r + 1] << 16 : 0);
}

/* W_up[channels of tile i of chunk k, 16 ranks of block b], for products by its ranks. */
static __device__ __forceinline__ uint2 up_at(const slc_norm_gate &g, const gate_place &p, const slc_bf16 *w, int k,
                                              int i, int b) {
    int t = p.lane % 4, j = p.channel + 8 * (p.lane / 8 - t) + 32 * k + 2 * i + p.lane / 4 % 2, r = 16 * b + 2 * t;
    const slc_bf16 *row = w + (uint32_t)(j * (int)g.rank);
    return j < g.dim ? make_uint2(up_pair(g, row, r), up_pair(g, row, r + 8)) : make_uint2(0, 0);
}

/* s += the channels of a chunk of two rows times tile's weights, b[i] of channels 2i, 2i + 1. */
static __device__ __forceinline__ void by_channels(const uint32_t first[4], const uint32_t second[4],
                                                   const uint32_t b[4], float s[4]) {
    uint32_t lo[4] = {first[0], second[0], first[1], second[1]}, hi[4] = {first[2], second[2], first[3], second[3]};
    slc_mma(s, lo, b);
    slc_mma(s, hi, b + 2);
}

/* Ranks of 16 rows, in fp32, as operands; and these transposed. */
template <int BLOCKS>
static __device__ __forceinline__ void as_operands(const float s[2 * BLOCKS][4], uint32_t h[BLOCKS][4]) {
    SLC_UNROLL
    for (int k = 0; k < BLOCKS; k++) {
        h[k][0] = slc_pack_bf16(s[2 * k][0], s[2 * k][1]), h[k][1] = slc_pack_bf16(s[2 * k][2], s[2 * k][3]);
        h[k][2] = slc_pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
        h[k][3] = slc_pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
    }
}
template <int BLOCKS>
static __device__ __forceinline__ void turn(const uint32_t h[BLOCKS][4], uint32_t turned[BLOCKS][4]) {
    SLC_UNROLL
    for (int k = 0; k < BLOCKS; k++) {
        turned[k][0] = slc_transpose(h[k][0]), turned[k][1] = slc_transpose(h[k][2]);
        turned[k][2] = slc_transpose(h[k][1]), turned[k][3] = slc_transpose(h[k][3]);
    }
}

/* sum[ranks, channels of tile i] += turned ranks times the channels of 16 rows. */
template <int BLOCKS>
static __device__ __forceinline__ void add_product(const uint32_t turned[BLOCKS][4], uint32_t first, uint32_t second,
                                                   float sum[BLOCKS][4][4], int i) {
    uint32_t b[2] = {slc_transpose(first), slc_transpose(second)};
    SLC_UNROLL
    for (int k = 0; k < BLOCKS; k++)
        slc_mma(sum[k][i], turned[k], b);
}

/* Adds up what the warps of a group have of their rows' ranks, in order, for all of them. room: a float4 for every
 * thread and tile; it may be written again behind the next call with other room. */
template <int TILES>
static __device__ __forceinline__ void sum_across(const gate_place &p, int across, float4 *room, float s[TILES][4]) {
    float4 *mine = room + p.group * across * TILES * 32 + p.lane;
    SLC_UNROLL
    for (int n = 0; n < TILES; n++)
        mine[(p.warp * TILES + n) * 32] = make_float4(s[n][0], s[n][1], s[n][2], s[n][3]);
    __syncthreads();
    SLC_UNROLL
    for (int n = 0; n < TILES; n++) {
        float4 sum = mine[n * 32];
        for (int w = 1; w < across; w++) {
            float4 v = mine[(w * TILES + n) * 32];
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        s[n][0] = sum.x, s[n][1] = sum.y, s[n][2] = sum.z, s[n][3] = sum.w;
    }
}

/* v = act(v) or its slopes. What is told apart once is not told apart for each. */
static __device__ __forceinline__ void outer_values(int kind, float v[4][4]) {
    float slope;
    if (kind == SLC_GATE_SIGMOID) {
        SLC_UNROLL
        for (int i = 0; i < 16; i++)
            v[i / 4][i % 4] = act<true>(SLC_GATE_SIGMOID, v[i / 4][i % 4], &slope);
        return;
    }
    SLC_UNROLL
    for (int i = 0; i < 16; i++)
        v[i / 4][i % 4] = act<true>(kind, v[i / 4][i % 4], &slope);
}
static __device__ __forceinline__ void outer_slopes(int kind, float v[4][4]) {
    if (kind == SLC_GATE_SIGMOID) {
        SLC_UNROLL
        for (int i = 0; i < 16; i++)
            act<true>(SLC_GATE_SIGMOID, v[i / 4][i % 4], &v[i / 4][i % 4]);
        return;
    }
    SLC_UNROLL
    for (int i = 0; i < 16; i++)
        act<true>(kind, v[i / 4][i % 4], &v[i / 4][i % 4]);
}

/* Each rank of a lane: tile n, place i of s, row and rank. */
#define RANKS_EACH(row0, tiles, n, i, row, rank)                                                                       \
    SLC_UNROLL                                                                                                         \
    for (int n = 0; n < (tiles); n++)                                                                                  \
        SLC_UNROLL                                                                                                     \
        for (int i = 0; i < 4; i++)                                                                                    \
            if (int64_t row = (row0) + (int)threadIdx.x % 32 / 4 + 8 * (i / 2),                                        \
                rank = 8 * n + 2 * (threadIdx.x % 4) + i % 2;                                                          \
                true)

template <int BLOCKS, int K>
__global__ void __launch_bounds__(32 * MOST_WARPS, 2)
    gate_forward_kernel(slc_norm_gate g, slc_gate_weights w, int across, const slc_bf16 *y, float *a, slc_bf16 *out) {
    enum { TILES = 2 * BLOCKS };
    SLC_DYNAMIC(float4, room);
    gate_place p = place_of(across, K);
    int64_t row0 = ((int64_t)blockIdx.x * p.groups + p.group) * 16, first = row0 + p.lane / 4;
    uint4 v[K][2];
    float s[TILES][4] = {}, slope;
    uint32_t h[BLOCKS][4];
    SLC_UNROLL
    for (int k = 0; k < K; k++)
        SLC_UNROLL
        for (int r = 0; r < 2; r++) {
            int64_t row = first + 8 * r, j = p.channel + 32 * k;
            v[k][r] = row < g.rows && j < g.dim ? *(const uint4 *)(y + row * g.ld + j) : make_uint4(0, 0, 0, 0);
        }
    SLC_UNROLL
    for (int k = 0; k < K; k++) {
        uint32_t rows[2][4] = {{v[k][0].x, v[k][0].y, v[k][0].z, v[k][0].w},
                               {v[k][1].x, v[k][1].y, v[k][1].z, v[k][1].w}};
        SLC_UNROLL
        for (int n = 0; n < TILES; n++) {
            uint4 down = down_at(g, p, w.down, k, n);
            uint32_t b[4] = {down.x, down.y, down.z, down.w};
            by_channels(rows[0], rows[1], b, s[n]);
        }
    }
    sum_across<TILES>(p, across, room, s);
    RANKS_EACH(row0, TILES, n, i, row, rank) {
        if (p.warp == 0 && row < g.rows && rank < g.rank)
            a[row * g.rank + rank] = s[n][i];
        s[n][i] = act<true>(g.inner, s[n][i], &slope);
    }
    as_operands<BLOCKS>(s, h);
    SLC_UNROLL
    for (int k = 0; k < K; k++) {
        float q[4][4] = {};
        uint32_t o[2][4];
        SLC_UNROLL
        for (int i = 0; i < 4; i++)
            SLC_UNROLL
            for (int b = 0; b < BLOCKS; b++) {
                uint2 up = up_at(g, p, w.up, k, i, b);
                uint32_t weights[2] = {up.x, up.y};
                slc_mma(q[i], h[b], weights);
            }
        outer_values(g.outer, q);
        SLC_UNROLL
        for (int i = 0; i < 4; i++)
            SLC_UNROLL
            for (int r = 0; r < 2; r++) {
                uint32_t x = part_of(v[k][r], i);
                o[r][i] = slc_pack_bf16((g.factor * q[i][2 * r] + g.offset) * low(x),
                                        (g.factor * q[i][2 * r + 1] + g.offset) * high(x));
            }
        SLC_UNROLL
        for (int r = 0; r < 2; r++)
            if (int64_t row = first + 8 * r, j = p.channel + 32 * k; row < g.rows && j < g.dim)
                *(uint4 *)(out + row * g.ld + j) = make_uint4(o[r][0], o[r][1], o[r][2], o[r][3]);
    }
}

/* ---- backward. A block takes every gridDim.x-th batch of 16 rows a group; its sums of the weights' gradients stay in
 * registers until its last one. y and dout are staged in shared memory, where a lane reads what it has copied itself:
 * so it copies those of the next batch over the last without a barrier, and while it goes on. */

/* Of chunk k and row p.lane / 4 + 8 r of a batch: y, and dout two behind. */
static __device__ __forceinline__ uint4 *stage_at(uint4 *stage, int k, int r) { return stage + (4 * k + r) * 32; }

static __device__ __forceinline__ void stage_chunk(const slc_norm_gate &g, const gate_place &p, int row0, int k,
                                                   const slc_bf16 *y, const slc_bf16 *dout, uint4 *stage) {
    SLC_UNROLL
    for (int r = 0; r < 2; r++) {
        int row = row0 + p.lane / 4 + 8 * r, j = p.channel + 32 * k;
        bool inside = row < g.rows && j < g.dim;
        int64_t at = inside ? row * g.ld + j : 0;
        slc_copy_async(stage_at(stage, k, r), y + at, inside ? 16 : 0);
        slc_copy_async(stage_at(stage, k, r + 2), dout + at, inside ? 16 : 0);
    }
    slc_copy_commit();
}

template <int TILES>
static __device__ __forceinline__ void load_ranks(const slc_norm_gate &g, const gate_place &p, int row0, const float *a,
                                                  float s[TILES][4]) {
    SLC_UNROLL
    for (int r = 0; r < 2; r++) {
        int row = row0 + p.lane / 4 + 8 * r, rank = 2 * (p.lane % 4);
        const float *at = a + row * g.rank + rank;
        SLC_UNROLL
        for (int i = 0; i < 2 * TILES; i++, rank += i % 2 ? 1 : 7)
            s[i / 2][2 * r + i % 2] = row < g.rows && rank < g.rank ? at[8 * (i / 2) + i % 2] : 0;
    }
}

/* Scores of a chunk: tile i's in b[i]. */
template <int BLOCKS>
static __device__ __forceinline__ void scores(const uint32_t h[BLOCKS][4], const uint2 up[4][BLOCKS], float b[4][4]) {
    SLC_UNROLL
    for (int i = 0; i < 4; i++) {
        b[i][0] = b[i][1] = b[i][2] = b[i][3] = 0;
        SLC_UNROLL
        for (int k = 0; k < BLOCKS; k++) {
            uint32_t weights[2] = {up[i][k].x, up[i][k].y};
            slc_mma(b[i], h[k], weights);
        }
    }
}

/* Of a chunk: dh += db W_up, and its sums of dW_up += h^T db. */
template <int BLOCKS>
static __device__ __forceinline__ void score_gradients(const slc_norm_gate &g, uint4 *stage, int k,
                                                       const uint32_t h[BLOCKS][4], const uint32_t turned[BLOCKS][4],
                                                       const uint2 up[4][BLOCKS], float dh[2 * BLOCKS][4],
                                                       float sum[BLOCKS][4][4]) {
    float v[4][4];
    uint32_t db[2][4];
    scores<BLOCKS>(h, up, v);
    outer_slopes(g.outer, v);
    SLC_UNROLL
    for (int r = 0; r < 2; r++) {
        uint4 y = *stage_at(stage, k, r), e = *stage_at(stage, k, r + 2);
        SLC_UNROLL
        for (int i = 0; i < 4; i++)
            db[r][i] = slc_pack_bf16(g.factor * v[i][2 * r] * low(part_of(y, i)) * low(part_of(e, i)),
                                     g.factor * v[i][2 * r + 1] * high(part_of(y, i)) * high(part_of(e, i)));
    }
    SLC_UNROLL
    for (int n = 0; n < 2 * BLOCKS; n++) {
        uint32_t b[4];
        SLC_UNROLL
        for (int i = 0; i < 4; i++)
            b[i] = slc_transpose(n % 2 ? up[i][n / 2].y : up[i][n / 2].x);
        by_channels(db[0], db[1], b, dh[n]);
    }
    SLC_UNROLL
    for (int i = 0; i < 4; i++)
        add_product<BLOCKS>(turned, db[0][i], db[1][i], sum, i);
}

/* Of a chunk from y and dout of rows g and g + 8: dy = q dout + da W_down, and its sums of dW_down += da^T y. */
template <int BLOCKS>
static __device__ __forceinline__ void input_gradient(const slc_norm_gate &g, const gate_place &p, const slc_bf16 *down, int k0,
                                                      const uint4 y[2], const uint4 e[2],
                                                      const uint2 up[4][BLOCKS], const uint32_t h[BLOCKS][4],
                                                      const uint32_t da[BLOCKS][4], const uint32_t turned[BLOCKS][4],
                                                      float sum[BLOCKS][4][4], uint4 dy[2]) {
    float q[4][4];
    uint4 w[2 * BLOCKS];
    uint32_t o[2][4];
    SLC_UNROLL
    for (int n = 0; n < 2 * BLOCKS; n++)
        w[n] = down_at(g, p, down, k0, n);
    scores<BLOCKS>(h, up, q);
    outer_values(g.outer, q);
    SLC_UNROLL
    for (int i = 0; i < 4; i++) {
        float d[4] = {};
        SLC_UNROLL
        for (int k = 0; k < BLOCKS; k++) {
            uint32_t b[2] = {slc_transpose(part_of(w[2 * k], i)), slc_transpose(part_of(w[2 * k + 1], i))};
            slc_mma(d, da[k], b);
        }
        SLC_UNROLL
        for (int r = 0; r < 2; r++)
            o[r][i] = slc_pack_bf16((g.factor * q[i][2 * r] + g.offset) * low(part_of(e[r], i)) + d[2 * r],
                                    (g.factor * q[i][2 * r + 1] + g.offset) * high(part_of(e[r], i)) + d[2 * r + 1]);
        add_product<BLOCKS>(turned, part_of(y[0], i), part_of(y[1], i), sum, i);
    }
    SLC_UNROLL
    for (int r = 0; r < 2; r++)
        dy[r] = make_uint4(o[r][0], o[r][1], o[r][2], o[r][3]);
}

/* Adds the sums of a block's groups in order, and writes them: to[rank * ldr + channel * ldc]. room: of the block's
 * staged rows. */
template <int BLOCKS, int K>
static __device__ __forceinline__ void write_sums(const slc_norm_gate &g, const gate_place &p, float *room, int ldr,
                                                  int ldc, float sum[K][BLOCKS][4][4], float *to) {
    enum { SUMS = K * BLOCKS * 16 };
    float *mine = room + p.warp * SUMS * 32 + p.lane, *of = sum[0][0][0];
    for (int other = 1; other < p.groups; other++) {
        __syncthreads();
        SLC_UNROLL
        for (int n = 0; n < SUMS && p.group == other; n++)
            mine[n * 32] = of[n];
        __syncthreads();
        SLC_UNROLL
        for (int n = 0; n < SUMS && p.group == 0; n++)
            of[n] += mine[n * 32];
    }
    SLC_UNROLL
    for (int n = 0; n < SUMS && p.group == 0; n++) {
        int rank = 16 * (n / 16 % BLOCKS) + p.lane / 4 + 8 * (n / 2 % 2);
        int channel = p.channel + 32 * (n / 16 / BLOCKS) + 2 * (n / 4 % 4) + n % 2;
        if (rank < g.rank && channel < g.dim)
            to[rank * ldr + channel * ldc] = of[n];
    }
}

template <int BLOCKS, int K>
__global__ void __launch_bounds__(32 * MOST_WARPS)
    gate_backward_kernel(slc_norm_gate g, slc_gate_weights w, int across, const slc_bf16 *y, const float *a,
                         const slc_bf16 *dout, slc_bf16 *dy, float *part) {
    enum { TILES = 2 * BLOCKS };
    SLC_DYNAMIC(uint4, room);
    gate_place p = place_of(across, K);
    int warps = p.groups * across, turn_of = 0;
    uint4 *stage = room + (int)threadIdx.x / 32 * 4 * K * 32 + p.lane;
    float4 *sums = (float4 *)(room + warps * 4 * K * 32);
    float up_sum[K][BLOCKS][4][4] = {}, down_sum[K][BLOCKS][4][4] = {}, next[TILES][4];
    int batch = 16 * p.groups, stride = (int)gridDim.x * batch;
    for (int k = 0; k < K; k++)
        stage_chunk(g, p, (int)blockIdx.x * batch + 16 * p.group, k, y, dout, stage);
    load_ranks<TILES>(g, p, (int)blockIdx.x * batch + 16 * p.group, a, next);
    for (int first = (int)blockIdx.x * batch; first < g.rows; first += stride, turn_of ^= 1) {
        int row0 = first + 16 * p.group;
        float s[TILES][4], slope[TILES][4], dh[TILES][4] = {};
        uint32_t h[BLOCKS][4], da[BLOCKS][4], turned[BLOCKS][4];
        SLC_UNROLL
        for (int i = 0; i < 4 * TILES; i++)
            s[i / 4][i % 4] = act<true>(g.inner, next[i / 4][i % 4], &slope[i / 4][i % 4]);
        as_operands<BLOCKS>(s, h);
        turn<BLOCKS>(h, turned);
        slc_copy_wait<0>();
        SLC_UNROLL
        for (int k = 0; k < K; k++) {
            uint2 up[4][BLOCKS];
            FORGET(p.channel);
            SLC_UNROLL
            for (int i = 0; i < 4 * BLOCKS; i++)
                up[i / BLOCKS][i % BLOCKS] = up_at(g, p, w.up, k, i / BLOCKS, i % BLOCKS);
            score_gradients<BLOCKS>(g, stage, k, h, turned, up, dh, up_sum[k]);
        }
        sum_across<TILES>(p, across, sums + turn_of * warps * TILES * 32, dh);
        SLC_UNROLL
        for (int i = 0; i < 4 * TILES; i++)
            dh[i / 4][i % 4] *= slope[i / 4][i % 4];
        as_operands<BLOCKS>(dh, da);
        turn<BLOCKS>(da, turned);
        load_ranks<TILES>(g, p, row0 + stride, a, next);
        SLC_UNROLL
        for (int k = 0; k < K; k++) {
            uint2 up[4][BLOCKS];
            FORGET(p.channel);
            uint4 yv[2] = {*stage_at(stage, k, 0), *stage_at(stage, k, 1)}, o[2];
            uint4 ev[2] = {*stage_at(stage, k, 2), *stage_at(stage, k, 3)};
            SLC_UNROLL
            for (int i = 0; i < 4 * BLOCKS; i++)
                up[i / BLOCKS][i % BLOCKS] = up_at(g, p, w.up, k, i / BLOCKS, i % BLOCKS);
            input_gradient<BLOCKS>(g, p, w.down, k, yv, ev, up, h, da, turned, down_sum[k], o);
            stage_chunk(g, p, row0 + stride, k, y, dout, stage);
            SLC_UNROLL
            for (int r = 0; r < 2; r++)
                if (int row = row0 + p.lane / 4 + 8 * r, j = p.channel + 32 * k; row < g.rows && j < g.dim)
                    *(uint4 *)(dy + row * g.ld + j) = o[r];
        }
    }
    slc_copy_wait<0>();
    part += blockIdx.x * 2 * g.rank * g.dim;
    write_sums<BLOCKS, K>(g, p, (float *)room, (int)g.dim, 1, down_sum, part);
    write_sums<BLOCKS, K>(g, p, (float *)room, 1, (int)g.rank, up_sum, part + g.rank * g.dim);
}

/* Of the kernels: blocks of 16 ranks, chunks a warp, warps to 16 rows, groups of them a block. A lane has room for the
 * sums of three chunks by 16 ranks. */
struct gate_shape {
    int blocks, chunks;
    int64_t across, groups;
};
static gate_shape shape_of(const slc_norm_gate *g) {
    int64_t chunks = slc_div_up(g->dim, 32);
    int blocks = g->rank <= 16 ? 1 : 2, each = blocks == 2 ? 1 : chunks <= 2 * MOST_WARPS ? 2 : 3;
    int64_t across = slc_div_up(chunks, each);
    return {blocks, each, across, slc_max(1, MOST_WARPS / across)};
}

bool slc_gate_fits(const slc_norm_gate *g) {
    return g->bf16 && g->gates == g->dim && g->dim > 1 && g->dim % 8 == 0 && g->rank <= 32 &&
           g->rows < 1 << 30 && shape_of(g).across <= MOST_WARPS;
}

static int64_t batches_of(const slc_norm_gate *g) { return slc_div_up(g->rows, 16 * shape_of(g).groups); }
static int64_t parts_of(const slc_norm_gate *g) { return slc_min(GATE_PARTS, batches_of(g)); }
int64_t slc_norm_gate_parts(const slc_norm_gate *g) { return parts_of(g) * 2 * g->rank * g->dim; }

template <int BLOCKS, int K>
static void forward(slc_stream s, const slc_norm_gate *g, slc_gate_weights w, const uint16_t *y, float *a,
                    uint16_t *out) {
    gate_shape f = shape_of(g);
    int64_t warps = f.across * f.groups;
    SLC_LAUNCH((gate_forward_kernel<BLOCKS, K>), batches_of(g), 32 * warps, warps * BLOCKS * 1024, s, *g, w,
               (int)f.across, y, a, out);
}

void slc_norm_gate_forward(slc_stream s, const slc_norm_gate *g, slc_gate_weights w, const uint16_t *y, float *a,
                           uint16_t *out) {
    gate_shape f = shape_of(g);
    (f.blocks == 2 ? forward<2, 1> : f.chunks == 2 ? forward<1, 2> : forward<1, 3>)(s, g, w, y, a, out);
}

template <int BLOCKS, int K>
static void backward(slc_stream s, const slc_norm_gate *g, slc_gate_weights w, const uint16_t *y, const float *a,
                     const uint16_t *dout, uint16_t *dy, float *part) {
    gate_shape f = shape_of(g);
    int64_t warps = f.across * f.groups, shared = warps * (2048 * K + 2 * 1024 * BLOCKS);
    SLC_MORE_SHARED((gate_backward_kernel<BLOCKS, K>), shared);
    SLC_LAUNCH((gate_backward_kernel<BLOCKS, K>), parts_of(g), 32 * warps, shared, s, *g, w, (int)f.across, y, a, dout,
               dy, part);
}

void slc_norm_gate_backward(slc_stream s, const slc_norm_gate *g, slc_gate_weights w, const uint16_t *y,
                            const float *a, const uint16_t *dout, uint16_t *dy, float *down_grad, float *up_grad,
                            float *part) {
    gate_shape f = shape_of(g);
    (f.blocks == 2 ? backward<2, 1> : f.chunks == 2 ? backward<1, 2> : backward<1, 3>)(s, g, w, y, a, dout, dy, part);
    slc_fold_two(s, parts_of(g), g->rank * g->dim, part, down_grad, up_grad);
}
