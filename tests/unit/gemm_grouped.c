/* Products of groups against sums in double over the same operands, on every tier of this machine; fp32 and bf16. */
#include "ops/product/gemm_grouped.h"
#include "base/rng.h"
#include "suite.h"
#include "tiers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tails in every direction; depth over one chunk of either precision; more columns than one block. */
static const struct {
    int64_t rows, n, depth;
} shapes[] = {{1, 1, 1}, {5, 40, 33}, {97, 131, 70}, {30, 260, 390}, {17, 65, 1700}};

enum { SHAPES = sizeof shapes / sizeof *shapes };

static double value(sl_bf16 h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return (double)f;
}

static void *must_alloc(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    ck_assert_ptr_nonnull(p);
    return memset(p, 0, (bytes + 127) / 64 * 64);
}

/* A matrix [rows, cols] in the precision of a product, rows ld apart, and the same values in fp32, cols apart. bf16:
 * zeros up to ld; fp32: NaN, which nobody may read. */
typedef struct {
    int64_t ld;
    void *p;
    float *exact;
} operand;

static operand random_rows(const sl_kernels *k, bool bf16, int64_t rows, int64_t cols, uint64_t seed) {
    operand o = {.ld = bf16 ? sl_bf16_kpad(cols) + 32 : cols + 3};
    sl_rng r = sl_rng_make(seed, SL_STREAM_TEST, 0);
    sl_bf16 *half = o.p = must_alloc((size_t)(rows * o.ld) * sizeof(float));
    float *single = o.p;
    o.exact = must_alloc((size_t)(rows * cols) * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < (bf16 ? cols : o.ld); j++) {
            float x = j < cols ? (float)sl_rng_normal(&r) : NAN;
            if (bf16)
                k->to_bf16(1, &x, half + i * o.ld + j);
            else
                single[i * o.ld + j] = x;
            if (j < cols)
                o.exact[i * cols + j] = bf16 ? (float)value(half[i * o.ld + j]) : x;
        }
    return o;
}

static void free_rows(operand o) {
    free(o.p);
    free(o.exact);
}

/* A sum of k products, each rounded once and added to a rounded sum: within (k + 2) u sum |a b|; u = 2^-23 for BFDOT.
 * */
static void compare(float got, double want, double magnitude, int64_t k) {
    ck_assert_double_le(fabs((double)got - want), (double)(sl_bf16_kpad(k) + 3) * 0x1p-23 * magnitude + 1e-30);
}

static void check_product(const sl_kernels *k, bool bf16, int64_t rows, int64_t n, int64_t depth, bool turned) {
    operand a = random_rows(k, bf16, rows, depth, 1);
    /* B[depth, n] from w [n, depth], or turned from w [depth, n]: bf16 values exactly, so that packing rounds
     * nothing. */
    operand w = random_rows(k, true, turned ? depth : n, turned ? n : depth, 2);
    sl_mat b = turned ? (sl_mat){w.exact, 1, n} : (sl_mat){w.exact, depth, 1};
    void *packed = must_alloc(sl_grouped_bytes(k, bf16, n, depth));
    float *rows_packed = must_alloc(sl_grouped_rows_bytes(k, bf16, rows, depth));
    for (int64_t p = 0; p < sl_grouped_panels(k, bf16, n); p++)
        sl_grouped_pack(k, bf16, n, depth, b, p, packed);
    sl_grouped_rows taken = sl_grouped_take_rows(k, bf16, rows, depth, a.p, a.ld, rows_packed);
    int64_t ldc = n + 1;
    float *c = must_alloc((size_t)(rows * ldc) * sizeof *c);
    for (int64_t i = 0; i < rows * ldc; i++)
        c[i] = 1;
    for (int64_t j = 0; j < n; j += SL_GROUPED_COLS)
        sl_grouped_product(&taken, packed, j, n - j < SL_GROUPED_COLS ? n - j : SL_GROUPED_COLS, c + j, ldc, turned);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = turned, magnitude = turned;
            for (int64_t x = 0; x < depth; x++) {
                double product = (double)a.exact[i * depth + x] * b.p[j * b.is + x * b.ks];
                sum += product, magnitude += fabs(product);
            }
            compare(c[i * ldc + j], sum, magnitude, depth + 1);
        }
        ck_assert(c[i * ldc + n] == 1);
    }
    free(packed), free(rows_packed), free(c);
    free_rows(a), free_rows(w);
}

static void check_wgrad(const sl_kernels *k, bool bf16, int64_t rows, int64_t n, int64_t m) {
    operand dy = random_rows(k, bf16, rows, n, 3), x = random_rows(k, bf16, rows, m, 4);
    int64_t ld = m + 1;
    float *dw = must_alloc((size_t)(n * ld) * sizeof *dw);
    void *scratch = must_alloc(sl_grouped_wgrad_bytes(k, bf16));
    memset(scratch, 0xff, sl_grouped_wgrad_bytes(k, bf16));
    for (int64_t i = 0; i < n * ld; i++)
        dw[i] = 1;
    sl_grouped_wgrad(k, bf16, rows, n, m, dy.p, dy.ld, x.p, x.ld, dw, ld, scratch);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < m; j++) {
            double sum = 1, magnitude = 1;
            for (int64_t r = 0; r < rows; r++) {
                double product = (double)dy.exact[r * n + i] * x.exact[r * m + j];
                sum += product, magnitude += fabs(product);
            }
            compare(dw[i * ld + j], sum, magnitude, rows + 1);
        }
        ck_assert(dw[i * ld + m] == 1);
    }
    free(dw), free(scratch);
    free_rows(dy), free_rows(x);
}

START_TEST(products) {
    const sl_kernels *k = sl_kernels_tier(tiers[_i / 2]);
    for (int s = 0; k && s < 2 * SHAPES; s++)
        check_product(k, _i % 2, shapes[s / 2].rows, shapes[s / 2].n, shapes[s / 2].depth, s % 2);
}
END_TEST

START_TEST(weight_gradients) {
    const sl_kernels *k = sl_kernels_tier(tiers[_i / 2]);
    if (!k)
        return;
    check_wgrad(k, _i % 2, 1, 1, 1);
    check_wgrad(k, _i % 2, 37, 45, 70);
    check_wgrad(k, _i % 2, 401, 33, 50); /* rows over one chunk */
    check_wgrad(k, _i % 2, 40, SL_GROUPED_WGRAD_N, SL_GROUPED_WGRAD_M);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gemm_grouped");
    TCase *tc = tcase_create("gemm_grouped");
    tcase_set_timeout(tc, 0);
    tcase_add_loop_test(tc, products, 0, 2 * TIERS);
    tcase_add_loop_test(tc, weight_gradients, 0, 2 * TIERS);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
