#include "cuda/moe.h"

#include "cuda/grouped.h"
#include "cuda/rows.h"

namespace {

enum { ROWS = SLC_MOE_ROWS, MAX = SLC_MOE_MAX_EXPERTS, MAX_TOP = 16, WARPS = 8, LANES = MAX / 32, SCAN = 1024 };
const float TINY = 1e-20f;

__device__ __host__ __forceinline__ int64_t div_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

/* ---- scratch */

struct scratch {
    /* forward */
    int32_t *hist;   /* [chunks of rows, experts] choices, */
    int32_t *before; /* and those of the chunks before */
    double *sums;    /* [chunks, experts + 1]: scores' shares, squares of lse */
    float *y;        /* [slots, dim] */
    /* backward */
    slc_bf16 *dout; /* [rows, ld] rounded; bf16 alone */
    float *part;    /* [slots, parts] of dweight */
    float *dscore;  /* [rows, experts] */
    float *dplace;  /* [slots, dim] */
    float *dw;      /* [chunks, experts, dim] of the router */
    size_t bytes;
};

int64_t dout_ld(const slc_moe *m) { return div_up(m->dim, 8) * 8; }
int64_t parts_of(const slc_moe *m) {
    return m->bf16 ? div_up(m->ffn, bf16_tile::TILE) * bf16_tile::PARTS
                   : div_up(m->ffn, fp32_tile::TILE) * fp32_tile::PARTS;
}
/* Rows of a partial sum of the router's gradient. */
int64_t router_rows(const slc_moe *m) { return slc_max(128, div_up(m->rows, 64)); }

void *carve(char *base, size_t *at, int64_t bytes) {
    char *p = base ? base + *at : nullptr;
    *at += ((size_t)bytes + 255) / 256 * 256;
    return p;
}

/* base NULL: its size alone. */
scratch scratch_at(const slc_moe *m, void *base) {
    scratch s = {};
    size_t forward = 0, backward = 0;
    int64_t chunks = div_up(m->rows, ROWS), slots = m->rows * m->top, word = sizeof(float);
    char *b = (char *)base;
    s.hist = (int32_t *)carve(b, &forward, chunks * m->experts * word);
    s.before = (int32_t *)carve(b, &forward, chunks * m->experts * word);
    s.sums = (double *)carve(b, &forward, chunks * (m->experts + 1) * (int64_t)sizeof(double));
    s.y = (float *)carve(b, &forward, slots * m->dim * word);
    s.dout = (slc_bf16 *)carve(b, &backward, m->bf16 ? m->rows * dout_ld(m) * (int64_t)sizeof(slc_bf16) : 0);
    s.part = (float *)carve(b, &backward, slots * parts_of(m) * word);
    s.dscore = (float *)carve(b, &backward, m->rows * m->experts * word);
    s.dplace = (float *)carve(b, &backward, slots * m->dim * word);
    s.dw = (float *)carve(b, &backward, div_up(m->rows, router_rows(m)) * m->experts * m->dim * word);
    s.bytes = forward > backward || !m->training ? forward : backward;
    return s;
}

/* ---- the router's scores: 64 rows and 16 experts a block, in fp32 */

template <typename T>
__global__ void __launch_bounds__(256) scores(slc_moe m, const T *x, int64_t ld, const float *w, float *score) {
    enum { DEPTH = 32, LD = DEPTH + 4, EXPERTS = 16 };
    __shared__ __align__(16) float a[ROWS][LD], b[EXPERTS][LD];
    int64_t across = div_up(m.experts, EXPERTS), row0 = blockIdx.x / across * ROWS;
    int t = (int)threadIdx.x, e0 = (int)(blockIdx.x % across) * EXPERTS, e = t % EXPERTS;
    float sum[4] = {0, 0, 0, 0};
    for (int64_t k = 0; k < m.dim; k += DEPTH) {
        __syncthreads();
        for (int i = t; i < ROWS * DEPTH; i += 256) {
            int64_t row = row0 + i / DEPTH, col = k + i % DEPTH;
            a[i / DEPTH][i % DEPTH] = row < m.rows && col < m.dim ? slc_load(x + row * ld + col) : 0;
        }
        for (int i = t; i < EXPERTS * DEPTH; i += 256) {
            int64_t row = e0 + i / DEPTH, col = k + i % DEPTH;
            b[i / DEPTH][i % DEPTH] = row < m.experts && col < m.dim ? w[row * m.dim + col] : 0;
        }
        __syncthreads();
        for (int d = 0; d < DEPTH; d += 4) {
            float4 q = *(const float4 *)&b[e][d];
            SLC_UNROLL
            for (int r = 0; r < 4; r++) {
                float4 p = *(const float4 *)&a[t / EXPERTS + 16 * r][d];
                sum[r] = fmaf(p.x, q.x, fmaf(p.y, q.y, fmaf(p.z, q.z, fmaf(p.w, q.w, sum[r]))));
            }
        }
    }
    for (int r = 0; r < 4; r++) {
        int64_t row = row0 + t / EXPERTS + 16 * r;
        if (row < m.rows && e0 + e < m.experts)
            score[row * m.experts + e0 + e] = sum[r];
    }
}

/* ---- choices: a warp a row, lane l has experts l + 32 i */

/* sigmoid(a), and what is left of 1 */
__device__ __forceinline__ float sigmoid_pair(float a, float *rest) {
    float e = expf(-fabsf(a)), s = 1 / (1 + e), r = e * s;
    *rest = a >= 0 ? r : s;
    return a >= 0 ? s : isnan(a) ? a : r;
}

/* Larger for larger numbers, of equals for the first expert; 0 for what is no number: taken where nothing else is. */
__device__ __forceinline__ unsigned long long rank_of(float x, int e) {
    uint32_t u = __float_as_uint(x + 0.0f); /* -0 is 0 */
    u = isnan(x) ? 0 : u >> 31 ? ~u : u | 0x80000000u;
    return (unsigned long long)u << 32 | (unsigned)(MAX - e);
}

__device__ void score_row(const slc_moe &m, int64_t row, float s[LANES], const slc_moe_route &t) {
    int lane = (int)threadIdx.x % 32;
    float *score = t.score + row * m.experts, most = -INFINITY, sum = 0, rest;
    for (int i = 0; i < LANES; i++) {
        int e = lane + 32 * i;
        s[i] = e < m.experts ? score[e] : -INFINITY;
        most = fmaxf(most, s[i]);
    }
    if (!m.sigmoid) {
        most = slc_warp_max(most);
        for (int i = 0; i < LANES; i++) {
            s[i] = lane + 32 * i < m.experts ? expf(s[i] - most) : 0;
            sum += s[i];
        }
        sum = slc_warp_sum(sum);
        if (lane == 0)
            t.lse[row] = most + logf(sum);
    }
    for (int i = 0; i < LANES; i++) {
        int e = lane + 32 * i;
        if (e < m.experts)
            score[e] = s[i] = m.sigmoid ? sigmoid_pair(s[i], &rest) : s[i] / sum;
    }
}

/* Bit i: expert lane + 32 i is chosen. */
__device__ unsigned choose(const slc_moe &m, const float s[LANES], const float *bias) {
    int lane = (int)threadIdx.x % 32;
    unsigned long long rank[LANES];
    unsigned taken = 0;
    for (int i = 0; i < LANES; i++) {
        int e = lane + 32 * i;
        rank[i] = e < m.experts ? rank_of(bias ? s[i] + bias[e] : s[i], e) : 0;
    }
    for (int j = 0; j < m.top; j++) {
        unsigned long long best = 0;
        for (int i = 0; i < LANES; i++)
            best = rank[i] > best ? rank[i] : best;
        for (int k = 16; k > 0; k /= 2) {
            unsigned long long other = __shfl_xor_sync(0xffffffffu, best, k);
            best = other > best ? other : best;
        }
        int e = MAX - (int)(unsigned)best;
        for (int i = 0; i < LANES; i++)
            if (e == lane + 32 * i)
                taken |= 1u << i, rank[i] = 0;
    }
    return taken;
}

/* Experts ascending, and their weights. */
__device__ void store_choice(const slc_moe &m, int64_t row, const float s[LANES], unsigned taken,
                             const slc_moe_route &t, int32_t *hist) {
    int lane = (int)threadIdx.x % 32, j = 0;
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += taken >> i & 1 ? s[i] : 0;
    sum = m.top > 1 ? slc_warp_sum(sum) + TINY : 1;
    for (int i = 0; 32 * i < m.experts; i++) {
        bool mine = taken >> i & 1;
        unsigned all = __ballot_sync(0xffffffffu, mine);
        int64_t slot = row * m.top + j + __popc(all & ((1u << lane) - 1));
        if (mine) {
            t.expert[slot] = lane + 32 * i;
            t.weight[slot] = s[i] / sum;
            atomicAdd(&hist[lane + 32 * i], 1);
        }
        j += __popc(all);
    }
}

/* Adds a row's shares of the scores (of lane's experts), and the square of its lse (behind them). */
__device__ void add_shares(const slc_moe &m, const float s[LANES], float lse, double sums[LANES + 1]) {
    float whole = 0;
    for (int i = 0; i < LANES && m.sigmoid; i++)
        whole += (int)threadIdx.x % 32 + 32 * i < m.experts ? s[i] : 0;
    whole = m.sigmoid ? slc_warp_sum(whole) + TINY : 1;
    for (int i = 0; i < LANES; i++)
        if ((int)threadIdx.x % 32 + 32 * i < m.experts)
            sums[i] += (double)(s[i] / whole);
    if (!m.sigmoid)
        sums[LANES] += (double)lse * (double)lse;
}

__global__ void __launch_bounds__(32 * WARPS) choose_rows(slc_moe m, const float *bias, slc_moe_route t, scratch s) {
    __shared__ int32_t hist[MAX];
    __shared__ double part[WARPS][MAX + 1];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int64_t first = (int64_t)blockIdx.x * ROWS, end = first + ROWS < m.rows ? first + ROWS : m.rows;
    double sums[LANES + 1] = {};
    hist[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t row = first + warp; row < end; row += WARPS) {
        float score[LANES];
        score_row(m, row, score, t);
        store_choice(m, row, score, choose(m, score, bias), t, hist);
        __syncwarp(); /* lane 0 has written lse */
        if (m.measured)
            add_shares(m, score, m.sigmoid ? 0 : t.lse[row], sums);
    }
    for (int i = 0; i < LANES; i++)
        part[warp][lane + 32 * i] = sums[i];
    if (lane == 0)
        part[warp][MAX] = sums[LANES];
    __syncthreads();
    for (int64_t e = threadIdx.x; e <= m.experts; e += 32 * WARPS) {
        double sum = 0;
        for (int i = 0; i < WARPS; i++)
            sum += part[i][e < m.experts ? (int)e : (int)MAX];
        s.sums[(int64_t)blockIdx.x * (m.experts + 1) + e] = sum;
        if (e < m.experts)
            s.hist[(int64_t)blockIdx.x * m.experts + e] = hist[e];
    }
}

/* ---- places */

/* What a training pass adds to the sums of its step. */
__device__ void note(const slc_moe &m, const slc_moe_route &t, const double *shares, slc_moe_state *state) {
    slc_moe_load *l = &state->now;
    int64_t slots = m.rows * m.top;
    double aux = 0, z = shares[m.experts] / (double)m.rows;
    for (int64_t e = 0; e < m.experts; e++) {
        aux += (double)m.experts * (double)t.count[e] / (double)slots * shares[e] / (double)m.rows;
        l->count[e] += t.count[e];
    }
    l->passes++;
    l->choices += slots;
    l->dropped += slots - t.offset[m.experts];
    l->aux += aux;
    l->z += z;
    state->extra = m.aux * aux + m.z * z;
}

/* One block: choices of each expert in the chunks before each, offsets, sums of the shares. Thread: expert (and one
 * column behind them for lse), and a run of chunks. */
__global__ void __launch_bounds__(SCAN) count_places(slc_moe m, slc_moe_route t, slc_moe_state *state, scratch s) {
    __shared__ int32_t count[SCAN];
    __shared__ double share[SCAN], shares[MAX + 1];
    int columns = (int)m.experts + 1, runs = SCAN / columns, run = (int)threadIdx.x / columns,
        e = (int)threadIdx.x % columns;
    int64_t chunks = div_up(m.rows, ROWS), per = div_up(chunks, runs), first = run * per;
    int64_t end = run < runs && first + per < chunks ? first + per : run < runs ? chunks : 0;
    int32_t n = 0;
    double sum = 0;
    for (int64_t c = first; c < end; c++) {
        n += e < m.experts ? s.hist[c * m.experts + e] : 0;
        sum += s.sums[c * columns + e];
    }
    count[threadIdx.x] = n, share[threadIdx.x] = sum;
    __syncthreads();
    if (run == 0) {
        int32_t all = 0;
        double whole = 0;
        for (int i = 0; i < runs; i++) {
            int32_t mine = count[i * columns + e];
            count[i * columns + e] = all;
            all += mine;
            whole += share[i * columns + e];
        }
        shares[e] = whole;
        if (e < m.experts)
            t.count[e] = all;
    }
    __syncthreads();
    n = count[threadIdx.x];
    for (int64_t c = first; c < end && e < m.experts; c++) {
        s.before[c * m.experts + e] = n;
        n += s.hist[c * m.experts + e];
    }
    if (threadIdx.x > 0)
        return;
    t.offset[0] = 0;
    for (int64_t i = 0; i < m.experts; i++)
        t.offset[i + 1] = t.offset[i] + (int32_t)(t.count[i] < m.capacity ? t.count[i] : m.capacity);
    if (m.measured)
        note(m, t, shares, state);
}

/* A thread an expert, slots in their order. */
__global__ void __launch_bounds__(MAX) assign_places(slc_moe m, slc_moe_route t, scratch s) {
    __shared__ int32_t expert[ROWS * MAX_TOP];
    int64_t first = (int64_t)blockIdx.x * ROWS * m.top, slots = m.rows * m.top;
    int n = slots - first < ROWS * m.top ? (int)(slots - first) : (int)(ROWS * m.top), e = (int)threadIdx.x;
    for (int i = e; i < n; i += (int)blockDim.x)
        expert[i] = t.expert[first + i];
    __syncthreads();
    if (e >= m.experts)
        return;
    int64_t rank = s.before[(int64_t)blockIdx.x * m.experts + e];
    int32_t offset = t.offset[e];
    for (int i = 0; i < n; i++)
        if (expert[i] == e) {
            bool has = rank < m.capacity;
            t.place[first + i] = has ? offset + (int32_t)rank : -1;
            if (has)
                t.slot[offset + rank] = (int32_t)(first + i);
            rank++;
        }
}

/* ---- the experts' products */

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
        int64_t next = offset[e + 1], tiles = div_up(next - at, TILE);
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
    int64_t d = x.m.dim, f = x.m.ffn, across = div_up(f, E::HALF), col0 = blockIdx.x % across * E::HALF;
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
    int64_t d = x.m.dim, f = x.m.ffn, across = div_up(d, E::TILE), col0 = blockIdx.x % across * E::TILE;
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
    int64_t d = x.m.dim, f = x.m.ffn, across = div_up(f, E::TILE), tile_col = blockIdx.x % across,
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
    int64_t d = x.m.dim, f = x.m.ffn, across = div_up(d, E::TILE), col0 = blockIdx.x % across * E::TILE;
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
    int64_t f_tiles = div_up(x.m.ffn, E::TILE), tiles = f_tiles * div_up(x.m.dim, E::TILE);
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

/* ---- the router's gradient */

/* A warp a row: the gradient by the row's products with the router's matrix, from parts of dweight. */
__global__ void __launch_bounds__(32 * WARPS) scores_back(slc_moe m, slc_moe_route t, const float *part, int64_t parts,
                                                          float *dscore) {
    int lane = (int)threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= m.rows)
        return;
    float s[LANES], ds[LANES] = {}, sum = 0, mean = 0;
    for (int i = 0; i < LANES; i++)
        s[i] = lane + 32 * i < m.experts ? t.score[row * m.experts + lane + 32 * i] : 0;
    for (int64_t j = row * m.top; j < (row + 1) * m.top; j++) {
        float dw = 0;
        int64_t place = t.place[j];
        for (int64_t p = lane; p < parts && place >= 0; p += 32)
            dw += part[place * parts + p];
        dw = slc_warp_sum(dw);
        if (lane == 0)
            t.dweight[j] = dw;
        sum += t.score[row * m.experts + t.expert[j]];
        mean += t.weight[j] * dw;
        for (int i = 0; i < LANES; i++)
            ds[i] += t.expert[j] == lane + 32 * i ? dw : 0;
    }
    for (int i = 0; i < LANES && m.top > 1; i++) { /* w = s / sum */
        bool chosen = false;
        for (int64_t j = row * m.top; j < (row + 1) * m.top; j++)
            chosen = chosen || t.expert[j] == lane + 32 * i;
        ds[i] = chosen ? (ds[i] - mean) / (sum + TINY) : 0;
    }
    if (m.aux > 0) {
        double per = m.aux * (double)m.grad_scale * (double)m.experts / ((double)(m.rows * m.top) * (double)m.rows);
        float share[LANES], whole = 0, inner = 0;
        for (int i = 0; i < LANES; i++) {
            share[i] = lane + 32 * i < m.experts ? (float)(per * (double)t.count[lane + 32 * i]) : 0;
            whole += s[i];
            inner += share[i] * s[i];
        }
        whole = slc_warp_sum(whole) + TINY;
        inner = slc_warp_sum(inner) / whole;
        for (int i = 0; i < LANES; i++)
            ds[i] += m.sigmoid ? (share[i] - inner) / whole : share[i];
    }
    float z = m.sigmoid ? 0 : (float)(m.z * 2 / (double)m.rows) * m.grad_scale * t.lse[row];
    mean = 0;
    for (int i = 0; i < LANES; i++)
        mean += s[i] * ds[i];
    mean = slc_warp_sum(mean);
    for (int i = 0; i < LANES; i++)
        if (lane + 32 * i < m.experts)
            dscore[row * m.experts + lane + 32 * i] = m.sigmoid ? ds[i] * s[i] * (1 - s[i]) : s[i] * (ds[i] - mean + z);
}

enum { DIN_ROWS = 8 };

/* din = W^T dscore + the places' rows (+ din) */
template <typename T>
__global__ void __launch_bounds__(256) rows_back(slc_moe m, const float *w, slc_moe_route t, const float *dscore,
                                                 const float *dplace, T *din, int64_t ld, bool add) {
    __shared__ float ds[DIN_ROWS][MAX];
    int64_t row0 = (int64_t)blockIdx.x * DIN_ROWS;
    int n = m.rows - row0 < DIN_ROWS ? (int)(m.rows - row0) : (int)DIN_ROWS;
    for (int i = (int)threadIdx.x; i < DIN_ROWS * (int)m.experts; i += 256) {
        int r = i / (int)m.experts, e = i % (int)m.experts;
        ds[r][e] = r < n ? dscore[(row0 + r) * m.experts + e] : 0;
    }
    __syncthreads();
    for (int64_t c = threadIdx.x; c < m.dim; c += 256) {
        float sum[DIN_ROWS] = {};
        for (int e = 0; e < m.experts; e++) {
            float x = w[e * m.dim + c];
            SLC_UNROLL
            for (int r = 0; r < DIN_ROWS; r++)
                sum[r] = fmaf(ds[r][e], x, sum[r]);
        }
        SLC_UNROLL
        for (int r = 0; r < DIN_ROWS; r++) {
            if (r >= n)
                continue;
            const int32_t *place = t.place + (row0 + r) * m.top;
            T *to = din + (row0 + r) * ld + c;
            for (int j = 0; j < m.top; j++)
                if (place[j] >= 0)
                    sum[r] += dplace[place[j] * m.dim + c];
            slc_store(to, add ? sum[r] + slc_load(to) : sum[r]);
        }
    }
}

enum { EACH = 8, STEP = 256 / EACH }; /* experts a thread; rows at a time */

/* dw[chunk, experts, dim] of `per` rows; blocks: chunks, columns, experts. */
template <typename T>
__global__ void __launch_bounds__(256) router_back(slc_moe m, int64_t per, const T *x, int64_t ld, const float *dscore,
                                                   float *dw) {
    int64_t c = (int64_t)blockIdx.y * 256 + threadIdx.x, first = (int64_t)blockIdx.x * per,
            end = first + per < m.rows ? first + per : m.rows;
    int e0 = (int)blockIdx.z * EACH, n = (int)m.experts - e0 < EACH ? (int)m.experts - e0 : EACH;
    __shared__ __align__(16) float ds[STEP][EACH];
    float sum[EACH] = {};
    for (int64_t r0 = first; r0 < end; r0 += STEP) {
        int rows = end - r0 < STEP ? (int)(end - r0) : (int)STEP;
        int r = (int)threadIdx.x / EACH, i = (int)threadIdx.x % EACH;
        __syncthreads();
        ds[r][i] = r < rows && i < n ? dscore[(r0 + r) * m.experts + e0 + i] : 0;
        __syncthreads();
        for (r = 0; r < rows && c < m.dim; r++) {
            float v = slc_load(x + (r0 + r) * ld + c);
            SLC_UNROLL
            for (i = 0; i < EACH; i++)
                sum[i] = fmaf(ds[r][i], v, sum[i]);
        }
    }
    SLC_UNROLL
    for (int i = 0; i < EACH; i++)
        if (i < n && c < m.dim)
            dw[((int64_t)blockIdx.x * m.experts + e0 + i) * m.dim + c] = sum[i];
}

__global__ void __launch_bounds__(256) fold(int64_t n, int64_t chunks, const float *part, float *to) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= n)
        return;
    float sum = 0;
    for (int64_t c = 0; c < chunks; c++)
        sum += part[c * n + i];
    to[i] += sum;
}

/* ---- between steps */

__global__ void __launch_bounds__(MAX) end_step(slc_moe m, slc_moe_state *state, float *bias, const int32_t *applied) {
    int64_t e = threadIdx.x;
    slc_moe_load *l = &state->now;
    if (bias && *applied && e < m.experts) {
        int64_t below = l->choices - l->count[e] * m.experts; /* experts times (mean - count) */
        bias[e] += (float)m.rate * (float)((below > 0) - (below < 0));
    }
    __syncthreads();
    state->last.count[e] = l->count[e];
    l->count[e] = 0;
    if (e > 0)
        return;
    state->last.passes = l->passes, state->last.choices = l->choices, state->last.dropped = l->dropped;
    state->last.aux = l->aux, state->last.z = l->z;
    l->passes = l->choices = l->dropped = 0;
    l->aux = l->z = 0;
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
    SLC_LAUNCH(hidden<E>, most_tiles<E>(m) * div_up(m->ffn, E::HALF), TILE_THREADS, E::SHARED, s, x);
}
template <typename E> void launch_down(slc_stream s, const slc_moe *m, experts<typename E::T> x) {
    SLC_MORE_SHARED(down<E>, E::SHARED);
    SLC_LAUNCH(down<E>, most_tiles<E>(m) * div_up(m->dim, E::TILE), TILE_THREADS, E::SHARED, s, x);
}

template <typename E> void backward(slc_stream s, const slc_moe *m, experts<typename E::T> x) {
    int64_t tiles = most_tiles<E>(m), f = div_up(m->ffn, E::TILE), d = div_up(m->dim, E::TILE);
    SLC_MORE_SHARED(hidden_back<E>, E::SHARED);
    SLC_MORE_SHARED(input_back<E>, E::SHARED);
    SLC_MORE_SHARED(weights_back<E>, E::SHARED);
    SLC_LAUNCH(hidden_back<E>, tiles * f, TILE_THREADS, E::SHARED, s, x);
    SLC_LAUNCH(input_back<E>, tiles * d, TILE_THREADS, E::SHARED, s, x);
    SLC_LAUNCH(weights_back<E>, m->experts * 3 * f * d, TILE_THREADS, E::SHARED, s, x);
}

template <typename T>
void router_gradient(slc_stream s, const slc_moe *m, slc_moe_rows x, const float *router, const slc_moe_route *t,
                     slc_moe_rows din, bool add, float *drouter, const scratch &a) {
    int64_t per = router_rows(m), chunks = div_up(m->rows, per), size = m->experts * m->dim;
    SLC_LAUNCH(scores_back, div_up(m->rows, WARPS), 32 * WARPS, 0, s, *m, *t, a.part, parts_of(m), a.dscore);
    SLC_LAUNCH(rows_back<T>, div_up(m->rows, DIN_ROWS), 256, 0, s, *m, router, *t, a.dscore, a.dplace, (T *)din.p,
               din.ld, add);
    SLC_LAUNCH(router_back<T>, dim3(chunks, div_up(m->dim, 256), div_up(m->experts, EACH)), 256, 0, s, *m, per,
               (const T *)x.p, x.ld, a.dscore, a.dw);
    SLC_LAUNCH(fold, div_up(size, 256), 256, 0, s, size, chunks, a.dw, drouter);
}

} // namespace

size_t slc_moe_scratch_bytes(const slc_moe *m) { return scratch_at(m, nullptr).bytes; }

void slc_moe_route_rows(slc_stream s, const slc_moe *m, slc_moe_rows x, const float *router, const float *bias,
                        const slc_moe_route *t, slc_moe_state *state, void *room) {
    scratch a = scratch_at(m, room);
    int64_t chunks = div_up(m->rows, ROWS), grid = chunks * div_up(m->experts, 16);
    if (m->bf16)
        SLC_LAUNCH(scores<slc_bf16>, grid, 256, 0, s, *m, (const slc_bf16 *)x.p, x.ld, router, t->score);
    else
        SLC_LAUNCH(scores<float>, grid, 256, 0, s, *m, (const float *)x.p, x.ld, router, t->score);
    SLC_LAUNCH(choose_rows, chunks, 32 * WARPS, 0, s, *m, bias, *t, a);
    SLC_LAUNCH(count_places, 1, SCAN, 0, s, *m, *t, state, a);
    SLC_LAUNCH(assign_places, chunks, slc_max(128, div_up(m->experts, 32) * 32), 0, s, *m, *t, a);
}

void slc_moe_forward(slc_stream s, const slc_moe *m, slc_moe_rows x, const void *weights, const slc_moe_route *t,
                     slc_moe_rows gate_up, slc_moe_rows h, const float *residual, float *out, void *room) {
    scratch a = scratch_at(m, room);
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
    scratch a = scratch_at(m, room);
    experts<float> b = experts_of<float>(m, {}, weights, t, {}, h);
    b.apart = true, b.y = a.y;
    launch_down<fp32_tile>(s, m, b);
    SLC_LAUNCH(combine, m->rows, 128, 0, s, *m, t->place, a.y, residual, out, m->dim % 4 == 0 ? 4 : 1);
}

void slc_moe_backward(slc_stream s, const slc_moe *m, slc_moe_rows x, const void *weights, const float *router,
                      const slc_moe_route *t, slc_moe_rows gate_up, slc_moe_rows h, const float *dout,
                      slc_moe_rows din, bool add, float *dweights, float *drouter, void *room) {
    scratch a = scratch_at(m, room);
    if (m->bf16) {
        experts<slc_bf16> b = experts_of<slc_bf16>(m, x, weights, t, gate_up, h);
        slc_round_rows(s, m->rows, m->dim, dout, a.dout, dout_ld(m));
        b.dout = a.dout, b.ldd = dout_ld(m), b.y = a.dplace, b.part = a.part, b.dw = dweights;
        backward<bf16_tile>(s, m, b);
        router_gradient<slc_bf16>(s, m, x, router, t, din, add, drouter, a);
    } else {
        experts<float> b = experts_of<float>(m, x, weights, t, gate_up, h);
        b.dout = dout, b.ldd = m->dim, b.y = a.dplace, b.part = a.part, b.dw = dweights;
        backward<fp32_tile>(s, m, b);
        router_gradient<float>(s, m, x, router, t, din, add, drouter, a);
    }
}

void slc_moe_end_step(slc_stream s, const slc_moe *m, slc_moe_state *state, float *bias, const int32_t *applied) {
    SLC_LAUNCH(end_step, 1, MAX, 0, s, *m, state, bias, applied);
}
