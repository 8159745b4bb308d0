#include "simd/tier.h"

#define MR SL_GEMM_MR
#define NRV SL_GEMM_NRV
/* An instrumented or unoptimised build keeps the loops: unrolling all tiles takes it minutes. */
#ifdef __has_feature
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(memory_sanitizer))
#elif defined __SANITIZE_ADDRESS__
#define SANITIZED 1
#else
#define SANITIZED 0
#endif
#if SANITIZED || !defined __OPTIMIZE__
#define UNROLL
#elif defined __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define LINE 16    /* floats in a cache line */
#define COLUMNS 16 /* columns copied for all panels before the next: reads then go along rows */

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Writes up to VL lanes of a column. p is either below VL or a multiple of it, and columns are
 * written in order, so a full store may spill into the next; `room` is what is left of the panel. */
SL_VEC void put(float *to, vf column, int64_t room) {
    if (room >= VL)
        v_store(to, column);
    else
        v_store_n(to, column, (int)room);
}

/* One panel of p columns from the first p of `rows` rows of k consecutive elements, transposed in
 * registers; lanes that have no row are zero. The rows of the next panel are fetched meanwhile: p
 * short streams are more than a prefetcher follows. */
static void pack_rows(int64_t rows, int64_t k, const float *src, int64_t is, int p, float *dst) {
    for (int i0 = 0; i0 < p; i0 += VL) {
        int64_t have = min64(min64(rows, p) - i0, VL), ahead = min64(rows - p - i0, have);
        for (int64_t k0 = 0; k0 < k; k0 += VL) {
            int kn = (int)min64(k - k0, VL);
            vf r[VL];
            UNROLL
            for (int i = 0; i < VL; i++)
                r[i] = i < have ? v_load_n(src + (i0 + i) * is + k0, kn) : v_zero();
            for (int i = 0; i < ahead && k0 % LINE == 0; i++)
                __builtin_prefetch(src + (i0 + i + p) * is + k0);
            v_transpose(r);
            UNROLL
            for (int j = 0; j < VL; j++)
                if (j < kn)
                    put(dst + (k0 + j) * p + i0, r[j], (k - k0 - j) * p - i0);
        }
    }
}

/* Columns k0 .. end of one panel, copied from columns of `rows` consecutive elements. */
static void pack_columns(int64_t rows, int64_t k0, int64_t end, int64_t k, const float *src,
                         int64_t ks, int p, float *dst) {
    for (int64_t kk = k0; kk < end; kk++)
        for (int i0 = 0; i0 < p; i0 += VL) {
            const float *from = src + kk * ks + i0;
            int64_t have = rows - i0;
            vf column = have >= VL ? v_load(from) : v_load_n(from, (int)(have > 0 ? have : 0));
            put(dst + kk * p + i0, column, (k - kk) * p - i0);
            if (kk + COLUMNS < k && have > 0)
                __builtin_prefetch(from + COLUMNS * ks);
        }
}

void SL_FN(pack_f32)(int64_t n, int64_t k, const float *src, int64_t is, int64_t ks, int p,
                     float *dst) {
    if (is != 1) {
        for (int64_t i = 0; i < n; i += p)
            pack_rows(n - i, k, src + i * is, is, p, dst + i * k);
        return;
    }
    for (int64_t k0 = 0; k0 < k; k0 += COLUMNS)
        for (int64_t i = 0; i < n; i += p)
            pack_columns(n - i, k0, min64(k0 + COLUMNS, k), k, src + i, ks, p, dst + i * k);
}

/* The corner of c that rows x nv vectors cover, the last of `last` lanes. rows, nv and mostly last
 * are constants where this is inlined, so acc lives in registers. It starts from c when adding: then
 * cutting K changes no bit. */
SL_VEC void tile(int rows, int nv, int last, int64_t k, const float *a, const float *b, float *c,
                 int64_t ldc, int add) {
    vf acc[MR][NRV];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < nv; j++)
            acc[i][j] = add ? v_load_n(c + i * ldc + j * VL, j < nv - 1 ? VL : last) : v_zero();
    for (; k > 0; k--, a += MR, b += NRV * VL) {
        vf bv[NRV];
        UNROLL
        for (int j = 0; j < nv; j++)
            bv[j] = v_load(b + j * VL);
        UNROLL
        for (int i = 0; i < rows; i++) {
            vf av = v_set1(a[i]);
            UNROLL
            for (int j = 0; j < nv; j++)
                acc[i][j] = v_muladd(av, bv[j], acc[i][j]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < nv; j++)
            v_store_n(c + i * ldc + j * VL, acc[i][j], j < nv - 1 ? VL : last);
}

/* Edge tiles have code of their own, so that they cost what they hold and not a full tile. */
void SL_FN(gemm_f32)(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int m, int n,
                     int add) {
    int nv = (n + VL - 1) / VL, last = n - (nv - 1) * VL;
#if SANITIZED || !defined __OPTIMIZE__
    tile(m, nv, last, k, a, b, c, ldc, add);
#else
#define CASE(rows, vecs)                                                                           \
    case (rows) * 16 + (vecs):                                                                     \
        if ((rows) <= MR && (vecs) <= NRV && last == VL)                                           \
            tile(rows, vecs, VL, k, a, b, c, ldc, add);                                            \
        else if ((rows) <= MR && (vecs) <= NRV)                                                    \
            tile(rows, vecs, last, k, a, b, c, ldc, add);                                          \
        break;
#define CASES(rows)                                                                                \
    CASE(rows, 1) CASE(rows, 2) CASE(rows, 3) CASE(rows, 4)                                        \
    CASE(rows, 5) CASE(rows, 6) CASE(rows, 7) CASE(rows, 8)
    switch (m * 16 + nv) {
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6) CASES(7)
        CASES(8) CASES(9) CASES(10) CASES(11) CASES(12) CASES(13) CASES(14)
    }
#endif
}
