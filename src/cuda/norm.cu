#include "cuda/norm.h"

#include "cuda/cu.h"
#include "cuda/rows.h"

enum { WARPS = 4, PARTS = 512, WIDE = 256 };

/* ---- what the kinds are, element by element */

static __device__ __forceinline__ float gain_of(const slc_norm &n, int64_t j) {
    return n.zero_centred ? 1 + n.weight[j] : n.weight[j];
}

/* Statistics and numbers of a row that all of its elements share. */
struct shared_by_row {
    float mean, r, alpha, shift;
};

static __device__ __forceinline__ float value_of(int kind, const shared_by_row &s, float z) {
    switch (kind) {
    case SLC_NORM_DYT: return tanhf(s.alpha * z);
    case SLC_NORM_DERF: return erff(s.alpha * z + s.shift);
    case SLC_NORM_NONE: return z;
    default: return (z - s.mean) * s.r;
    }
}

/* f' of the kinds without statistics, over alpha where there is one. */
static __device__ __forceinline__ float slope_of(int kind, const shared_by_row &s, float z, float f) {
    float u = s.alpha * z + s.shift;
    return kind == SLC_NORM_DYT ? 1 - f * f : kind == SLC_NORM_DERF ? 1.1283791671f * expf(-u * u) : 1;
}

static __device__ __forceinline__ bool has_statistics(int kind) {
    return kind == SLC_NORM_RMS || kind == SLC_NORM_LAYER;
}

static __device__ __forceinline__ shared_by_row numbers_of(const slc_norm &n, int64_t row, bool saved) {
    shared_by_row s = {0, 1, 1, 0};
    if (n.alpha)
        s.alpha = *n.alpha;
    if (n.shift)
        s.shift = *n.shift;
    if (saved && n.kind == SLC_NORM_LAYER)
        s.mean = n.mean[row];
    if (saved && has_statistics(n.kind))
        s.r = n.r[row];
    return s;
}

/* ---- four elements at a time */

static __device__ __forceinline__ float4 get4(const float *p) { return *(const float4 *)p; }
static __device__ __forceinline__ float4 get4(const slc_bf16 *p) {
    uint2 v = *(const uint2 *)p;
    return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                       __uint_as_float(v.y & 0xffff0000u));
}
static __device__ __forceinline__ void put4(float *p, float4 v) { *(float4 *)p = v; }
static __device__ __forceinline__ void put4(slc_bf16 *p, float4 v) {
    *(uint2 *)p = make_uint2(slc_pack_bf16(v.x, v.y), slc_pack_bf16(v.z, v.w));
}

/* ---- RMS and LAYER, rows held in a warp's registers: K vectors of four floats a lane */

template <int K> struct held {
    float x[4 * K];
};

/* f(element, channel) of each. */
#define HELD_EACH(K, dim, i, j)                                                                                        \
    for (int i = 0; i < 4 * (K); i++)                                                                \
        if (int64_t j = 128 * (i / 4) + 4 * (int64_t)(threadIdx.x % 32) + i % 4; j < (dim))

template <int K, typename T> static __device__ __forceinline__ void hold(const T *p, int64_t dim, held<K> *h) {
    for (int k = 0; k < K; k++) {
        int64_t j = 128 * k + 4 * (int64_t)(threadIdx.x % 32);
        float4 v = j < dim ? get4(p + j) : make_float4(0, 0, 0, 0);
        h->x[4 * k] = v.x, h->x[4 * k + 1] = v.y, h->x[4 * k + 2] = v.z, h->x[4 * k + 3] = v.w;
    }
}
template <int K, typename T> static __device__ __forceinline__ void release(T *p, int64_t dim, const held<K> &h) {
    for (int k = 0; k < K; k++) {
        int64_t j = 128 * k + 4 * (int64_t)(threadIdx.x % 32);
        if (j < dim)
            put4(p + j, make_float4(h.x[4 * k], h.x[4 * k + 1], h.x[4 * k + 2], h.x[4 * k + 3]));
    }
}

/* Sums of the elements that are there; those behind the row are 0. */
template <int K> static __device__ __forceinline__ float sum_of(const held<K> &h) {
    float sum = 0;
    for (int i = 0; i < 4 * K; i++)
        sum += h.x[i];
    return slc_warp_sum(sum);
}

/* Row `row` of x or of what is like it. */
template <int K>
static __device__ __forceinline__ void hold_x(const slc_norm &n, const void *x, int64_t row, held<K> *h) {
    if (n.x_bf16)
        hold((const slc_bf16 *)x + row * n.ldx, n.dim, h);
    else
        hold((const float *)x + row * n.ldx, n.dim, h);
}
template <int K>
static __device__ __forceinline__ void release_x(const slc_norm &n, void *x, int64_t row, const held<K> &h) {
    if (n.x_bf16)
        release((slc_bf16 *)x + row * n.ldx, n.dim, h);
    else
        release((float *)x + row * n.ldx, n.dim, h);
}
static __device__ __forceinline__ float load_x(const slc_norm &n, const void *x, int64_t row, int64_t j) {
    int64_t at = row * n.ldx + j;
    return n.x_bf16 ? slc_from_bf16(((const slc_bf16 *)x)[at]) : ((const float *)x)[at];
}
static __device__ __forceinline__ void store_x(const slc_norm &n, void *x, int64_t row, int64_t j, float v) {
    int64_t at = row * n.ldx + j;
    if (n.x_bf16)
        ((slc_bf16 *)x)[at] = slc_to_bf16(v);
    else
        ((float *)x)[at] = v;
}

/* z of a row. */
template <int K> static __device__ __forceinline__ void hold_z(const slc_norm &n, int64_t row, held<K> *z) {
    hold_x(n, n.x, row, z);
    if (n.pre)
        HELD_EACH(K, n.dim, i, j) z->x[i] *= n.pre[j];
}

template <int K, typename T> __global__ void __launch_bounds__(32 * WARPS) forward_kernel(slc_norm n, T *y) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= n.rows)
        return;
    held<K> z;
    hold_z(n, row, &z);
    float mean = n.kind == SLC_NORM_LAYER ? sum_of(z) / (float)n.dim : 0, square = 0;
    HELD_EACH(K, n.dim, i, j) square += (z.x[i] - mean) * (z.x[i] - mean);
    float r = 1 / sqrtf(slc_warp_sum(square) / (float)n.dim + n.eps);
    if (threadIdx.x % 32 == 0) {
        n.r[row] = r;
        if (n.mean)
            n.mean[row] = mean;
    }
    HELD_EACH(K, n.dim, i, j) z.x[i] = gain_of(n, j) * ((z.x[i] - mean) * r);
    release(y + row * n.ld, n.dim, z);
}

/* Where the sums of a part lie, in this order; [dim] each but for alpha and shift. */
enum { OF_WEIGHT, OF_BIAS, OF_PRE, OF_ALPHA, OF_SHIFT, OFS };
static __host__ __device__ __forceinline__ int64_t part_floats(int64_t dim) { return 3 * dim + 2; }
static __host__ __device__ __forceinline__ int64_t part_at(int64_t dim, int of) {
    return of <= OF_ALPHA ? of * dim : 3 * dim + 1;
}

/* Adds the warps' sums of a held row in order and writes them. room: WARPS * dim floats. */
template <int K>
static __device__ __forceinline__ void write_sums(const held<K> &mine, int64_t dim, float *room, float *to) {
    int warp = (int)threadIdx.x / 32;
    __syncthreads();
    HELD_EACH(K, dim, i, j) room[warp * dim + j] = mine.x[i];
    __syncthreads();
    for (int64_t j = threadIdx.x; j < dim; j += 32 * WARPS) {
        float sum = room[j];
        for (int w = 1; w < WARPS; w++)
            sum += room[w * dim + j];
        to[j] = sum;
    }
}

/* A part takes every parts-th group of WARPS rows. pre: is there preaffine? */
template <int K, typename T, bool pre>
__global__ void __launch_bounds__(32 * WARPS) backward_kernel(slc_norm n, const T *dy, bool add, void *dx, slc_bf16 *rounded, int64_t ldr, float *part) {
    SLC_DYNAMIC(float, room);
    held<K> dw = {}, dp = {};
    int warp = (int)threadIdx.x / 32;
    for (int64_t row = (int64_t)blockIdx.x * WARPS + warp; row < n.rows; row += (int64_t)gridDim.x * WARPS) {
        held<K> f, g;
        hold_z(n, row, &f);
        hold(dy + row * n.ld, n.dim, &g);
        float mean = n.mean ? n.mean[row] : 0, r = n.r[row], first = 0, second = 0;
        HELD_EACH(K, n.dim, i, j) {
            f.x[i] = (f.x[i] - mean) * r;
            dw.x[i] += g.x[i] * f.x[i];
            g.x[i] *= gain_of(n, j);
            first += g.x[i], second += g.x[i] * f.x[i];
        }
        second = slc_warp_sum(second) / (float)n.dim;
        first = n.mean ? slc_warp_sum(first) / (float)n.dim : 0;
        HELD_EACH(K, n.dim, i, j) g.x[i] = r * (g.x[i] - first - f.x[i] * second);
        if (pre)
            HELD_EACH(K, n.dim, i, j) {
                dp.x[i] += g.x[i] * load_x(n, n.x, row, j);
                g.x[i] *= n.pre[j];
            }
        if (add) {
            hold_x(n, dx, row, &f);
            HELD_EACH(K, n.dim, i, j) g.x[i] += f.x[i];
        }
        release_x(n, dx, row, g);
        if (rounded)
            release(rounded + row * ldr, n.dim, g);
    }
    part += blockIdx.x * part_floats(n.dim);
    write_sums(dw, n.dim, room, part + part_at(n.dim, OF_WEIGHT));
    if (pre)
        write_sums(dp, n.dim, room, part + part_at(n.dim, OF_PRE));
}

/* ---- NONE, DYT and DERF: no element needs another one of its row. A thread has four channels, of every row of its
 * group's; a block as many groups as it has room for. */

struct four {
    float x[4];
};
template <typename T> static __device__ __forceinline__ four four_at(const T *p) {
    float4 v = get4(p);
    return {{v.x, v.y, v.z, v.w}};
}
static __device__ __forceinline__ four four_of(const float *param, int64_t j, float instead) {
    four all = {{instead, instead, instead, instead}};
    return param ? four_at(param + j) : all;
}
template <typename T> static __device__ __forceinline__ void put_four(T *p, const four &v) {
    put4(p, make_float4(v.x[0], v.x[1], v.x[2], v.x[3]));
}
static __device__ __forceinline__ four four_x(const slc_norm &n, const void *x, int64_t at) {
    return n.x_bf16 ? four_at((const slc_bf16 *)x + at) : four_at((const float *)x + at);
}

/* What a thread needs of its channels. */
struct channels {
    int64_t j;
    four gain, pre;
    shared_by_row s;
};
static __device__ __forceinline__ channels channels_of(const slc_norm &n, int64_t j) {
    channels c = {j, four_at(n.weight + j), four_of(n.pre, j, 1), numbers_of(n, 0, false)};
    for (int i = 0; i < 4; i++)
        c.gain.x[i] += n.zero_centred;
    return c;
}

template <typename T>
__global__ void __launch_bounds__(1024) plain_forward_kernel(slc_norm n, int across, int groups, T *y) {
    int group = (int)threadIdx.x / across;
    if (group >= groups)
        return;
    channels c = channels_of(n, threadIdx.x % across * 4);
    four bias = four_of(n.bias, c.j, 0);
    for (int64_t row = (int64_t)blockIdx.x * groups + group; row < n.rows; row += (int64_t)gridDim.x * groups) {
        four x = four_x(n, n.x, row * n.ldx + c.j);
        for (int i = 0; i < 4; i++)
            x.x[i] = c.gain.x[i] * value_of(n.kind, c.s, c.pre.x[i] * x.x[i]) + bias.x[i];
        put_four(y + row * n.ld + c.j, x);
    }
}

/* Sums of parameters over a thread's rows. */
struct plain_sums {
    four weight, bias, pre;
    float alpha, shift;
};

/* x becomes its gradient, from that of y. */
static __device__ __forceinline__ void plain_back(const slc_norm &n, const channels &c, const four &dy, four *x,
                                                  plain_sums *sum) {
    for (int i = 0; i < 4; i++) {
        float z = c.pre.x[i] * x->x[i], f = value_of(n.kind, c.s, z);
        float slope = dy.x[i] * c.gain.x[i] * slope_of(n.kind, c.s, z, f), dz = slope * c.s.alpha;
        sum->weight.x[i] += dy.x[i] * f, sum->bias.x[i] += dy.x[i], sum->pre.x[i] += dz * x->x[i];
        sum->alpha += slope * z, sum->shift += slope;
        x->x[i] = dz * c.pre.x[i];
    }
}

/* Adds the groups' sums in order and writes them. room: groups * dim floats. */
static __device__ __forceinline__ void write_four(const four &mine, int64_t dim, int across, int groups, float *room,
                                                  float *to) {
    int group = (int)threadIdx.x / across;
    __syncthreads();
    for (int i = 0; i < 4 && group < groups; i++)
        room[group * dim + threadIdx.x % across * 4 + i] = mine.x[i];
    __syncthreads();
    for (int64_t j = threadIdx.x; j < dim; j += blockDim.x) {
        float sum = room[j];
        for (int g = 1; g < groups; g++)
            sum += room[g * dim + j];
        to[j] = sum;
    }
}

template <typename T>
__global__ void __launch_bounds__(1024)
    plain_backward_kernel(slc_norm n, int across, int groups, const T *dy, bool add, void *dx, slc_bf16 *rounded,
                          int64_t ldr, float *part) {
    SLC_DYNAMIC(float, room);
    __shared__ float few[33];
    int group = (int)threadIdx.x / across;
    channels c = channels_of(n, threadIdx.x % across * 4);
    plain_sums sum = {};
    for (int64_t row = group < groups ? (int64_t)blockIdx.x * groups + group : n.rows; row < n.rows;
         row += (int64_t)gridDim.x * groups) {
        four x = four_x(n, n.x, row * n.ldx + c.j);
        plain_back(n, c, four_at(dy + row * n.ld + c.j), &x, &sum);
        if (add) {
            four old = four_x(n, dx, row * n.ldx + c.j);
            for (int i = 0; i < 4; i++)
                x.x[i] += old.x[i];
        }
        if (n.x_bf16)
            put_four((slc_bf16 *)dx + row * n.ldx + c.j, x);
        else
            put_four((float *)dx + row * n.ldx + c.j, x);
        if (rounded)
            put_four(rounded + row * ldr + c.j, x);
    }
    part += blockIdx.x * part_floats(n.dim);
    write_four(sum.weight, n.dim, across, groups, room, part + part_at(n.dim, OF_WEIGHT));
    if (n.bias)
        write_four(sum.bias, n.dim, across, groups, room, part + part_at(n.dim, OF_BIAS));
    if (n.pre)
        write_four(sum.pre, n.dim, across, groups, room, part + part_at(n.dim, OF_PRE));
    if (!n.alpha)
        return;
    sum.alpha = slc_block_sum(sum.alpha, few), sum.shift = slc_block_sum(sum.shift, few);
    if (threadIdx.x == 0)
        part[part_at(n.dim, OF_ALPHA)] = sum.alpha, part[part_at(n.dim, OF_SHIFT)] = sum.shift;
}

/* ---- rows of any length and alignment, of every kind, with channels replaced: a block a row, the row read as often as
 * it is needed */

static __device__ __forceinline__ bool edited(const slc_norm &n, int64_t row) {
    return n.from == 0 || *n.position + row % n.seq >= n.from;
}

/* The place in the list of a channel that is replaced in this row, or -1. */
static __device__ __forceinline__ int listed(const slc_norm &n, int64_t row, int64_t j) {
    for (int k = 0; n.replaced && edited(n, row) && k < n.replaced->count; k++)
        if (n.replaced->channel[k] == j)
            return k;
    return -1;
}

static __device__ __forceinline__ float pre_of(const slc_norm &n, int64_t j) { return n.pre ? n.pre[j] : 1; }

/* Element j of row b, and of the other one. */
static __device__ __forceinline__ float b_of(const slc_norm &n, int64_t row, int64_t j) {
    int k = n.in_b ? listed(n, row, j) : -1;
    return k < 0 ? load_x(n, n.x, row, j) : n.replaced->value[k];
}
static __device__ __forceinline__ float a_of(const slc_norm &n, int64_t row, int k) {
    return n.in_b ? load_x(n, n.x, row, n.replaced->channel[k]) : n.replaced->value[k];
}

template <typename T> __global__ void any_forward_kernel(slc_norm n, T *y) {
    __shared__ float room[33];
    int64_t row = blockIdx.x;
    shared_by_row s = numbers_of(n, row, false);
    if (n.kind == SLC_NORM_LAYER) {
        float sum = 0;
        for (int64_t j = threadIdx.x; j < n.dim; j += WIDE)
            sum += pre_of(n, j) * b_of(n, row, j);
        s.mean = slc_block_sum(sum, room) / (float)n.dim;
    }
    if (has_statistics(n.kind)) {
        float square = 0;
        for (int64_t j = threadIdx.x; j < n.dim; j += WIDE) {
            float h = pre_of(n, j) * b_of(n, row, j) - s.mean;
            square += h * h;
        }
        s.r = 1 / sqrtf(slc_block_sum(square, room) / (float)n.dim + n.eps);
        if (threadIdx.x == 0) {
            n.r[row] = s.r;
            if (n.mean)
                n.mean[row] = s.mean;
        }
    }
    for (int64_t j = threadIdx.x; j < n.dim; j += WIDE) {
        int k = n.only_one ? listed(n, row, j) : -1;
        float z = pre_of(n, j) * (k < 0 ? b_of(n, row, j) : a_of(n, row, k));
        slc_store(y + row * n.ld + j, gain_of(n, j) * value_of(n.kind, s, z) + (n.bias ? n.bias[j] : 0));
    }
}

/* A part takes every parts-th row; its sums are in memory, a channel always with the same thread. */
template <typename T>
__global__ void any_backward_kernel(slc_norm n, const T *dy_all, bool add, void *dx, float *part) {
    __shared__ float room[33];
    float *sums = part + blockIdx.x * part_floats(n.dim), da = 0, ds = 0;
    for (int64_t j = threadIdx.x; j < n.dim; j += WIDE)
        sums[part_at(n.dim, OF_WEIGHT) + j] = sums[part_at(n.dim, OF_BIAS) + j] = sums[part_at(n.dim, OF_PRE) + j] = 0;
    for (int64_t row = blockIdx.x; row < n.rows; row += gridDim.x) {
        const T *dy = dy_all + row * n.ld;
        shared_by_row s = numbers_of(n, row, true);
        float first = 0, second = 0; /* sums of G and of G f, over what the row's own statistics see */
        for (int64_t j = threadIdx.x; j < n.dim; j += WIDE) {
            int k = n.only_one ? listed(n, row, j) : -1;
            float z = pre_of(n, j) * (k < 0 ? b_of(n, row, j) : a_of(n, row, k)), g = slc_load(dy + j);
            float f = value_of(n.kind, s, z), dg = g * gain_of(n, j);
            sums[part_at(n.dim, OF_WEIGHT) + j] += g * f;
            sums[part_at(n.dim, OF_BIAS) + j] += g;
            if (k >= 0)
                sums[part_at(n.dim, OF_PRE) + j] += dg * s.r * a_of(n, row, k);
            if (!has_statistics(n.kind))
                dg *= slope_of(n.kind, s, z, f);
            first += dg, second += dg * (has_statistics(n.kind) ? f : z);
        }
        if (has_statistics(n.kind)) {
            first = slc_block_sum(first, room) / (float)n.dim, second = slc_block_sum(second, room) / (float)n.dim;
            first = n.kind == SLC_NORM_LAYER ? first : 0;
        } else {
            da += second, ds += first;
        }
        for (int64_t j = threadIdx.x; j < n.dim; j += WIDE) {
            int k = listed(n, row, j);
            float b = b_of(n, row, j), z = pre_of(n, j) * b, f = value_of(n.kind, s, z);
            float dg = slc_load(dy + j) * gain_of(n, j), dz;
            if (has_statistics(n.kind))
                dz = s.r * ((n.only_one && k >= 0 ? 0 : dg) - first - f * second);
            else
                dz = dg * slope_of(n.kind, s, z, f) * s.alpha;
            sums[part_at(n.dim, OF_PRE) + j] += dz * b;
            float d = dz * pre_of(n, j);
            if (n.in_b && k >= 0)
                d = n.only_one ? pre_of(n, j) * dg * s.r : 0;
            store_x(n, dx, row, j, add ? load_x(n, dx, row, j) + d : d);
        }
    }
    da = slc_block_sum(da, room), ds = slc_block_sum(ds, room);
    if (threadIdx.x == 0)
        sums[part_at(n.dim, OF_ALPHA)] = da, sums[part_at(n.dim, OF_SHIFT)] = ds;
}

/* ---- launching */

static bool in_fours(const slc_norm *n) {
    return !n->replaced && n->dim % 4 == 0 && n->ldx % 4 == 0 && n->ld % 4 == 0;
}

static int held_vectors(const slc_norm *n) {
    bool held = (n->kind == SLC_NORM_RMS || n->kind == SLC_NORM_LAYER) && in_fours(n) && n->dim <= 1024;
    return held ? (int)slc_div_up(n->dim, 128) : 0;
}

/* Of the kernels for NONE, DYT and DERF; groups is 0 where they don't do. */
struct plain_shape {
    int across, groups;
    int64_t threads;
};
static plain_shape plain_of(const slc_norm *n) {
    int64_t across = n->dim / 4, groups = slc_max(1, WIDE / slc_max(1, across));
    if (n->kind == SLC_NORM_RMS || n->kind == SLC_NORM_LAYER || !in_fours(n) || across > 1024)
        return {0, 0, 0};
    return {(int)across, (int)groups, slc_div_up(across * groups, 32) * 32};
}

template <typename T> static void forward(slc_stream s, const slc_norm *n, T *y) {
    int64_t blocks = slc_div_up(n->rows, WARPS);
    plain_shape p = plain_of(n);
    if (p.groups) {
        blocks = slc_min(4 * PARTS, slc_div_up(n->rows, p.groups));
        SLC_LAUNCH(plain_forward_kernel<T>, blocks, p.threads, 0, s, *n, p.across, p.groups, y);
        return;
    }
    switch (held_vectors(n)) {
    case 0: SLC_LAUNCH(any_forward_kernel<T>, n->rows, WIDE, 0, s, *n, y); break;
    case 1: SLC_LAUNCH((forward_kernel<1, T>), blocks, 32 * WARPS, 0, s, *n, y); break;
    case 2: SLC_LAUNCH((forward_kernel<2, T>), blocks, 32 * WARPS, 0, s, *n, y); break;
    case 3: SLC_LAUNCH((forward_kernel<3, T>), blocks, 32 * WARPS, 0, s, *n, y); break;
    case 4: SLC_LAUNCH((forward_kernel<4, T>), blocks, 32 * WARPS, 0, s, *n, y); break;
    case 5:
    case 6: SLC_LAUNCH((forward_kernel<6, T>), blocks, 32 * WARPS, 0, s, *n, y); break;
    default: SLC_LAUNCH((forward_kernel<8, T>), blocks, 32 * WARPS, 0, s, *n, y); break;
    }
}

void slc_norm_forward(slc_stream s, const slc_norm *n, void *y) {
    if (n->bf16)
        forward(s, n, (slc_bf16 *)y);
    else
        forward(s, n, (float *)y);
}

static int64_t parts_of(int64_t rows, int64_t group) { return slc_min(PARTS, slc_div_up(rows, group)); }
int64_t slc_norm_parts(int64_t rows, int64_t dim) { return parts_of(rows, 1) * part_floats(dim); }

template <int K, typename T>
static void launch_held(slc_stream s, int64_t parts, const slc_norm *n, const T *dy, bool add, void *dx,
                        slc_bf16 *rounded, int64_t ldr, float *part) {
    size_t room = (size_t)(WARPS * n->dim) * sizeof(float);
    if (n->pre)
        SLC_LAUNCH((backward_kernel<K, T, true>), parts, 32 * WARPS, room, s, *n, dy, add, dx, rounded, ldr,
                   part);
    else
        SLC_LAUNCH((backward_kernel<K, T, false>), parts, 32 * WARPS, room, s, *n, dy, add, dx, rounded, ldr,
                   part);
}

/* Returns how many parts there are. */
template <typename T>
static int64_t backward(slc_stream s, const slc_norm *n, const T *dy, bool add, void *dx, slc_bf16 *rounded,
                        int64_t ldr, float *part) {
    int k = held_vectors(n);
    plain_shape p = plain_of(n);
    int64_t parts = parts_of(n->rows, k ? WARPS : p.groups ? p.groups : 1);
    if (p.groups) {
        SLC_LAUNCH(plain_backward_kernel<T>, parts, p.threads, (size_t)(p.groups * n->dim) * sizeof(float), s, *n,
                   p.across, p.groups, dy, add, dx, rounded, ldr, part);
        return parts;
    }
    switch (k) {
    case 0:
        SLC_LAUNCH(any_backward_kernel<T>, parts, WIDE, 0, s, *n, dy, add, dx, part);
        if (rounded)
            slc_round_rows(s, n->rows, n->dim, (const float *)dx, rounded, ldr);
        break;
    case 1: launch_held<1>(s, parts, n, dy, add, dx, rounded, ldr, part); break;
    case 2: launch_held<2>(s, parts, n, dy, add, dx, rounded, ldr, part); break;
    case 3: launch_held<3>(s, parts, n, dy, add, dx, rounded, ldr, part); break;
    case 4: launch_held<4>(s, parts, n, dy, add, dx, rounded, ldr, part); break;
    case 5:
    case 6: launch_held<6>(s, parts, n, dy, add, dx, rounded, ldr, part); break;
    default: launch_held<8>(s, parts, n, dy, add, dx, rounded, ldr, part); break;
    }
    return parts;
}

void slc_norm_backward(slc_stream s, const slc_norm *n, const void *dy, bool add, void *dx, uint16_t *rounded, int64_t ldr,
                       const slc_norm_grads *g, float *part) {
    int64_t parts = n->bf16 ? backward(s, n, (const slc_bf16 *)dy, add, dx, rounded, ldr, part)
                            : backward(s, n, (const float *)dy, add, dx, rounded, ldr, part);
    float *const of[OFS] = {g->weight, g->bias, g->pre, g->alpha, g->shift};
    for (int i = 0; i < OFS; i++)
        if (of[i])
            slc_fold(s, parts, i < OF_ALPHA ? n->dim : 1, part_floats(n->dim), part + part_at(n->dim, i), of[i]);
}

/* ---- channels that are replaced */

/* A warp a channel, whose place in the list is how many come before it. Channel 0's counts those that may be chosen. */
__global__ void choose_kernel(int64_t dim, int64_t most, bool to_mean, const float *mean, slc_replaced *c) {
    int64_t j = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (j >= dim)
        return;
    float mine = fabsf(mean[j]), before = 0, all = 0; /* whole numbers */
    for (int64_t k = threadIdx.x % 32; k < dim; k += 32) {
        float other = fabsf(mean[k]);
        before += other > mine || (other == mine && k < j);
        all += other > 0;
    }
    int64_t place = (int64_t)slc_warp_sum(before);
    all = slc_warp_sum(all);
    if (threadIdx.x % 32 != 0)
        return;
    if (j == 0)
        c->count = all < (float)most ? (int64_t)all : most;
    if (mine > 0 && place < most) {
        c->channel[place] = j;
        c->value[place] = to_mean ? mean[j] : 0;
    }
}

void slc_choose_channels(slc_stream s, int64_t dim, int64_t most, bool to_mean, const float *mean, slc_replaced *c) {
    SLC_LAUNCH(choose_kernel, slc_div_up(dim, WARPS), 32 * WARPS, 0, s, dim, most, to_mean, mean, c);
}

__global__ void column_kernel(slc_norm n, float *part) {
    for (int64_t j = threadIdx.x; j < n.dim; j += WIDE) {
        float sum = 0;
        for (int64_t r = blockIdx.x; r < n.rows; r += gridDim.x)
            sum += edited(n, r) ? load_x(n, n.x, r, j) : 0;
        part[blockIdx.x * n.dim + j] = sum;
    }
}

__global__ void count_kernel(slc_norm n, int64_t *count) {
    int64_t kept = n.from ? n.from - *n.position : 0; /* of a window */
    *count += kept <= 0 ? n.rows : kept < n.seq ? n.rows / n.seq * (n.seq - kept) : 0;
}

void slc_sum_channels(slc_stream s, const slc_norm *n, float *part, float *sum, int64_t *count) {
    int64_t parts = parts_of(n->rows, 1);
    SLC_LAUNCH(column_kernel, parts, WIDE, 0, s, *n, part);
    slc_fold(s, parts, n->dim, n->dim, part, sum);
    SLC_LAUNCH(count_kernel, 1, 1, 0, s, *n, count);
}

__global__ void move_kernel(int64_t dim, float rate, const int32_t *applied, float *mean, float *sum, int64_t *count) {
    __shared__ int some;
    if (threadIdx.x == 0)
        some = 0;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < dim; j += WIDE)
        if (mean[j] != 0)
            some = 1; /* all write the same */
    __syncthreads();
    float part = some ? rate : 1, rows = (float)*count;
    for (int64_t j = threadIdx.x; j < dim; j += WIDE) {
        if (*applied && rows > 0)
            mean[j] += part * (sum[j] / rows - mean[j]);
        sum[j] = 0;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        *count = 0;
}

void slc_move_means(slc_stream s, int64_t dim, float rate, const int32_t *applied, float *mean, float *sum,
                    int64_t *count) {
    SLC_LAUNCH(move_kernel, 1, WIDE, 0, s, dim, rate, applied, mean, sum, count);
}
