#include "ops/product/gemm.h"

#include "base/threads.h"

#include <string.h>

enum { PANELS_OF_A = 16 }; /* micro-panels in a thread's A block: 16 x 14 x 384 floats = 344 KiB, fits L2 */

typedef struct {
    const sl_exec *x;
    int64_t m, n, depth;
    sl_mat a, b;
    float *c;
    int64_t ldc;
    bool add;
    const float *residual;
    int64_t mc, nc;              /* block of C that one item computes */
    int64_t row_blocks, depth_blocks, panels;
} gemm;

size_t sl_gemm_shared_bytes(const sl_kernels *k, int64_t n, int64_t depth) {
    return (size_t)(sl_round_up(n, k->gemm_nr) * depth) * sizeof(float);
}

size_t sl_gemm_thread_bytes(const sl_kernels *k) {
    return (size_t)(PANELS_OF_A * k->gemm_mr * SL_GEMM_KC) * sizeof(float);
}

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Packed B: depth block after depth block, within one panel after panel. */
static float *packed_b(const gemm *g, int64_t depth_block, int64_t panel) {
    int64_t nr = g->x->k->gemm_nr, k0 = depth_block * SL_GEMM_KC;
    int64_t kc = min64(SL_GEMM_KC, g->depth - k0);
    return g->x->shared + k0 * g->panels * nr + panel * nr * kc;
}

static void pack_b_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const gemm *g = ctx;
    const sl_kernels *k = g->x->k;
    int64_t depth_block = item / g->panels, panel = item % g->panels;
    int64_t k0 = depth_block * SL_GEMM_KC, j0 = panel * k->gemm_nr;
    k->pack_f32(min64(k->gemm_nr, g->n - j0), min64(SL_GEMM_KC, g->depth - k0),
                g->b.p + j0 * g->b.is + k0 * g->b.ks, g->b.is, g->b.ks, k->gemm_nr,
                packed_b(g, depth_block, panel));
}

static void multiply_block(const gemm *g, int64_t depth_block, const float *a, int64_t i0, int64_t mc,
                           int64_t j0, int64_t j1, int add) {
    const sl_kernels *k = g->x->k;
    int64_t mr = k->gemm_mr, nr = k->gemm_nr;
    int64_t kc = min64(SL_GEMM_KC, g->depth - depth_block * SL_GEMM_KC);
    for (int64_t j = j0; j < j1; j += nr)
        for (int64_t i = 0; i < mc; i += mr)
            k->gemm_f32(kc, a + i * kc, packed_b(g, depth_block, j / nr), g->c + (i0 + i) * g->ldc + j,
                        g->ldc, (int)min64(mr, mc - i), (int)min64(nr, g->n - j), add);
}

static void block_item(void *ctx, int64_t item, int thread) {
    const gemm *g = ctx;
    int64_t i0 = item % g->row_blocks * g->mc, j0 = item / g->row_blocks * g->nc;
    int64_t mc = min64(g->mc, g->m - i0), j1 = min64(j0 + g->nc, g->n);
    float *a = sl_worker_scratch(g->x, thread);
    int add = g->add || g->residual;
    if (g->residual)
        for (int64_t i = i0; i < i0 + mc; i++)
            memcpy(g->c + i * g->ldc + j0, g->residual + i * g->ldc + j0,
                   (size_t)(j1 - j0) * sizeof(float));
    for (int64_t d = 0; d < g->depth_blocks; d++) {
        int64_t k0 = d * SL_GEMM_KC;
        g->x->k->pack_f32(mc, min64(SL_GEMM_KC, g->depth - k0), g->a.p + i0 * g->a.is + k0 * g->a.ks,
                          g->a.is, g->a.ks, g->x->k->gemm_mr, a);
        multiply_block(g, d, a, i0, mc, j0, j1, add || d > 0);
    }
}

static int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Cuts C into items, several for each thread: blocks of rows over all columns as long as they are not too low (A is
 * packed once), then narrower ones; of even size and number, so that no thread waits for another's last one. */
static void choose_blocks(gemm *g) {
    int64_t mr = g->x->k->gemm_mr, nr = g->x->k->gemm_nr, threads = sl_threads();
    int64_t rows = div_up(g->m, mr), across = 1, down = div_up(rows, PANELS_OF_A);
    while (down * across < 4 * threads) {
        if (rows >= 8 * down)
            down *= 2;
        else if (g->panels >= 8 * across)
            across *= 2;
        else if (rows >= 4 * down)
            down *= 2;
        else
            break;
    }
    while (down * across % threads && down < rows)
        down++;
    g->mc = div_up(rows, down) * mr;
    g->nc = div_up(g->panels, across) * nr;
    g->row_blocks = div_up(g->m, g->mc);
}

void sl_gemm(const sl_exec *x, int64_t m, int64_t n, int64_t depth, sl_mat a, sl_mat b, float *c,
             int64_t ldc, bool add, const float *residual) {
    gemm g = {.x = x, .m = m, .n = n, .depth = depth, .a = a, .b = b, .c = c, .ldc = ldc, .add = add,
              .residual = residual};
    g.panels = div_up(n, x->k->gemm_nr);
    g.depth_blocks = div_up(depth, SL_GEMM_KC);
    choose_blocks(&g);
    sl_parallel(g.panels * g.depth_blocks, pack_b_item, &g);
    sl_parallel(g.row_blocks * div_up(n, g.nc), block_item, &g);
}
