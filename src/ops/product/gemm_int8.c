#include "ops/product/gemm_int8.h"

enum {
    NR = SL_INT8_NR,
    K_CHUNK = 1024,       /* of a panel at a time (32 KiB), while rows of A stream past it */
    ROWS = 128,           /* rows of a call, as many as panels come from L2 for */
    UNIT = 32,
    GROUP = 4,            /* panels whose sums (64 KiB at most) are scaled together: narrower rows are slow to store */
    B_SLICE = 512 * 1024, /* bytes of B that stay in L2 while rows of A stream past them */
};

/* ---- packing weights: an item is a panel */

sl_split sl_gemm_int8_pack_split(const sl_gemm_int8_pack_args *p) { return (sl_split){.items = sl_div_up(p->n, NR)}; }

void sl_gemm_int8_pack(const sl_gemm_int8_pack_args *p, const sl_span *s) {
    for (int64_t row = s->first * NR; row < sl_min((s->first + s->n) * NR, p->n); row += NR)
        p->k->pack_int8(sl_min(p->n - row, NR), p->depth, p->w + row * p->ldw, p->ldw,
                        p->panels + row * sl_int8_kpad(p->depth), p->sum + row);
}

/* ---- the product */

size_t sl_gemm_int8_scratch_bytes(void) { return ROWS * GROUP * NR * sizeof(int32_t); }

/* Up to ROWS rows x one panel. */
static void gemm_panel(const sl_gemm_int8_args *g, int64_t row, int64_t rows, int64_t col, int64_t cols,
                       int32_t *sums) {
    int64_t kp = sl_int8_kpad(g->depth);
    const int8_t *panel = g->b + col * kp;
    for (int64_t kk = 0; kk < kp; kk += K_CHUNK)
        g->k->gemm_int8(rows, cols, sl_min(kp - kk, K_CHUNK), g->a + row * g->lda + kk, g->lda, panel + kk * NR,
                              sums, GROUP * NR, kk > 0);
}

/* Up to ROWS rows x GROUP panels. */
static void gemm_block(const sl_gemm_int8_args *g, int64_t row, int64_t rows, int64_t col, int64_t cols,
                       int32_t *sums) {
    for (int64_t n = 0; n < cols; n += NR)
        gemm_panel(g, row, rows, col + n, sl_min(cols - n, NR), sums + n);
    int64_t at = row * g->ldy + col;
    g->k->scale_int32(rows, cols, sums, GROUP * NR, g->zero, g->sum + col, g->scale_a + row * g->step_a, g->step_a,
                            g->scale_b + col * g->step_b, g->step_b, g->plus ? g->plus + at : NULL, g->y + at, g->ldy);
    for (int64_t i = 0; g->bias && i < rows; i++)
        g->k->add(cols, g->bias + col, g->y + at + i * g->ldy);
}

/* Narrow slices of B, and lower blocks than ROWS only where that gives too few calls. */
sl_split sl_gemm_int8_rows_split(const sl_gemm_int8_args *g) {
    int64_t panels = sl_div_up(g->n, NR), slice = sl_max(B_SLICE / (NR * sl_int8_kpad(g->depth)), 1);
    return (sl_split){.unit = UNIT, .least = ROWS, .most = ROWS, .parts = sl_div_up(panels, slice),
                      .parts_most = panels};
}

/* Columns of a share: whole groups if that is more than one. */
static int64_t share_cols(const sl_gemm_int8_args *g, int64_t parts) {
    int64_t panels = sl_div_up(sl_div_up(g->n, NR), parts);
    return NR * (panels > GROUP ? sl_round_up(panels, GROUP) : panels);
}

void sl_gemm_int8_rows(const sl_gemm_int8_args *g, const sl_span *s, void *scratch) {
    int64_t wide = share_cols(g, s->parts), left = s->part * wide, right = sl_min(left + wide, g->n);
    int64_t first = s->first - s->row0, end = first + s->n;
    for (int64_t row = first; row < end; row += ROWS)
        for (int64_t col = left; col < right; col += GROUP * NR)
            gemm_block(g, row, sl_min(end - row, ROWS), col, sl_min(right - col, GROUP * NR), scratch);
}
