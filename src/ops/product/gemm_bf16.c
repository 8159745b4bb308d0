#include "ops/product/gemm_bf16.h"

#include "base/mem.h"
#include "base/threads.h"

#include <string.h>

enum {
    NR = SL_BF16_NR,
    KR = SL_BF16_KR,
    /* Forward and input gradient. */
    K_CHUNK = 512,        /* of a panel at a time (32 KiB), while rows of A stream past it */
    C_BLOCK = 16 * 1024,  /* floats of C at a time: still near when the epilogue reads them */
    B_SLICE = 256 * 1024, /* elements of B that stay in L2 while rows of A stream past them */
    ITEM_ROWS = 128,      /* rows of an item: B's panels come from L2 once for so many */
    ITEMS = 6,            /* for each thread, so that none waits long for a slow one */
    /* Weight gradient. */
    M_CHUNK = 512, /* rows of x and dy that are transposed and packed at a time */
    PARTIALS = 2 << 20, /* floats of all partial sums; small gradients are summed in parts of m */
    JOB_ROWS = 16,
    JOB_COLS = 24, /* the largest piece of dw (or its transpose), in units of 32 */
    AT_LD = M_CHUNK + KR,
};

struct sl_gemm_bf16_work {
    int threads;
    int64_t size; /* bytes of one thread's scratch */
    char *scratch;
    float *partials;
};

static int64_t at_least(int64_t x, int64_t lo) { return x > lo ? x : lo; }
static int64_t at_most(int64_t x, int64_t hi) { return x < hi ? x : hi; }
static int64_t div_up(int64_t x, int64_t y) { return (x + y - 1) / y; }
static int64_t round_up(int64_t x, int64_t y) { return div_up(x, y) * y; }

enum {
    AT_BYTES = JOB_ROWS * 32 * AT_LD * 2,
    PANELS_BYTES = JOB_COLS * NR * M_CHUNK * 2,
    CT_BYTES = JOB_ROWS * 32 * JOB_COLS * NR * 4,
    WGRAD_BYTES = AT_BYTES + PANELS_BYTES + CT_BYTES,
    BLOCK_BYTES = C_BLOCK * 4,
};

sl_gemm_bf16_work *sl_gemm_bf16_work_new(int threads) {
    sl_gemm_bf16_work *w = sl_alloc(sizeof *w, "the bf16 product's scratch");
    if (!w)
        return NULL;
    w->threads = threads;
    w->size = round_up(at_least(WGRAD_BYTES, BLOCK_BYTES), 4096);
    w->scratch = sl_alloc_threads(threads, (size_t)w->size, "the bf16 product's scratch");
    w->partials = sl_alloc(PARTIALS * sizeof(float), "the bf16 product's scratch");
    if (!w->scratch || !w->partials) {
        sl_gemm_bf16_work_free(w);
        return NULL;
    }
    return w;
}

void sl_gemm_bf16_work_free(sl_gemm_bf16_work *w) {
    if (w) {
        sl_free(w->scratch);
        sl_free(w->partials);
    }
    sl_free(w);
}

/* ---- packing weights */

typedef struct {
    const sl_kernels *kn;
    int64_t n, k, ldw, fwd_stride, back_stride;
    const float *w;
    sl_bf16 *fwd, *back;
} pack_job;

/* 32 rows of w: one panel forward, 32 rows of k in every panel backward. */
static void pack_item(void *ctx, int64_t item, int thread) {
    const pack_job *p = ctx;
    (void)thread;
    int64_t row = item * NR, rows = at_most(p->n - row, NR);
    const float *w = p->w + row * p->ldw;
    if (p->fwd)
        p->kn->pack_bt_f32(rows, p->k, w, p->ldw, p->fwd + item * p->fwd_stride);
    for (int64_t j = 0; p->back && j < p->k; j += NR)
        p->kn->pack_b_f32(at_most(p->k - j, NR), rows, w + j, p->ldw,
                          p->back + j / NR * p->back_stride + row * NR);
}

void sl_gemm_bf16_pack(const sl_kernels *kn, int64_t n, int64_t k, const float *w, int64_t ldw,
                       sl_bf16 *fwd, int64_t fwd_stride, sl_bf16 *back, int64_t back_stride) {
    pack_job p = {kn, n, k, ldw, fwd_stride, back_stride, w, fwd, back};
    sl_parallel(div_up(n, NR), pack_item, &p);
}

/* ---- forward and input gradient */

typedef struct {
    const sl_kernels *kn;
    const sl_gemm_bf16_work *w;
    const sl_gemm_bf16_args *g;
    int64_t rows, groups, down; /* an item is `rows` rows x so many groups; items one below another */
    int64_t k_chunk;
} gemm_job;

/* One block of C, [rows x cols] at (row, col), into c. */
static void gemm_block(const gemm_job *j, int64_t row, int64_t rows, int64_t col, int64_t cols,
                       float *c, int64_t ldc, int add) {
    const sl_gemm_bf16_args *g = j->g;
    int64_t kp = sl_bf16_kpad(g->k);
    for (int64_t n = 0; n < cols; n += NR) {
        const sl_bf16 *panel = g->b + (col + n) * kp;
        for (int64_t kk = 0; kk < kp; kk += j->k_chunk)
            j->kn->gemm_bf16(rows, at_most(cols - n, NR), at_most(kp - kk, j->k_chunk),
                             g->a + row * g->lda + kk, g->lda, panel + kk * NR, c + n, ldc,
                             add || kk > 0);
    }
}

static void gemm_item(void *ctx, int64_t item, int thread) {
    const gemm_job *j = ctx;
    const sl_gemm_bf16_args *g = j->g;
    float *block = (float *)(j->w->scratch + thread * j->w->size);
    int64_t width = (int64_t)g->group * NR;
    int64_t most = at_least(C_BLOCK / width / KR * KR, KR);
    int64_t first = item % j->down * j->rows, last = at_most(first + j->rows, g->m);
    int64_t left = item / j->down * j->groups * width;
    int64_t right = at_most(left + j->groups * width, g->n);
    for (int64_t col = left; col < right; col += width) {
        int64_t cols = at_most(right - col, width);
        for (int64_t row = first; row < last; row += most) {
            int64_t rows = at_most(last - row, most);
            if (g->c) {
                gemm_block(j, row, rows, col, cols, g->c + row * g->ldc + col, g->ldc, g->add);
            } else {
                gemm_block(j, row, rows, col, cols, block, width, 0);
                g->epilogue(g->ctx, row, rows, col, cols, block, width, thread);
            }
        }
    }
}

/* Items of a slice of B that fits L2 by a few rows; narrower, then lower, where that gives too few. */
static void gemm_cut(gemm_job *j, int64_t groups, int64_t width, int64_t kp, int64_t threads) {
    int64_t m = j->g->m;
    j->rows = at_most(round_up(m, KR), ITEM_ROWS);
    int64_t across = div_up(groups, at_least(B_SLICE / (width * kp), 1));
    while (div_up(m, j->rows) * across < ITEMS * threads) {
        if (2 * across <= groups)
            across *= 2;
        else if (j->rows > KR)
            j->rows = round_up(j->rows / 2, KR);
        else
            break;
    }
    j->groups = div_up(groups, across);
    j->down = div_up(m, j->rows);
}

void sl_gemm_bf16(const sl_kernels *kn, sl_gemm_bf16_work *w, const sl_gemm_bf16_args *g) {
    if (g->m <= 0 || g->n <= 0)
        return;
    int64_t kp = sl_bf16_kpad(g->k), width = (int64_t)g->group * NR, groups = div_up(g->n, width);
    gemm_job j = {.kn = kn, .w = w, .g = g};
    gemm_cut(&j, groups, width, kp, w->threads);
    j.k_chunk = round_up(div_up(kp, div_up(kp, K_CHUNK)), KR);
    sl_parallel(j.down * div_up(groups, j.groups), gemm_item, &j);
}

/* ---- weight gradient */

/* C[na, nb] = P[m, na]^T Q[m, nb]: P is transposed into rows, Q is packed into panels. The narrower
 * of x and dy is P, since transposing costs three times as much as packing; if that is x, C is
 * dw^T. A small C is summed in parts of m, which then are added up: jobs may be large pieces of it, so
 * that little is transposed and packed more than once. How many parts depends on the shape alone. */
typedef struct {
    const sl_kernels *kn;
    const sl_gemm_bf16_work *w;
    int64_t m, na, nb, ldp, ldq, lddw;
    const sl_bf16 *p, *q;
    float *dw;
    int add, flip;
    int64_t parts, depth;               /* parts of `depth` rows of m */
    int64_t job_rows, job_cols, across; /* of C, multiples of 32; jobs side by side ... */
    int64_t tiles;                      /* ... and in all */
} wgrad_job;

/* Rows m0..m1 of one job's piece of C into c, or onto it. */
static void wgrad_piece(const wgrad_job *j, int64_t row, int64_t rows, int64_t col, int64_t cols, int64_t m0,
                        int64_t m1, char *scratch, float *c, int64_t ldc, int add) {
    sl_bf16 *at = (sl_bf16 *)scratch, *panels = (sl_bf16 *)(scratch + AT_BYTES);
    for (int64_t i = m0; i < m1; i += M_CHUNK) {
        int64_t k = at_most(m1 - i, M_CHUNK);
        /* In strips of 32 rows, so that x and dy are read along their rows, once. */
        for (int64_t s = 0; s < k; s += KR) {
            int64_t deep = at_most(k - s, KR);
            j->kn->transpose_bf16(deep, rows, j->p + (i + s) * j->ldp + row, j->ldp, at + s, AT_LD);
            for (int64_t n = 0; n < cols; n += NR)
                j->kn->pack_b_bf16(at_most(cols - n, NR), deep, j->q + (i + s) * j->ldq + col + n,
                                   j->ldq, panels + n * M_CHUNK + s * NR);
        }
        for (int64_t n = 0; n < cols; n += NR)
            j->kn->gemm_bf16(rows, at_most(cols - n, NR), sl_bf16_kpad(k), at, AT_LD,
                             panels + n * M_CHUNK, c + n, ldc, add || i > m0);
    }
}

static void wgrad_item(void *ctx, int64_t item, int thread) {
    const wgrad_job *j = ctx;
    char *scratch = j->w->scratch + thread * j->w->size;
    float *turned = (float *)(scratch + AT_BYTES + PANELS_BYTES);
    int64_t part = item / j->tiles, tile = item % j->tiles;
    int64_t row = tile / j->across * j->job_rows, rows = at_most(j->na - row, j->job_rows);
    int64_t col = tile % j->across * j->job_cols, cols = at_most(j->nb - col, j->job_cols);
    int64_t m0 = part * j->depth, m1 = at_most(m0 + j->depth, j->m);
    if (j->parts > 1) {
        float *c = j->w->partials + (part * j->na + row) * j->nb + col;
        wgrad_piece(j, row, rows, col, cols, m0, m1, scratch, c, j->nb, 0);
    } else if (j->flip) {
        wgrad_piece(j, row, rows, col, cols, m0, m1, scratch, turned, cols, 0);
        j->kn->transpose_f32(rows, cols, turned, cols, j->dw + col * j->lddw + row, j->lddw, j->add);
    } else {
        wgrad_piece(j, row, rows, col, cols, m0, m1, scratch, j->dw + row * j->lddw + col, j->lddw, j->add);
    }
}

/* dw (+)= the sum of the parts, 16 rows of C at a time, left in the first part. */
static void fold_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const wgrad_job *j = ctx;
    int64_t row = item * 16, rows = at_most(j->na - row, 16);
    float *sum = j->w->partials + row * j->nb;
    for (int64_t part = 1; part < j->parts; part++)
        j->kn->add(rows * j->nb, sum + part * j->na * j->nb, sum);
    if (j->flip) {
        j->kn->transpose_f32(rows, j->nb, sum, j->nb, j->dw + row, j->lddw, j->add);
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
        float *dw = j->dw + (row + i) * j->lddw;
        if (j->add)
            j->kn->add(j->nb, sum + i * j->nb, dw);
        else
            memcpy(dw, sum + i * j->nb, (size_t)j->nb * sizeof *dw);
    }
}

/* The cut of C into jobs that takes least time, in cycles of an AMX core per 32 rows of m: 64 for a
 * 32 x 32 block of C, 170 to transpose and 64 to pack 32 x 32 elements, 10 to load and store the
 * block. Threads take jobs as they come free, so the last one ends half a job after the average. */
static void wgrad_cut(wgrad_job *j, int64_t threads) {
    int64_t na = div_up(j->na, 32), nb = div_up(j->nb, 32), best = INT64_MAX;
    for (int64_t r = 1; r <= at_most(na, JOB_ROWS); r++)
        for (int64_t c = 1; c <= at_most(nb, JOB_COLS); c++) {
            int64_t jobs = div_up(na, r) * div_up(nb, c) * j->parts;
            int64_t cost = (2 * jobs + threads) * ((64 + 10) * r * c + 170 * r + 64 * c);
            if (cost < best) {
                best = cost;
                j->job_rows = r * 32;
                j->job_cols = c * 32;
            }
        }
    j->across = div_up(j->nb, j->job_cols);
    j->tiles = div_up(j->na, j->job_rows) * j->across;
}

void sl_gemm_bf16_wgrad(const sl_kernels *kn, sl_gemm_bf16_work *w, int64_t m, int64_t n, int64_t k,
                        const sl_bf16 *dy, int64_t lddy, const sl_bf16 *x, int64_t ldx, float *dw,
                        int64_t lddw, int add) {
    if (n <= 0 || k <= 0)
        return;
    wgrad_job j = {.kn = kn, .w = w, .m = m, .dw = dw, .lddw = lddw, .add = add, .flip = k < n};
    j.na = j.flip ? k : n;
    j.nb = j.flip ? n : k;
    j.p = j.flip ? x : dy;
    j.ldp = j.flip ? ldx : lddy;
    j.q = j.flip ? dy : x;
    j.ldq = j.flip ? lddy : ldx;
    j.parts = at_least(at_most(PARTIALS / j.na / j.nb, m / M_CHUNK), 1);
    j.depth = round_up(div_up(m, j.parts), KR);
    j.parts = div_up(m, j.depth);
    wgrad_cut(&j, w->threads);
    sl_parallel(j.parts * j.tiles, wgrad_item, &j);
    if (j.parts > 1)
        sl_parallel(div_up(j.na, 16), fold_item, &j);
}
