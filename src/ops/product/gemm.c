#include "ops/product/gemm.h"

#include <string.h>

enum {
    PANEL = 32,       /* columns of a panel of B at most */
    SLICE = 64,       /* of its depth, that is read from bf16 at a time */
    PANELS_OF_A = 16, /* micro-panels in a worker's A block: 16 x 14 x 384 floats = 344 KiB, fits L2 */
    LEAST_OF_A = 4,   /* as many at least, and so many of B, as long as there are calls enough */
    LEAST_OF_B = 4,
    BLAS_UNIT = 64,   /* rows of a call of BLAS, which packs B each time */
    BLAS_LEAST = 256,
};

size_t sl_gemm_packed_bytes(const sl_kernels *k, int64_t n, int64_t depth) {
    return (size_t)(sl_round_up(n, k->gemm_nr) * depth) * sizeof(float);
}

size_t sl_gemm_scratch_bytes(const sl_kernels *k) {
    return (size_t)(PANELS_OF_A * k->gemm_mr * SL_GEMM_KC) * sizeof(float);
}

static int64_t panels_of(const sl_gemm_args *g) { return sl_div_up(g->n, g->k->gemm_nr); }

/* ---- packing B */

/* Depth block after depth block, within one panel after panel. */
static float *packed_panel(const sl_gemm_args *g, int64_t k0, int64_t panel) {
    int64_t nr = g->k->gemm_nr;
    return g->packed + k0 * panels_of(g) * nr + panel * nr * sl_min(SL_GEMM_KC, g->depth - k0);
}

sl_split sl_gemm_pack_split(const sl_gemm_args *g) {
    return (sl_split){.items = g->blas ? 0 : panels_of(g) * sl_div_up(g->depth, SL_GEMM_KC)};
}

static void pack_panel(const sl_gemm_args *g, int64_t k0, int64_t panel) {
    int64_t nr = g->k->gemm_nr, j0 = panel * nr, n = sl_min(nr, g->n - j0), deep = sl_min(SL_GEMM_KC, g->depth - k0);
    float rows[PANEL * SLICE], *to = packed_panel(g, k0, panel);
    if (!g->b16) {
        g->k->pack_f32(n, deep, g->b.p + j0 * g->b.is + k0 * g->b.ks, g->b.is, g->b.ks, (int)nr, to);
        return;
    }
    for (int64_t k = 0, m; k < deep; k += m) {
        m = sl_min(SLICE, deep - k);
        for (int64_t j = 0; j < n; j++)
            g->k->from_bf16(m, g->b16 + (j0 + j) * g->b.is + k0 + k, rows + j * m);
        g->k->pack_f32(n, m, rows, m, 1, (int)nr, to + k * nr);
    }
}

void sl_gemm_pack(const sl_gemm_args *g, const sl_span *s) {
    int64_t panels = panels_of(g);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        if (i / panels * SL_GEMM_KC < g->depth)
            pack_panel(g, i / panels * SL_GEMM_KC, i % panels);
}

/* ---- the product */

/* Rows i0.. and columns j0 up to j1 of C. */
typedef struct {
    int64_t i0, rows, j0, j1;
} block;

static void multiply_depth(const sl_gemm_args *g, const block *b, int64_t k0, const float *a, int add) {
    int64_t mr = g->k->gemm_mr, nr = g->k->gemm_nr, deep = sl_min(SL_GEMM_KC, g->depth - k0);
    for (int64_t j = b->j0; j < b->j1; j += nr) {
        const float *panel = packed_panel(g, k0, j / nr);
        for (int64_t i = 0; i < b->rows; i += mr)
            g->k->gemm_f32(deep, a + i * deep, panel, g->c + (b->i0 + i) * g->ldc + j, g->ldc,
                           (int)sl_min(mr, b->rows - i), (int)sl_min(nr, g->n - j), add);
    }
}

/* Is C something before products are added to it? */
static bool begins(const sl_gemm_args *g) { return g->add || g->residual || g->bias; }

/* Residual and bias into columns j0 up to j1 of row i. */
static void begin_row(const sl_gemm_args *g, int64_t i, int64_t j0, int64_t j1) {
    float *c = g->c + i * g->ldc + j0;
    const float *from = g->residual ? g->residual + i * g->ldc + j0 : g->bias + j0;
    if (from != c)
        memcpy(c, from, (size_t)(j1 - j0) * sizeof *c);
    if (g->residual && g->bias)
        g->k->add(j1 - j0, g->bias + j0, c);
}

/* At most PANELS_OF_A panels of rows. */
static void multiply_block(const sl_gemm_args *g, const block *b, float *a) {
    int add = begins(g);
    for (int64_t k0 = 0; k0 < g->depth; k0 += SL_GEMM_KC) {
        g->k->pack_f32(b->rows, sl_min(SL_GEMM_KC, g->depth - k0), g->a.p + b->i0 * g->a.is + k0 * g->a.ks, g->a.is,
                       g->a.ks, g->k->gemm_mr, a);
        multiply_depth(g, b, k0, a, add || k0 > 0);
    }
}

/* Strides of a dimension of one element may be anything, where BLAS wants them to be long enough. */
static void multiply_blas(const sl_gemm_args *g, const block *b) {
    sl_sgemm t = {.m = b->rows, .n = b->j1 - b->j0, .k = g->depth, .turn_a = g->a.ks != 1, .turn_b = g->b.is != 1,
                  .add = begins(g), .a = g->a.p + b->i0 * g->a.is, .b = g->b.p + b->j0 * g->b.is,
                  .c = g->c + b->i0 * g->ldc + b->j0, .ldc = g->ldc};
    t.lda = t.turn_a ? g->a.ks : sl_max(g->a.is, g->depth);
    t.ldb = t.turn_b ? g->b.is : sl_max(g->b.ks, g->n);
    sl_blas_sgemm(g->blas, &t);
}

static void multiply(const sl_gemm_args *g, block b, float *a) {
    int64_t end = b.i0 + b.rows, most = g->blas ? b.rows : PANELS_OF_A * g->k->gemm_mr;
    for (int64_t i = b.i0; (g->residual || g->bias) && i < end && b.j0 < b.j1; i++)
        begin_row(g, i, b.j0, b.j1);
    if (g->blas && b.j0 < b.j1 && b.rows > 0) {
        multiply_blas(g, &b);
        return;
    }
    for (; b.j0 < b.j1 && b.i0 < end; b.i0 += most) {
        b.rows = sl_min(most, end - b.i0);
        multiply_block(g, &b, a);
    }
}

/* ---- cut by rows */

sl_split sl_gemm_rows_split(const sl_gemm_args *g) {
    int64_t mr = g->k->gemm_mr;
    if (g->blas)
        return (sl_split){.unit = BLAS_UNIT, .least = BLAS_LEAST, .most = 1 << 26, .parts = 1,
                          .parts_most = sl_max(panels_of(g) / LEAST_OF_B, 1)};
    return (sl_split){.unit = mr, .least = LEAST_OF_A * mr, .most = PANELS_OF_A * mr, .parts = 1,
                      .parts_most = sl_max(panels_of(g) / LEAST_OF_B, 1)};
}

void sl_gemm_rows(const sl_gemm_args *g, const sl_span *s, void *scratch) {
    int64_t wide = sl_div_up(panels_of(g), s->parts) * g->k->gemm_nr, j0 = s->part * wide;
    multiply(g, (block){s->first - s->row0, s->n, j0, sl_min(j0 + wide, g->n)}, scratch);
}

/* ---- cut into items */

typedef struct {
    int64_t rows, cols, down, across; /* of a tile; tiles below one another, side by side */
} tiling;

/* Several for each worker: blocks of rows over all columns as long as they are not too low (A is packed once), then
 * narrower ones; of even size and number, so that no worker waits for another's last one. */
static tiling tiles_of(const sl_gemm_args *g, int workers) {
    int64_t mr = g->k->gemm_mr, nr = g->k->gemm_nr, panels = panels_of(g);
    int64_t rows = sl_div_up(g->m, mr), across = 1, down = sl_div_up(rows, PANELS_OF_A);
    while (down * across < 4 * workers) {
        if (rows >= 2 * LEAST_OF_A * down)
            down *= 2;
        else if (panels >= 2 * LEAST_OF_B * across)
            across *= 2;
        else if (rows >= LEAST_OF_A * down)
            down *= 2;
        else
            break;
    }
    while (down * across % workers && down < rows)
        down++;
    tiling t = {.rows = sl_div_up(rows, down) * mr, .cols = sl_div_up(panels, across) * nr};
    t.down = sl_div_up(g->m, t.rows);
    t.across = sl_div_up(g->n, t.cols);
    return t;
}

sl_split sl_gemm_tiles_split(const sl_gemm_args *g, int workers) {
    tiling t = tiles_of(g, workers);
    return (sl_split){.items = t.down * t.across};
}

void sl_gemm_tiles(const sl_gemm_args *g, int workers, const sl_span *s, void *scratch) {
    tiling t = tiles_of(g, workers);
    for (int64_t i = s->first; i < s->first + s->n; i++) {
        int64_t i0 = i % t.down * t.rows, j0 = i / t.down * t.cols;
        multiply(g, (block){i0, sl_min(t.rows, g->m - i0), j0, sl_min(j0 + t.cols, g->n)}, scratch);
    }
}
