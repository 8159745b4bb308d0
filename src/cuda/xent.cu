#include "cuda/xent.h"

#include "cuda/cu.h"

enum { THREADS = 256, COUNT_THREADS = 1024 };

/* Largest value and sum of exp(x - largest), of what a thread has seen; together, of two. */
struct spread {
    float most, sum;
};
static __device__ __forceinline__ spread joined(spread a, spread b) {
    float most = fmaxf(a.most, b.most);
    if (most == -INFINITY)
        return {most, 0};
    return {most, a.sum * expf(a.most - most) + b.sum * expf(b.most - most)};
}
static __device__ __forceinline__ void see(spread *s, float x) {
    if (x > s->most || x != x) { /* NaN goes on */
        s->sum = s->sum * expf(s->most - x) + 1;
        s->most = x;
    } else {
        s->sum += expf(x - s->most);
    }
}

static __device__ spread joined_block(spread s, spread *room) {
    for (int i = 16; i > 0; i /= 2)
        s = joined(s, {__shfl_xor_sync(0xffffffffu, s.most, i), __shfl_xor_sync(0xffffffffu, s.sum, i)});
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = s;
    __syncthreads();
    s = room[0];
    for (int i = 1; i < THREADS / 32; i++)
        s = joined(s, room[i]);
    return s;
}

/* A block a row. */
template <typename D>
__global__ void xent_kernel(int64_t vocab, int64_t ld, const float *logits, const int32_t *targets, const float *scale,
                            bool training, float *loss, D *dlogits, int64_t ldd) {
    __shared__ spread room[THREADS / 32];
    int64_t r = blockIdx.x;
    int32_t target = targets[r];
    const float *x = logits + r * ld;
    D *d = training ? dlogits + r * ldd : nullptr;
    if (target < 0) {
        if (threadIdx.x == 0)
            loss[r] = 0;
        for (int64_t j = threadIdx.x; training && j < vocab; j += THREADS)
            slc_store(d + j, 0.0f);
        return;
    }
    float hit = x[target]; /* before dlogits overwrite it */
    spread s = {-INFINITY, 0};
    for (int64_t j = threadIdx.x; j < vocab; j += THREADS)
        see(&s, x[j]);
    s = joined_block(s, room);
    if (threadIdx.x == 0)
        loss[r] = logf(s.sum) + (s.most - hit);
    float a = *scale / s.sum;
    for (int64_t j = threadIdx.x; training && j < vocab; j += THREADS)
        slc_store(d + j, a * expf(x[j] - s.most) - (j == target ? *scale : 0));
}

void slc_xent(slc_stream s, int64_t rows, int64_t vocab, int64_t ld, const float *logits, const int32_t *targets,
              const float *scale, bool training, float *loss, void *dlogits, bool d_bf16, int64_t ldd) {
    if (d_bf16)
        SLC_LAUNCH(xent_kernel<slc_bf16>, rows, THREADS, 0, s, vocab, ld, logits, targets, scale, training, loss,
                   (slc_bf16 *)dlogits, ldd);
    else
        SLC_LAUNCH(xent_kernel<float>, rows, THREADS, 0, s, vocab, ld, logits, targets, scale, training, loss,
                   (float *)dlogits, ldd);
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
