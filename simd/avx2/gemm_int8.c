/* int8 GEMM on VPMADDWD, also for avx512 without VNNI: bytes are widened to 16 bits, even and odd ones apart, and
 * sums of two products are exact (VPMADDUBSW's, in 16 bits, would saturate). Blocks of MR rows x 32 columns in
 * registers. Contract in simd/kernels.h. */
#include "simd/tier.h"

#if VL == 16
#define V(op) _mm512_##op
enum { MR = 6 };
#else
#define V(op) _mm256_##op
enum { MR = 2 };
#endif
enum { NR = SL_INT8_NR, VEC = NR / VL };

static inline vi broadcast4(const uint8_t *a) {
    int32_t u;
    memcpy(&u, a, sizeof u);
    return vi_set1(u);
}

/* How many of the columns of vector v exist, of n. */
static inline int part(int64_t n, int v) { return n >= VL * (v + 1) ? VL : n > VL * v ? (int)n - VL * v : 0; }

static inline __attribute__((always_inline)) void block(const int mr, int64_t n, int64_t k, const uint8_t *a,
                                                        int64_t lda, const int8_t *panel, int32_t *c, int64_t ldc,
                                                        int add) {
    vi acc[MR][VEC];
    for (int i = 0; i < mr; i++)
        for (int v = 0; v < VEC; v++)
            acc[i][v] = add && part(n, v) ? vi_load_n(c + i * ldc + VL * v, part(n, v)) : vi_set1(0);
    for (int64_t kk = 0; kk < k; kk += 4, panel += 4 * NR) {
        vi even[MR], odd[MR];
        for (int i = 0; i < mr; i++) {
            vi x = broadcast4(a + i * lda + kk);
            even[i] = vi_and(x, vi_set1(0x00ff00ff));
            odd[i] = V(srli_epi16)(x, 8);
        }
#pragma GCC unroll 4
        for (int v = 0; v < VEC; v++) {
            vi b = vi_load_n((const int32_t *)(const void *)panel + VL * v, VL);
            vi b_even = V(srai_epi16)(V(slli_epi16)(b, 8), 8), b_odd = V(srai_epi16)(b, 8);
#pragma GCC unroll 6
            for (int i = 0; i < mr; i++)
                acc[i][v] = vi_add(acc[i][v], vi_add(V(madd_epi16)(even[i], b_even), V(madd_epi16)(odd[i], b_odd)));
        }
    }
    for (int i = 0; i < mr; i++)
        for (int v = 0; v < VEC && part(n, v); v++)
            v_store_n((float *)(void *)(c + i * ldc + VL * v), v_float(acc[i][v]), part(n, v));
}

void SL_UNIT_FN(gemm_int8)(int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, const int8_t *panel,
                           int32_t *c, int64_t ldc, int add) {
    for (; m >= MR; m -= MR, a += MR * lda, c += MR * ldc)
        block(MR, n, k, a, lda, panel, c, ldc, add);
    for (; m > 0; m--, a += lda, c += ldc)
        block(1, n, k, a, lda, panel, c, ldc, add);
}

int64_t SL_UNIT_FN(peak_int8)(int64_t rounds) {
    enum { CHAINS = 8 };
    vi acc[CHAINS], x = vi_set1(0x10001);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = vi_set1(0);
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; i++) {
            vi y = x;
            __asm__ volatile("" : "+v"(y)); /* neither hoisted nor one for all */
            acc[i] = vi_add(acc[i], V(madd_epi16)(y, x));
        }
#pragma GCC unroll 8 /* else the sums have to be in memory */
    for (int i = 0; i < CHAINS; i++)
        __asm__ volatile("" ::"v"(acc[i]));
    return rounds * CHAINS * VL * 2 * 2;
}
