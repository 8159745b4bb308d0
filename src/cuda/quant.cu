#include "cuda/quant.h"

#include "cuda/mma.h"

namespace {

enum { WARPS = 8, THREADS = 32 * WARPS, MOST_BLOCKS = 1024 };

__device__ __forceinline__ float *row_of(const slc_heads &x, int64_t dim, int64_t i) {
    return x.p + i / x.heads * x.ld + i % x.heads * dim;
}
__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) < INFINITY; }

/* ---- numbers and scales: simd/quant.c and formats/format.c. Sums are never fused with products. */

/* The nearest number of the format, of a q within its range. */
__device__ __forceinline__ float number_of(float q, const slc_format &f) {
    const float integers = 0x1.8p23f;
    if (f.integer)
        return __fadd_rn(__fadd_rn(q, integers), -integers);
    float unit = fmaxf(__uint_as_float(__float_as_uint(q) & 0x7f800000u), f.least) * f.up;
    return copysignf(__fadd_rn(__fadd_rn(fabsf(q), unit), -unit), q);
}

__device__ __forceinline__ float outer_of(const slc_quant &q, float amax) { return amax / (q.format.max * q.e4m3.max); }

__device__ float scale_of(const slc_quant &q, float amax, float outer) {
    float scale = amax / q.format.max;
    if (q.scale == SLC_SCALE_E8M0) {
        int e = amax > 0 ? ilogbf(amax) - q.format.last : -127;
        return ldexpf(1, e < -127 ? -127 : e > 127 ? 127 : e);
    }
    if (q.scale == SLC_SCALE_E4M3)
        return (outer > 0 ? number_of(fminf(scale / outer, q.e4m3.max), q.e4m3) : 0) * outer;
    return scale;
}

__host__ __device__ __forceinline__ int64_t groups_of(const slc_quant &q) { return (q.dim + q.group - 1) / q.group; }

/* A warp a row: the largest |x| of its groups and, where its scales are its own, those. */
__global__ void __launch_bounds__(THREADS) row_scales(slc_quant q, slc_heads x, float *scale) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, groups = groups_of(q);
    int lane = (int)threadIdx.x % 32;
    if (row >= q.rows)
        return;
    const float *v = row_of(x, q.dim, row);
    float *to = scale + row * groups, largest = 0;
    bool sound = true;
    for (int64_t g = 0; g < groups; g++) {
        int64_t end = (g + 1) * q.group < q.dim ? (g + 1) * q.group : q.dim;
        float most = 0;
        for (int64_t c = g * q.group + lane; c < end; c += 32) {
            sound = sound && is_finite(v[c]);
            most = fmaxf(most, fabsf(v[c]));
        }
        most = slc_warp_max(most);
        largest = fmaxf(largest, most);
        if (lane == 0)
            to[g] = most;
    }
    if (!sound)
        *q.refused = 1;
    if (q.window > 1)
        return;
    __syncwarp();
    float outer = q.window == 0 ? q.range->outer : outer_of(q, largest);
    for (int64_t g = lane; g < groups; g += 32)
        to[g] = scale_of(q, to[g], outer);
}

__device__ float block_max(float x, float *room) {
    x = slc_warp_max(x);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < WARPS; i++)
        x = fmaxf(x, room[i]);
    return x;
}

/* From what row_scales() left: a block a window, or a group of columns in it where those share no outer scale. */
__global__ void __launch_bounds__(THREADS) window_scales(slc_quant q, float *scale) {
    __shared__ float room[WARPS];
    bool second = q.scale == SLC_SCALE_E4M3;
    int64_t groups = groups_of(q), parts = second ? 1 : groups, n = second ? groups : 1, window = blockIdx.x / parts;
    float *at = scale + window * q.window * groups + blockIdx.x % parts, most = 0;
    for (int64_t i = threadIdx.x; i < q.window * n; i += THREADS)
        most = fmaxf(most, at[i / n * groups + i % n]);
    most = block_max(most, room);
    for (int64_t i = threadIdx.x; i < q.window * n; i += THREADS) {
        float *to = at + i / n * groups + i % n;
        *to = second ? scale_of(q, *to, outer_of(q, most)) : scale_of(q, most, 0);
    }
}

/* ---- errors */

__device__ __forceinline__ void add_error(slc_quant_error *e, double x, double y) {
    double r = y - x, a = fabs(r);
    e->error += r * r, e->xx += x * x, e->yy += y * y, e->xy += x * y;
    e->max = a > e->max ? a : e->max;
}
__device__ __forceinline__ void fold_error(slc_quant_error *e, const slc_quant_error &part) {
    e->error += part.error, e->xx += part.xx, e->yy += part.yy, e->xy += part.xy;
    e->max = part.max > e->max ? part.max : e->max;
}

/* Of a block's threads, in thread 0; the order is the same each time. */
__device__ void block_error(slc_quant_error *e) {
    __shared__ slc_quant_error room[WARPS];
    for (int by = 16; by > 0; by /= 2) {
        slc_quant_error other = {__shfl_xor_sync(0xffffffffu, e->error, by), __shfl_xor_sync(0xffffffffu, e->xx, by),
                                 __shfl_xor_sync(0xffffffffu, e->yy, by), __shfl_xor_sync(0xffffffffu, e->xy, by),
                                 __shfl_xor_sync(0xffffffffu, e->max, by)};
        fold_error(e, other);
    }
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = *e;
    __syncthreads();
    for (int i = 1; threadIdx.x == 0 && i < WARPS; i++)
        fold_error(e, room[i]);
}

__global__ void __launch_bounds__(THREADS) fold_parts(int64_t parts, const slc_quant_error *part, bool add,
                                                      slc_quant_error *to) {
    slc_quant_error e = {0, 0, 0, 0, 0};
    for (int64_t i = threadIdx.x; i < parts; i += THREADS)
        fold_error(&e, part[i]);
    block_error(&e);
    if (threadIdx.x == 0 && add)
        fold_error(to, e);
    else if (threadIdx.x == 0)
        *to = e;
}

/* ---- rounding: warps take rows in turn */

struct values {
    slc_heads y;
    __device__ void put(const slc_quant &q, int64_t row, int64_t c, float, int, float value) const {
        if (y.p)
            row_of(y, q.dim, row)[c] = value;
    }
    __device__ void end(const slc_quant &, int64_t, int) const {}
};
struct codes {
    int8_t *code;
    int64_t ld;
    __device__ void put(const slc_quant &, int64_t row, int64_t c, float number, int off, float) const {
        code[row * ld + c] = (int8_t)((int)number + off);
    }
    __device__ void end(const slc_quant &q, int64_t row, int lane) const {
        for (int64_t c = q.dim + lane; c < ld; c += 32)
            code[row * ld + c] = 0;
    }
};

template <typename O>
__global__ void __launch_bounds__(THREADS) round_rows(slc_quant q, slc_heads x, slc_scales scales, O out,
                                                      slc_quant_error *part) {
    int lane = (int)threadIdx.x % 32, group = (int)q.group, zero = q.affine ? q.range->zero : 0;
    int off = q.affine ? zero - 128 : 0;
    float lo = q.affine ? (float)-zero : -q.format.max;
    float hi = q.affine ? (float)(q.format.codes - 1 - zero) : q.format.max;
    slc_quant_error e = {0, 0, 0, 0, 0};
    bool sound = true;
    int64_t first = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, step = (int64_t)gridDim.x * WARPS;
    for (int64_t row = first; row < q.rows; row += step) {
        const float *v = row_of(x, q.dim, row), *scale = scales.p + row * scales.step;
        for (int c = lane; c < q.dim; c += 32) {
            float s = scale[c / group], in = v[c];
            float number = number_of(fmaxf(lo, fminf(hi, in / (s > 0 ? s : INFINITY))), q.format);
            float value = __fmul_rn(number, s);
            sound = sound && is_finite(in);
            if (part)
                add_error(&e, in, value);
            out.put(q, row, c, number, off, value);
        }
        out.end(q, row, lane);
    }
    if (!sound)
        *q.refused = 1;
    if (!part)
        return;
    block_error(&e);
    if (threadIdx.x == 0)
        part[blockIdx.x] = e;
}

/* ---- observing */

/* A warp a row: its extremes, and its values counted. */
__global__ void __launch_bounds__(THREADS) observe_rows(int64_t rows, int64_t dim, const float *x, slc_seen seen) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows || *seen.count < 0)
        return;
    const float *v = x + row * dim;
    float lo = v[0], hi = v[0];
    bool sound = true, counts = row < *seen.count;
    for (int64_t c = threadIdx.x % 32; c < dim; c += 32) {
        lo = fminf(lo, v[c]), hi = fmaxf(hi, v[c]);
        sound = sound && is_finite(v[c]);
        if (counts)
            atomicAdd((unsigned long long *)seen.bins + (__float_as_uint(v[c]) >> 16), 1ull);
    }
    lo = -slc_warp_max(-lo), hi = slc_warp_max(hi);
    if (!sound)
        *seen.refused = 1;
    if (threadIdx.x % 32 == 0)
        seen.row_lo[row] = lo, seen.row_hi[row] = hi;
}

enum { STRIP = 128 }; /* rows that a thread looks through for its column's largest |x| */

/* As integers, magnitudes have the order that they have as floats. */
__global__ void __launch_bounds__(THREADS) observe_channels(int64_t dim, const float *x, slc_seen seen) {
    int64_t across = (dim + THREADS - 1) / THREADS, first = blockIdx.x / across * STRIP;
    int64_t c = blockIdx.x % across * THREADS + threadIdx.x, end = first + STRIP;
    end = end < *seen.count ? end : *seen.count;
    if (c >= dim || first >= end)
        return;
    float most = 0;
    for (int64_t row = first; row < end; row++)
        most = fmaxf(most, fabsf(x[row * dim + c]));
    atomicMax((int *)seen.channel + c, __float_as_int(most));
}

/* ---- rotating: a block a row, in shared memory or, of long ones, in scratch */

enum { MOST_SHARED = 96 << 10, SCRATCH_BLOCKS = 256 };

/* Products and sums each by itself, from the first to the last, as on the CPU. */
__device__ void hartley(const slc_rotation &r, const double *x, double *y) {
    int64_t m = r.odd;
    for (int64_t i = threadIdx.x; i < r.n; i += THREADS) {
        const double *v = x + i / m * m;
        double sum = 0;
        for (int64_t j = 0; j < m; j++)
            sum = __dadd_rn(sum, __dmul_rn(r.hartley[j * m + i % m], v[j]));
        y[i] = sum;
    }
    __syncthreads();
}

__device__ void hadamard(const slc_rotation &r, double *x) {
    for (int64_t half = r.odd; half < r.n; half *= 2) {
        for (int64_t p = threadIdx.x; p < r.n / 2; p += THREADS) {
            double *u = x + p / half * 2 * half + p % half, a = u[0], b = u[half];
            u[0] = a + b;
            u[half] = a - b;
        }
        __syncthreads();
    }
}

__global__ void __launch_bounds__(THREADS) rotate_rows(slc_rotation r, int64_t rows, slc_heads x, slc_heads y,
                                                       bool back, double *scratch) {
    SLC_DYNAMIC(double, shared);
    double *at = scratch ? scratch + blockIdx.x * 2 * r.n : shared, *other = at + r.n;
    bool odd = r.odd > 1;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *from = row_of(x, r.n, row);
        float *to = row_of(y, r.n, row);
        double *first = odd && back ? other : at, *last = odd && !back ? other : at;
        for (int64_t i = threadIdx.x; i < r.n; i += THREADS)
            first[i] = back ? from[i] : (double)from[i] * r.sign[i];
        __syncthreads();
        if (odd && back)
            hartley(r, other, at);
        hadamard(r, at);
        for (int64_t i = threadIdx.x; i < r.n; i += THREADS)
            at[i] *= r.scale;
        __syncthreads();
        if (odd && !back)
            hartley(r, at, other);
        for (int64_t i = threadIdx.x; i < r.n; i += THREADS)
            to[i] = (float)(back ? last[i] * r.sign[i] : last[i]);
        __syncthreads();
    }
}

/* ---- products of integers: a block 128 x 128 of y, 64 of the depth at a time, a warp 64 x 32 */

enum { TILE = 128, DEPTH = 64, STAGES = 3, LD = DEPTH + 16, OPERAND = TILE * LD, SHARED = STAGES * 2 * OPERAND };

/* DEPTH columns of rows row0 to row0 + TILE - 1, zeros where there are none. */
__device__ __forceinline__ void fetch_rows(int8_t *to, const int8_t *from, int64_t ld, int64_t row0, int64_t rows) {
    for (int at = (int)threadIdx.x; at < TILE * DEPTH / 16; at += THREADS) {
        int i = at / (DEPTH / 16), k = at % (DEPTH / 16) * 16;
        bool there = row0 + i < rows;
        slc_copy_async(to + i * LD + k, there ? from + (row0 + i) * ld + k : from, there ? 16 : 0);
    }
}

__device__ __forceinline__ void multiply_tile(int (*acc)[4][4], const int8_t *a, const int8_t *b) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, wm = warp / 4 * 64, wn = warp % 4 * 32;
    int low = lane % 8, mid = lane / 8 % 2, high = lane / 16;
    SLC_UNROLL
    for (int k = 0; k < DEPTH; k += 32) {
        uint32_t af[4][4], bf[2][4];
        SLC_UNROLL
        for (int i = 0; i < 4; i++)
            slc_ldmatrix(af[i], a + (wm + 16 * i + low + 8 * mid) * LD + k + 16 * high);
        SLC_UNROLL
        for (int j = 0; j < 2; j++)
            slc_ldmatrix(bf[j], b + (wn + 16 * j + low + 8 * high) * LD + k + 16 * mid);
        SLC_UNROLL
        for (int i = 0; i < 16; i++)
            slc_mma_int8(acc[i / 4][i % 4], af[i / 4], bf[i % 4 / 2] + 2 * (i % 2));
    }
}

__device__ __forceinline__ void put_sum(const slc_int_product &p, int64_t row, int64_t col, int sum, int off) {
    if (row >= p.m || col >= p.n)
        return;
    int64_t at = row * p.n + col;
    float y = __fmul_rn(__fmul_rn((float)(sum + off * p.sum[col]), p.scale_a.p[row * p.scale_a.step]), p.scale_w[col]);
    p.y[at] = p.plus ? __fadd_rn(y, p.plus[at]) : y;
}

__global__ void __launch_bounds__(THREADS) multiply_int(slc_int_product p) {
    SLC_DYNAMIC(int8_t, shared);
    int64_t across = (p.n + TILE - 1) / TILE, row0 = blockIdx.x / across * TILE, col0 = blockIdx.x % across * TILE;
    int acc[4][4][4], steps = (int)(p.depth / DEPTH);
    for (int i = 0; i < 64; i++)
        acc[i / 16][i / 4 % 4][i % 4] = 0;
    auto fetch = [&](int step) {
        int8_t *to = shared + step % STAGES * 2 * OPERAND;
        fetch_rows(to, p.a + (int64_t)step * DEPTH, p.lda, row0, p.m);
        fetch_rows(to + OPERAND, p.w + (int64_t)step * DEPTH, p.depth, col0, p.n);
    };
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            fetch(s);
        slc_copy_commit();
    }
    for (int s = 0; s < steps; s++) {
        slc_copy_wait<STAGES - 2>();
        __syncthreads();
        if (s + STAGES - 1 < steps)
            fetch(s + STAGES - 1);
        slc_copy_commit();
        const int8_t *at = shared + s % STAGES * 2 * OPERAND;
        multiply_tile(acc, at, at + OPERAND);
    }
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, off = p.range ? 128 - p.range->zero : 0;
    int64_t row = row0 + warp / 4 * 64 + lane / 4, col = col0 + warp % 4 * 32 + lane % 4 * 2;
    SLC_UNROLL
    for (int i = 0; i < 64; i++)
        put_sum(p, row + i / 16 * 16 + i / 2 % 2 * 8, col + i / 4 % 4 * 8 + i % 2, acc[i / 16][i / 4 % 4][i % 4], off);
}

} // namespace

/* ---- launching */

static bool scale_is_given(const slc_quant *q) { return q->window == 0 && q->scale != SLC_SCALE_E4M3; }

int64_t slc_quant_scale_floats(const slc_quant *q) { return scale_is_given(q) ? 0 : q->rows * groups_of(*q); }

slc_scales slc_quant_scales(slc_stream s, const slc_quant *q, slc_heads x, float *scratch) {
    if (scale_is_given(q))
        return {&q->range->scale, 0};
    SLC_LAUNCH(row_scales, slc_div_up(q->rows, WARPS), THREADS, 0, s, *q, x, scratch);
    int64_t groups = groups_of(*q);
    if (q->window > 1)
        SLC_LAUNCH(window_scales, q->rows / q->window * (q->scale == SLC_SCALE_E4M3 ? 1 : groups), THREADS, 0, s, *q,
                   scratch);
    return {scratch, groups};
}

int64_t slc_quant_parts(const slc_quant *q) { return slc_min(slc_div_up(q->rows, WARPS), MOST_BLOCKS); }

void slc_quant_round(slc_stream s, const slc_quant *q, slc_heads x, slc_scales scales, slc_heads y,
                     slc_quant_error *part) {
    SLC_LAUNCH(round_rows<values>, slc_quant_parts(q), THREADS, 0, s, *q, x, scales, values{y}, part);
}

void slc_quant_codes(slc_stream s, const slc_quant *q, slc_heads x, slc_scales scales, int8_t *code, int64_t ldc,
                     slc_quant_error *part) {
    codes out = {code, ldc};
    SLC_LAUNCH(round_rows<codes>, slc_quant_parts(q), THREADS, 0, s, *q, x, scales, out, part);
}

void slc_quant_fold(slc_stream s, const slc_quant *q, const slc_quant_error *part, bool add, slc_quant_error *to) {
    SLC_LAUNCH(fold_parts, 1, THREADS, 0, s, slc_quant_parts(q), part, add, to);
}

void slc_observe(slc_stream s, int64_t rows, int64_t dim, const float *x, const slc_seen *seen) {
    SLC_LAUNCH(observe_rows, slc_div_up(rows, WARPS), THREADS, 0, s, rows, dim, x, *seen);
    SLC_LAUNCH(observe_channels, slc_div_up(rows, STRIP) * slc_div_up(dim, THREADS), THREADS, 0, s, dim, x, *seen);
}

static size_t row_bytes(int64_t n) { return (size_t)(2 * n) * sizeof(double); }

size_t slc_rotate_bytes(int64_t n, int64_t rows) {
    return row_bytes(n) > MOST_SHARED ? row_bytes(n) * (size_t)slc_min(rows, SCRATCH_BLOCKS) : 0;
}

void slc_rotate(slc_stream s, const slc_rotation *r, int64_t rows, slc_heads x, slc_heads y, bool back, void *scratch) {
    bool shared = row_bytes(r->n) <= MOST_SHARED;
    int64_t blocks = slc_min(rows, shared ? 1 << 16 : SCRATCH_BLOCKS);
    size_t bytes = shared ? row_bytes(r->n) : 0;
    SLC_MORE_SHARED(rotate_rows, MOST_SHARED);
    SLC_LAUNCH(rotate_rows, blocks, THREADS, bytes, s, *r, rows, x, y, back, shared ? nullptr : (double *)scratch);
}

void slc_multiply_int(slc_stream s, const slc_int_product *p) {
    SLC_MORE_SHARED(multiply_int, SHARED);
    SLC_LAUNCH(multiply_int, slc_div_up(p->m, TILE) * slc_div_up(p->n, TILE), THREADS, SHARED, s, *p);
}
