#include "cuda/moe_parts.h"
#include "cuda/rows.h"

namespace {

enum { ROWS = SLC_MOE_ROWS, MAX = SLC_MOE_MAX_EXPERTS, MAX_TOP = 16, WARPS = 8, LANES = MAX / 32, SCAN = 1024 };
const float TINY = 1e-20f;

/* ---- the router's scores: 64 rows and 16 experts a block, in fp32 */

template <typename T>
__global__ void __launch_bounds__(256) scores(slc_moe m, const T *x, int64_t ld, const float *w, float *score) {
    enum { DEPTH = 32, LD = DEPTH + 4, EXPERTS = 16 };
    __shared__ __align__(16) float a[ROWS][LD], b[EXPERTS][LD];
    int64_t across = slc_div_up(m.experts, EXPERTS), row0 = blockIdx.x / across * ROWS;
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

__global__ void __launch_bounds__(32 * WARPS) choose_rows(slc_moe m, const float *bias, slc_moe_route t,
                                                          slc_moe_scratch s) {
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
__global__ void __launch_bounds__(SCAN) count_places(slc_moe m, slc_moe_route t, slc_moe_state *state,
                                                     slc_moe_scratch s) {
    __shared__ int32_t count[SCAN];
    __shared__ double share[SCAN], shares[MAX + 1];
    int columns = (int)m.experts + 1, runs = SCAN / columns, run = (int)threadIdx.x / columns,
        e = (int)threadIdx.x % columns;
    int64_t chunks = slc_div_up(m.rows, ROWS), per = slc_div_up(chunks, runs), first = run * per;
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
__global__ void __launch_bounds__(MAX) assign_places(slc_moe m, slc_moe_route t, slc_moe_scratch s) {
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

template <typename T>
void gradient_of(slc_stream s, const slc_moe *m, slc_moe_rows x, const float *router, const slc_moe_route *t,
                 slc_moe_rows din, bool add, float *drouter, const slc_moe_scratch &a) {
    int64_t per = slc_moe_router_rows(m), chunks = slc_div_up(m->rows, per), size = m->experts * m->dim;
    SLC_LAUNCH(scores_back, slc_div_up(m->rows, WARPS), 32 * WARPS, 0, s, *m, *t, a.part, slc_moe_parts(m), a.dscore);
    SLC_LAUNCH(rows_back<T>, slc_div_up(m->rows, DIN_ROWS), 256, 0, s, *m, router, *t, a.dscore, a.dplace, (T *)din.p,
               din.ld, add);
    SLC_LAUNCH(router_back<T>, dim3(chunks, slc_div_up(m->dim, 256), slc_div_up(m->experts, EACH)), 256, 0, s, *m, per,
               (const T *)x.p, x.ld, a.dscore, a.dw);
    SLC_LAUNCH(fold, slc_div_up(size, 256), 256, 0, s, size, chunks, a.dw, drouter);
}

} // namespace

void slc_moe_router_back(slc_stream stream, const slc_moe *m, slc_moe_rows x, const float *router,
                         const slc_moe_route *t, slc_moe_rows din, bool add, float *drouter,
                         const slc_moe_scratch &s) {
    if (m->bf16)
        gradient_of<slc_bf16>(stream, m, x, router, t, din, add, drouter, s);
    else
        gradient_of<float>(stream, m, x, router, t, din, add, drouter, s);
}

void slc_moe_route_rows(slc_stream s, const slc_moe *m, slc_moe_rows x, const float *router, const float *bias,
                        const slc_moe_route *t, slc_moe_state *state, void *room) {
    slc_moe_scratch a = slc_moe_scratch_at(m, room);
    int64_t chunks = slc_div_up(m->rows, ROWS), grid = chunks * slc_div_up(m->experts, 16);
    if (m->bf16)
        SLC_LAUNCH(scores<slc_bf16>, grid, 256, 0, s, *m, (const slc_bf16 *)x.p, x.ld, router, t->score);
    else
        SLC_LAUNCH(scores<float>, grid, 256, 0, s, *m, (const float *)x.p, x.ld, router, t->score);
    SLC_LAUNCH(choose_rows, chunks, 32 * WARPS, 0, s, *m, bias, *t, a);
    SLC_LAUNCH(count_places, 1, SCAN, 0, s, *m, *t, state, a);
    SLC_LAUNCH(assign_places, chunks, slc_max(128, slc_div_up(m->experts, 32) * 32), 0, s, *m, *t, a);
}

void slc_moe_end_step(slc_stream s, const slc_moe *m, slc_moe_state *state, float *bias, const int32_t *applied) {
    SLC_LAUNCH(end_step, 1, MAX, 0, s, *m, state, bias, applied);
}
