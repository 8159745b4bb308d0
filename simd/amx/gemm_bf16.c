/* bf16 GEMM on AMX tiles: 2 x 2 accumulators (32 rows x 32 columns of C), two tiles of A straight
 * from its rows, two of B from the panel. Contract in simd/kernels.h. Tails are tiles of fewer rows
 * or columns, so nothing outside A's rows and C is touched. A is loaded with the streaming hint
 * (TILELOADDT1), so that it does not push the panel out of L1: 15 % faster than both with or both
 * without the hint (Emerald Rapids, k 384, rows of A in L2).
 *
 * The tile configuration belongs to the thread, and whoever runs between two calls may change it;
 * so each call configures (a few dozen cycles) and releases, which also keeps 8 KB of tile state
 * out of the thread's context switches and lets the unit power down. */
#include "simd/tier.h"

#include <immintrin.h>

enum { NR = SL_BF16_NR, KR = SL_BF16_KR };

/* Tiles: C at 0..3 (row major), A at 4, 5, B at 6, 7. */
struct tilecfg {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

/* r0, r1: rows of the two tile rows of C; n0, n1: columns. A second one may be empty. */
static void configure(int r0, int r1, int n0, int n1) {
    struct tilecfg t = {.palette = 1};
    const int rows[8] = {r0, r0, r1, r1, r0, r1, KR / 2, KR / 2};
    const int cols[8] = {n0, n1, n0, n1, 16, 16, n0, n1}; /* dwords */
    for (int i = 0; i < 8; i++)
        if (rows[i] > 0 && cols[i] > 0) {
            t.rows[i] = (uint8_t)rows[i];
            t.colsb[i] = (uint16_t)(cols[i] * 4);
        }
    __asm__ volatile("" ::"r"(&t)
                     : "memory"); /* the intrinsic says it reads 8 bytes; it reads 64 */
    _tile_loadconfig(&t);
}

/* One block of C; r2, n2: whether the second tile row and column exist. */
static inline __attribute__((always_inline)) void block(const int r2, const int n2, int64_t k,
                                                        const sl_bf16 *a, int64_t lda,
                                                        const sl_bf16 *panel, float *c, int64_t ldc,
                                                        int add) {
    const int64_t sa = lda * 2, sc = ldc * 4;
    const sl_bf16 *a1 = a + 16 * lda;
    float *c1 = c + 16 * ldc;
    if (add) {
        _tile_loadd(0, c, sc);
        if (n2)
            _tile_loadd(1, c + 16, sc);
        if (r2)
            _tile_loadd(2, c1, sc);
        if (r2 && n2)
            _tile_loadd(3, c1 + 16, sc);
    } else {
        _tile_zero(0);
        if (n2)
            _tile_zero(1);
        if (r2)
            _tile_zero(2);
        if (r2 && n2)
            _tile_zero(3);
    }
    for (int64_t kk = 0; kk < k; kk += KR, panel += KR * NR) {
        _tile_loadd(6, panel, 4 * NR);
        _tile_stream_loadd(4, a + kk, sa);
        if (n2)
            _tile_loadd(7, panel + NR, 4 * NR);
        if (r2)
            _tile_stream_loadd(5, a1 + kk, sa);
        _tile_dpbf16ps(0, 4, 6);
        if (n2)
            _tile_dpbf16ps(1, 4, 7);
        if (r2)
            _tile_dpbf16ps(2, 5, 6);
        if (r2 && n2)
            _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, sc);
    if (n2)
        _tile_stored(1, c + 16, sc);
    if (r2)
        _tile_stored(2, c1, sc);
    if (r2 && n2)
        _tile_stored(3, c1 + 16, sc);
}

static inline int least(int64_t x, int y) { return x < y ? (int)x : y; }

void SL_UNIT_FN(gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                           const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    if (m <= 0 || n <= 0)
        return;
    const int n0 = least(n, 16), n1 = (int)n - n0;
    if (m >= 32) {
        configure(16, 16, n0, n1);
        for (; m >= 32; m -= 32, a += 32 * lda, c += 32 * ldc)
            if (n1)
                block(1, 1, k, a, lda, panel, c, ldc, add);
            else
                block(1, 0, k, a, lda, panel, c, ldc, add);
    }
    if (m > 0) {
        const int r0 = least(m, 16), r1 = (int)m - r0;
        configure(r0, r1, n0, n1);
        if (r1 && n1)
            block(1, 1, k, a, lda, panel, c, ldc, add);
        else if (r1)
            block(1, 0, k, a, lda, panel, c, ldc, add);
        else if (n1)
            block(0, 1, k, a, lda, panel, c, ldc, add);
        else
            block(0, 0, k, a, lda, panel, c, ldc, add);
    }
    _tile_release();
}

int64_t SL_UNIT_FN(peak_bf16)(int64_t rounds) {
    configure(16, 16, 16, 16);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int64_t r = 0; r < rounds; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return rounds * 4 * (16 * 16 * 32 * 2);
}
