#include "ops/product/gemm_int8.h"

#include "base/threads.h"

enum {
    NR = SL_INT8_NR,
    K_CHUNK = 1024,       /* of a panel at a time (32 KiB), while rows of A stream past it */
    ROWS = 128,           /* rows of an item, as many as panels come from L2 for */
    GROUP = 4,            /* panels whose sums (64 KiB at most) are scaled together: narrower rows are slow to store */
    B_SLICE = 512 * 1024, /* bytes of B that stay in L2 while rows of A stream past them */
    ITEMS = 6,            /* for each thread, so that none waits long for a slow one */
};

static int64_t at_least(int64_t x, int64_t lo) { return x > lo ? x : lo; }
static int64_t at_most(int64_t x, int64_t hi) { return x < hi ? x : hi; }
static int64_t div_up(int64_t x, int64_t y) { return (x + y - 1) / y; }

size_t sl_int8_thread_bytes(void) { return ROWS * GROUP * NR * sizeof(int32_t); }

/* ---- packing weights */

typedef struct {
    const sl_kernels *kn;
    int64_t n, k, ldw;
    const int8_t *w;
    int8_t *panels;
    int32_t *sum;
} pack_job;

static void pack_item(void *ctx, int64_t item, int thread) {
    const pack_job *p = ctx;
    (void)thread;
    int64_t row = item * NR;
    p->kn->pack_int8(at_most(p->n - row, NR), p->k, p->w + row * p->ldw, p->ldw, p->panels + row * sl_int8_kpad(p->k),
                     p->sum + row);
}

void sl_int8_pack(const sl_kernels *kn, int64_t n, int64_t k, const int8_t *w, int64_t ldw, int8_t *panels,
                  int32_t *sum) {
    pack_job p = {kn, n, k, ldw, w, panels, sum};
    sl_parallel(div_up(n, NR), pack_item, &p);
}

/* ---- the product */

typedef struct {
    const sl_kernels *kn;
    const sl_gemm_int8_args *g;
    char *scratch;
    size_t bytes;
    int64_t rows, panels, down; /* an item is so many rows x so many panels; items one below another */
} gemm_job;

/* Up to ROWS rows x one panel. */
static void gemm_panel(const gemm_job *j, int64_t row, int64_t rows, int64_t col, int64_t cols, int32_t *sums) {
    const sl_gemm_int8_args *g = j->g;
    int64_t kp = sl_int8_kpad(g->k);
    const int8_t *panel = g->b + col * kp;
    for (int64_t kk = 0; kk < kp; kk += K_CHUNK)
        j->kn->gemm_int8(rows, cols, at_most(kp - kk, K_CHUNK), g->a + row * g->lda + kk, g->lda, panel + kk * NR, sums,
                         GROUP * NR, kk > 0);
}

/* Up to ROWS rows x GROUP panels. */
static void gemm_block(const gemm_job *j, int64_t row, int64_t rows, int64_t col, int64_t cols, int32_t *sums) {
    const sl_gemm_int8_args *g = j->g;
    for (int64_t n = 0; n < cols; n += NR)
        gemm_panel(j, row, rows, col + n, at_most(cols - n, NR), sums + n);
    int64_t at = row * g->ldy + col;
    j->kn->scale_int32(rows, cols, sums, GROUP * NR, g->zero, g->sum + col, g->scale_a + row * g->step_a, g->step_a,
                       g->scale_b + col * g->step_b, g->step_b, g->plus ? g->plus + at : NULL, g->y + at, g->ldy);
}

static void gemm_item(void *ctx, int64_t item, int thread) {
    const gemm_job *j = ctx;
    int32_t *sums = (int32_t *)(void *)(j->scratch + (size_t)thread * j->bytes);
    int64_t row = item % j->down * j->rows, left = item / j->down * j->panels * NR;
    int64_t right = at_most(left + j->panels * NR, j->g->n);
    for (int64_t col = left; col < right; col += GROUP * NR)
        gemm_block(j, row, at_most(j->g->m - row, j->rows), col, at_most(right - col, GROUP * NR), sums);
}

/* Half as many, in whole groups if that is more than one. */
static int64_t fewer_panels(int64_t panels) {
    int64_t half = div_up(panels, 2);
    return half > GROUP ? div_up(half, GROUP) * GROUP : half;
}

void sl_gemm_int8(const sl_kernels *kn, char *scratch, size_t bytes, const sl_gemm_int8_args *g) {
    if (g->m <= 0 || g->n <= 0)
        return;
    int64_t panels = div_up(g->n, NR), wanted = (int64_t)ITEMS * sl_threads();
    gemm_job j = {kn, g, scratch, bytes, at_most(g->m, ROWS), 0, 0};
    j.panels = at_most(panels, at_least(B_SLICE / (NR * sl_int8_kpad(g->k)), 1));
    j.down = div_up(g->m, j.rows);
    while (j.down * div_up(panels, j.panels) < wanted && j.panels > 1)
        j.panels = fewer_panels(j.panels);
    while (j.down * panels < wanted && j.rows > 32) {
        j.rows = at_least(j.rows / 2, 32);
        j.down = div_up(g->m, j.rows);
    }
    sl_parallel(j.down * div_up(panels, j.panels), gemm_item, &j);
}
