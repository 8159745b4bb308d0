#include "cuda/xent.h"

#include "cuda/cu.h"

enum { THREADS = 256, COUNT_THREADS = 1024 };

/* Of what a thread has seen: the largest, and the sum of exp(x - base_of(largest)). The largest ignores NaN, which the
 * sum keeps. */
struct spread {
    float most, sum;
};
/* What has seen only -infinity has a sum of 0, not NaN. */
static __device__ __forceinline__ float base_of(float most) { return most == -INFINITY ? 0 : most; }
static __device__ __forceinline__ spread joined(spread a, spread b) {
    float most = fmaxf(a.most, b.most), base = base_of(most);
    return {most, a.sum * expf(a.most - base) + b.sum * expf(b.most - base)};
}

/* Over the LANES threads of a row, a warp or the block. */
template <int LANES> static __device__ __forceinline__ spread joined_row(spread s, spread *room) {
    for (int i = 16; i > 0; i /= 2)
        s = joined(s, {__shfl_xor_sync(0xffffffffu, s.most, i), __shfl_xor_sync(0xffffffffu, s.sum, i)});
    if (LANES == 32) {
        __syncwarp(); /* what lanes have read is read before any of them overwrites it */
        return s;
    }
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = s;
    __syncthreads();
    s = room[0];
    for (int i = 1; i < LANES / 32; i++)
        s = joined(s, room[i]);
    return s;
}

/* N elements, 4 or 1. */
template <int N> static __device__ __forceinline__ void load(const float *p, float *x) {
    if (N == 4) {
        float4 v = *(const float4 *)p;
        x[0] = v.x, x[N / 4] = v.y, x[N / 2] = v.z, x[N - 1] = v.w;
    } else {
        x[0] = *p;
    }
}
template <int N> static __device__ __forceinline__ void store(float *p, const float *x) {
    if (N == 4)
        *(float4 *)p = make_float4(x[0], x[N / 4], x[N / 2], x[N - 1]);
    else
        *p = x[0];
}
template <int N> static __device__ __forceinline__ void store(slc_bf16 *p, const float *x) {
    if (N == 4)
        *(uint2 *)p = make_uint2(slc_pack_bf16(x[0], x[N / 4]), slc_pack_bf16(x[N / 2], x[N - 1]));
    else
        *p = slc_to_bf16(x[0]);
}

template <int N> static __device__ __forceinline__ void see(spread *s, const float *x) {
    float most = s->most;
    for (int i = 0; i < N; i++)
        most = fmaxf(most, x[i]);
    float base = base_of(most);
    if (most != s->most)
        s->sum *= expf(s->most - base);
    for (int i = 0; i < N; i++)
        s->sum += expf(x[i] - base);
    s->most = most;
}

typedef struct {
    int64_t rows, vocab, ld, ldd;
    const float *logits;
    const int32_t *targets;
    const float *scale;
    bool training;
    float *loss;
} xent_rows;

/* A row without a target: true, and it is done. */
template <int N, int LANES, typename D>
static __device__ __forceinline__ bool left_out(const xent_rows &x, int64_t r, int lane, D *d) {
    const float zeros[N] = {};
    if (x.targets[r] >= 0)
        return false;
    if (lane == 0)
        x.loss[r] = 0;
    for (int64_t j = N * lane; x.training && j < x.vocab; j += N * LANES)
        store<N>(d + r * x.ldd + j, zeros);
    return true;
}

/* Rows of at most 4 K LANES logits, read once, in registers. */
template <int K, int LANES, typename D> __global__ void __launch_bounds__(THREADS) held_kernel(xent_rows x, D *d) {
    __shared__ spread room[THREADS / 32];
    int lane = (int)threadIdx.x % LANES;
    int64_t r = (int64_t)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    if (r >= x.rows || left_out<4, LANES>(x, r, lane, d))
        return;
    const float *row = x.logits + r * x.ld;
    int32_t target = x.targets[r];
    float e[K][4], hit = row[target]; /* before dlogits overwrite it */
    spread mine = {-INFINITY, 0};
    SLC_UNROLL
    for (int k = 0; k < K; k++) {
        e[k][0] = e[k][1] = e[k][2] = e[k][3] = -INFINITY;
        if (4 * (lane + LANES * k) < x.vocab)
            load<4>(row + 4 * (lane + LANES * k), e[k]);
        for (int i = 0; i < 4; i++)
            mine.most = fmaxf(mine.most, e[k][i]);
    }
    float base = base_of(mine.most);
    SLC_UNROLL
    for (int k = 0; k < K; k++)
        for (int i = 0; i < 4; i++)
            mine.sum += e[k][i] = expf(e[k][i] - base);
    spread s = joined_row<LANES>(mine, room);
    if (lane == 0)
        x.loss[r] = logf(s.sum) + (s.most - hit);
    if (!x.training)
        return;
    float scale = *x.scale, a = scale / s.sum * expf(mine.most - base_of(s.most));
    SLC_UNROLL
    for (int k = 0; k < K; k++) {
        int j = 4 * (lane + LANES * k);
        for (int i = 0; i < 4; i++)
            e[k][i] = a * e[k][i] - (j + i == target ? scale : 0);
        if (j < x.vocab)
            store<4>(d + r * x.ldd + j, e[k]);
    }
}

/* Rows of any length, read twice; a block a row. */
template <int N, typename D> __global__ void __launch_bounds__(THREADS) any_kernel(xent_rows x, D *d) {
    __shared__ spread room[THREADS / 32];
    int64_t r = blockIdx.x;
    if (left_out<N, THREADS>(x, r, threadIdx.x, d))
        return;
    const float *row = x.logits + r * x.ld;
    int32_t target = x.targets[r];
    float v[N], hit = row[target];
    spread s = {-INFINITY, 0};
    for (int64_t j = N * threadIdx.x; j < x.vocab; j += N * THREADS) {
        load<N>(row + j, v);
        see<N>(&s, v);
    }
    s = joined_row<THREADS>(s, room);
    if (threadIdx.x == 0)
        x.loss[r] = logf(s.sum) + (s.most - hit);
    float scale = x.training ? *x.scale : 0, a = scale / s.sum, base = base_of(s.most);
    for (int64_t j = N * threadIdx.x; x.training && j < x.vocab; j += N * THREADS) {
        load<N>(row + j, v);
        for (int i = 0; i < N; i++)
            v[i] = a * expf(v[i] - base) - (j + i == target ? scale : 0);
        store<N>(d + r * x.ldd + j, v);
    }
}

template <int K, int LANES, typename D> static void held(slc_stream s, const xent_rows &x, D *d) {
    SLC_LAUNCH((held_kernel<K, LANES, D>), slc_div_up(x.rows, THREADS / LANES), THREADS, 0, s, x, d);
}

template <typename D> static void xent(slc_stream s, const xent_rows &x, D *d) {
    if (x.vocab % 4 || x.ld % 4 || (x.training && x.ldd % 4))
        SLC_LAUNCH((any_kernel<1, D>), x.rows, THREADS, 0, s, x, d);
    else if (x.vocab <= 256)
        held<2, 32>(s, x, d);
    else if (x.vocab <= 1024)
        held<8, 32>(s, x, d);
    else if (x.vocab <= 4096)
        held<4, THREADS>(s, x, d);
    else if (x.vocab <= 8192)
        held<8, THREADS>(s, x, d);
    else
        SLC_LAUNCH((any_kernel<4, D>), x.rows, THREADS, 0, s, x, d);
}

void slc_xent(slc_stream s, int64_t rows, int64_t vocab, int64_t ld, const float *logits, const int32_t *targets,
              const float *scale, bool training, float *loss, void *dlogits, bool d_bf16, int64_t ldd) {
    xent_rows x = {rows, vocab, ld, ldd, logits, targets, scale, training, loss};
    if (d_bf16)
        xent(s, x, (slc_bf16 *)dlogits);
    else
        xent(s, x, (float *)dlogits);
}

__global__ void count_kernel(int64_t rows, const int32_t *targets, float grad_scale, float *scale) {
    __shared__ float room[33];
    float count = 0; /* exact up to 2^24 targets; beyond, rounded as the CPU rounds it to divide by */
    for (int64_t r = threadIdx.x; r < rows; r += COUNT_THREADS)
        count += targets[r] >= 0;
    count = slc_block_sum(count, room);
    if (threadIdx.x == 0)
        *scale = count > 0 ? grad_scale / count : 0;
}

void slc_count_targets(slc_stream s, int64_t rows, const int32_t *targets, float grad_scale, float *scale) {
    SLC_LAUNCH(count_kernel, 1, COUNT_THREADS, 0, s, rows, targets, grad_scale, scale);
}
