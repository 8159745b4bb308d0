#include "cuda/rows.h"

#include "cuda/cu.h"

enum { THREADS = 256 };

/* Vectors of 16 bytes, as floats in registers. */
template <typename T> struct vec {
    enum { N = 16 / sizeof(T) };
    float x[N];
};
static __device__ __forceinline__ vec<float> get(const float *p) {
    float4 v = *(const float4 *)p;
    return {{v.x, v.y, v.z, v.w}};
}
static __device__ __forceinline__ vec<slc_bf16> get(const slc_bf16 *p) {
    uint4 v = *(const uint4 *)p;
    uint32_t u[4] = {v.x, v.y, v.z, v.w};
    vec<slc_bf16> r;
    for (int i = 0; i < 4; i++)
        r.x[2 * i] = __uint_as_float(u[i] << 16), r.x[2 * i + 1] = __uint_as_float(u[i] & 0xffff0000u);
    return r;
}
static __device__ __forceinline__ void put(float *p, vec<float> v) {
    *(float4 *)p = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
}
static __device__ __forceinline__ void put(slc_bf16 *p, vec<slc_bf16> v) {
    *(uint4 *)p = make_uint4(slc_pack_bf16(v.x[0], v.x[1]), slc_pack_bf16(v.x[2], v.x[3]), slc_pack_bf16(v.x[4], v.x[5]),
                             slc_pack_bf16(v.x[6], v.x[7]));
}

/* First c elements alone, where a row ends. */
template <typename T> static __device__ __forceinline__ vec<T> get_n(const T *p, int64_t c) {
    if (c >= vec<T>::N)
        return get(p);
    vec<T> v;
    for (int i = 0; i < vec<T>::N; i++)
        v.x[i] = i < c ? slc_load(p + i) : 0;
    return v;
}
template <typename T> static __device__ __forceinline__ void put_n(T *p, int64_t c, vec<T> v) {
    if (c >= vec<T>::N)
        put(p, v);
    else
        for (int i = 0; i < c; i++)
            slc_store(p + i, v.x[i]);
}

static int64_t blocks_of(int64_t items) { return slc_max(1, slc_min(slc_div_up(items, THREADS), 1 << 16)); }
/* Thread i of all takes items i, i + all, ... */
#define EACH(i, n)                                                                                                     \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, all_ = (int64_t)gridDim.x * blockDim.x; i < (n);  \
         i += all_)

/* ---- flat arrays of floats: body(i) of vectors of four, the last one cut */

template <typename F> __global__ void flat_kernel(int64_t n, F f) {
    EACH(i, (n + 3) / 4) f(4 * i, n - 4 * i);
}

struct sum_body {
    const float *a, *b;
    float *out;
    __device__ void operator()(int64_t i, int64_t c) const {
        vec<float> x = get_n(a + i, c), y = get_n(b + i, c);
        for (int k = 0; k < 4; k++)
            x.x[k] += y.x[k];
        put_n(out + i, c, x);
    }
};
struct clip_body {
    float most;
    float *x;
    __device__ void operator()(int64_t i, int64_t c) const {
        vec<float> v = get_n(x + i, c);
        for (int k = 0; k < 4; k++)
            v.x[k] = v.x[k] > most ? most : v.x[k] < -most ? -most : v.x[k];
        put_n(x + i, c, v);
    }
};
struct clip_back_body {
    float most;
    const float *x;
    float *dx;
    __device__ void operator()(int64_t i, int64_t c) const {
        vec<float> v = get_n(x + i, c), d = get_n(dx + i, c);
        for (int k = 0; k < 4; k++)
            d.x[k] = fabsf(v.x[k]) < most ? d.x[k] : 0;
        put_n(dx + i, c, d);
    }
};
struct scale_body {
    const float *a, *x;
    float *y;
    __device__ void operator()(int64_t i, int64_t c) const {
        vec<float> v = get_n(x + i, c);
        for (int k = 0; k < 4; k++)
            v.x[k] *= *a;
        put_n(y + i, c, v);
    }
};
struct round_body {
    const float *w;
    slc_bf16 *w16;
    __device__ void operator()(int64_t i, int64_t c) const {
        vec<float> v = get_n(w + i, c);
        if (c >= 4)
            *(uint2 *)(w16 + i) = make_uint2(slc_pack_bf16(v.x[0], v.x[1]), slc_pack_bf16(v.x[2], v.x[3]));
        else
            for (int k = 0; k < c; k++)
                w16[i + k] = slc_to_bf16(v.x[k]);
    }
};

template <typename F> static void flat(slc_stream s, int64_t n, F f) {
    if (n > 0)
        SLC_LAUNCH(flat_kernel, blocks_of((n + 3) / 4), THREADS, 0, s, n, f);
}

void slc_sum(slc_stream s, int64_t n, const float *a, const float *b, float *out) { flat(s, n, sum_body{a, b, out}); }
void slc_clip(slc_stream s, int64_t n, float most, float *x) { flat(s, n, clip_body{most, x}); }
void slc_clip_back(slc_stream s, int64_t n, float most, const float *x, float *dx) {
    flat(s, n, clip_back_body{most, x, dx});
}
void slc_scale(slc_stream s, int64_t n, const float *a, const float *x, float *y) { flat(s, n, scale_body{a, x, y}); }
void slc_round_weights(slc_stream s, int64_t n, const float *w, uint16_t *w16) { flat(s, n, round_body{w, w16}); }

/* ---- rows with a stride */

__global__ void fill_up_kernel(int64_t rows, int64_t cols, const slc_bf16 *from, int64_t n, int64_t k, slc_bf16 *to) {
    EACH(i, n * k) {
        int64_t r = i / k, c = i % k;
        to[i] = r < rows && c < cols ? from[r * cols + c] : (slc_bf16)0;
    }
}

void slc_fill_up(slc_stream s, int64_t rows, int64_t cols, const uint16_t *from, int64_t n, int64_t k, uint16_t *to) {
    SLC_LAUNCH(fill_up_kernel, blocks_of(n * k), THREADS, 0, s, rows, cols, from, n, k, to);
}

template <typename T>
__global__ void zero_columns_kernel(int64_t rows, int64_t from, int64_t n, int64_t ld, T *x) {
    EACH(i, rows * n) x[i / n * ld + from + i % n] = 0;
}

void slc_zero_columns(slc_stream s, int64_t rows, int64_t from, int64_t to, int64_t ld, bool bf16, void *x) {
    int64_t n = to - from, blocks = blocks_of(rows * n);
    if (n == 0)
        return;
    if (bf16)
        SLC_LAUNCH(zero_columns_kernel<slc_bf16>, blocks, THREADS, 0, s, rows, from, n, ld, (slc_bf16 *)x);
    else
        SLC_LAUNCH(zero_columns_kernel<float>, blocks, THREADS, 0, s, rows, from, n, ld, (float *)x);
}

__global__ void copy_rows_kernel(int64_t rows, int64_t cols, const float *from, int64_t ld_from, bool add, float *to,
                                 int64_t ld_to) {
    EACH(i, rows * cols) {
        float x = from[i / cols * ld_from + i % cols], *at = to + i / cols * ld_to + i % cols;
        *at = add ? *at + x : x;
    }
}

void slc_copy_rows(slc_stream s, int64_t rows, int64_t cols, const float *from, int64_t ld_from, bool add, float *to,
                   int64_t ld_to) {
    SLC_LAUNCH(copy_rows_kernel, blocks_of(rows * cols), THREADS, 0, s, rows, cols, from, ld_from, add, to, ld_to);
}

__global__ void add_bf16_kernel(int64_t rows, int64_t cols, int64_t ld, const slc_bf16 *from, slc_bf16 *to) {
    int64_t across = (cols + 7) / 8;
    EACH(i, rows * across) {
        int64_t at = i / across * ld + i % across * 8, c = cols - i % across * 8;
        vec<slc_bf16> x = get_n(to + at, c), y = get_n(from + at, c);
        for (int k = 0; k < 8; k++)
            x.x[k] += y.x[k];
        put_n(to + at, c, x);
    }
}

void slc_add_rows(slc_stream s, int64_t rows, int64_t cols, int64_t ld, bool bf16, const void *from, void *to) {
    if (!bf16) /* whole, padding and all: fp32 buffers have none */
        flat(s, rows * ld, sum_body{(const float *)from, (const float *)to, (float *)to});
    else
        SLC_LAUNCH(add_bf16_kernel, blocks_of(rows * ((cols + 7) / 8)), THREADS, 0, s, rows, cols, ld,
                   (const slc_bf16 *)from, (slc_bf16 *)to);
}

/* Four elements at a time where rows of floats are aligned to that, else one. */
template <int N> __global__ void round_kernel(int64_t rows, int64_t cols, const float *x, slc_bf16 *y, int64_t ldy) {
    int64_t across = cols / N;
    EACH(i, rows * across) {
        int64_t r = i / across, c = i % across * N;
        if (N == 4) {
            vec<float> v = get(x + r * cols + c);
            *(uint2 *)(y + r * ldy + c) = make_uint2(slc_pack_bf16(v.x[0], v.x[1]), slc_pack_bf16(v.x[2], v.x[3]));
        } else {
            y[r * ldy + c] = slc_to_bf16(x[r * cols + c]);
        }
    }
}

void slc_round_rows(slc_stream s, int64_t rows, int64_t cols, const float *x, uint16_t *y, int64_t ldy) {
    if (cols % 4 == 0)
        SLC_LAUNCH(round_kernel<4>, blocks_of(rows * cols / 4), THREADS, 0, s, rows, cols, x, y, ldy);
    else
        SLC_LAUNCH(round_kernel<1>, blocks_of(rows * cols), THREADS, 0, s, rows, cols, x, y, ldy);
}

template <int N>
__global__ void widen_kernel(int64_t rows, int64_t cols, const slc_bf16 *x, int64_t ldx, bool add, float *y) {
    int64_t across = cols / N;
    EACH(i, rows * across) {
        int64_t r = i / across, c = i % across * N;
        if (N == 4) {
            uint2 u = *(const uint2 *)(x + r * ldx + c);
            vec<float> v = {{__uint_as_float(u.x << 16), __uint_as_float(u.x & 0xffff0000u), __uint_as_float(u.y << 16),
                             __uint_as_float(u.y & 0xffff0000u)}};
            vec<float> old = add ? get(y + r * cols + c) : vec<float>{};
            for (int k = 0; k < 4; k++)
                v.x[k] += old.x[k];
            put(y + r * cols + c, v);
        } else {
            y[r * cols + c] = slc_from_bf16(x[r * ldx + c]) + (add ? y[r * cols + c] : 0);
        }
    }
}

void slc_widen_rows(slc_stream s, int64_t rows, int64_t cols, const uint16_t *x, int64_t ldx, bool add, float *y) {
    if (cols % 4 == 0)
        SLC_LAUNCH(widen_kernel<4>, blocks_of(rows * cols / 4), THREADS, 0, s, rows, cols, x, ldx, add, y);
    else
        SLC_LAUNCH(widen_kernel<1>, blocks_of(rows * cols), THREADS, 0, s, rows, cols, x, ldx, add, y);
}

/* ---- sums */

enum { DOT = 16384 }; /* elements of a piece */

__global__ void dot_kernel(int64_t n, const float *x, const float *y, float *part) {
    __shared__ float room[33];
    int64_t from = (int64_t)blockIdx.x * DOT, to = from + DOT < n ? from + DOT : n;
    float sum = 0;
    for (int64_t i = from + threadIdx.x; i < to; i += THREADS)
        sum += x[i] * y[i];
    sum = slc_block_sum(sum, room);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

int64_t slc_dot_parts(int64_t n) { return slc_div_up(n, DOT); }
void slc_dot(slc_stream s, int64_t n, const float *x, const float *y, float *part) {
    SLC_LAUNCH(dot_kernel, slc_dot_parts(n), THREADS, 0, s, n, x, y, part);
}

/* 32 columns a block, each summed by 32 threads over every 32nd row and then in order. blockIdx.y 1: of the n behind
 * the first, into h. */
__global__ void fold_kernel(int64_t count, int64_t n, int64_t stride, const float *part, float *g, float *h) {
    __shared__ float sums[32][33];
    int column = (int)threadIdx.x % 32, first = (int)threadIdx.x / 32;
    int64_t j = (int64_t)blockIdx.x * 32 + column;
    float sum = 0;
    for (int64_t i = first; j < n && i < count; i += 32)
        sum += part[i * stride + blockIdx.y * n + j];
    sums[first][column] = sum;
    __syncthreads();
    sum = slc_warp_sum(sums[column][first]); /* of column `first` */
    j = (int64_t)blockIdx.x * 32 + first;
    if (column == 0 && j < n)
        (blockIdx.y ? h : g)[j] += sum;
}

void slc_fold(slc_stream s, int64_t count, int64_t n, int64_t stride, const float *part, float *g) {
    SLC_LAUNCH(fold_kernel, slc_div_up(n, 32), 1024, 0, s, count, n, stride, part, g, nullptr);
}

void slc_fold_two(slc_stream s, int64_t count, int64_t n, const float *part, float *g, float *h) {
    SLC_LAUNCH(fold_kernel, dim3(slc_div_up(n, 32), 2), 1024, 0, s, count, n, 2 * n, part, g, h);
}

/* ---- embedding */

template <int N>
__global__ void embed_kernel(int64_t rows, int64_t dim, const int32_t *tokens, const float *e, float *out) {
    int64_t across = dim / N;
    EACH(i, rows * across) {
        int64_t r = i / across, c = i % across * N;
        if (N == 4)
            put(out + r * dim + c, get(e + tokens[r] * dim + c));
        else
            out[r * dim + c] = e[tokens[r] * dim + c];
    }
}

void slc_embed(slc_stream s, int64_t rows, int64_t dim, const int32_t *tokens, const float *e, float *out) {
    if (dim % 4 == 0)
        SLC_LAUNCH(embed_kernel<4>, blocks_of(rows * dim / 4), THREADS, 0, s, rows, dim, tokens, e, out);
    else
        SLC_LAUNCH(embed_kernel<1>, blocks_of(rows * dim), THREADS, 0, s, rows, dim, tokens, e, out);
}

/* Sorted rows in pieces of PIECE. Within a piece, rows of one token are summed in order. A token that has rows in this
 * piece alone is added to the gradient at once; else the sum is the piece's part of a token that goes on from the piece
 * before (part[2p]) or begins here and goes on (part[2p + 1]), and the second kernel adds those up in order. */
enum { PIECE = 32, EMBED_THREADS = 128 };

__global__ void embed_pieces_kernel(int64_t rows, int64_t dim, const int32_t *tokens, const int32_t *order,
                                    const float *dout, float *part, float *g) {
    __shared__ int32_t row[PIECE], token[PIECE + 2]; /* token[0] and the last: of the neighbours, -1 for none */
    int64_t first = (int64_t)blockIdx.x * PIECE, j = (int64_t)blockIdx.y * EMBED_THREADS + threadIdx.x;
    int n = rows - first < PIECE ? (int)(rows - first) : (int)PIECE;
    if ((int)threadIdx.x < n + 2) {
        int64_t at = first + threadIdx.x - 1;
        int32_t r = at >= 0 && at < rows ? order[at] : -1;
        token[threadIdx.x] = r < 0 ? -1 : tokens[r];
        if (threadIdx.x > 0 && (int)threadIdx.x <= n)
            row[threadIdx.x - 1] = r;
    }
    __syncthreads();
    if (j >= dim)
        return;
    float sum = 0;
    bool before = token[0] == token[1];
    for (int i = 0; i < n; i++) {
        sum += dout[row[i] * dim + j];
        bool ends = i == n - 1, same = token[i + 2] == token[i + 1];
        if (same && !ends)
            continue;
        if (before)
            part[2 * blockIdx.x * dim + j] = sum;
        else if (same)
            part[(2 * blockIdx.x + 1) * dim + j] = sum;
        else
            g[token[i + 1] * dim + j] += sum;
        sum = 0;
        before = false;
    }
}

/* Piece p, if a token begins in it and goes on behind it. */
__global__ void embed_joins_kernel(int64_t rows, int64_t dim, const int32_t *tokens, const int32_t *order,
                                   const float *part, float *g) {
    int64_t p = blockIdx.x, last = (p + 1) * PIECE - 1, j = (int64_t)blockIdx.y * EMBED_THREADS + threadIdx.x;
    if (last + 1 >= rows || j >= dim)
        return;
    int32_t t = tokens[order[last]];
    bool begins = p == 0 || tokens[order[p * PIECE - 1]] != t;
    if (!begins || tokens[order[last + 1]] != t)
        return;
    float sum = part[(2 * p + 1) * dim + j];
    for (p++; p * PIECE < rows && tokens[order[p * PIECE]] == t; p++)
        sum += part[2 * p * dim + j];
    g[t * dim + j] += sum;
}

int64_t slc_embed_parts(int64_t rows) { return 2 * slc_div_up(rows, PIECE); }
void slc_embed_back(slc_stream s, int64_t rows, int64_t dim, const int32_t *tokens, const int32_t *order,
                    const float *dout, float *part, float *g) {
    dim3 grid(slc_div_up(rows, PIECE), slc_div_up(dim, EMBED_THREADS));
    SLC_LAUNCH(embed_pieces_kernel, grid, EMBED_THREADS, 0, s, rows, dim, tokens, order, dout, part, g);
    SLC_LAUNCH(embed_joins_kernel, grid, EMBED_THREADS, 0, s, rows, dim, tokens, order, part, g);
}

/* ---- feed-forward: act(a) and its slope */

static __device__ __forceinline__ float logistic(float a) { return 1 / (1 + expf(-a)); }

struct silu {
    static __device__ float value(float a) { return a * logistic(a); }
    static __device__ float slope(float a, float *v) {
        float q = logistic(a);
        *v = a * q;
        return q + *v * (1 - q);
    }
};
struct sigmoid {
    static __device__ float value(float a) { return logistic(a); }
    static __device__ float slope(float a, float *v) {
        *v = logistic(a);
        return *v * (1 - *v);
    }
};
struct gelu {
    static __device__ float cdf(float a) { return 0.5f + 0.5f * erff(a * 0.70710678f); }
    static __device__ float value(float a) { return a * cdf(a); }
    static __device__ float slope(float a, float *v) {
        float c = cdf(a);
        *v = a * c;
        return c + a * 0.39894228f * expf(-0.5f * a * a);
    }
};
struct gelu_tanh { /* a logistic(w), w = 2 sqrt(2/pi) (a + 0.044715 a^3) */
    static __device__ float twice(float a) { return a * (1.5957691f + 0.071354814f * a * a); }
    static __device__ float value(float a) { return a * logistic(twice(a)); }
    static __device__ float slope(float a, float *v) {
        float c = fminf(fmaxf(a, -16.0f), 16.0f), q = logistic(twice(c)); /* 0 or 1 beyond */
        *v = a * q;
        return q + c * q * (1 - q) * (1.5957691f + 0.21406444f * c * c);
    }
};
struct relu {
    static __device__ float value(float a) { return a > 0 ? a : a != a ? a : 0; }
    static __device__ float slope(float a, float *v) {
        *v = value(a);
        return a > 0 ? 1 : 0;
    }
};
struct relu2 {
    static __device__ float value(float a) { return a > 0 ? a * a : a != a ? a : 0; }
    static __device__ float slope(float a, float *v) {
        *v = value(a);
        return a > 0 ? 2 * a : a != a ? a : 0;
    }
};

struct clamped_silu { /* c logistic(1.702 c), c = min(a, 7) */
    static __device__ float clamp(float a) { return a > 7 ? 7 : a; }
    static __device__ float value(float a) { return clamp(a) * logistic(1.702f * clamp(a)); }
    static __device__ float slope(float a, float *v) {
        float c = clamp(a), q = logistic(1.702f * c);
        *v = c * q;
        return a > 7 ? 0 : q + 1.702f * *v * (1 - q);
    }
};

/* Of the other projection. */
struct same {
    static __device__ float value(float a) { return a; }
    static __device__ float slope(float) { return 1; }
};
struct clamped_plus_one {
    static __device__ float value(float a) { return 1 + (a > 7 ? 7 : a < -7 ? -7 : a); }
    static __device__ float slope(float a) { return a > 7 || a < -7 ? 0 : 1; }
};

/* N elements of a row at a time; 1 where halves of the row are not aligned to vectors. */
template <typename T, int N, bool gated, typename act, typename other>
__global__ void ffn_kernel(slc_ffn f, const T *in, T *y) {
    int64_t across = (f.width + N - 1) / N;
    EACH(i, f.rows * across) {
        int64_t r = i / across, c = i % across * N;
        const T *a = in + r * f.ld_in + c;
        T *to = y + r * f.ld + c;
        if (N == 1) {
            float h = act::value(slc_load(a));
            slc_store(to, gated ? h * other::value(slc_load(a + f.width)) : h);
            continue;
        }
        vec<T> x = get(a), up = gated ? get(a + f.width) : x;
        for (int k = 0; k < vec<T>::N; k++)
            x.x[k] = act::value(x.x[k]) * (gated ? other::value(up.x[k]) : 1);
        put(to, x);
    }
}

template <typename T, int N, bool gated, typename act, typename other>
__global__ void ffn_back_kernel(slc_ffn f, const T *in, const T *dy, T *din) {
    int64_t across = (f.width + N - 1) / N;
    EACH(i, f.rows * across) {
        int64_t r = i / across, c = i % across * N;
        const T *a = in + r * f.ld_in + c, *d = dy + r * f.ld + c;
        T *to = din + r * f.ld_in + c;
        float h;
        if (N == 1) {
            float slope = act::slope(slc_load(a), &h), g = slc_load(d);
            float up = gated ? slc_load(a + f.width) : 0; /* before its place may take dup */
            slc_store(to, (gated ? g * other::value(up) : g) * slope);
            if (gated)
                slc_store(to + f.width, g * h * other::slope(up));
            continue;
        }
        vec<T> x = get(a), g = get(d), up = gated ? get(a + f.width) : x;
        for (int k = 0; k < vec<T>::N; k++) {
            float slope = act::slope(x.x[k], &h);
            x.x[k] = g.x[k] * (gated ? other::value(up.x[k]) : 1) * slope;
            up.x[k] = g.x[k] * h * other::slope(up.x[k]);
        }
        put(to, x);
        if (gated)
            put(to + f.width, up);
    }
}

template <typename T, bool gated, typename act, typename other>
static void ffn(slc_stream s, const slc_ffn *f, const T *in, const T *dy, T *out) {
    constexpr int N = vec<T>::N;
    bool whole = f->width % N == 0 && f->ld_in % N == 0 && f->ld % N == 0;
    int64_t blocks = blocks_of(f->rows * (whole ? f->width / N : f->width));
    if (dy && whole)
        SLC_LAUNCH((ffn_back_kernel<T, N, gated, act, other>), blocks, THREADS, 0, s, *f, in, dy, out);
    else if (dy)
        SLC_LAUNCH((ffn_back_kernel<T, 1, gated, act, other>), blocks, THREADS, 0, s, *f, in, dy, out);
    else if (whole)
        SLC_LAUNCH((ffn_kernel<T, N, gated, act, other>), blocks, THREADS, 0, s, *f, in, out);
    else
        SLC_LAUNCH((ffn_kernel<T, 1, gated, act, other>), blocks, THREADS, 0, s, *f, in, out);
}

/* dy NULL: forward. */
template <typename T> static void ffn_of(slc_stream s, const slc_ffn *f, const void *in, const void *dy, void *out) {
    static void (*const kinds[])(slc_stream, const slc_ffn *, const T *, const T *, T *) = {
#define FFN(name, gated, act, other, hf, help) ffn<T, gated, act, other>,
#include "simd/ffn.inc"
#undef FFN
    };
    kinds[f->kind](s, f, (const T *)in, (const T *)dy, (T *)out);
}

static void ffn_any(slc_stream s, const slc_ffn *f, const void *in, const void *dy, void *out) {
    if (f->bf16)
        ffn_of<slc_bf16>(s, f, in, dy, out);
    else
        ffn_of<float>(s, f, in, dy, out);
}

void slc_ffn_forward(slc_stream s, const slc_ffn *f, const void *in, void *y) { ffn_any(s, f, in, nullptr, y); }
void slc_ffn_backward(slc_stream s, const slc_ffn *f, const void *in, const void *dy, void *din) {
    ffn_any(s, f, in, dy, din);
}
