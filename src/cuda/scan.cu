#include "cuda/scan.h"

#include "cuda/rows.h"
#include "cuda/wide.h"

/* A block goes through a window with some channels of one head, whose states it has in registers: a thread C channels
 * by R keys of them, L neighbours all keys of these channels. Rows come through shared memory, a chunk at a time.
 * Channels don't see each other, but for the gradients of q, k, decay and beta, which the block adds up. */
enum { CHUNK = SLC_SCAN_CHUNK, MOST_WARPS = 8, ROOM = 256 }; /* ROOM: bytes of shared memory beside the dynamic */
/* Going back, states of a chunk are computed again from its first one, and of these only each STEPS-th is kept, in
 * scratch; those between are computed once more, where they are needed, into shared memory. */
enum { STEPS = 4, STOPS = CHUNK / STEPS };
enum { THREADS = 256 };

template <int L_, int R_, int C_> struct tile {
    enum { L = L_, R = R_, C = C_, KEYS = L * R, CHANNELS = 32 / L * C, NUMBERS = C * R };
    static_assert(L >= C && 2 * R >= 32 / L && R % 4 == 0, "sums are scattered over the lanes that made them");
};

/* Calls run<tile>(...) of the smallest tile that has so many keys. */
#define BY_KEYS(keys, run, ...)                                                                                        \
    ((keys) <= 16    ? run<tile<4, 4, 1>>(__VA_ARGS__)                                                                 \
     : (keys) <= 32  ? run<tile<8, 4, 2>>(__VA_ARGS__)                                                                 \
     : (keys) <= 64  ? run<tile<16, 4, 4>>(__VA_ARGS__)                                                                \
     : (keys) <= 128 ? run<tile<32, 4, 4>>(__VA_ARGS__)                                                                \
                     : run<tile<32, 8, 4>>(__VA_ARGS__))

/* ---- rows of either precision */

/* to [rows, stride] = cols of each row, and zeros behind them. */
template <typename T>
static __device__ __forceinline__ void stage(float *to, int stride, const T *from, int64_t ld, int rows, int cols) {
    enum { V = 16 / sizeof(T) };
    int tid = (int)threadIdx.x, threads = (int)blockDim.x;
    if (cols % V == 0 && ld % V == 0 && (uintptr_t)from % 16 == 0) {
        for (int i = tid, each = cols / V; i < rows * each; i += threads) {
            float x[V];
            load<V>(x, from + i / each * ld + i % each * V);
            store<V>(to + i / each * stride + i % each * V, x);
        }
    } else {
        for (int i = tid; i < rows * cols; i += threads)
            to[i / cols * stride + i % cols] = slc_load(from + i / cols * ld + i % cols);
    }
    for (int i = tid, rest = stride - cols; i < rows * rest; i += threads)
        to[i / rest * stride + cols + i % rest] = 0;
}
static __device__ __forceinline__ void stage_rows(float *to, int stride, const void *from, bool bf16, int64_t row,
                                                  int64_t ld, int64_t column, int rows, int cols) {
    if (bf16)
        stage(to, stride, (const slc_bf16 *)from + row * ld + column, ld, rows, cols);
    else
        stage(to, stride, (const float *)from + row * ld + column, ld, rows, cols);
}

/* ---- sums over lanes */

/* Of C numbers of each of L neighbours: lane l gets the sum of number l % C. x is changed. */
template <int L, int C> static __device__ __forceinline__ float sum_scattered(float x[C]) {
    int lane = (int)threadIdx.x % 32;
    SLC_UNROLL
    for (int n = C / 2; n > 0; n /= 2)
        SLC_UNROLL
        for (int i = 0; i < n; i++) {
            bool upper = lane & n;
            float give = upper ? x[i] : x[i + n];
            x[i] = (upper ? x[i + n] : x[i]) + __shfl_xor_sync(0xffffffffu, give, n);
        }
    float sum = x[0];
    SLC_UNROLL
    for (int mask = C; mask < L; mask *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    return sum;
}
/* All sums in every lane, in x. */
template <int L, int C> static __device__ __forceinline__ void sum_lanes(float x[C]) {
    int lane = (int)threadIdx.x % 32;
    float sum = sum_scattered<L, C>(x);
    SLC_UNROLL
    for (int c = 0; c < C; c++)
        x[c] = C == 1 ? sum : __shfl_sync(0xffffffffu, sum, (lane & ~(C - 1)) | c);
}

/* Of N numbers of each lane, over the 32 / L lanes that are L apart: x[0].. become the sums of number
 * lane / L * (N L / 32) and those behind it. */
template <int L, int N> static __device__ __forceinline__ void sum_groups(float x[N]) {
    int lane = (int)threadIdx.x % 32, n = N;
    SLC_UNROLL
    for (int mask = 16; mask >= L; mask /= 2) {
        n /= 2;
        SLC_UNROLL
        for (int i = 0; i < N / 2; i++) {
            if (i >= n)
                continue;
            bool upper = lane & mask;
            float give = upper ? x[i] : x[i + n];
            x[i] = (upper ? x[i + n] : x[i]) + __shfl_xor_sync(0xffffffffu, give, mask);
        }
    }
}

/* Of the warp: a in lanes below 16, b in the others. */
static __device__ __forceinline__ float sum_two(float a, float b) {
    bool upper = threadIdx.x % 32 >= 16;
    float sum = (upper ? b : a) + __shfl_xor_sync(0xffffffffu, upper ? a : b, 16);
    return lanes_sum(sum, 16);
}

/* ---- decay and beta */

static __device__ __forceinline__ float logistic(float x) { return 1 / (1 + expf(-x)); }
/* log(1 + exp(z)) */
static __device__ __forceinline__ float softplus(float z) { return fmaxf(z, 0) + log1pf(expf(-fabsf(z))); }

/* fixed, or with a sign exp(-rate softplus(sign a + bias)) */
struct decay_of_head {
    float fixed, rate, sign, bias;
};
static __device__ __forceinline__ decay_of_head decay_at(const slc_scan &p, int head) {
    switch (p.decay) {
    case SLC_DECAY_SOFTPLUS: return {0, expf(p.a_log[head]), 1, p.bias[head]};
    case SLC_DECAY_SIGMOID: return {0, 1.0f / 16, -1, 0};
    case SLC_DECAY_FIXED: return {(float)(1 - exp2((double)(-5 - head))), 0, 0, 0};
    default: return {1, 0, 0, 0};
    }
}
static __device__ __forceinline__ float raw_decay(const slc_scan &p, const decay_of_head &d, int64_t row, int head) {
    return d.sign != 0 ? d.sign * value_at(p.in, p.bf16, row * p.ld + p.a + head) + d.bias : 0;
}

/* Of a head of a window, [seq]; `which`: 0 decay, 1 beta. */
static __device__ __forceinline__ float *gates_at(const slc_scan &p, int64_t window, int head, int which) {
    return p.gate[which] + (window * p.heads + head) * 2 * p.seq;
}

__global__ void __launch_bounds__(THREADS) gates_kernel(slc_scan p) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = i / p.heads;
    int head = (int)(i - row * p.heads);
    if (row >= p.windows * p.seq)
        return;
    decay_of_head d = decay_at(p, head);
    float soft = softplus(raw_decay(p, d, row, head)), beta = 1;
    if (p.beta == SLC_BETA_SIGMOID)
        beta = p.most * logistic(value_at(p.in, p.bf16, row * p.ld + p.b + head));
    if (p.beta == SLC_BETA_STEP)
        beta = soft;
    gates_at(p, row / p.seq, head, 0)[row % p.seq] = d.sign != 0 ? expf(-d.rate * soft) : d.fixed;
    gates_at(p, row / p.seq, head, 1)[row % p.seq] = beta;
}

/* ---- a block's part */

struct part {
    int64_t window, row0; /* its first row */
    int head, slice, tid;
    int lane, channel, key; /* of a group; the thread's first, of the slice */
};
template <class T> static __device__ __forceinline__ part part_at(const slc_scan &p, int64_t item) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, l = lane % T::L;
    part a;
    a.window = item / p.heads, a.row0 = a.window * p.seq, a.head = (int)(item % p.heads), a.slice = 0;
    a.tid = (int)threadIdx.x, a.lane = l, a.key = l * T::R;
    a.channel = warp * T::CHANNELS + lane / T::L * T::C;
    return a;
}

/* How channels of a head are cut into slices, of a block each. */
struct cut {
    int warps, channels, slices;
};

/* Rows of a chunk in shared memory. */
struct staged {
    float *q, *k, *v, *gate; /* gate: decays, then betas */
};
template <class T> static __device__ __forceinline__ staged stage_at(float *&at, int channels) {
    staged s = {at, at + CHUNK * T::KEYS, at + 2 * CHUNK * T::KEYS, at + CHUNK * (2 * T::KEYS + channels)};
    at = s.gate + 2 * CHUNK;
    return s;
}

/* x of n rows becomes scale x, if unit over sqrt(x.x + 1e-6). */
template <class T> static __device__ __forceinline__ void normalise(float *x, int n, bool unit, float scale) {
    int group = (int)threadIdx.x / T::L, groups = (int)blockDim.x / T::L, l = (int)threadIdx.x % T::L;
    for (int row0 = 0; row0 < n; row0 += groups) {
        bool is = row0 + group < n;
        float y[T::R] = {}, sum = 0, *at = x + (row0 + group) * T::KEYS + l * T::R;
        if (is)
            load<T::R>(y, at);
        SLC_UNROLL
        for (int r = 0; r < T::R; r++)
            sum = fmaf(y[r], y[r], sum);
        float length = sqrtf(lanes_sum(sum, T::L) + 1e-6f), factor = unit ? scale / length : scale;
        SLC_UNROLL
        for (int r = 0; r < T::R; r++)
            y[r] *= factor;
        if (is)
            store<T::R>(at, y);
    }
}

static __device__ __forceinline__ int channels_of(const slc_scan &p, const part &a, int channels) {
    return min(channels, (int)p.value_dim - a.slice * channels);
}

/* n rows from position t on, behind a barrier. */
template <class T>
static __device__ __forceinline__ void stage_chunk(const slc_scan &p, const part &a, int64_t t, int n, int channels,
                                                   const staged &s) {
    int64_t row = a.row0 + t, key_head = a.head / (p.heads / p.key_heads);
    int d = (int)p.key_dim;
    stage_rows(s.q, T::KEYS, p.in, p.bf16, row, p.ld, p.q + key_head * d, n, d);
    stage_rows(s.k, T::KEYS, p.in, p.bf16, row, p.ld, p.k + key_head * d, n, d);
    stage_rows(s.v, channels, p.in, p.bf16, row, p.ld, p.v + a.head * p.value_dim + a.slice * channels, n,
               channels_of(p, a, channels));
    for (int i = a.tid; i < 2 * n; i += (int)blockDim.x)
        s.gate[i % n + i / n * CHUNK] = gates_at(p, a.window, a.head, i / n)[t + i % n];
    __syncthreads();
    if (!p.unit && p.scale == 1)
        return;
    normalise<T>(s.q, n, p.unit, p.scale);
    if (p.unit)
        normalise<T>(s.k, n, true, 1);
    __syncthreads();
}

/* ---- states: the thread's part, in registers and elsewhere */

template <class T> static __device__ __forceinline__ void clear(float s[T::C][T::R]) {
    SLC_UNROLL
    for (int i = 0; i < T::NUMBERS; i++)
        s[i / T::R][i % T::R] = 0;
}

/* A whole one, [value_dim, key_dim], at `at`. */
#define STATE_EACH(T, p, a, channels, c, r, i)                                                                         \
    SLC_UNROLL                                                                                                         \
    for (int c = 0; c < T::C; c++)                                                                                     \
        SLC_UNROLL                                                                                                     \
        for (int r = 0; r < T::R; r++)                                                                                 \
            if (int64_t i = ((a).slice * (channels) + (a).channel + c) * (p).key_dim + (a).key + r;                    \
                (a).slice * (channels) + (a).channel + c < (p).value_dim && (a).key + r < (p).key_dim)
template <class T>
static __device__ __forceinline__ void load_state(const slc_scan &p, const part &a, int channels, const float *at,
                                                  float s[T::C][T::R]) {
    clear<T>(s);
    STATE_EACH(T, p, a, channels, c, r, i) s[c][r] = at[i];
}
template <class T>
static __device__ __forceinline__ void store_state(const slc_scan &p, const part &a, int channels, float *at,
                                                   const float s[T::C][T::R]) {
    STATE_EACH(T, p, a, channels, c, r, i) at[i] = s[c][r];
}
static __device__ __forceinline__ float *saved_state(const slc_scan &p, const part &a, int64_t chunk) {
    int64_t chunks = (p.seq + CHUNK - 1) / CHUNK;
    return p.states + ((a.window * p.heads + a.head) * chunks + chunk) * p.value_dim * p.key_dim;
}

/* The block's i-th at `at`, where each thread finds its own alone. */
template <class T> static __device__ __forceinline__ float4 *own_at(float *at, int i) {
    return (float4 *)at + (int64_t)i * (T::NUMBERS / 4) * blockDim.x + threadIdx.x;
}
template <class T> static __device__ __forceinline__ void keep(float *at, int i, const float s[T::C][T::R]) {
    SLC_UNROLL
    for (int j = 0; j < T::NUMBERS; j += 4)
        own_at<T>(at, i)[j / 4 * blockDim.x] = make_float4(s[j / T::R][j % T::R], s[j / T::R][j % T::R + 1],
                                                           s[j / T::R][j % T::R + 2], s[j / T::R][j % T::R + 3]);
}
template <class T> static __device__ __forceinline__ void kept(float *at, int i, float s[T::C][T::R]) {
    SLC_UNROLL
    for (int j = 0; j < T::NUMBERS; j += 4) {
        float4 v = own_at<T>(at, i)[j / 4 * blockDim.x];
        s[j / T::R][j % T::R] = v.x, s[j / T::R][j % T::R + 1] = v.y;
        s[j / T::R][j % T::R + 2] = v.z, s[j / T::R][j % T::R + 3] = v.w;
    }
}

/* ---- forward */

/* One position on, and what memory lacks there. */
template <class T, bool RULE>
static __device__ __forceinline__ void advance(const float k[T::R], const float *v, float decay, float beta,
                                               float s[T::C][T::R], float e[T::C]) {
    if (RULE) {
        SLC_UNROLL
        for (int c = 0; c < T::C; c++) {
            e[c] = 0;
            SLC_UNROLL
            for (int r = 0; r < T::R; r++)
                e[c] = fmaf(s[c][r], k[r], e[c]);
        }
        sum_lanes<T::L, T::C>(e);
    }
    SLC_UNROLL
    for (int c = 0; c < T::C; c++) {
        e[c] = RULE ? v[c] - decay * e[c] : v[c];
        float u = beta * e[c];
        SLC_UNROLL
        for (int r = 0; r < T::R; r++)
            s[c][r] = fmaf(u, k[r], decay * s[c][r]);
    }
}

template <class T, bool RULE>
__global__ void __launch_bounds__(32 * MOST_WARPS) scan_forward_kernel(slc_scan p, cut how) {
    SLC_DYNAMIC(float, shared);
    staged in = stage_at<T>(shared, how.channels);
    float *o = shared, s[T::C][T::R], e[T::C], sum[T::C], q[T::R], k[T::R];
    part a = part_at<T>(p, blockIdx.x / how.slices);
    a.slice = (int)(blockIdx.x % how.slices);
    int mine = channels_of(p, a, how.channels);
    float skip = p.skip ? p.skip[a.head] : 0;
    float *state = p.state ? p.state + (a.window * p.heads + a.head) * p.value_dim * p.key_dim : nullptr;
    clear<T>(s);
    if (state && *p.position != 0)
        load_state<T>(p, a, how.channels, state, s);
    for (int64_t t = 0; t < p.seq; t += CHUNK) {
        int n = min((int)CHUNK, (int)(p.seq - t));
        stage_chunk<T>(p, a, t, n, how.channels, in);
        if (p.states)
            store_state<T>(p, a, how.channels, saved_state(p, a, t / CHUNK), s);
        for (int i = 0; i < n; i++) {
            const float *v = in.v + i * how.channels + a.channel;
            load<T::R>(q, in.q + i * T::KEYS + a.key);
            load<T::R>(k, in.k + i * T::KEYS + a.key);
            advance<T, RULE>(k, v, in.gate[i], in.gate[CHUNK + i], s, e);
            SLC_UNROLL
            for (int c = 0; c < T::C; c++) {
                sum[c] = 0;
                SLC_UNROLL
                for (int r = 0; r < T::R; r++)
                    sum[c] = fmaf(s[c][r], q[r], sum[c]);
            }
            float one = sum_scattered<T::L, T::C>(sum);
            if (a.lane < T::C)
                o[i * how.channels + a.channel + a.lane] = one + skip * v[a.lane];
        }
        __syncthreads();
        for (int i = a.tid; i < n * mine; i += (int)blockDim.x) {
            int64_t column = a.head * p.value_dim + a.slice * how.channels + i % mine;
            put_value(p.out, p.bf16, (a.row0 + t + i / mine) * p.ld_out + column, false,
                      o[i / mine * how.channels + i % mine]);
        }
    }
    if (state)
        store_state<T>(p, a, how.channels, state, s);
}

/* ---- backward. What the blocks of a head add up of a position, [dq | dk | dlog(decay) | dbeta], goes to scratch, and
 * is summed over blocks and over heads that share q and k by those who need it. */

static __host__ __device__ __forceinline__ int64_t sums_of(const slc_scan &p) { return 2 * p.key_dim + 2; }
static __device__ __forceinline__ float *sums_at(const slc_scan &p, float *sums, int block, int64_t window, int head) {
    return sums + ((block * p.windows + window) * p.heads + head) * p.seq * sums_of(p);
}

/* A block's shared memory going back: rows of a chunk; of a few steps, states before each and what memory lacks; what
 * they leave for the block: gradients of v, and [2 KEYS + 2] sums of each warp. */
struct back_room {
    staged in;
    float *dout, *states, *e, *dv, *sums;
};
template <class T> static __device__ __forceinline__ back_room back_room_at(float *at, const cut &how) {
    back_room m;
    m.in = stage_at<T>(at, how.channels);
    m.states = at, m.dout = at + STEPS * T::NUMBERS * 32 * how.warps, m.e = m.dout + CHUNK * how.channels;
    m.dv = m.e + STEPS * how.channels, m.sums = m.dv + STEPS * how.channels;
    return m;
}
template <class T> static __device__ __forceinline__ float *sums_of_warp(const back_room &m, const cut &how, int i) {
    return m.sums + (i * how.warps + (int)threadIdx.x / 32) * (2 * T::KEYS + 2);
}

/* From row i of a chunk to the next one; e: what memory lacked. */
template <class T, bool RULE>
static __device__ __forceinline__ void advance_row(const staged &in, const part &a, int channels, int i,
                                                   float s[T::C][T::R], float e[T::C]) {
    float k[T::R];
    load<T::R>(k, in.k + i * T::KEYS + a.key);
    advance<T, RULE>(k, in.v + i * channels + a.channel, in.gate[i], in.gate[CHUNK + i], s, e);
}

/* n steps from row `first` of a chunk on, from s. */
template <class T, bool RULE>
static __device__ __forceinline__ void steps_again(const back_room &m, const part &a, int channels, int first, int n,
                                                   float s[T::C][T::R]) {
    for (int i = 0; i < n; i++) {
        float e[T::C];
        keep<T>(m.states, i, s);
        advance_row<T, RULE>(m.in, a, channels, first + i, s, e);
        SLC_UNROLL
        for (int c = 0; c < T::C; c++)
            if (a.lane == 0)
                m.e[i * channels + a.channel + c] = e[c];
    }
    __syncwarp();
}

/* Step i of those, row `row` of the chunk: ds becomes the gradient of the state before it. Returns that of skip. */
template <class T, bool RULE>
static __device__ __forceinline__ float step_back(const back_room &m, const part &a, const cut &how, int i, int row,
                                                  float skip, const float before[T::C][T::R],
                                                  const float after[T::C][T::R], float ds[T::C][T::R]) {
    float q[T::R], k[T::R], dqk[2 * T::R] = {}, dout[T::C], du[T::C], dlog = 0, dbeta = 0, dskip = 0;
    float decay = m.in.gate[row], beta = m.in.gate[CHUNK + row];
    load<T::R>(q, m.in.q + row * T::KEYS + a.key);
    load<T::R>(k, m.in.k + row * T::KEYS + a.key);
    SLC_UNROLL
    for (int c = 0; c < T::C; c++) {
        dout[c] = m.dout[row * how.channels + a.channel + c], du[c] = 0;
        SLC_UNROLL
        for (int r = 0; r < T::R; r++) {
            ds[c][r] = fmaf(dout[c], q[r], ds[c][r]);
            dqk[r] = fmaf(dout[c], after[c][r], dqk[r]);
            du[c] = fmaf(ds[c][r], k[r], du[c]);
        }
    }
    sum_lanes<T::L, T::C>(du);
    SLC_UNROLL
    for (int c = 0; c < T::C; c++) {
        float e = m.e[i * how.channels + a.channel + c], u = beta * e, dv = beta * du[c], back = RULE ? -dv : 0;
        SLC_UNROLL
        for (int r = 0; r < T::R; r++) {
            float g = ds[c][r], s = decay * before[c][r];
            dqk[T::R + r] = fmaf(u, g, fmaf(back, s, dqk[T::R + r]));
            g = fmaf(back, k[r], g);
            dlog = fmaf(g, s, dlog);
            ds[c][r] = decay * g;
        }
        if (a.lane == 0) {
            m.dv[i * how.channels + a.channel + c] = dv + skip * dout[c];
            dbeta += e * du[c];
            dskip += dout[c] * m.in.v[row * how.channels + a.channel + c];
        }
    }
    enum { EACH = 2 * T::R * T::L / 32 };
    int lane = (int)threadIdx.x % 32;
    float *sums = sums_of_warp<T>(m, how, i);
    sum_groups<T::L, 2 * T::R>(dqk);
    SLC_UNROLL
    for (int j = 0; j < EACH; j++) {
        int number = lane / T::L * EACH + j;
        sums[number / T::R * T::KEYS + a.key + number % T::R] = dqk[j];
    }
    float two = sum_two(dlog, dbeta);
    if (lane % 16 == 0)
        sums[2 * T::KEYS + lane / 16] = two;
    return dskip;
}

/* What n steps from position t on have left, to sums and din. */
template <class T>
static __device__ __forceinline__ void leave_steps(const slc_scan &p, const slc_scan_back &b, const back_room &m,
                                                   const part &a, const cut &how, int64_t t, int n, bool add,
                                                   float *sums) {
    int d = (int)p.key_dim, all = (int)sums_of(p), mine = channels_of(p, a, how.channels);
    for (int i = a.tid; i < n * all; i += (int)blockDim.x) {
        int row = i / all, j = i % all, at = j < d ? j : j < 2 * d ? j + T::KEYS - d : j + 2 * (T::KEYS - d);
        float sum = 0;
        for (int w = 0; w < how.warps; w++)
            sum += m.sums[(row * how.warps + w) * (2 * T::KEYS + 2) + at];
        float *to = sums + t * all + i;
        *to = add ? *to + sum : sum;
    }
    for (int i = a.tid; i < n * mine; i += (int)blockDim.x) {
        int64_t column = p.v + a.head * p.value_dim + a.slice * how.channels + i % mine;
        put_value(b.din, p.bf16, (a.row0 + t + i / mine) * p.ld + column, b.add,
                  m.dv[i / mine * how.channels + i % mine]);
    }
}

/* The chunk of n rows from position t on. stops: room for STOPS states of the block. */
template <class T, bool RULE>
static __device__ __forceinline__ float chunk_back(const slc_scan &p, const slc_scan_back &b, const back_room &m,
                                                   const part &a, const cut &how, int64_t t, int n, bool add,
                                                   float ds[T::C][T::R], float *sums, float *stops) {
    float s[T::C][T::R], before[T::C][T::R], e[T::C], skip = p.skip ? p.skip[a.head] : 0, dskip = 0;
    int last = (n - 1) / STEPS;
    stage_rows(m.dout, how.channels, b.dout, p.bf16, a.row0 + t, p.ld_out,
               a.head * p.value_dim + a.slice * how.channels, n, channels_of(p, a, how.channels));
    stage_chunk<T>(p, a, t, n, how.channels, m.in);
    load_state<T>(p, a, how.channels, saved_state(p, a, t / CHUNK), s);
    for (int i = 0; i < last * STEPS; i++) {
        if (i % STEPS == 0)
            keep<T>(stops, i / STEPS, s);
        advance_row<T, RULE>(m.in, a, how.channels, i, s, e);
    }
    for (int stop = last; stop >= 0; stop--) {
        int first = stop * STEPS, steps = min((int)STEPS, n - first);
        steps_again<T, RULE>(m, a, how.channels, first, steps, s);
        for (int i = steps - 1; i >= 0; i--) {
            kept<T>(m.states, i, before);
            dskip += step_back<T, RULE>(m, a, how, i, first + i, skip, before, s, ds);
            SLC_UNROLL
            for (int j = 0; j < T::NUMBERS; j++)
                s[j / T::R][j % T::R] = before[j / T::R][j % T::R];
        }
        if (stop > 0)
            kept<T>(stops, stop - 1, s);
        __syncthreads();
        leave_steps<T>(p, b, m, a, how, t + first, steps, add, sums);
        __syncthreads();
    }
    return dskip;
}

template <class T, bool RULE>
__global__ void __launch_bounds__(32 * MOST_WARPS)
    scan_backward_kernel(slc_scan p, slc_scan_back b, cut how, float *sums, float *dskips, float *stops) {
    SLC_DYNAMIC(float, shared);
    __shared__ float room[33];
    back_room m = back_room_at<T>(shared, how);
    part a = part_at<T>(p, blockIdx.x);
    int64_t block = (int64_t)blockIdx.y * gridDim.x + blockIdx.x;
    float ds[T::C][T::R], dskip = 0;
    sums = sums_at(p, sums, (int)blockIdx.y, a.window, a.head);
    stops += block * STOPS * T::NUMBERS * blockDim.x;
    for (a.slice = (int)blockIdx.y; a.slice < how.slices; a.slice += (int)gridDim.y) {
        bool add = a.slice != (int)blockIdx.y;
        clear<T>(ds);
        for (int64_t t = (p.seq - 1) / CHUNK * CHUNK; t >= 0; t -= CHUNK)
            dskip += chunk_back<T, RULE>(p, b, m, a, how, t, min((int)CHUNK, (int)(p.seq - t)), add, ds, sums, stops);
    }
    dskip = slc_block_sum(dskip, room);
    if (p.skip && a.tid == 0)
        dskips[block] = dskip;
}

/* Gradients of q and k: a warp has those of a row and a head of keys. */
__global__ void __launch_bounds__(THREADS) keys_back_kernel(slc_scan p, slc_scan_back b, int blocks, float *sums) {
    enum { N = SLC_SCAN_KEYS / 32 };
    int64_t item = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32, row = item / p.key_heads;
    int lane = (int)threadIdx.x % 32, d = (int)p.key_dim, shared = (int)(p.heads / p.key_heads);
    int key_head = (int)(item - row * p.key_heads);
    if (row >= p.windows * p.seq)
        return;
    int64_t window = row / p.seq, t = row % p.seq;
    for (int which = 0; which < 2; which++) {
        int64_t column = row * p.ld + (which ? p.k : p.q) + key_head * d;
        float g[N] = {}, x[N] = {}, square = 0, along = 0, scale = which ? 1 : p.scale;
        for (int i = 0; i < shared * blocks; i++) {
            const float *at = sums_at(p, sums, i % blocks, window, key_head * shared + i / blocks) + t * sums_of(p);
            SLC_UNROLL
            for (int j = 0; j < N; j++)
                g[j] += lane + 32 * j < d ? at[which * d + lane + 32 * j] : 0;
        }
        if (p.unit) { /* from the gradient of y = scale r x to that of x: scale r (dy - x (x.dy) r^2) */
            SLC_UNROLL
            for (int j = 0; j < N; j++) {
                x[j] = lane + 32 * j < d ? value_at(p.in, p.bf16, column + lane + 32 * j) : 0;
                square = fmaf(x[j], x[j], square), along = fmaf(x[j], g[j], along);
            }
            float r = 1 / sqrtf(slc_warp_sum(square) + 1e-6f), factor = scale * r;
            along = slc_warp_sum(along) * r * r;
            SLC_UNROLL
            for (int j = 0; j < N; j++)
                g[j] = factor * (g[j] - x[j] * along);
        } else {
            SLC_UNROLL
            for (int j = 0; j < N; j++)
                g[j] *= scale;
        }
        SLC_UNROLL
        for (int j = 0; j < N; j++)
            if (lane + 32 * j < d)
                put_value(b.din, p.bf16, column + lane + 32 * j, b.add, g[j]);
    }
}

/* Gradients of a and b, and a window's part of those of bias and a_log, [2, heads] to part: a block a head. */
__global__ void __launch_bounds__(THREADS)
    gates_back_kernel(slc_scan p, slc_scan_back b, int blocks, float *sums, float *part) {
    __shared__ float room[33];
    int64_t window = blockIdx.x / p.heads;
    int head = (int)(blockIdx.x % p.heads);
    decay_of_head d = decay_at(p, head);
    float bias = 0, log = 0;
    for (int64_t t = threadIdx.x; t < p.seq; t += THREADS) {
        int64_t row = window * p.seq + t;
        float dlog = 0, dbeta = 0, z = raw_decay(p, d, row, head), beta = gates_at(p, window, head, 1)[t];
        for (int i = 0; i < blocks; i++) {
            const float *at = sums_at(p, sums, i, window, head) + t * sums_of(p) + 2 * p.key_dim;
            dlog += at[0], dbeta += at[1];
        }
        if (d.sign != 0) {
            float da = logistic(z) * ((p.beta == SLC_BETA_STEP ? dbeta : 0) - d.rate * dlog);
            put_value(b.din, p.bf16, row * p.ld + p.a + head, b.add, d.sign * da);
            bias += da, log -= dlog * d.rate * softplus(z);
        }
        if (p.beta == SLC_BETA_SIGMOID)
            put_value(b.din, p.bf16, row * p.ld + p.b + head, b.add, dbeta * beta * (1 - beta / p.most));
    }
    bias = slc_block_sum(bias, room), log = slc_block_sum(log, room);
    if (threadIdx.x == 0)
        part[window * 2 * p.heads + head] = bias, part[(window * 2 + 1) * p.heads + head] = log;
}

/* ---- launching */

static bool fits(int64_t floats) { return floats * (int64_t)sizeof(float) + ROOM <= slc_most_shared(); }

/* As many warps as there are channels for, and shared memory, of so many floats with so many warps. */
template <class T> static cut cut_by(const slc_scan *p, int64_t (*floats)(int warps)) {
    cut how = {MOST_WARPS, 0, 0};
    while (how.warps > 1 && (!fits(floats(how.warps)) ||
                             (how.warps / 2) * T::CHANNELS >= p->value_dim))
        how.warps /= 2;
    how.channels = how.warps * T::CHANNELS;
    how.slices = (int)slc_div_up(p->value_dim, how.channels);
    return how;
}

template <class T> static int64_t staged_floats(int warps) { return CHUNK * (2 * T::KEYS + warps * T::CHANNELS + 2); }
template <class T> static int64_t forward_floats(int warps) {
    return staged_floats<T>(warps) + CHUNK * warps * T::CHANNELS;
}
template <class T> static int64_t backward_floats(int warps) {
    int64_t channels = warps * T::CHANNELS;
    return staged_floats<T>(warps) + STEPS * T::NUMBERS * 32 * warps + (CHUNK + 2 * STEPS) * channels +
           STEPS * warps * (2 * T::KEYS + 2);
}

template <class T> static void run_forward(slc_stream s, const slc_scan *p) {
    cut how = cut_by<T>(p, forward_floats<T>);
    int64_t blocks = p->windows * p->heads * how.slices, shared = forward_floats<T>(how.warps) * (int64_t)sizeof(float);
    auto kernel = p->rule ? scan_forward_kernel<T, true> : scan_forward_kernel<T, false>;
    SLC_MORE_SHARED(kernel, shared);
    SLC_LAUNCH(kernel, blocks, 32 * how.warps, shared, s, *p, how);
}

void slc_scan_forward(slc_stream s, const slc_scan *p) {
    SLC_LAUNCH(gates_kernel, slc_div_up(p->windows * p->seq * p->heads, THREADS), THREADS, 0, s, *p);
    BY_KEYS(p->key_dim, run_forward, s, p);
}

int64_t slc_scan_keys(void) {
    return fits(backward_floats<tile<32, 8, 4>>(1)) ? SLC_SCAN_KEYS : SLC_SCAN_KEYS / 2;
}

/* How many blocks a head's slices are for: as many as fill a GPU, since each has sums of its own. */
enum { ENOUGH_BLOCKS = 512 };
static int64_t blocks_of(const slc_scan *p, const cut &how) {
    return slc_min(how.slices, slc_div_up(ENOUGH_BLOCKS, p->windows * p->heads));
}

/* Floats of each part of scratch. */
struct parts {
    int64_t stops, sums, params, dskips;
};
template <class T> static parts parts_of(const slc_scan *p) {
    cut how = cut_by<T>(p, backward_floats<T>);
    int64_t blocks = blocks_of(p, how) * p->windows * p->heads;
    return {blocks * STOPS * T::NUMBERS * 32 * how.warps, blocks * p->seq * sums_of(*p), p->windows * 2 * p->heads,
            blocks};
}
template <class T> static int64_t floats_of(const slc_scan *p) {
    parts n = parts_of<T>(p);
    return n.stops + n.sums + n.params + n.dskips;
}
int64_t slc_scan_floats(const slc_scan *p) { return BY_KEYS(p->key_dim, floats_of, p); }

template <class T> static void run_backward(slc_stream s, const slc_scan *p, const slc_scan_back *b) {
    cut how = cut_by<T>(p, backward_floats<T>);
    int64_t blocks = blocks_of(p, how), heads = p->windows * p->heads, rows = p->windows * p->seq;
    int64_t shared = backward_floats<T>(how.warps) * (int64_t)sizeof(float);
    parts n = parts_of<T>(p);
    float *stops = b->scratch, *sums = stops + n.stops, *params = sums + n.sums, *dskips = params + n.params;
    auto kernel = p->rule ? scan_backward_kernel<T, true> : scan_backward_kernel<T, false>;
    SLC_MORE_SHARED(kernel, shared);
    SLC_LAUNCH(kernel, dim3(heads, blocks), 32 * how.warps, shared, s, *p, *b, how, sums, dskips, stops);
    SLC_LAUNCH(keys_back_kernel, slc_div_up(rows * p->key_heads, THREADS / 32), THREADS, 0, s, *p, *b, (int)blocks,
               sums);
    SLC_LAUNCH(gates_back_kernel, heads, THREADS, 0, s, *p, *b, (int)blocks, sums, params);
    if (b->dbias)
        slc_fold(s, p->windows, p->heads, 2 * p->heads, params, b->dbias);
    if (b->da_log)
        slc_fold(s, p->windows, p->heads, 2 * p->heads, params + p->heads, b->da_log);
    if (b->dskip)
        slc_fold(s, blocks * p->windows, p->heads, p->heads, dskips, b->dskip);
}

void slc_scan_backward(slc_stream s, const slc_scan *p, const slc_scan_back *b) {
    BY_KEYS(p->key_dim, run_backward, s, p, b);
}
