/* The end of gemm_bf16_store, over simd/vec.h: for simd/gemm_bf16.c and its overrides. Contract in simd/kernels.h. */
#ifndef SL_SIMD_STORE_BF16_H
#define SL_SIMD_STORE_BF16_H

#include "simd/tier.h"

static inline int64_t store_place(const sl_bf16_store *to, int64_t row, int64_t col) {
    return row * to->ldc + col / SL_BF16_NR * to->ldp + col % SL_BF16_NR;
}

/* Sums t of row `row`, columns col.., the first n lanes. */
SL_VEC void store_vector(const sl_bf16_store *to, int64_t row, int64_t col, int n, vf t) {
    if (to->bias)
        t = v_add(t, v_load_n(to->bias + col, n));
    if (to->y) {
        sl_bf16 *y = to->y + row * to->ldy + col;
        v_store_bf16_n(y, to->add ? v_add(v_load_bf16_n(y, n), t) : t, n);
    } else {
        int64_t at = store_place(to, row, col);
        v_store_n(to->c + at, to->residual ? v_add(t, v_load_n(to->residual + at, n)) : t, n);
    }
}

/* 2 VL columns: a whole line of y in the widest tiers. */
SL_VEC void store_pair(const sl_bf16_store *to, int64_t row, int64_t col, vf a, vf b) {
    if (to->y) {
        sl_bf16 *y = to->y + row * to->ldy + col;
        if (to->bias)
            a = v_add(a, v_load(to->bias + col)), b = v_add(b, v_load(to->bias + col + VL));
        if (to->add)
            a = v_add(v_load_bf16_n(y, VL), a), b = v_add(v_load_bf16_n(y + VL, VL), b);
        v_store2_bf16(y, a, b);
    } else {
        store_vector(to, row, col, VL, a);
        store_vector(to, row, col + VL, VL, b);
    }
}

/* Zeros behind the last column of a row, n < 32 of a panel. */
SL_VEC void store_padding(const sl_bf16_store *to, int64_t row, int64_t col, int64_t n) {
    if (to->y)
        memset(to->y + row * to->ldy + col + n, 0, (size_t)(SL_BF16_NR - n) * sizeof *to->y);
}

SL_VEC void store_at(int64_t j, int c, const sl_bf16_store *to, int64_t row, int64_t col, const float *t) {
    store_vector(to, row, col + j, c, v_load_n(t + j, c));
}

/* rows x n sums of a panel's width from `t`, row stride 32. */
SL_VEC void store_rows(const sl_bf16_store *to, int64_t row, int64_t col, int64_t rows, int64_t n, const float *t) {
    const sl_bf16_store copy = *to; /* which no store below can change */
    if (n == SL_BF16_NR) {
        for (int64_t i = 0; i < rows; i++, t += SL_BF16_NR)
            for (int64_t j = 0; j < SL_BF16_NR; j += 2 * VL)
                store_pair(&copy, row + i, col + j, v_load(t + j), v_load(t + j + VL));
        return;
    }
    for (int64_t i = 0; i < rows; i++, t += SL_BF16_NR) {
        V_EACH(n, store_at, &copy, row + i, col, t);
        store_padding(&copy, row + i, col, n);
    }
}

SL_VEC int64_t store_least(int64_t x, int64_t y) { return x < y ? x : y; }

/* gemm_bf16_store on top of gemm_bf16, by blocks of 32 x 32 that are still in L1 when they are stored. */
static inline void store_product(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda, const sl_bf16 *panels,
                                 const sl_bf16_store *to) {
    enum { NR_ = SL_BF16_NR, ROWS = 32 };
    float t[ROWS * NR_];
    for (int64_t col = 0; col < n; col += NR_, panels += k * NR_)
        for (int64_t row = 0; row < m; row += ROWS) {
            int64_t rows = store_least(m - row, ROWS), cols = store_least(n - col, NR_);
            if (!to->y && !to->residual && !to->bias) {
                SL_UNIT_FN(gemm_bf16)(rows, cols, k, a + row * lda, lda, panels, to->c + store_place(to, row, col),
                                      to->ldc, to->add);
                continue;
            }
            SL_UNIT_FN(gemm_bf16)(rows, cols, k, a + row * lda, lda, panels, t, NR_, 0);
            store_rows(to, row, col, rows, cols, t);
        }
}

#endif
