#include "cuda/rwkv.h"

#include "cuda/rows.h"
#include "cuda/wide.h"

/* Row by row a warp has a head of a row where sums are over it, else a thread an element. Gradients of parameters: a
 * thread has a channel of a segment of rows. */
enum { THREADS = 128, WARPS = THREADS / 32, SEGMENT = 32 };

static __device__ __forceinline__ float at(const slc_rwkv_rows &v, bool bf16, int64_t row, int64_t j) {
    return value_at(v.p, bf16, row * v.ld + j);
}
static __device__ __forceinline__ void put(const slc_rwkv_rows &v, bool bf16, int64_t row, int64_t j, float x) {
    put_value(v.p, bf16, row * v.ld + j, v.add, x);
}
static __device__ __forceinline__ float logistic(float x) { return 1 / (1 + expf(-x)); }

static int64_t segments(int64_t rows) { return slc_div_up(rows, SEGMENT); }
static dim3 segments_grid(int64_t rows, int64_t dim) {
    return dim3((unsigned)segments(rows), (unsigned)slc_div_up(dim, THREADS));
}
/* This thread's channel, and each row of its segment. */
static __device__ __forceinline__ int64_t channel() { return (int64_t)blockIdx.y * THREADS + threadIdx.x; }
static __device__ __forceinline__ int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
#define EACH_ROW(rows, row)                                                                                            \
    for (int64_t row = (int64_t)blockIdx.x * SEGMENT, end_ = least(row + SEGMENT, rows); row < end_; row++)

/* ---- shift */

__global__ void __launch_bounds__(THREADS) shift_kernel(slc_shift o) {
    int64_t j = channel();
    if (j >= o.dim)
        return;
    EACH_ROW(o.windows * o.seq, row) {
        float x = at(o.x, o.bf16, row, j), before = row % o.seq ? at(o.x, o.bf16, row - 1, j) : 0;
        put(o.y, o.bf16, row, j, fmaf(before - x, o.mu[j], x));
    }
}
__global__ void __launch_bounds__(THREADS) shift_step_kernel(slc_shift o, float *state, const int32_t *position) {
    int64_t j = channel();
    if (j >= o.dim)
        return;
    EACH_ROW(o.windows, row) {
        float x = at(o.x, o.bf16, row, j), before = *position ? state[row * o.dim + j] : 0;
        put(o.y, o.bf16, row, j, fmaf(before - x, o.mu[j], x));
        state[row * o.dim + j] = x;
    }
}
__global__ void __launch_bounds__(THREADS)
    shift_back_kernel(slc_shift o, slc_rwkv_rows dy, slc_rwkv_rows dx, float *part) {
    float sum = 0;
    int64_t j = channel();
    if (j >= o.dim)
        return;
    EACH_ROW(o.windows * o.seq, row) {
        int64_t t = row % o.seq;
        float g = at(dy, o.bf16, row, j), next = t + 1 < o.seq ? at(dy, o.bf16, row + 1, j) : 0;
        float before = t ? at(o.x, o.bf16, row - 1, j) : 0;
        put(dx, o.bf16, row, j, fmaf(next - g, o.mu[j], g));
        sum = fmaf(g, before - at(o.x, o.bf16, row, j), sum);
    }
    part[blockIdx.x * o.dim + j] = sum;
}

void slc_shift_forward(slc_stream s, const slc_shift *o) {
    SLC_LAUNCH(shift_kernel, segments_grid(o->windows * o->seq, o->dim), THREADS, 0, s, *o);
}
void slc_shift_step(slc_stream s, const slc_shift *o, float *state, const int32_t *position) {
    SLC_LAUNCH(shift_step_kernel, segments_grid(o->windows, o->dim), THREADS, 0, s, *o, state, position);
}
int64_t slc_shift_floats(int64_t rows, int64_t dim) { return segments(rows) * dim; }
void slc_shift_backward(slc_stream s, const slc_shift *o, slc_rwkv_rows dy, slc_rwkv_rows dx, float *dmu,
                        float *scratch) {
    int64_t rows = o->windows * o->seq;
    SLC_LAUNCH(shift_back_kernel, segments_grid(rows, o->dim), THREADS, 0, s, *o, dy, dx, scratch);
    slc_fold(s, segments(rows), o->dim, o->dim, scratch, dmu);
}

/* ---- squash */

__global__ void __launch_bounds__(THREADS)
    squash_kernel(bool bf16, bool tanh, int64_t rows, int64_t dim, slc_rwkv_rows x, slc_rwkv_rows y) {
    int64_t j = channel();
    if (j >= dim)
        return;
    EACH_ROW(rows, row) {
        float v = at(x, bf16, row, j);
        put(y, bf16, row, j, tanh ? tanhf(v) : logistic(v));
    }
}
__global__ void __launch_bounds__(THREADS) squash_back_kernel(bool bf16, bool tanh, int64_t rows, int64_t dim,
                                                              slc_rwkv_rows x, slc_rwkv_rows dy, slc_rwkv_rows dx) {
    int64_t j = channel();
    if (j >= dim)
        return;
    EACH_ROW(rows, row) {
        float v = at(x, bf16, row, j), q = tanh ? tanhf(v) : logistic(v);
        put(dx, bf16, row, j, at(dy, bf16, row, j) * (tanh ? 1 - q * q : q * (1 - q)));
    }
}

void slc_squash_forward(slc_stream s, bool bf16, bool tanh, int64_t rows, int64_t dim, slc_rwkv_rows x,
                        slc_rwkv_rows y) {
    SLC_LAUNCH(squash_kernel, segments_grid(rows, dim), THREADS, 0, s, bf16, tanh, rows, dim, x, y);
}
void slc_squash_backward(slc_stream s, bool bf16, bool tanh, int64_t rows, int64_t dim, slc_rwkv_rows x,
                         slc_rwkv_rows dy, slc_rwkv_rows dx) {
    SLC_LAUNCH(squash_back_kernel, segments_grid(rows, dim), THREADS, 0, s, bf16, tanh, rows, dim, x, dy, dx);
}

/* ---- values: in v, first, z */

__global__ void __launch_bounds__(THREADS) values_kernel(slc_rwkv o) {
    int64_t j = channel();
    if (j >= o.dim)
        return;
    EACH_ROW(o.rows, row) {
        float v = at(o.in[0], o.bf16, row, j), q = logistic(at(o.in[2], o.bf16, row, j) + o.param[0][j]);
        put(o.out, o.bf16, row, j, fmaf(at(o.in[1], o.bf16, row, j) - v, q, v));
    }
}
__global__ void __launch_bounds__(THREADS) values_back_kernel(slc_rwkv o, slc_rwkv_back b) {
    float sum = 0;
    int64_t j = channel();
    if (j >= o.dim)
        return;
    EACH_ROW(o.rows, row) {
        float v = at(o.in[0], o.bf16, row, j), q = logistic(at(o.in[2], o.bf16, row, j) + o.param[0][j]);
        float g = at(b.dout, o.bf16, row, j), dz = g * (at(o.in[1], o.bf16, row, j) - v) * q * (1 - q);
        put(b.din[0], o.bf16, row, j, g * (1 - q));
        put(b.din[1], o.bf16, row, j, g * q);
        put(b.din[2], o.bf16, row, j, dz);
        sum += dz;
    }
    b.scratch[blockIdx.x * o.dim + j] = sum;
}

void slc_rwkv_values_forward(slc_stream s, const slc_rwkv *o) {
    SLC_LAUNCH(values_kernel, segments_grid(o->rows, o->dim), THREADS, 0, s, *o);
}
void slc_rwkv_values_backward(slc_stream s, const slc_rwkv *o, const slc_rwkv_back *b) {
    SLC_LAUNCH(values_back_kernel, segments_grid(o->rows, o->dim), THREADS, 0, s, *o, *b);
    slc_fold(s, segments(o->rows), o->dim, o->dim, b->scratch, b->dparam[0]);
}

/* ---- a warp's head of a row */

struct piece {
    bool is;
    int64_t row, head, first; /* its first channel */
    int lane;
};
static __device__ __forceinline__ piece piece_at(const slc_rwkv &o) {
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, heads = o.dim / o.head_dim;
    return {i < o.rows * heads, i / heads, i % heads, i % heads * o.head_dim, (int)threadIdx.x % 32};
}
#define EACH_CHANNEL(o, p, j) for (int64_t j = (p).first + (p).lane; j < (p).first + (o).head_dim; j += 32)
static int64_t pieces(const slc_rwkv *o) { return slc_div_up(o->rows * (o->dim / o->head_dim), WARPS); }

/* ---- keys: in k, z; parameters k_k, k_a, a0 */

static __device__ __forceinline__ float rate_at(const slc_rwkv &o, int64_t row, int64_t j) {
    return logistic(at(o.in[1], o.bf16, row, j) + o.param[2][j]);
}
/* 1 / the length of k k_k. */
static __device__ __forceinline__ float inverse_length(const slc_rwkv &o, const piece &p) {
    float square = 0;
    EACH_CHANNEL(o, p, j) {
        float u = at(o.in[0], o.bf16, p.row, j) * o.param[0][j];
        square = fmaf(u, u, square);
    }
    return 1 / fmaxf(sqrtf(slc_warp_sum(square)), 1e-12f);
}
__global__ void __launch_bounds__(THREADS) keys_kernel(slc_rwkv o) {
    piece p = piece_at(o);
    if (!p.is)
        return;
    float inverse = inverse_length(o, p);
    EACH_CHANNEL(o, p, j) {
        float k = at(o.in[0], o.bf16, p.row, j), a = rate_at(o, p.row, j), kappa = k * o.param[0][j] * inverse;
        put(o.out, o.bf16, p.row, j, k * fmaf(a - 1, o.param[1][j], 1));
        put(o.out, o.bf16, p.row, o.dim + j, kappa);
        put(o.out, o.bf16, p.row, 2 * o.dim + j, kappa * a);
    }
}
/* dk and dz; 1 / length and <kappa, dkappa> of each head to scratch. */
__global__ void __launch_bounds__(THREADS) keys_back_kernel(slc_rwkv o, slc_rwkv_back b) {
    piece p = piece_at(o);
    if (!p.is)
        return;
    float inverse = inverse_length(o, p), along = 0;
    EACH_CHANNEL(o, p, j) {
        float kappa = at(o.in[0], o.bf16, p.row, j) * o.param[0][j] * inverse, a = rate_at(o, p.row, j);
        along = fmaf(kappa, fmaf(at(b.dout, o.bf16, p.row, 2 * o.dim + j), a,
                                 at(b.dout, o.bf16, p.row, o.dim + j)), along);
    }
    along = inverse < .99e12f ? slc_warp_sum(along) : 0;
    EACH_CHANNEL(o, p, j) {
        float k = at(o.in[0], o.bf16, p.row, j), a = rate_at(o, p.row, j), kappa = k * o.param[0][j] * inverse;
        float write = at(b.dout, o.bf16, p.row, j), taken = at(b.dout, o.bf16, p.row, 2 * o.dim + j);
        float du = inverse * (fmaf(taken, a, at(b.dout, o.bf16, p.row, o.dim + j)) - kappa * along);
        put(b.din[0], o.bf16, p.row, j, write * fmaf(a - 1, o.param[1][j], 1) + du * o.param[0][j]);
        put(b.din[1], o.bf16, p.row, j, (taken * kappa + write * k * o.param[1][j]) * a * (1 - a));
    }
    if (p.lane == 0) {
        float *to = b.scratch + 2 * (p.row * (o.dim / o.head_dim) + p.head);
        to[0] = inverse, to[1] = along;
    }
}
__global__ void __launch_bounds__(THREADS) keys_params_kernel(slc_rwkv o, slc_rwkv_back b, float *part) {
    float sum[SLC_RWKV_PARAMS] = {};
    int64_t j = channel();
    if (j >= o.dim)
        return;
    EACH_ROW(o.rows, row) {
        const float *head = b.scratch + 2 * (row * (o.dim / o.head_dim) + j / o.head_dim);
        float k = at(o.in[0], o.bf16, row, j), a = rate_at(o, row, j), kappa = k * o.param[0][j] * head[0];
        float write = at(b.dout, o.bf16, row, j), taken = at(b.dout, o.bf16, row, 2 * o.dim + j);
        float du = head[0] * (fmaf(taken, a, at(b.dout, o.bf16, row, o.dim + j)) - kappa * head[1]);
        sum[0] = fmaf(du, k, sum[0]);
        sum[1] = fmaf(write * k, a - 1, sum[1]);
        sum[2] += (taken * kappa + write * k * o.param[1][j]) * a * (1 - a);
    }
    for (int i = 0; i < SLC_RWKV_PARAMS; i++)
        part[(blockIdx.x * SLC_RWKV_PARAMS + i) * o.dim + j] = sum[i];
}

static int64_t head_floats(int64_t rows, int64_t dim, int64_t head_dim) { return 2 * rows * (dim / head_dim); }
int64_t slc_rwkv_floats(int64_t rows, int64_t dim, int64_t head_dim) {
    return head_floats(rows, dim, head_dim) + segments(rows) * SLC_RWKV_PARAMS * dim;
}
static float *part_of(const slc_rwkv *o, const slc_rwkv_back *b) {
    return b->scratch + head_floats(o->rows, o->dim, o->head_dim);
}
static void fold_params(slc_stream s, const slc_rwkv *o, const slc_rwkv_back *b) {
    for (int i = 0; i < SLC_RWKV_PARAMS; i++)
        slc_fold(s, segments(o->rows), o->dim, SLC_RWKV_PARAMS * o->dim, part_of(o, b) + i * o->dim, b->dparam[i]);
}

void slc_rwkv_keys_forward(slc_stream s, const slc_rwkv *o) {
    SLC_LAUNCH(keys_kernel, pieces(o), THREADS, 0, s, *o);
}
void slc_rwkv_keys_backward(slc_stream s, const slc_rwkv *o, const slc_rwkv_back *b) {
    SLC_LAUNCH(keys_back_kernel, pieces(o), THREADS, 0, s, *o, *b);
    SLC_LAUNCH(keys_params_kernel, segments_grid(o->rows, o->dim), THREADS, 0, s, *o, *b, part_of(o, b));
    fold_params(s, o, b);
}

/* ---- output: in y, r, keys, v, g; parameters weight and bias of the norm, r_k */

/* <r k, r_k> */
static __device__ __forceinline__ float bonus_of(const slc_rwkv &o, const piece &p) {
    float sum = 0;
    EACH_CHANNEL(o, p, j)
        sum = fmaf(at(o.in[1], o.bf16, p.row, j) * at(o.in[2], o.bf16, p.row, j), o.param[2][j], sum);
    return slc_warp_sum(sum);
}
__global__ void __launch_bounds__(THREADS) output_kernel(slc_rwkv o) {
    piece p = piece_at(o);
    if (!p.is)
        return;
    float sum = 0, square = 0, n = (float)o.head_dim, bonus = bonus_of(o, p);
    EACH_CHANNEL(o, p, j)
        sum += at(o.in[0], o.bf16, p.row, j);
    float mean = slc_warp_sum(sum) / n;
    EACH_CHANNEL(o, p, j) {
        float y = at(o.in[0], o.bf16, p.row, j) - mean;
        square = fmaf(y, y, square);
    }
    float rstd = 1 / sqrtf(slc_warp_sum(square) / n + o.eps);
    EACH_CHANNEL(o, p, j) {
        float normed = (at(o.in[0], o.bf16, p.row, j) - mean) * rstd * o.param[0][j] + o.param[1][j];
        put(o.out, o.bf16, p.row, j,
            fmaf(bonus, at(o.in[3], o.bf16, p.row, j), normed) * at(o.in[4], o.bf16, p.row, j));
    }
    if (p.lane == 0) {
        int64_t i = p.row * (o.dim / o.head_dim) + p.head;
        o.mean[i] = mean, o.rstd[i] = rstd;
    }
}
/* Gradients of all inputs; <dt, v> of each head, dt that of what the gate multiplies, to scratch. */
__global__ void __launch_bounds__(THREADS) output_back_kernel(slc_rwkv o, slc_rwkv_back b) {
    piece p = piece_at(o);
    if (!p.is)
        return;
    int64_t i = p.row * (o.dim / o.head_dim) + p.head;
    float mean = o.mean[i], rstd = o.rstd[i], bonus = bonus_of(o, p), n = (float)o.head_dim;
    float along = 0, whole = 0, tilted = 0;
    EACH_CHANNEL(o, p, j) {
        float dt = at(b.dout, o.bf16, p.row, j) * at(o.in[4], o.bf16, p.row, j), dn = dt * o.param[0][j];
        along = fmaf(dt, at(o.in[3], o.bf16, p.row, j), along);
        whole += dn;
        tilted = fmaf(dn, (at(o.in[0], o.bf16, p.row, j) - mean) * rstd, tilted);
    }
    along = slc_warp_sum(along), whole = slc_warp_sum(whole) / n, tilted = slc_warp_sum(tilted) / n;
    EACH_CHANNEL(o, p, j) {
        float g = at(b.dout, o.bf16, p.row, j), dt = g * at(o.in[4], o.bf16, p.row, j);
        float r = at(o.in[1], o.bf16, p.row, j), k = at(o.in[2], o.bf16, p.row, j), v = at(o.in[3], o.bf16, p.row, j);
        float normed = (at(o.in[0], o.bf16, p.row, j) - mean) * rstd;
        put(b.din[0], o.bf16, p.row, j, rstd * (dt * o.param[0][j] - whole - normed * tilted));
        put(b.din[1], o.bf16, p.row, j, along * k * o.param[2][j]);
        put(b.din[2], o.bf16, p.row, j, along * r * o.param[2][j]);
        put(b.din[3], o.bf16, p.row, j, bonus * dt);
        put(b.din[4], o.bf16, p.row, j, g * fmaf(bonus, v, normed * o.param[0][j] + o.param[1][j]));
    }
    if (p.lane == 0)
        b.scratch[i] = along;
}
__global__ void __launch_bounds__(THREADS) output_params_kernel(slc_rwkv o, slc_rwkv_back b, float *part) {
    float sum[SLC_RWKV_PARAMS] = {};
    int64_t j = channel();
    if (j >= o.dim)
        return;
    EACH_ROW(o.rows, row) {
        int64_t i = row * (o.dim / o.head_dim) + j / o.head_dim;
        float dt = at(b.dout, o.bf16, row, j) * at(o.in[4], o.bf16, row, j);
        sum[0] = fmaf(dt, (at(o.in[0], o.bf16, row, j) - o.mean[i]) * o.rstd[i], sum[0]);
        sum[1] += dt;
        sum[2] = fmaf(b.scratch[i] * at(o.in[1], o.bf16, row, j), at(o.in[2], o.bf16, row, j), sum[2]);
    }
    for (int k = 0; k < SLC_RWKV_PARAMS; k++)
        part[(blockIdx.x * SLC_RWKV_PARAMS + k) * o.dim + j] = sum[k];
}

void slc_rwkv_output_forward(slc_stream s, const slc_rwkv *o) {
    SLC_LAUNCH(output_kernel, pieces(o), THREADS, 0, s, *o);
}
void slc_rwkv_output_backward(slc_stream s, const slc_rwkv *o, const slc_rwkv_back *b) {
    SLC_LAUNCH(output_back_kernel, pieces(o), THREADS, 0, s, *o, *b);
    SLC_LAUNCH(output_params_kernel, segments_grid(o->rows, o->dim), THREADS, 0, s, *o, *b, part_of(o, b));
    fold_params(s, o, b);
}

/* ---- the recurrence: a block has a head of a window, a thread a channel c of its values. The state is in shared
 * memory, number j of channel c at j stride + c, and so are the vectors of a position. Sums over values are taken by
 * the threads once more as channels of keys. */

enum { R, W, V, KEYS };
enum { MOST_THREADS = 256, VECTORS = 10 };

struct position {
    float *r, *w, *k, *at, *by, *slope, *v, *dy, *de, *e;
};
struct room {
    int n, stride;
    position p;
    float *states; /* 1, or 3, of n stride floats */
};
static __device__ __forceinline__ room room_at(const slc_wkv7 &o, float *shared) {
    int n = (int)o.head_dim;
    return {n, n + 1,
            {shared, shared + n, shared + 2 * n, shared + 3 * n, shared + 4 * n, shared + 5 * n, shared + 6 * n,
             shared + 7 * n, shared + 8 * n, shared + 9 * n},
            shared + VECTORS * n};
}
static int64_t shared_bytes(int64_t n, int states) {
    return (VECTORS * n + states * n * (n + 1)) * (int64_t)sizeof(float);
}
#define EACH(n, i) for (int i = (int)threadIdx.x; i < (n); i += (int)blockDim.x)

struct place {
    int64_t window, head, first; /* its first channel */
};
static __device__ __forceinline__ place place_at(const slc_wkv7 &o) {
    int64_t head = blockIdx.x % o.heads;
    return {blockIdx.x / o.heads, head, head * o.head_dim};
}

static __device__ __forceinline__ void stage_position(const slc_wkv7 &o, const place &a, const room &m, int64_t row) {
    int64_t dim = o.heads * o.head_dim;
    EACH(m.n, i) {
        int64_t j = a.first + i;
        float q = logistic(at(o.in[W], o.bf16, row, j) + o.w0[j]), w = expf(-o.rate * q);
        m.p.r[i] = at(o.in[R], o.bf16, row, j);
        m.p.v[i] = at(o.in[V], o.bf16, row, j);
        m.p.k[i] = at(o.in[KEYS], o.bf16, row, j);
        m.p.at[i] = at(o.in[KEYS], o.bf16, row, dim + j);
        m.p.by[i] = at(o.in[KEYS], o.bf16, row, 2 * dim + j);
        m.p.w[i] = w, m.p.slope[i] = -o.rate * w * q * (1 - q);
    }
}

/* What a channel's state s holds at the key. */
static __device__ __forceinline__ float held_by(const room &m, const float *s, int c) {
    float held = 0;
    for (int j = 0; j < m.n; j++)
        held = fmaf(s[j * m.stride + c], m.p.at[j], held);
    return held;
}
/* The state goes on by a position; its result of channel c. */
static __device__ __forceinline__ float advance(const room &m, float *s, int c) {
    float held = held_by(m, s, c), v = m.p.v[c], y = 0;
    for (int j = 0; j < m.n; j++) {
        float x = fmaf(v, m.p.k[j], s[j * m.stride + c] * m.p.w[j] - held * m.p.by[j]);
        s[j * m.stride + c] = x;
        y = fmaf(x, m.p.r[j], y);
    }
    return y;
}

/* Between shared memory and global, where states are [head_dim, head_dim]; NULL: zeros. */
static __device__ __forceinline__ void load_state(const room &m, const float *from, float *s) {
    EACH(m.n * m.n, i) s[i / m.n * m.stride + i % m.n] = from ? from[i] : 0;
}
static __device__ __forceinline__ void save_state(const room &m, const float *s, float *to) {
    EACH(m.n * m.n, i) to[i] = s[i / m.n * m.stride + i % m.n];
}

__global__ void __launch_bounds__(MOST_THREADS) wkv7_kernel(slc_wkv7 o) {
    SLC_DYNAMIC(float, shared);
    room m = room_at(o, shared);
    place a = place_at(o);
    int64_t size = o.head_dim * o.head_dim, chunks = (o.seq + SLC_WKV7_CHUNK - 1) / SLC_WKV7_CHUNK;
    float *s = m.states, *state = o.state ? o.state + blockIdx.x * size : NULL;
    load_state(m, state && *o.position ? state : NULL, s);
    for (int64_t t = 0; t < o.seq; t++) {
        int64_t row = a.window * o.seq + t;
        __syncthreads();
        if (o.states && t % SLC_WKV7_CHUNK == 0)
            save_state(m, s, o.states + (blockIdx.x * chunks + t / SLC_WKV7_CHUNK) * size);
        stage_position(o, a, m, row);
        __syncthreads();
        EACH(m.n, c) put(o.out, o.bf16, row, a.first + c, advance(m, s, c));
    }
    __syncthreads();
    if (state)
        save_state(m, s, state);
}

/* Of a position: d, the gradient of the state behind it, becomes that before it; s0 and s1 are the states around it.
 * dw0 is added to. */
static __device__ __forceinline__ void position_back(const slc_wkv7 &o, const place &a, const room &m, int64_t row,
                                                     const float *s0, const float *s1, float *d,
                                                     const slc_rwkv_rows *din, float *dw0) {
    int64_t dim = o.heads * o.head_dim;
    EACH(m.n, c) {
        float dv = 0, de = 0;
        for (int j = 0; j < m.n; j++) {
            float g = fmaf(m.p.dy[c], m.p.r[j], d[j * m.stride + c]);
            d[j * m.stride + c] = g;
            dv = fmaf(g, m.p.k[j], dv), de = fmaf(-g, m.p.by[j], de);
        }
        m.p.de[c] = de, m.p.e[c] = held_by(m, s0, c);
        put(din[V], o.bf16, row, a.first + c, dv);
    }
    __syncthreads();
    EACH(m.n, j) {
        float dr = 0, dw = 0, dk = 0, dat = 0, dby = 0;
        for (int c = 0; c < m.n; c++) {
            float g = d[j * m.stride + c], before = s0[j * m.stride + c];
            dr = fmaf(m.p.dy[c], s1[j * m.stride + c], dr), dw = fmaf(g, before, dw), dk = fmaf(g, m.p.v[c], dk);
            dat = fmaf(m.p.de[c], before, dat), dby = fmaf(-m.p.e[c], g, dby);
            d[j * m.stride + c] = fmaf(g, m.p.w[j], m.p.de[c] * m.p.at[j]);
        }
        dw *= m.p.slope[j], dw0[a.first + j] += dw;
        put(din[R], o.bf16, row, a.first + j, dr), put(din[W], o.bf16, row, a.first + j, dw);
        put(din[KEYS], o.bf16, row, a.first + j, dk), put(din[KEYS], o.bf16, row, dim + a.first + j, dat);
        put(din[KEYS], o.bf16, row, 2 * dim + a.first + j, dby);
    }
}

struct gradients {
    slc_rwkv_rows dout, din[4];
    float *dw0, *between; /* [windows, dim]; states of a chunk, of each block */
};
__global__ void __launch_bounds__(MOST_THREADS) wkv7_back_kernel(slc_wkv7 o, gradients b) {
    SLC_DYNAMIC(float, shared);
    room m = room_at(o, shared);
    place a = place_at(o);
    int64_t size = o.head_dim * o.head_dim, chunks = (o.seq + SLC_WKV7_CHUNK - 1) / SLC_WKV7_CHUNK;
    float *d = m.states, *s0 = d + m.n * m.stride, *s1 = s0 + m.n * m.stride;
    float *dw0 = b.dw0 + a.window * o.heads * o.head_dim, *between = b.between + blockIdx.x * SLC_WKV7_CHUNK * size;
    EACH(m.n, j) dw0[a.first + j] = 0;
    load_state(m, NULL, d);
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        int64_t first = chunk * SLC_WKV7_CHUNK, end = least(first + SLC_WKV7_CHUNK, o.seq);
        load_state(m, o.states + (blockIdx.x * chunks + chunk) * size, s1);
        for (int64_t t = first; t < end; t++) {
            __syncthreads();
            save_state(m, s1, between + (t - first) * size);
            stage_position(o, a, m, a.window * o.seq + t);
            __syncthreads();
            EACH(m.n, c) advance(m, s1, c);
        }
        for (int64_t t = end - 1; t >= first; t--) {
            int64_t row = a.window * o.seq + t;
            __syncthreads();
            load_state(m, between + (t - first) * size, s0);
            stage_position(o, a, m, row);
            EACH(m.n, c) m.p.dy[c] = at(b.dout, o.bf16, row, a.first + c);
            __syncthreads();
            position_back(o, a, m, row, s0, s1, d, b.din, dw0);
            float *swap = s0;
            s0 = s1, s1 = swap;
        }
        __syncthreads();
    }
}

static int threads_of(const slc_wkv7 *o) {
    return (int)slc_min(slc_div_up(o->head_dim, 32) * 32, MOST_THREADS);
}
int64_t slc_wkv7_head_dim(void) {
    int64_t n = 2;
    while (shared_bytes(n + 1, 3) <= slc_most_shared())
        n++;
    return n;
}
void slc_wkv7_forward(slc_stream s, const slc_wkv7 *o) {
    int64_t bytes = shared_bytes(o->head_dim, 1);
    SLC_MORE_SHARED(wkv7_kernel, bytes);
    SLC_LAUNCH(wkv7_kernel, o->windows * o->heads, threads_of(o), bytes, s, *o);
}
int64_t slc_wkv7_floats(const slc_wkv7 *o) {
    return o->windows * o->heads * (SLC_WKV7_CHUNK * o->head_dim * o->head_dim + o->head_dim);
}
void slc_wkv7_backward(slc_stream s, const slc_wkv7 *o, slc_rwkv_rows dout, const slc_rwkv_rows din[4], float *dw0,
                       float *scratch) {
    int64_t bytes = shared_bytes(o->head_dim, 3), dim = o->heads * o->head_dim;
    gradients b = {dout, {din[0], din[1], din[2], din[3]}, scratch, scratch + o->windows * dim};
    SLC_MORE_SHARED(wkv7_back_kernel, bytes);
    SLC_LAUNCH(wkv7_back_kernel, o->windows * o->heads, threads_of(o), bytes, s, *o, b);
    slc_fold(s, o->windows, dim, dim, scratch, dw0);
}
