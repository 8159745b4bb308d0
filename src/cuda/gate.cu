#include "cuda/gate.h"

#include "cuda/mma.h"

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

/* ---- the whole gate. A warp has 16 rows. Channels come in chunks of 32, of which lane l (g = l / 4, t = l % 4) has the
 * eight from 8t on, of rows g and g + 8: as the operands of products by 16 channels it has them in the order 0 1 . 2 3,
 * 4 5 . 6 7 where mma.h says columns 2t . 2t + 8, and so have the weights; as results of products by 16 ranks, in four
 * tiles of 8 columns, tile i has its channels 2i, 2i + 1. Weights are packed as the lanes want them. */

enum { GATE_WARPS = 4 };

/* W[r, c] = w[r * ldr + c * ldc], rank r, channel c; 0 beyond. */
struct gate_matrix {
    const slc_bf16 *w;
    int64_t ldr, ldc, rank, dim;
};
static __device__ __forceinline__ uint32_t gate_at(const gate_matrix &m, int64_t r, int64_t c) {
    return r < m.rank && c < m.dim ? m.w[r * m.ldr + c * m.ldc] : 0;
}

/* b[channels, ranks]: of a chunk, tiles of 8 ranks, each for its two products by 16 channels. */
static __device__ uint4 by_channels_at(const gate_matrix &m, int tiles, int64_t i) {
    int lane = (int)(i % 32);
    int64_t r = i / 32 % tiles * 8 + lane / 4, c = i / 32 / tiles * 32 + 8 * (lane % 4);
    uint32_t v[4];
    for (int k = 0; k < 4; k++)
        v[k] = gate_at(m, r, c + 2 * k) | gate_at(m, r, c + 2 * k + 1) << 16;
    return make_uint4(v[0], v[1], v[2], v[3]);
}

/* b[ranks, channels]: of a chunk its four tiles of 8 channels, each for its products by 16 ranks. */
static __device__ uint2 by_ranks_at(const gate_matrix &m, int blocks, int64_t i) {
    int g = (int)(i % 32) / 4, t = (int)(i % 4);
    int64_t tile = i / 32 / blocks, r = i / 32 % blocks * 16 + 2 * t;
    int64_t c = tile / 4 * 32 + 8 * (g / 2) + 2 * (tile % 4) + g % 2;
    return make_uint2(gate_at(m, r, c) | gate_at(m, r + 1, c) << 16,
                      gate_at(m, r + 8, c) | gate_at(m, r + 9, c) << 16);
}

/* blockIdx.y: which of the four. */
__global__ void pack_kernel(slc_norm_gate g, slc_gate_weights w, slc_gate_packed p, int64_t chunks, int blocks) {
    gate_matrix down = {w.down, g.dim, 1, g.rank, g.dim}, up = {w.up, 1, g.rank, g.rank, g.dim};
    int64_t i = (int64_t)blockIdx.x * WIDE + threadIdx.x;
    bool for_ranks = blockIdx.y % 2;
    if (i >= chunks * (for_ranks ? 4 : 2) * blocks * 32)
        return;
    if (blockIdx.y == 0)
        ((uint4 *)p.down)[i] = by_channels_at(down, 2 * blocks, i);
    else if (blockIdx.y == 1)
        ((uint2 *)p.up)[i] = by_ranks_at(up, blocks, i);
    else if (blockIdx.y == 2)
        ((uint4 *)p.up_back)[i] = by_channels_at(up, 2 * blocks, i);
    else
        ((uint2 *)p.down_back)[i] = by_ranks_at(down, blocks, i);
}

static __device__ __forceinline__ uint4 gate_load(const slc_bf16 *p, int64_t row, int64_t c, const slc_norm_gate &g) {
    return row < g.rows && c < g.dim ? *(const uint4 *)(p + row * g.ld + c) : make_uint4(0, 0, 0, 0);
}
static __device__ __forceinline__ void gate_store(slc_bf16 *p, int64_t row, int64_t c, const slc_norm_gate &g, uint4 v) {
    if (row < g.rows && c < g.dim)
        *(uint4 *)(p + row * g.ld + c) = v;
}
static __device__ __forceinline__ uint32_t part_of(const uint4 &v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
static __device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
static __device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/* s[ranks of 16 rows] += v's channels times b. */
template <int TILES>
static __device__ __forceinline__ void by_channels(const uint4 &first, const uint4 &second, const uint4 *b,
                                                   float s[TILES][4]) {
    uint32_t lo[4] = {first.x, second.x, first.y, second.y}, hi[4] = {first.z, second.z, first.w, second.w};
    SLC_UNROLL
    for (int n = 0; n < TILES; n++) {
        uint4 w = b[n * 32];
        uint32_t w0[2] = {w.x, w.y}, w1[2] = {w.z, w.w};
        slc_mma(s[n], lo, w0);
        slc_mma(s[n], hi, w1);
    }
}

/* d = tile i of the products of h by b. */
template <int BLOCKS>
static __device__ __forceinline__ void by_ranks(const uint32_t h[BLOCKS][4], const uint2 *b, float d[4]) {
    d[0] = d[1] = d[2] = d[3] = 0;
    SLC_UNROLL
    for (int k = 0; k < BLOCKS; k++) {
        uint2 w = b[k * 32];
        uint32_t w2[2] = {w.x, w.y};
        slc_mma(d, h[k], w2);
    }
}

/* Ranks of 16 rows, in fp32, as operands. */
template <int BLOCKS>
static __device__ __forceinline__ void as_operands(const float s[2 * BLOCKS][4], uint32_t h[BLOCKS][4]) {
    SLC_UNROLL
    for (int k = 0; k < BLOCKS; k++) {
        h[k][0] = slc_pack_bf16(s[2 * k][0], s[2 * k][1]), h[k][1] = slc_pack_bf16(s[2 * k][2], s[2 * k][3]);
        h[k][2] = slc_pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
        h[k][3] = slc_pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
    }
}

/* Each rank of a lane: tile n, place i of s, row and rank. */
#define RANKS_EACH(g, row0, tiles, n, i, row, rank)                                                                    \
    SLC_UNROLL                                                                                                         \
    for (int n = 0; n < (tiles); n++)                                                                                  \
        SLC_UNROLL                                                                                                     \
        for (int i = 0; i < 4; i++)                                                                                    \
            if (int64_t row = (row0) + (int)threadIdx.x % 32 / 4 + 8 * (i / 2),                                        \
                rank = 8 * n + 2 * (threadIdx.x % 4) + i % 2;                                                          \
                row < (g).rows && rank < (g).rank)

template <int BLOCKS>
__global__ void __launch_bounds__(32 * GATE_WARPS)
    gate_forward_kernel(slc_norm_gate g, slc_gate_packed p, const slc_bf16 *y, float *a, slc_bf16 *out) {
    enum { TILES = 2 * BLOCKS };
    int lane = (int)threadIdx.x % 32;
    int64_t chunks = (g.dim + 31) / 32, t8 = 8 * (lane % 4);
    const uint4 *down = (const uint4 *)p.down;
    const uint2 *up = (const uint2 *)p.up;
    int64_t row0 = ((int64_t)blockIdx.x * GATE_WARPS + threadIdx.x / 32) * 16;
    if (row0 < g.rows) {
        int64_t first = row0 + lane / 4, second = first + 8;
        float s[TILES][4] = {}, slope;
        uint32_t h[BLOCKS][4];
        for (int64_t c = 0; c < chunks; c++)
            by_channels<TILES>(gate_load(y, first, 32 * c + t8, g), gate_load(y, second, 32 * c + t8, g),
                               down + c * TILES * 32 + lane, s);
        RANKS_EACH(g, row0, TILES, n, i, row, rank) a[row * g.rank + rank] = s[n][i];
        SLC_UNROLL
        for (int n = 0; n < TILES; n++)
            for (int i = 0; i < 4; i++)
                s[n][i] = act<true>(g.inner, s[n][i], &slope);
        as_operands<BLOCKS>(s, h);
        for (int64_t c = 0; c < chunks; c++) {
            uint4 v[2] = {gate_load(y, first, 32 * c + t8, g), gate_load(y, second, 32 * c + t8, g)};
            uint32_t o[2][4];
            SLC_UNROLL
            for (int i = 0; i < 4; i++) {
                float d[4];
                by_ranks<BLOCKS>(h, up + (c * 4 + i) * BLOCKS * 32 + lane, d);
                SLC_UNROLL
                for (int r = 0; r < 2; r++) {
                    uint32_t x = part_of(v[r], i);
                    o[r][i] = slc_pack_bf16((g.factor * act<true>(g.outer, d[2 * r], &slope) + g.offset) * low(x),
                                            (g.factor * act<true>(g.outer, d[2 * r + 1], &slope) + g.offset) * high(x));
                }
            }
            gate_store(out, first, 32 * c + t8, g, make_uint4(o[0][0], o[0][1], o[0][2], o[0][3]));
            gate_store(out, second, 32 * c + t8, g, make_uint4(o[1][0], o[1][1], o[1][2], o[1][3]));
        }
    }
}

template <int BLOCKS>
__global__ void __launch_bounds__(32 * GATE_WARPS)
    gate_backward_kernel(slc_norm_gate g, slc_gate_packed p, const slc_bf16 *y, const float *a, const slc_bf16 *dout,
                         slc_bf16 *dy, slc_bf16 *h_out, slc_bf16 *da_out, slc_bf16 *db_out) {
    enum { TILES = 2 * BLOCKS };
    int lane = (int)threadIdx.x % 32;
    int64_t chunks = (g.dim + 31) / 32, t8 = 8 * (lane % 4);
    const uint4 *up_back = (const uint4 *)p.up_back;
    const uint2 *up = (const uint2 *)p.up, *down = (const uint2 *)p.down_back;
    int64_t row0 = ((int64_t)blockIdx.x * GATE_WARPS + threadIdx.x / 32) * 16;
    if (row0 < g.rows) {
        int64_t first = row0 + lane / 4, second = first + 8;
        float s[TILES][4] = {}, inner_slope[TILES][4] = {}, dh[TILES][4] = {}, slope;
        uint32_t h[BLOCKS][4], da[BLOCKS][4];
        RANKS_EACH(g, row0, TILES, n, i, row, rank) {
            s[n][i] = act<true>(g.inner, a[row * g.rank + rank], &inner_slope[n][i]);
            h_out[row * g.ldr + rank] = slc_to_bf16(s[n][i]);
        }
        as_operands<BLOCKS>(s, h);
        for (int64_t c = 0; c < chunks; c++) {
            uint4 v[2] = {gate_load(y, first, 32 * c + t8, g), gate_load(y, second, 32 * c + t8, g)};
            uint4 e[2] = {gate_load(dout, first, 32 * c + t8, g), gate_load(dout, second, 32 * c + t8, g)};
            uint32_t o[2][4];
            SLC_UNROLL
            for (int i = 0; i < 4; i++) {
                float d[4], q[4];
                by_ranks<BLOCKS>(h, up + (c * 4 + i) * BLOCKS * 32 + lane, d);
                SLC_UNROLL
                for (int k = 0; k < 4; k++)
                    act<true>(g.outer, d[k], &q[k]);
                SLC_UNROLL
                for (int r = 0; r < 2; r++) {
                    uint32_t x = part_of(v[r], i), z = part_of(e[r], i);
                    o[r][i] = slc_pack_bf16(g.factor * q[2 * r] * low(x) * low(z),
                                            g.factor * q[2 * r + 1] * high(x) * high(z));
                }
            }
            uint4 db[2] = {make_uint4(o[0][0], o[0][1], o[0][2], o[0][3]), make_uint4(o[1][0], o[1][1], o[1][2], o[1][3])};
            gate_store(db_out, first, 32 * c + t8, g, db[0]);
            gate_store(db_out, second, 32 * c + t8, g, db[1]);
            by_channels<TILES>(db[0], db[1], up_back + c * TILES * 32 + lane, dh);
        }
        SLC_UNROLL
        for (int n = 0; n < TILES; n++)
            for (int i = 0; i < 4; i++)
                dh[n][i] *= inner_slope[n][i];
        RANKS_EACH(g, row0, TILES, n, i, row, rank) da_out[row * g.ldr + rank] = slc_to_bf16(dh[n][i]);
        as_operands<BLOCKS>(dh, da);
        for (int64_t c = 0; c < chunks; c++) {
            uint4 e[2] = {gate_load(dout, first, 32 * c + t8, g), gate_load(dout, second, 32 * c + t8, g)};
            uint32_t o[2][4];
            SLC_UNROLL
            for (int i = 0; i < 4; i++) {
                float b[4], d[4];
                by_ranks<BLOCKS>(h, up + (c * 4 + i) * BLOCKS * 32 + lane, b);
                by_ranks<BLOCKS>(da, down + (c * 4 + i) * BLOCKS * 32 + lane, d);
                SLC_UNROLL
                for (int k = 0; k < 4; k++)
                    b[k] = g.factor * act<true>(g.outer, b[k], &slope) + g.offset;
                SLC_UNROLL
                for (int r = 0; r < 2; r++) {
                    uint32_t z = part_of(e[r], i);
                    o[r][i] = slc_pack_bf16(b[2 * r] * low(z) + d[2 * r], b[2 * r + 1] * high(z) + d[2 * r + 1]);
                }
            }
            gate_store(dy, first, 32 * c + t8, g, make_uint4(o[0][0], o[0][1], o[0][2], o[0][3]));
            gate_store(dy, second, 32 * c + t8, g, make_uint4(o[1][0], o[1][1], o[1][2], o[1][3]));
        }
    }
}

/* Products by 16 ranks that a rank takes. */
static int rank_blocks(int64_t rank) { return rank <= 16 ? 1 : rank <= 32 ? 2 : 4; }

bool slc_gate_fits(const slc_norm_gate *g) {
    return g->bf16 && g->gates == g->dim && g->dim > 1 && g->dim % 8 == 0 && g->rank <= 64;
}

size_t slc_gate_packed_bytes(const slc_norm_gate *g) {
    return (size_t)(slc_div_up(g->dim, 32) * 1024 * rank_blocks(g->rank));
}

void slc_gate_pack(slc_stream s, const slc_norm_gate *g, slc_gate_weights w, slc_gate_packed p) {
    int blocks = rank_blocks(g->rank);
    int64_t chunks = slc_div_up(g->dim, 32);
    SLC_LAUNCH(pack_kernel, dim3(slc_div_up(chunks * 4 * blocks * 32, WIDE), p.up_back ? 4 : 2), WIDE, 0, s, *g, w, p,
               chunks, blocks);
}

static int64_t gate_blocks(const slc_norm_gate *g) { return slc_div_up(g->rows, 16 * GATE_WARPS); }

template <int BLOCKS>
static void forward(slc_stream s, const slc_norm_gate *g, slc_gate_packed p, const uint16_t *y, float *a,
                    uint16_t *out) {
    SLC_LAUNCH(gate_forward_kernel<BLOCKS>, gate_blocks(g), 32 * GATE_WARPS, 0, s, *g, p, y, a, out);
}

void slc_norm_gate_forward(slc_stream s, const slc_norm_gate *g, slc_gate_packed p, const uint16_t *y, float *a,
                           uint16_t *out) {
    int blocks = rank_blocks(g->rank);
    (blocks == 1 ? forward<1> : blocks == 2 ? forward<2> : forward<4>)(s, g, p, y, a, out);
}

template <int BLOCKS>
static void backward(slc_stream s, const slc_norm_gate *g, slc_gate_packed p, const uint16_t *y, const float *a,
                     const uint16_t *dout, uint16_t *dy, uint16_t *h, uint16_t *da, uint16_t *db) {
    SLC_LAUNCH(gate_backward_kernel<BLOCKS>, gate_blocks(g), 32 * GATE_WARPS, 0, s, *g, p, y, a, dout, dy, h, da, db);
}

void slc_norm_gate_backward(slc_stream s, const slc_norm_gate *g, slc_gate_packed p, const uint16_t *y, const float *a,
                            const uint16_t *dout, uint16_t *dy, uint16_t *h, uint16_t *da, uint16_t *db) {
    int blocks = rank_blocks(g->rank);
    (blocks == 1 ? backward<1> : blocks == 2 ? backward<2> : backward<4>)(s, g, p, y, a, dout, dy, h, da, db);
}
