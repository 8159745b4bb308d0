#include "cuda/attention_general.h"
#include "cuda/attention_mma.h"

static bool on_tensor_cores(const slc_attention *p) {
    return p->bf16 && p->head_dim % 8 == 0 && p->head_dim <= 128 && p->ld % 8 == 0 && p->ldo % 8 == 0;
}

/* The general kernels' tiles are smaller for wide heads: shared memory holds six of them, head_dim wide. */
static bool wide_tiles(const slc_attention *p) { return p->head_dim <= 192; }

static int64_t query_blocks(const slc_attention *p) {
    int64_t tile = on_tensor_cores(p) ? (int64_t)SLC_MMA_BACK : wide_tiles(p) ? 32 : 8;
    return slc_div_up(p->seq, tile);
}

size_t slc_attention_scratch(const slc_attention *p) {
    int64_t partial = p->batch * p->heads * query_blocks(p) * slc_extra_width(*p);
    return sizeof(float) * (size_t)(slc_partial_at(*p) + partial);
}

/* ---- forward */

template <bool SOFTMAX> static void forward_mma(slc_stream s, const slc_attention *p) {
    if (p->head_dim <= 32)
        slc_mma_run_forward<32, 2, SOFTMAX>(s, p);
    else if (p->head_dim <= 64)
        slc_mma_run_forward<64, 2, SOFTMAX>(s, p);
    else
        slc_mma_run_forward<128, 1, SOFTMAX>(s, p);
}

template <typename T> static void forward_general(slc_stream s, const slc_attention *p) {
    if (wide_tiles(p))
        slc_general_run_forward<T, 2, 16>(s, p);
    else
        slc_general_run_forward<T, 1, 8>(s, p);
}

/* The weight of a logit of 0. */
__global__ void __launch_bounds__(256) nulls_kernel(int64_t n, const float *stat, float *nulls) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n)
        nulls[i] = expf(-stat[i]);
}

void slc_attention_forward(slc_stream s, const slc_attention *p) {
    if (!on_tensor_cores(p))
        p->bf16 ? forward_general<slc_bf16>(s, p) : forward_general<float>(s, p);
    else if (p->rows == SLC_ROWS_SOFTMAX)
        forward_mma<true>(s, p);
    else
        forward_mma<false>(s, p);
    int64_t n = p->batch * p->heads * p->seq;
    if (p->nulls)
        SLC_LAUNCH(nulls_kernel, slc_div_up(n, 256), 256, 0, s, n, p->stat, p->nulls);
}

/* ---- backward */

template <bool SOFTMAX> static void backward_mma(slc_stream s, const slc_attention *p) {
    if (p->head_dim <= 32)
        slc_mma_run_backward<32, SOFTMAX>(s, p);
    else if (p->head_dim <= 64)
        slc_mma_run_backward<64, SOFTMAX>(s, p);
    else
        slc_mma_run_backward<128, SOFTMAX>(s, p);
}

template <typename T> static void backward_general(slc_stream s, const slc_attention *p) {
    if (wide_tiles(p))
        slc_general_run_backward<T, 2, 16>(s, p);
    else
        slc_general_run_backward<T, 1, 8>(s, p);
}

/* Adds the partial sums of windows, heads of a unit (a tensor's row) and blocks of queries, in this order but for 32
 * interleaved parts. Warps are parts, lanes columns. */
__global__ void __launch_bounds__(1024) slc_extra_fold(slc_attention p, int64_t blocks) {
    __shared__ float part[32][33];
    int64_t per = p.extra == SLC_EXTRA_LOGIT ? 1 : p.heads / p.kv_heads, unit = blockIdx.x;
    int64_t width = slc_extra_width(p), inner = per * blocks, count = p.batch * inner;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int64_t column = blockIdx.y * 32 + lane, hd = p.head_dim;
    float sum = 0;
    for (int64_t i = warp; column < width && i < count; i += 32)
        sum += slc_partial(p, i / inner, unit * per + i % inner / blocks, i % blocks, blocks)[column];
    part[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= width)
        return;
    for (int i = 1; i < 32; i++)
        sum += part[i][lane];
    if (p.extra == SLC_EXTRA_LOGIT)
        p.dsinks[unit] += sum;
    else if (column < hd)
        p.dbias_k[unit * hd + column] += sum;
    else
        p.dbias_v[unit * hd + column - hd] += sum;
}

bool slc_attention_turns(const slc_attention *p) {
    return p->bf16 && (p->head_dim == 32 || p->head_dim == 64 || p->head_dim == 128);
}

void slc_attention_backward(slc_stream s, const slc_attention *p) {
    if (!on_tensor_cores(p))
        p->bf16 ? backward_general<slc_bf16>(s, p) : backward_general<float>(s, p);
    else if (p->rows == SLC_ROWS_SOFTMAX)
        backward_mma<true>(s, p);
    else
        backward_mma<false>(s, p);
    int64_t units = p->extra == SLC_EXTRA_LOGIT ? p->heads : p->kv_heads;
    if (slc_extra_learns(*p))
        SLC_LAUNCH(slc_extra_fold, dim3(units, slc_div_up(slc_extra_width(*p), 32)), 1024, 0, s, *p, query_blocks(p));
}

/* ---- decoding */

/* A block is a query head of a window. Keys go by warps, and the elements of the output by threads. */
enum { CACHED_THREADS = 256 };
template <typename T> struct slc_cached {
    const T *q, *k, *v;     /* of the new position */
    float *keys, *values;   /* of the head */
    int position, first;    /* the new one, and the first that is seen */
};


/* Scaled scores of keys k0.. into room[CACHED_THREADS]; ends with a barrier. */
template <typename T>
static __device__ void slc_cached_scores(const slc_attention &p, const slc_cached<T> &c, int k0, float *room) {
    int lane = (int)threadIdx.x % 32, hd = (int)p.head_dim;
    __syncthreads();
    for (int i = (int)threadIdx.x / 32; i < CACHED_THREADS; i += CACHED_THREADS / 32) {
        float sum = 0;
        for (int d = lane; k0 + i <= c.position && d < hd; d += 32)
            sum += slc_load(c.q + d) * (k0 + i == c.position ? slc_load(c.k + d) : c.keys[(int64_t)(k0 + i) * hd + d]);
        sum = slc_warp_sum(sum);
        if (lane == 0)
            room[i] = k0 + i <= c.position ? sum * p.scale : -INFINITY;
    }
    __syncthreads();
}

/* The largest score and the sum of exponentials of all keys that are seen. */
template <typename T>
static __device__ slc_running slc_cached_sum(const slc_attention &p, const slc_cached<T> &c, slc_running run,
                                             float *score, float *room) {
    for (int k0 = c.first; k0 <= c.position; k0 += CACHED_THREADS) {
        slc_cached_scores(p, c, k0, score);
        float max = run.max;
        for (int i = 0; i < CACHED_THREADS; i++)
            max = fmaxf(max, score[i]);
        float sum = slc_block_sum(expf(score[threadIdx.x] - slc_finite(max)), room);
        run = {max, run.sum * expf(run.max - slc_finite(max)) + sum};
    }
    return run;
}

template <typename T, typename O>
__global__ void __launch_bounds__(CACHED_THREADS)
    slc_cached_forward(slc_attention p, float *keys, float *values, int64_t cache, const int32_t *position) {
    __shared__ float score[CACHED_THREADS], room[33];
    SLC_DYNAMIC(float, o);
    int64_t window = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
    slc_head<T> h = slc_head_at<T>(p, window, head);
    int hd = h.hd, tid = (int)threadIdx.x;
    int64_t at = (window * p.kv_heads + h.kv) * cache * hd;
    slc_cached<T> c = {h.q, h.k, h.v, keys + at, values + at, *position, 0};
    c.first = slc_first_key(p, c.position);
    /* The first head of a group keeps the new position; the others read it where it came from. */
    for (int d = tid; head % (p.heads / p.kv_heads) == 0 && d < hd; d += CACHED_THREADS) {
        c.keys[(int64_t)c.position * hd + d] = slc_load(c.k + d);
        c.values[(int64_t)c.position * hd + d] = slc_load(c.v + d);
    }
    slc_running run = {-INFINITY, 0};
    float extra = 0, stat = 0;
    if (p.extra == SLC_EXTRA_KEY || p.extra == SLC_EXTRA_KEY_VALUE) {
        float sum = 0;
        for (int d = tid; d < hd; d += CACHED_THREADS)
            sum += slc_load(c.q + d) * p.bias_k[h.kv * hd + d];
        extra = p.scale * slc_block_sum(sum, room);
    } else if (p.extra == SLC_EXTRA_LOGIT) {
        extra = p.sinks[head];
    }
    if (p.extra != SLC_EXTRA_NONE)
        run = {extra, 1};
    if (p.rows == SLC_ROWS_SOFTMAX || p.rows == SLC_ROWS_CLIPPED) {
        run = slc_cached_sum(p, c, run, score, room);
        stat = run.max + logf(run.sum);
    } else if (p.rows == SLC_ROWS_RELU) {
        stat = 1.0f / (float)(c.position + 1 - c.first);
    }
    if (p.nulls && tid == 0)
        p.nulls[blockIdx.x] = expf(-stat);
    for (int d = tid; d < hd; d += CACHED_THREADS)
        o[d] = p.extra == SLC_EXTRA_KEY_VALUE ? expf(extra - stat) * p.bias_v[h.kv * hd + d] : 0;
    for (int k0 = c.first; k0 <= c.position; k0 += CACHED_THREADS) {
        slc_cached_scores(p, c, k0, score);
        int n = min(CACHED_THREADS, c.position + 1 - k0);
        float mine = tid < n ? slc_weigh(p, score[tid], 0, stat, 0).p : 0;
        __syncthreads();
        score[tid] = mine;
        __syncthreads();
        for (int d = tid; d < hd; d += CACHED_THREADS) {
            float sum = 0;
            for (int i = 0; i < n; i++)
                sum += score[i] * (k0 + i == c.position ? slc_load(c.v + d) : c.values[(int64_t)(k0 + i) * hd + d]);
            o[d] += sum;
        }
    }
    for (int d = tid; d < hd; d += CACHED_THREADS)
        slc_store((O *)p.out + window * p.ldo + head * hd + d, o[d]);
}

void slc_attention_cached(slc_stream s, const slc_attention *p, bool out_bf16, float *keys, float *values,
                          int64_t cache, const int32_t *position) {
    auto kernel = p->bf16 ? out_bf16 ? slc_cached_forward<slc_bf16, slc_bf16> : slc_cached_forward<slc_bf16, float>
                          : out_bf16 ? slc_cached_forward<float, slc_bf16> : slc_cached_forward<float, float>;
    SLC_LAUNCH(kernel, p->batch * p->heads, CACHED_THREADS, p->head_dim * (int64_t)sizeof(float), s, *p, keys, values,
               cache, position);
}

/* ---- null evidence */

__global__ void __launch_bounds__(256)
    null_evidence_kernel(int64_t rows, int64_t seq, int64_t heads, const float *nulls, float *psi, int64_t ld) {
    int64_t row = (int64_t)blockIdx.x * 256 + threadIdx.x;
    float sum = 0;
    for (int64_t h = 0; nulls && row < rows && h < heads; h++)
        sum += nulls[(row / seq * heads + h) * seq + row % seq];
    if (row < rows)
        psi[row * ld] = sum / (float)heads;
}

void slc_null_evidence(slc_stream s, int64_t batch, int64_t seq, int64_t heads, const float *nulls, float *psi,
                       int64_t ld) {
    SLC_LAUNCH(null_evidence_kernel, slc_div_up(batch * seq, 256), 256, 0, s, batch * seq, seq, heads, nulls, psi, ld);
}

__global__ void __launch_bounds__(256)
    null_evidence_back_kernel(int64_t rows, int64_t heads, const float *dpsi, int64_t ld, float *dnull) {
    int64_t row = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (row < rows)
        dnull[row] = dpsi[row * ld] / (float)heads;
}

void slc_null_evidence_back(slc_stream s, int64_t rows, int64_t heads, const float *dpsi, int64_t ld, float *dnull) {
    SLC_LAUNCH(null_evidence_back_kernel, slc_div_up(rows, 256), 256, 0, s, rows, heads, dpsi, ld, dnull);
}
