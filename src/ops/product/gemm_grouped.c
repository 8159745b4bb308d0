#include "ops/product/gemm_grouped.h"

enum {
    NR = SL_BF16_NR,
    KR = SL_BF16_KR,
    K_CHUNK = 768, /* bf16: of a panel at a time, while the rows stream past it */
    R_CHUNK = 256, /* bf16: rows of a weight gradient that are transposed and packed at a time */
    AT_LD = R_CHUNK + KR,
};

/* ---- B */

static int64_t panel_cols(const sl_kernels *k, bool bf16) { return bf16 ? NR : k->gemm_nr; }

static size_t panel_bytes(const sl_kernels *k, bool bf16, int64_t depth) {
    int64_t bytes = bf16 ? sl_bf16_kpad(depth) * NR * (int64_t)sizeof(sl_bf16)
                         : depth * k->gemm_nr * (int64_t)sizeof(float);
    return (size_t)sl_round_up(bytes, 64);
}

int64_t sl_grouped_panels(const sl_kernels *k, bool bf16, int64_t n) { return sl_div_up(n, panel_cols(k, bf16)); }

size_t sl_grouped_bytes(const sl_kernels *k, bool bf16, int64_t n, int64_t depth) {
    return (size_t)sl_grouped_panels(k, bf16, n) * panel_bytes(k, bf16, depth);
}

void sl_grouped_pack(const sl_kernels *k, bool bf16, int64_t n, int64_t depth, sl_mat b, int64_t panel, void *dst) {
    int64_t wide = panel_cols(k, bf16), j = panel * wide, cols = sl_min(n - j, wide);
    char *to = (char *)dst + (size_t)panel * panel_bytes(k, bf16, depth);
    if (!bf16)
        k->pack_f32(cols, depth, b.p + j * b.is, b.is, b.ks, (int)wide, (float *)(void *)to);
    else if (b.ks == 1)
        k->pack_bt_f32(cols, depth, b.p + j * b.is, b.is, (sl_bf16 *)(void *)to);
    else
        k->pack_b_f32(cols, depth, b.p + j, b.ks, (sl_bf16 *)(void *)to);
}

/* ---- A and the product */

size_t sl_grouped_rows_bytes(const sl_kernels *k, bool bf16, int64_t rows, int64_t depth) {
    return bf16 ? 0 : (size_t)sl_round_up(sl_round_up(rows, k->gemm_mr) * depth * (int64_t)sizeof(float), 64);
}

sl_grouped_rows sl_grouped_take_rows(const sl_kernels *k, bool bf16, int64_t rows, int64_t depth, const void *a,
                                     int64_t lda, float *packed) {
    if (!bf16)
        k->pack_f32(rows, depth, a, lda, 1, k->gemm_mr, packed);
    return (sl_grouped_rows){k, bf16, rows, depth, lda, bf16 ? a : packed};
}

static void product_fp32(const sl_grouped_rows *a, const char *panels, int64_t cols, float *c, int64_t ldc, bool add) {
    int64_t mr = a->k->gemm_mr, nr = a->k->gemm_nr;
    size_t bytes = panel_bytes(a->k, false, a->depth);
    for (int64_t k0 = 0; k0 < a->depth; k0 += SL_GEMM_KC)
        for (int64_t j = 0; j < cols; j += nr) {
            const float *panel = (const float *)(const void *)(panels + (size_t)(j / nr) * bytes) + k0 * nr;
            for (int64_t i = 0; i < a->rows; i += mr)
                a->k->gemm_f32(sl_min(SL_GEMM_KC, a->depth - k0), (const float *)a->a + i * a->depth + k0 * mr, panel,
                               c + i * ldc + j, ldc, (int)sl_min(mr, a->rows - i), (int)sl_min(nr, cols - j),
                               add || k0 > 0);
        }
}

static void product_bf16(const sl_grouped_rows *a, const char *panels, int64_t cols, float *c, int64_t ldc, bool add) {
    int64_t kp = sl_bf16_kpad(a->depth), chunk = sl_round_up(sl_div_up(kp, sl_div_up(kp, K_CHUNK)), KR);
    size_t bytes = panel_bytes(a->k, true, a->depth);
    for (int64_t j = 0; j < cols; j += NR) {
        const sl_bf16 *panel = (const sl_bf16 *)(const void *)(panels + (size_t)(j / NR) * bytes);
        for (int64_t k0 = 0; k0 < kp; k0 += chunk)
            a->k->gemm_bf16(a->rows, sl_min(NR, cols - j), sl_min(chunk, kp - k0), (const sl_bf16 *)a->a + k0, a->lda,
                            panel + k0 * NR, c + j, ldc, add || k0 > 0);
    }
}

void sl_grouped_product(const sl_grouped_rows *a, const void *operand, int64_t col0, int64_t cols, float *c,
                        int64_t ldc, bool add) {
    const char *panels = (const char *)operand +
                         (size_t)(col0 / panel_cols(a->k, a->bf16)) * panel_bytes(a->k, a->bf16, a->depth);
    (a->bf16 ? product_bf16 : product_fp32)(a, panels, cols, c, ldc, add);
}

/* ---- weight gradient */

size_t sl_grouped_wgrad_bytes(const sl_kernels *k, bool bf16) {
    if (bf16)
        return (SL_GROUPED_WGRAD_N * AT_LD + SL_GROUPED_WGRAD_M * R_CHUNK) * sizeof(sl_bf16);
    int64_t n = sl_round_up(SL_GROUPED_WGRAD_N, k->gemm_mr), m = sl_round_up(SL_GROUPED_WGRAD_M, k->gemm_nr);
    return (size_t)((n + m) * SL_GEMM_KC) * sizeof(float);
}

static void wgrad_fp32(const sl_kernels *k, int64_t rows, int64_t n, int64_t m, const float *dy, int64_t lddy,
                       const float *x, int64_t ldx, float *dw, int64_t lddw, float *scratch) {
    int64_t mr = k->gemm_mr, nr = k->gemm_nr;
    float *a = scratch, *b = scratch + sl_round_up(SL_GROUPED_WGRAD_N, mr) * SL_GEMM_KC;
    for (int64_t r = 0; r < rows; r += SL_GEMM_KC) {
        int64_t deep = sl_min(SL_GEMM_KC, rows - r);
        k->pack_f32(n, deep, dy + r * lddy, 1, lddy, (int)mr, a);
        k->pack_f32(m, deep, x + r * ldx, 1, ldx, (int)nr, b);
        for (int64_t j = 0; j < m; j += nr)
            for (int64_t i = 0; i < n; i += mr)
                k->gemm_f32(deep, a + i * deep, b + j * deep, dw + i * lddw + j, lddw, (int)sl_min(mr, n - i),
                            (int)sl_min(nr, m - j), 1);
    }
}

static void wgrad_bf16(const sl_kernels *k, int64_t rows, int64_t n, int64_t m, const sl_bf16 *dy, int64_t lddy,
                       const sl_bf16 *x, int64_t ldx, float *dw, int64_t lddw, sl_bf16 *scratch) {
    sl_bf16 *at = scratch, *panels = scratch + SL_GROUPED_WGRAD_N * AT_LD;
    for (int64_t r = 0; r < rows; r += R_CHUNK) {
        int64_t deep = sl_min(R_CHUNK, rows - r);
        /* In strips, so that dy and x are read along their rows. */
        for (int64_t s = 0; s < deep; s += KR) {
            int64_t strip = sl_min(KR, deep - s);
            k->transpose_bf16(strip, n, dy + (r + s) * lddy, lddy, at + s, AT_LD);
            for (int64_t j = 0; j < m; j += NR)
                k->pack_b_bf16(sl_min(NR, m - j), strip, x + (r + s) * ldx + j, ldx, panels + j * R_CHUNK + s * NR);
        }
        for (int64_t j = 0; j < m; j += NR)
            k->gemm_bf16(n, sl_min(NR, m - j), sl_bf16_kpad(deep), at, AT_LD, panels + j * R_CHUNK, dw + j, lddw, 1);
    }
}

void sl_grouped_wgrad(const sl_kernels *k, bool bf16, int64_t rows, int64_t n, int64_t m, const void *dy, int64_t lddy,
                      const void *x, int64_t ldx, float *dw, int64_t lddw, void *scratch) {
    if (bf16)
        wgrad_bf16(k, rows, n, m, dy, lddy, x, ldx, dw, lddw, scratch);
    else
        wgrad_fp32(k, rows, n, m, dy, lddy, x, ldx, dw, lddw, scratch);
}
