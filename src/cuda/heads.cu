#include "cuda/heads.h"

#include "cuda/wide.h"

enum { THREADS = 256 };

/* May units of so many elements be read 16 bytes at a time, where they begin at multiples of their size? */
static bool wide(bool bf16, int64_t unit, int64_t ld) { return unit % (bf16 ? 8 : 4) == 0 && ld % (bf16 ? 8 : 4) == 0; }

/* Calls run<T, V>(s, p) of the precision and of the width that p allows. */
#define BY_PRECISION(run, s, p, is_wide)                                                                               \
    ((p)->bf16 ? (is_wide) ? run<slc_bf16, 8>(s, p) : run<slc_bf16, 1>(s, p)                                           \
               : (is_wide) ? run<float, 4>(s, p) : run<float, 1>(s, p))

/* ---- rotary embedding */

/* Entries j.. + n of position t. */
static __device__ __noinline__ void make_turns(float2 *at, double base, int head_dim, int64_t t, int j, int n) {
    for (int i = 0; i < n; i++) {
        double angle = (double)t * pow(base, -2.0 * (j + i) / head_dim);
        at[i] = make_float2((float)cos(angle), (float)sin(angle));
    }
}

/* Cosine and sine are never both zero. Threads that find an entry missing put the same numbers there. */
template <int V> static __device__ __forceinline__ void turns(const slc_rope &p, int64_t t, int j, float2 turn[V]) {
    float2 *at = (float2 *)p.table + t * (p.head_dim / 2) + j;
    bool missing = false;
    SLC_UNROLL
    for (int i = 0; i < V; i++) {
        turn[i] = at[i];
        missing = missing || (turn[i].x == 0 && turn[i].y == 0);
    }
    if (!missing)
        return;
    make_turns(at, p.base, (int)p.head_dim, t, j, V);
    SLC_UNROLL
    for (int i = 0; i < V; i++)
        turn[i] = at[i];
}

enum { ROPE_HEADS = 4 }; /* of a thread: they share cosine and sine */

/* A thread has V pairs of a few heads of a row. */
template <typename T, int V> __global__ void __launch_bounds__(THREADS) slc_rope_heads(slc_rope p, int block_rows) {
    int half = (int)p.head_dim / 2, pieces = half / V, sets = ((int)p.heads + ROPE_HEADS - 1) / ROPE_HEADS;
    for (int e = (int)threadIdx.x; e < block_rows * sets * pieces; e += THREADS) {
        int64_t row = (int64_t)blockIdx.x * block_rows + e / (sets * pieces);
        int j = e % pieces * V, head = e / pieces % sets * ROPE_HEADS;
        if (row >= p.rows)
            return;
        T *lo = (T *)p.x + row * p.ld + head * p.head_dim + j;
        float2 turn[V];
        turns<V>(p, *p.position + row % p.seq, j, turn);
        float a[ROPE_HEADS][V], b[ROPE_HEADS][V];
        SLC_UNROLL
        for (int h = 0; h < ROPE_HEADS; h++)
            if (head + h < (int)p.heads) {
                load<V>(a[h], lo + h * p.head_dim);
                load<V>(b[h], lo + h * p.head_dim + half);
            }
        SLC_UNROLL
        for (int h = 0; h < ROPE_HEADS; h++)
            if (head + h < (int)p.heads) {
                SLC_UNROLL
                for (int i = 0; i < V; i++) {
                    float c = turn[i].x, s = p.sign * turn[i].y, x = a[h][i], y = b[h][i];
                    a[h][i] = x * c - y * s, b[h][i] = y * c + x * s;
                }
                store<V>(lo + h * p.head_dim, a[h]);
                store<V>(lo + h * p.head_dim + half, b[h]);
            }
    }
}

template <typename T, int V> static void run_rope(slc_stream s, const slc_rope *p) {
    int64_t items = slc_div_up(p->heads, ROPE_HEADS) * (p->head_dim / 2 / V);
    int64_t rows = slc_max(1, THREADS / items);
    auto kernel = slc_rope_heads<T, V>;
    SLC_LAUNCH(kernel, slc_div_up(p->rows, rows), THREADS, 0, s, *p, (int)rows);
}

void slc_rope_turn(slc_stream s, const slc_rope *p) {
    BY_PRECISION(run_rope, s, p, wide(p->bf16, p->head_dim / 2, p->ld));
}

/* ---- norms of q and k */

/* A head is normed by `lanes` neighbours, a power of two, which have `each` pieces of V elements or fewer. */
typedef struct {
    int lanes, each;
} norm_cut;
static norm_cut cut_of(int64_t head_dim, int v) {
    int lanes = 1;
    while (lanes < 32 && lanes * v < head_dim)
        lanes *= 2;
    return {lanes, (int)slc_div_up(head_dim, lanes * v)};
}

/* One head of a row. */
template <typename T> struct norm_head {
    int64_t row, head;
    int k; /* 0: of q, 1: of k */
    bool is;
    T *x;
    float *raw, *rstd;
};
template <typename T> static __device__ __forceinline__ norm_head<T> norm_head_at(const slc_qk_norm &p, int64_t i) {
    int64_t heads = p.heads + p.kv_heads;
    norm_head<T> h;
    h.is = i < p.rows * heads;
    h.row = h.is ? i / heads : 0, h.head = h.is ? i % heads : 0;
    h.k = h.head >= p.heads;
    h.x = (T *)p.x + h.row * p.ld + h.head * p.head_dim;
    h.raw = p.raw + (h.row * heads + h.head) * p.head_dim;
    h.rstd = p.rstd + h.row * heads + h.head;
    return h;
}

template <typename T, int V> __global__ void __launch_bounds__(THREADS) slc_qk_norm_fwd(slc_qk_norm p, norm_cut cut) {
    int lane = (int)threadIdx.x % cut.lanes, hd = (int)p.head_dim;
    norm_head<T> h = norm_head_at<T>(p, ((int64_t)blockIdx.x * THREADS + threadIdx.x) / cut.lanes);
    float x[V], w[V], sum = 0;
    for (int d = lane * V; h.is && d < hd; d += cut.lanes * V) {
        load<V>(x, h.x + d);
        store<V>(h.raw + d, x);
        SLC_UNROLL
        for (int i = 0; i < V; i++)
            sum = fmaf(x[i], x[i], sum);
    }
    sum = lanes_sum(sum, cut.lanes);
    float r = 1 / sqrtf(sum / (float)hd + p.eps);
    for (int d = lane * V; h.is && d < hd; d += cut.lanes * V) {
        if (cut.each > 1)
            load<V>(x, h.x + d);
        load<V>(w, (h.k ? p.weight[1] : p.weight[0]) + d);
        SLC_UNROLL
        for (int i = 0; i < V; i++)
            x[i] = w[i] * (x[i] * r);
        store<V>(h.x + d, x);
    }
    if (h.is && lane == 0)
        *h.rstd = r;
}

/* Blocks that sum gradients of the weights: a function of the shape alone. */
enum { NORM_BLOCKS = 528 };
static int64_t norm_blocks(int64_t items, int64_t groups) { return slc_min(slc_div_up(items, groups), NORM_BLOCKS); }

/* Each thread has a column of its own for the gradients of both weights' elements that it sees. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS) slc_qk_norm_bwd(slc_qk_norm p, norm_cut cut) {
    SLC_DYNAMIC(float, dw);
    int lane = (int)threadIdx.x % cut.lanes, hd = (int)p.head_dim, groups = THREADS / cut.lanes, tid = (int)threadIdx.x;
    int64_t items = p.rows * (p.heads + p.kv_heads), step = (int64_t)gridDim.x * groups;
    for (int i = 0; i < 2 * cut.each * V; i++)
        dw[i * THREADS + tid] = 0;
    for (int64_t first = (int64_t)blockIdx.x * groups; first < items; first += step) {
        norm_head<T> h = norm_head_at<T>(p, first + tid / cut.lanes);
        float g[V], x[V], w[V], sum = 0, r = h.is ? *h.rstd : 0;
        for (int d = lane * V; h.is && d < hd; d += cut.lanes * V) {
            load<V>(g, h.x + d);
            load<V>(x, h.raw + d);
            load<V>(w, (h.k ? p.weight[1] : p.weight[0]) + d);
            SLC_UNROLL
            for (int i = 0; i < V; i++)
                sum = fmaf(w[i] * g[i], x[i], sum);
        }
        float mean = lanes_sum(sum, cut.lanes) * r / (float)hd;
        for (int j = 0; h.is && (lane + j * cut.lanes) * V < hd; j++) {
            int d = (lane + j * cut.lanes) * V;
            if (cut.each > 1) {
                load<V>(g, h.x + d);
                load<V>(x, h.raw + d);
                load<V>(w, (h.k ? p.weight[1] : p.weight[0]) + d);
            }
            SLC_UNROLL
            for (int i = 0; i < V; i++) {
                float u = x[i] * r;
                dw[((h.k * cut.each + j) * V + i) * THREADS + tid] += g[i] * u;
                g[i] = r * (w[i] * g[i] - u * mean);
            }
            store<V>(h.x + d, g);
        }
    }
    __syncthreads();
    for (int c = tid; c < 2 * hd; c += THREADS) {
        int d = c % hd, piece = d / V;
        const float *at = dw + ((c / hd * cut.each + piece / cut.lanes) * V + d % V) * THREADS + piece % cut.lanes;
        float sum = 0;
        for (int i = 0; i < groups; i++)
            sum += at[i * cut.lanes];
        p.scratch[(int64_t)blockIdx.x * 2 * hd + c] = sum;
    }
}

/* Adds the blocks' sums: warps are 32 interleaved parts, lanes columns. */
__global__ void __launch_bounds__(1024) slc_qk_norm_fold(slc_qk_norm p, int64_t blocks) {
    __shared__ float part[32][33];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int64_t column = (int64_t)blockIdx.x * 32 + lane, hd = p.head_dim;
    float sum = 0;
    for (int64_t i = warp; column < 2 * hd && i < blocks; i += 32)
        sum += p.scratch[i * 2 * hd + column];
    part[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= 2 * hd)
        return;
    for (int i = 1; i < 32; i++)
        sum += part[i][lane];
    (column < hd ? p.dweight[0] : p.dweight[1])[column % hd] += sum;
}

template <typename T, int V> static void run_norm_forward(slc_stream s, const slc_qk_norm *p) {
    norm_cut cut = cut_of(p->head_dim, V);
    auto kernel = slc_qk_norm_fwd<T, V>;
    int64_t items = p->rows * (p->heads + p->kv_heads);
    SLC_LAUNCH(kernel, slc_div_up(items * cut.lanes, THREADS), THREADS, 0, s, *p, cut);
}

template <typename T, int V> static void run_norm_backward(slc_stream s, const slc_qk_norm *p) {
    norm_cut cut = cut_of(p->head_dim, V);
    int64_t blocks = norm_blocks(p->rows * (p->heads + p->kv_heads), THREADS / cut.lanes);
    int64_t shared = (int64_t)sizeof(float) * 2 * cut.each * V * THREADS;
    auto kernel = slc_qk_norm_bwd<T, V>;
    SLC_MORE_SHARED(kernel, shared);
    SLC_LAUNCH(kernel, blocks, THREADS, shared, s, *p, cut);
    SLC_LAUNCH(slc_qk_norm_fold, slc_div_up(2 * p->head_dim, 32), 1024, 0, s, *p, blocks);
}

static bool norm_wide(const slc_qk_norm *p) { return wide(p->bf16, p->head_dim, p->ld); }
void slc_qk_norm_forward(slc_stream s, const slc_qk_norm *p) { BY_PRECISION(run_norm_forward, s, p, norm_wide(p)); }
void slc_qk_norm_backward(slc_stream s, const slc_qk_norm *p) { BY_PRECISION(run_norm_backward, s, p, norm_wide(p)); }
size_t slc_qk_norm_scratch(const slc_qk_norm *p) {
    return sizeof(float) * (size_t)(2 * p->head_dim * NORM_BLOCKS);
}

/* ---- gates */

static __device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/* A thread has V columns of a row; they share a gate value where there is a group. */
template <typename T, int V> __global__ void __launch_bounds__(THREADS) slc_gate_fwd(slc_gate p) {
    int64_t pieces = p.n / V, e = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = e / pieces;
    int col = (int)(e - row * pieces) * V;
    if (row >= p.rows)
        return;
    float y[V], b[V];
    load<V>(y, (const T *)p.y + row * p.ld_y + col);
    const T *at = (const T *)p.b + row * p.ld_b;
    if (p.group == 1)
        load<V>(b, at + col);
    else
        b[0] = slc_load(at + col / (int)p.group);
    if (p.keep)
        store<V>((T *)p.keep + row * p.ld_keep + col, y);
    float same = sigmoid(b[0]);
    SLC_UNROLL
    for (int i = 0; i < V; i++)
        y[i] = p.open * (p.group == 1 ? sigmoid(b[i]) : same) * y[i] + (1 - p.open) * y[i];
    store<V>((T *)p.out + row * p.ld_out + col, y);
}

/* The same going back; `lanes` neighbours have the columns of a gate value between them, one piece after the other.
 * Without groups: each its own, lanes 1. */
template <typename T, int V> __global__ void __launch_bounds__(THREADS) slc_gate_bwd(slc_gate p, int lanes) {
    int64_t unit = p.group == 1 ? V : p.group, units = p.n / unit;
    int64_t e = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / lanes, row = e / units, first = e % units * unit;
    bool is = row < p.rows;
    const T *b_at = (const T *)p.b + row * p.ld_b;
    float y[V], g[V], b[V], sum = 0;
    for (int64_t d = (int)threadIdx.x % lanes * V; is && d < unit; d += lanes * V) {
        int64_t col = first + d;
        load<V>(y, (const T *)p.y + row * p.ld_y + col);
        load<V>(g, (const T *)p.dout + row * p.ld_dout + col);
        if (p.group == 1)
            load<V>(b, b_at + col);
        else
            b[0] = slc_load(b_at + first / unit);
        SLC_UNROLL
        for (int i = 0; i < V; i++) {
            float x = p.group == 1 ? b[i] : b[0], q = sigmoid(x), qg = p.open * q * g[i];
            y[i] *= qg * sigmoid(-x);
            g[i] = qg + (1 - p.open) * g[i];
            sum += y[i];
        }
        store<V>((T *)p.dy + row * p.ld_dy + col, g);
        if (p.group == 1)
            store<V>((T *)p.db + row * p.ld_db + col, y);
    }
    sum = lanes_sum(sum, lanes);
    if (is && p.group > 1 && (int)threadIdx.x % lanes == 0)
        slc_store((T *)p.db + row * p.ld_db + first / unit, sum);
}

template <typename T, int V> static void run_gate_forward(slc_stream s, const slc_gate *p) {
    auto kernel = slc_gate_fwd<T, V>;
    SLC_LAUNCH(kernel, slc_div_up(p->rows * (p->n / V), THREADS), THREADS, 0, s, *p);
}

template <typename T, int V> static void run_gate_backward(slc_stream s, const slc_gate *p) {
    int lanes = p->group == 1 ? 1 : cut_of(p->group, V).lanes;
    int64_t units = p->rows * (p->n / (p->group == 1 ? V : p->group));
    auto kernel = slc_gate_bwd<T, V>;
    SLC_LAUNCH(kernel, slc_div_up(units * lanes, THREADS), THREADS, 0, s, *p, lanes);
}

/* Pieces of 16 bytes wherever a row begins and a gate value changes, on aligned rows. */
static bool gate_wide(const slc_gate *p) {
    const void *at[] = {p->y, p->b, p->dout, p->out, p->keep, p->dy, p->db};
    const int64_t ld[] = {p->ld_y, p->ld_b, p->ld_dout, p->ld_out, p->ld_keep, p->ld_dy, p->ld_db};
    for (int i = 0; i < 7; i++)
        if (at[i] && ((uintptr_t)at[i] % 16 != 0 ||
                      ((p->group == 1 || (i != 1 && i != 6)) && !wide(p->bf16, ld[i], ld[i]))))
            return false;
    return wide(p->bf16, p->n, p->n) && (p->group == 1 || wide(p->bf16, p->group, p->group));
}
void slc_gate_forward(slc_stream s, const slc_gate *p) { BY_PRECISION(run_gate_forward, s, p, gate_wide(p)); }
void slc_gate_backward(slc_stream s, const slc_gate *p) { BY_PRECISION(run_gate_backward, s, p, gate_wide(p)); }
