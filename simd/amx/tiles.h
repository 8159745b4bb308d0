/* Products on AMX tiles, for simd/amx/gemm_*.c: C[m,n] (+)= A[m,k] * panel, n <= 32. A tile row is 64 bytes: of A 64
 * bytes of a row, of the panel 16 columns of 4 bytes of k each, of C 16 elements of 4 bytes; what the bytes hold
 * only TILE_DP(c, a, b), which the including file defines, knows.
 *
 * 2 x 2 accumulators (32 rows x 32 columns of C), two tiles of A straight from its rows, two of B from the panel.
 * Tails are tiles of fewer rows or columns, so nothing outside A's rows and C is touched. A is loaded with the
 * streaming hint (TILELOADDT1), so that it does not push the panel out of L1: 15 % faster than both with or both
 * without the hint (Emerald Rapids, bf16, k 384, rows of A in L2).
 *
 * The tile configuration belongs to the thread, and whoever runs between two calls may change it; so each call
 * configures (a few dozen cycles) and releases, which also keeps 8 KB of tile state out of the thread's context
 * switches and lets the unit power down. */
#ifndef SL_SIMD_AMX_TILES_H
#define SL_SIMD_AMX_TILES_H

#include "simd/tier.h"

#include <immintrin.h>
#include <stddef.h>

enum { TILE = 16, ROW_BYTES = 64, PANEL_BYTES = 2 * ROW_BYTES };

/* Tiles: C at 0..3 (row major), A at 4, 5, B at 6, 7. */
struct tilecfg {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

/* r0, r1: rows of the two tile rows of C; n0, n1: columns. A second one may be empty. */
static void configure(int r0, int r1, int n0, int n1) {
    struct tilecfg t = {.palette = 1};
    const int rows[8] = {r0, r0, r1, r1, r0, r1, TILE, TILE};
    const int cols[8] = {n0, n1, n0, n1, TILE, TILE, n0, n1}; /* dwords */
    for (int i = 0; i < 8; i++)
        if (rows[i] > 0 && cols[i] > 0) {
            t.rows[i] = (uint8_t)rows[i];
            t.colsb[i] = (uint16_t)(cols[i] * 4);
        }
    __asm__ volatile("" ::"r"(&t)
                     : "memory"); /* the intrinsic says it reads 8 bytes; it reads 64 */
    _tile_loadconfig(&t);
}

/* A block of C is begun, multiplied, by parts of k, and stored. r2, n2: whether the second tile row and column exist. k
 * and strides in bytes. */
#define TILES static inline __attribute__((always_inline))

/* From c on, or from 0 where c is NULL. */
TILES void tiles_begin(const int r2, const int n2, const char *c, int64_t ldc) {
    if (c) {
        const char *c1 = c + TILE * ldc;
        _tile_loadd(0, c, ldc);
        if (n2)
            _tile_loadd(1, c + ROW_BYTES, ldc);
        if (r2)
            _tile_loadd(2, c1, ldc);
        if (r2 && n2)
            _tile_loadd(3, c1 + ROW_BYTES, ldc);
    } else {
        _tile_zero(0);
        if (n2)
            _tile_zero(1);
        if (r2)
            _tile_zero(2);
        if (r2 && n2)
            _tile_zero(3);
    }
}

/* Memory that is wanted next, a few lines of it at each step of k, evenly: at once they would take all fill buffers,
 * and tiles' loads would wait. */
typedef struct {
    sl_ahead area[2];
    const char *at;
    int64_t bytes;        /* left of the row */
    int64_t rate, credit; /* of a step, in LINE parts of a line */
} fetch;
enum { LINE = 256 };

static inline fetch fetch_over(int64_t steps, const sl_ahead area[2]) {
    fetch f = {.area = {area[0], area[1]}};
    int64_t lines = 0;
    for (int i = 0; i < 2; i++)
        lines += area[i].rows * ((area[i].bytes + ROW_BYTES - 1) / ROW_BYTES);
    f.rate = steps > 0 ? (lines * LINE + steps - 1) / steps : 0;
    return f;
}

static inline int fetch_row(fetch *f) {
    sl_ahead *a = f->area[0].rows > 0 ? &f->area[0] : &f->area[1];
    if (a->rows <= 0)
        return 0;
    f->at = a->p;
    f->bytes = a->bytes;
    a->p = f->at + a->stride;
    return a->rows-- > 0;
}

TILES void fetch_step(fetch *f) {
    for (f->credit += f->rate; f->credit >= LINE; f->credit -= LINE) {
        if (f->bytes <= 0 && !fetch_row(f)) {
            f->rate = 0;
            continue;
        }
        _mm_prefetch(f->at, _MM_HINT_T1);
        f->at += ROW_BYTES;
        f->bytes -= ROW_BYTES;
    }
}

/* f: what to fetch meanwhile, or NULL. */
TILES void tiles_multiply(const int r2, const int n2, int64_t k, const char *a, int64_t lda, const char *panel,
                          fetch *f) {
    const char *a1 = a + TILE * lda;
    for (int64_t kk = 0; kk < k; kk += ROW_BYTES, panel += TILE * PANEL_BYTES) {
        _tile_loadd(6, panel, PANEL_BYTES);
        _tile_stream_loadd(4, a + kk, lda);
        if (n2)
            _tile_loadd(7, panel + ROW_BYTES, PANEL_BYTES);
        if (r2)
            _tile_stream_loadd(5, a1 + kk, lda);
        TILE_DP(0, 4, 6);
        if (n2)
            TILE_DP(1, 4, 7);
        if (r2)
            TILE_DP(2, 5, 6);
        if (r2 && n2)
            TILE_DP(3, 5, 7);
        if (f)
            fetch_step(f);
    }
}

TILES void tiles_store(const int r2, const int n2, char *c, int64_t ldc) {
    char *c1 = c + TILE * ldc;
    _tile_stored(0, c, ldc);
    if (n2)
        _tile_stored(1, c + ROW_BYTES, ldc);
    if (r2)
        _tile_stored(2, c1, ldc);
    if (r2 && n2)
        _tile_stored(3, c1 + ROW_BYTES, ldc);
}

TILES void block(const int r2, const int n2, int64_t k, const char *a, int64_t lda, const char *panel, char *c,
                 int64_t ldc, int add) {
    tiles_begin(r2, n2, add ? c : NULL, ldc);
    tiles_multiply(r2, n2, k, a, lda, panel, NULL);
    tiles_store(r2, n2, c, ldc);
}

static inline int tile_least(int64_t x, int y) { return x < y ? (int)x : y; }

/* k, lda and ldc in bytes. */
static inline void tile_product(int64_t m, int64_t n, int64_t k, const char *a, int64_t lda, const char *panel, char *c,
                                int64_t ldc, int add) {
    if (m <= 0 || n <= 0)
        return;
    const int n0 = tile_least(n, TILE), n1 = (int)n - n0;
    if (m >= 2 * TILE) {
        configure(TILE, TILE, n0, n1);
        for (; m >= 2 * TILE; m -= 2 * TILE, a += 2 * TILE * lda, c += 2 * TILE * ldc)
            if (n1)
                block(1, 1, k, a, lda, panel, c, ldc, add);
            else
                block(1, 0, k, a, lda, panel, c, ldc, add);
    }
    if (m > 0) {
        const int r0 = tile_least(m, TILE), r1 = (int)m - r0;
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

/* Products done: each is a multiply-add of two elements of `bytes`. */
static inline int64_t tile_peak(int64_t rounds, int bytes) {
    configure(TILE, TILE, TILE, TILE);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int64_t r = 0; r < rounds; r++) {
        TILE_DP(0, 4, 6);
        TILE_DP(1, 4, 7);
        TILE_DP(2, 5, 6);
        TILE_DP(3, 5, 7);
    }
    _tile_release();
    return rounds * 4 * TILE * TILE * (ROW_BYTES / bytes);
}

#endif
