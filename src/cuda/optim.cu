#include "cuda/optim.h"

#include "cuda/cu.h"

namespace {

enum { THREADS = 256, FOLD = 1024 };

/* Sum over the block in every thread, in one order. */
__device__ double block_sum(double x) {
    __shared__ double room[33];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    for (int i = 16; i > 0; i /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    __syncthreads(); /* room may still be read from the last call */
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = lane < warps ? room[lane] : 0;
        for (int i = 16; i > 0; i /= 2)
            x += __shfl_xor_sync(0xffffffffu, x, i);
        if (lane == 0)
            room[32] = x;
    }
    __syncthreads();
    return room[32];
}

/* ---- loss and decision */

__global__ void begin_step(slc_control *c) { c->loss = 0; }

__global__ void __launch_bounds__(FOLD) mean_loss(int64_t rows, const float *loss, const int32_t *target, double share,
                                                  slc_control *c) {
    double sum = 0, count = 0;
    for (int64_t r = threadIdx.x; r < rows; r += FOLD)
        if (target[r] >= 0)
            sum += (double)loss[r], count++;
    sum = block_sum(sum);
    count = block_sum(count);
    if (threadIdx.x == 0 && count > 0)
        c->loss += share * (sum / count);
}

__global__ void __launch_bounds__(FOLD) judge(int64_t chunks, const double *part, slc_control *c) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < chunks; i += FOLD)
        sum += part[i];
    sum = block_sum(sum);
    if (threadIdx.x > 0)
        return;
    double norm = sqrt(sum);
    c->grad_norm = norm;
    c->skipped = !isfinite(c->loss) || !isfinite(norm) || c->loss > c->most_loss;
    c->scale = c->clip_norm > 0 && norm > c->clip_norm ? (float)(c->clip_norm / norm) : 1;
}

/* ---- element by element. Of n elements a thread calls f(i, wide) with i first of four (wide) or of one. */

template <typename F> __device__ __forceinline__ void each(int64_t n, bool wide, F f) {
    int64_t fours = wide ? n / 4 : 0;
    for (int64_t i = threadIdx.x; i < fours; i += THREADS)
        f(4 * i, true);
    for (int64_t i = 4 * fours + threadIdx.x; i < n; i += THREADS)
        f(i, false);
}

/* Four floats or one. */
struct some {
    float x[4];
};
__device__ __forceinline__ some get(const float *p, bool wide) {
    some s = {};
    if (wide) {
        float4 v = *(const float4 *)p;
        s.x[0] = v.x, s.x[1] = v.y, s.x[2] = v.z, s.x[3] = v.w;
    } else {
        s.x[0] = *p;
    }
    return s;
}
__device__ __forceinline__ void put(float *p, const some &s, bool wide) {
    if (wide)
        *(float4 *)p = make_float4(s.x[0], s.x[1], s.x[2], s.x[3]);
    else
        *p = s.x[0];
}
__device__ __forceinline__ void put16(slc_bf16 *p, const some &s, bool wide) {
    if (wide)
        *(uint2 *)p = make_uint2(slc_pack_bf16(s.x[0], s.x[1]), slc_pack_bf16(s.x[2], s.x[3]));
    else
        *p = slc_to_bf16(s.x[0]);
}

__device__ double squares(int64_t n, bool wide, const float *x) {
    double sum = 0;
    each(n, wide, [&](int64_t i, bool four) {
        some v = get(x + i, four);
        for (int j = 0; j < (four ? 4 : 1); j++)
            sum += (double)v.x[j] * (double)v.x[j];
    });
    return block_sum(sum);
}

__global__ void __launch_bounds__(THREADS) sum_squares(const slc_chunk *chunk, const float *g, double *part) {
    slc_chunk c = chunk[blockIdx.x];
    double sum = squares(c.n, c.offset % 4 == 0, g + c.offset);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

__device__ void adamw(const slc_chunk &c, const slc_blocks &b, const slc_rates &r, const slc_control *k) {
    float *w = b.w + c.offset, *g = b.g + c.offset, *m = b.m + c.offset, *v = b.v + c.offset;
    float scale = k->scale, lr = k->lr * c.rate, inv1 = 1 / k->c1, inv2 = 1 / k->c2;
    each(c.n, c.offset % 4 == 0, [&](int64_t i, bool wide) {
        some ws = get(w + i, wide), gs = get(g + i, wide), ms = get(m + i, wide), vs = get(v + i, wide);
        for (int j = 0; j < 4; j++) {
            float x = gs.x[j] * scale, p = ws.x[j];
            ms.x[j] = fmaf(r.beta1, ms.x[j], (1 - r.beta1) * x);
            vs.x[j] = fmaf(r.beta2, vs.x[j], (1 - r.beta2) * x * x);
            float step = ms.x[j] * inv1 / (sqrtf(vs.x[j] * inv2) + r.eps);
            ws.x[j] = fmaf(-lr, fmaf(c.decay, p, step), p);
        }
        put(w + i, ws, wide), put(m + i, ms, wide), put(v + i, vs, wide), put(g + i, some{}, wide);
        if (b.w16)
            put16(b.w16 + c.offset + i, ws, wide);
    });
}

__device__ void sgd(const slc_chunk &c, const slc_blocks &b, const slc_rates &r, const slc_control *k) {
    float *w = b.w + c.offset, *g = b.g + c.offset, *m = b.m + c.offset;
    float scale = k->scale, lr = k->lr * c.rate;
    each(c.n, c.offset % 4 == 0, [&](int64_t i, bool wide) {
        some ws = get(w + i, wide), gs = get(g + i, wide), ms = get(m + i, wide);
        for (int j = 0; j < 4; j++) {
            ms.x[j] = r.momentum * ms.x[j] + scale * gs.x[j];
            ws.x[j] -= lr * (ms.x[j] + c.decay * ws.x[j]);
        }
        put(w + i, ws, wide), put(m + i, ms, wide), put(g + i, some{}, wide);
        if (b.w16)
            put16(b.w16 + c.offset + i, ws, wide);
    });
}

__global__ void __launch_bounds__(THREADS) update(const slc_chunk *chunk, slc_blocks b, slc_rates r, slc_control *k) {
    slc_chunk c = chunk[blockIdx.x];
    bool skipped = k->skipped;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        k->applied = !skipped;
    if (c.how == SLC_UPDATE_NONE)
        return;
    if (skipped)
        each(c.n, c.offset % 4 == 0, [&](int64_t i, bool wide) { put(b.g + c.offset + i, some{}, wide); });
    else if (c.how == SLC_UPDATE_ADAMW)
        adamw(c, b, r, k);
    else
        sgd(c, b, r, k);
}

/* ---- Muon. Blocks of a grid: pieces of a matrix, matrices. */

/* The piece that a block is about. */
struct piece {
    int64_t first, n, at; /* of the matrix; at: in arrays [count, size] */
    bool wide;            /* here, and in the blocks if the matrix begins at a multiple of 4 */
};
__device__ __forceinline__ piece piece_of(int64_t size) {
    piece p;
    p.first = (int64_t)blockIdx.x * SLC_CHUNK;
    p.n = size - p.first;
    p.n = p.n < SLC_CHUNK ? p.n : (int64_t)SLC_CHUNK;
    p.at = (int64_t)blockIdx.y * size + p.first;
    p.wide = size % 4 == 0;
    return p;
}

__global__ void __launch_bounds__(THREADS) muon_momentum(int64_t size, const slc_matrix *t, slc_blocks b, float mu,
                                                         float *u, double *part, const slc_control *k) {
    piece p = piece_of(size);
    int64_t offset = t[blockIdx.y].offset + p.first;
    bool skipped = k->skipped, wide = p.wide && offset % 4 == 0;
    float *g = b.g + offset, *m = b.m + offset, scale = k->scale;
    double sum = 0;
    each(p.n, wide, [&](int64_t i, bool four) {
        some gs = get(g + i, four), ms = get(m + i, four);
        put(g + i, some{}, four);
        if (skipped)
            return;
        for (int j = 0; j < 4; j++) {
            float x = scale * gs.x[j];
            ms.x[j] = mu * ms.x[j] + x;
            gs.x[j] = x + mu * ms.x[j];
        }
        put(m + i, ms, four);
        put(u + p.at + i, gs, four);
        for (int j = 0; j < (four ? 4 : 1); j++)
            sum += (double)gs.x[j] * (double)gs.x[j];
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0 && !skipped)
        part[(int64_t)blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS) muon_normalise(int64_t size, float *u, const double *part) {
    piece p = piece_of(size);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < gridDim.x; i += THREADS)
        sum += part[(int64_t)blockIdx.y * gridDim.x + i];
    /* no singular value above 1; a gradient of zeros stays so */
    float factor = (float)(1 / (sqrt(block_sum(sum)) + 1e-7));
    each(p.n, p.wide, [&](int64_t i, bool four) {
        some x = get(u + p.at + i, four);
        for (int j = 0; j < 4; j++)
            x.x[j] *= factor;
        put(u + p.at + i, x, four);
    });
}

__global__ void __launch_bounds__(THREADS) muon_polynomial(int64_t side, const float *gram, float *power) {
    const float a = 3.4445f, b = -4.7750f, c = 2.0315f;
    piece p = piece_of(side * side);
    for (int64_t i = threadIdx.x; i < p.n; i += THREADS) {
        float x = c * power[p.at + i] + b * gram[p.at + i];
        power[p.at + i] = (p.first + i) / side == (p.first + i) % side ? x + a : x;
    }
}

__global__ void __launch_bounds__(THREADS) muon_apply(int64_t size, const slc_matrix *t, slc_blocks b, float factor,
                                                      const float *u, const slc_control *k) {
    piece p = piece_of(size);
    int64_t offset = t[blockIdx.y].offset + p.first;
    float lr = k->lr, decay = t[blockIdx.y].decay;
    if (k->skipped)
        return;
    each(p.n, p.wide && offset % 4 == 0, [&](int64_t i, bool four) {
        some ws = get(b.w + offset + i, four), x = get(u + p.at + i, four);
        for (int j = 0; j < 4; j++)
            ws.x[j] -= lr * (factor * x.x[j] + decay * ws.x[j]);
        put(b.w + offset + i, ws, four);
        if (b.w16)
            put16(b.w16 + offset + i, ws, four);
    });
}

} // namespace

void slc_begin_step(slc_stream s, slc_control *c) { SLC_LAUNCH(begin_step, 1, 1, 0, s, c); }

void slc_mean_loss(slc_stream s, int64_t rows, const float *token_loss, const int32_t *targets, double share,
                   slc_control *c) {
    SLC_LAUNCH(mean_loss, 1, FOLD, 0, s, rows, token_loss, targets, share, c);
}

void slc_sum_squares(slc_stream s, int64_t chunks, const slc_chunk *chunk, const float *g, double *part) {
    if (chunks > 0)
        SLC_LAUNCH(sum_squares, chunks, THREADS, 0, s, chunk, g, part);
}

void slc_judge(slc_stream s, int64_t chunks, const double *part, slc_control *c) {
    SLC_LAUNCH(judge, 1, FOLD, 0, s, chunks, part, c);
}

void slc_update(slc_stream s, int64_t chunks, const slc_chunk *chunk, slc_blocks b, slc_rates r, slc_control *c) {
    if (chunks > 0)
        SLC_LAUNCH(update, chunks, THREADS, 0, s, chunk, b, r, c);
}

void slc_muon_momentum(slc_stream s, int64_t count, int64_t size, const slc_matrix *t, slc_blocks b, float mu, float *u,
                       double *part, const slc_control *c) {
    SLC_LAUNCH(muon_momentum, dim3(slc_muon_parts(size), count), THREADS, 0, s, size, t, b, mu, u, part, c);
}

void slc_muon_normalise(slc_stream s, int64_t count, int64_t size, float *u, const double *part) {
    SLC_LAUNCH(muon_normalise, dim3(slc_muon_parts(size), count), THREADS, 0, s, size, u, part);
}

void slc_muon_polynomial(slc_stream s, int64_t count, int64_t side, const float *gram, float *power) {
    SLC_LAUNCH(muon_polynomial, dim3(slc_muon_parts(side * side), count), THREADS, 0, s, side, gram, power);
}

void slc_muon_apply(slc_stream s, int64_t count, int64_t size, const slc_matrix *t, slc_blocks b, float factor,
                    const float *u, const slc_control *c) {
    SLC_LAUNCH(muon_apply, dim3(slc_muon_parts(size), count), THREADS, 0, s, size, t, b, factor, u, c);
}
