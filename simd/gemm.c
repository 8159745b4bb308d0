#include "simd/tier.h"

#define MR SL_GEMM_MR
#define NRV SL_GEMM_NRV
#define UNROLL(n) PRAGMA_(GCC unroll n)
#define PRAGMA_(x) _Pragma(#x)

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* One panel of p columns from rows of k consecutive elements: rows of vectors are transposed in
 * registers. The first `rows` of the p lanes exist, the rest are zero. */
static void pack_rows(int64_t rows, int64_t k, const float *src, int64_t is, int p, float *dst) {
    for (int i0 = 0; i0 < p; i0 += VL) {
        int have = (int)(rows - i0 < 0 ? 0 : min64(rows - i0, VL)), wide = (int)min64(p - i0, VL);
        for (int64_t k0 = 0; k0 < k; k0 += VL) {
            int kn = (int)min64(k - k0, VL);
            vf r[VL];
            UNROLL(16)
            for (int i = 0; i < VL; i++)
                r[i] = i < have ? v_load_n(src + (i0 + i) * is + k0, kn) : v_zero();
            v_transpose(r);
            float *to = dst + k0 * p + i0;
            UNROLL(16)
            for (int j = 0; j < VL; j++)
                if (j < kn)
                    v_store_n(to + j * p, r[j], wide);
        }
    }
}

/* The same from columns of consecutive elements: each is copied. */
static void pack_columns(int64_t rows, int64_t k, const float *src, int64_t ks, int p, float *dst) {
    for (int64_t kk = 0; kk < k; kk++, src += ks, dst += p)
        for (int i0 = 0; i0 < p; i0 += VL) {
            int have = (int)(rows - i0 < 0 ? 0 : min64(rows - i0, VL));
            v_store_n(dst + i0, v_load_n(src + i0, have), (int)min64(p - i0, VL));
        }
}

void SL_FN(pack_f32)(int64_t n, int64_t k, const float *src, int64_t is, int64_t ks, int p,
                     float *dst) {
    for (int64_t i = 0; i < n; i += p, src += p * is, dst += p * k) {
        if (is == 1)
            pack_columns(min64(n - i, p), k, src, ks, p, dst);
        else
            pack_rows(min64(n - i, p), k, src, is, p, dst);
    }
}

/* The accumulators start from c when adding, so that cutting K changes no bit. */
void SL_FN(gemm_f32)(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int m, int n,
                     int add) {
    vf acc[MR][NRV];
    int wide[NRV];
    UNROLL(8)
    for (int j = 0; j < NRV; j++)
        wide[j] = (int)(n < j * VL ? 0 : min64(n - j * VL, VL));
    UNROLL(16)
    for (int i = 0; i < MR; i++)
        UNROLL(8)
        for (int j = 0; j < NRV; j++)
            acc[i][j] = add && i < m ? v_load_n(c + i * ldc + j * VL, wide[j]) : v_zero();
    for (; k > 0; k--, a += MR, b += NRV * VL) {
        vf bv[NRV];
        UNROLL(8)
        for (int j = 0; j < NRV; j++)
            bv[j] = v_load(b + j * VL);
        UNROLL(16)
        for (int i = 0; i < MR; i++) {
            vf av = v_set1(a[i]);
            UNROLL(8)
            for (int j = 0; j < NRV; j++)
                acc[i][j] = v_muladd(av, bv[j], acc[i][j]);
        }
    }
    UNROLL(16)
    for (int i = 0; i < MR; i++)
        UNROLL(8)
        for (int j = 0; j < NRV; j++)
            if (i < m)
                v_store_n(c + i * ldc + j * VL, acc[i][j], wide[j]);
}
