/* int8 products in several cuts, from fp32 operands on: quantised, packed, multiplied on every tier. The result must
 * have the bits of the definition in ops/gemm_int8.h, computed here in 64-bit integers. */
#include "ops/product/gemm_int8.h"

#include "base/rng.h"
#include "formats/format.h"
#include "spans.h"
#include "suite.h"
#include "tiers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tails in every direction; k over one chunk and over one panel's granule; n over several panels. */
static const struct {
    int64_t m, n, k;
} shapes[] = {{1, 1, 1}, {5, 40, 33}, {150, 131, 70}, {30, 260, 390}, {257, 96, 64}, {17, 65, 2100}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* What shares a scale, of X: a token, the tensor, or the tensor with a zero point; of W: an output channel or all. */
typedef struct {
    int x_rows, affine, w_rows;
} kind;
static const kind kinds[] = {{1, 0, 1}, {0, 0, 0}, {0, 1, 1}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void *must_alloc(int64_t bytes) {
    size_t n = ((size_t)bytes + 127) / 64 * 64;
    void *p = aligned_alloc(64, n);
    ck_assert_ptr_nonnull(p);
    return memset(p, 0, n);
}

typedef struct {
    int64_t m, n, k;
    int zero;
    float *x, *w, *scale_x, *scale_w, *start; /* start: what an adding product adds to */
} operands;

static float *normals(sl_rng *r, int64_t n) {
    float *x = must_alloc(n * 4);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)sl_rng_normal(r);
    return x;
}

static float *scales_of(const sl_kernels *kn, int rows_apart, int64_t rows, int64_t d, const float *x) {
    sl_quantiser q = {SL_FORMAT_int8, SL_SCALE_F32, rows_apart, 0, 0};
    float *amax = must_alloc(rows * 4), *scale = must_alloc(rows * 4);
    ck_assert_int_eq(sl_quant_amax(kn, &q, "x", rows, d, x, d, amax), 0);
    sl_quant_scales(&q, rows, d, amax, NULL, scale, NULL);
    free(amax);
    return scale;
}

static operands make(const sl_kernels *kn, int shape, const kind *how) {
    sl_rng r = sl_rng_make(11, SL_STREAM_TEST, (uint64_t)shape);
    operands o = {.m = shapes[shape].m, .n = shapes[shape].n, .k = shapes[shape].k, .zero = 128};
    o.x = normals(&r, o.m * o.k), o.w = normals(&r, o.n * o.k), o.start = normals(&r, o.m * o.n);
    o.scale_w = scales_of(kn, how->w_rows, o.n, o.k, o.w);
    o.scale_x = scales_of(kn, how->x_rows, o.m, o.k, o.x);
    if (how->affine)
        *o.scale_x = sl_scale_affine(SL_FORMAT_int8, -2, 4, &o.zero);
    return o;
}

/* Codes as the product takes them: X's as bytes round the zero point, W's signed. */
static uint8_t *codes(const sl_kernels *kn, int rows_apart, const sl_grid *g, int64_t rows, int64_t d, const float *x,
                      const float *scale, int64_t ld) {
    sl_quantiser q = {SL_FORMAT_int8, SL_SCALE_F32, rows_apart, 0, 0};
    uint8_t *c = must_alloc(rows * ld);
    ck_assert_int_eq(sl_quant_codes(kn, &q, g, "x", rows, d, x, d, scale, c, ld), 0);
    return c;
}

static sl_grid grid_of_x(const operands *o, const kind *how) {
    sl_grid g = how->affine ? sl_grid_affine(SL_FORMAT_int8, o->zero) : sl_grid_symmetric(SL_FORMAT_int8);
    g.zero = o->zero;
    return g;
}

enum { ALONE, ADDED, IN_PLACE, SUMS }; /* the product; plus start; plus y, which holds start */

static void pack(const void *args, const sl_span *s, void *scratch) { (void)scratch, sl_gemm_int8_pack(args, s); }
static void multiply(const void *args, const sl_span *s, void *scratch) { sl_gemm_int8_rows(args, s, scratch); }

static float *product(const sl_kernels *kn, const operands *o, const kind *how, int cut, int sum_of) {
    sl_grid gx = grid_of_x(o, how), gw = sl_grid_symmetric(SL_FORMAT_int8);
    int64_t lda = sl_int8_ld(o->k);
    uint8_t *a = codes(kn, how->x_rows, &gx, o->m, o->k, o->x, o->scale_x, lda);
    uint8_t *w = codes(kn, how->w_rows, &gw, o->n, o->k, o->w, o->scale_w, o->k);
    int8_t *panels = must_alloc(sl_int8_panels_size(o->n, o->k));
    int32_t *sum = must_alloc(o->n * 4);
    float *y = must_alloc(o->m * o->n * 4);
    if (sum_of == IN_PLACE)
        memcpy(y, o->start, (size_t)(o->m * o->n) * 4);
    sl_gemm_int8_pack_args p = {kn, o->n, o->k, (const int8_t *)w, o->k, panels, sum};
    each_item(&p, sl_gemm_int8_pack_split(&p), pack, cut, 0);
    sl_gemm_int8_args g = {.k = kn, .m = o->m, .n = o->n, .depth = o->k, .a = a, .lda = lda, .zero = o->zero,
                           .scale_a = o->scale_x, .step_a = how->x_rows, .b = panels, .sum = sum,
                           .scale_b = o->scale_w, .step_b = how->w_rows,
                           .plus = sum_of == ALONE ? NULL : sum_of == ADDED ? o->start : y, .y = y, .ldy = o->n};
    each_span(&g, o->m, sl_gemm_int8_rows_split(&g), multiply, cut, sl_gemm_int8_scratch_bytes());
    free(a), free(w), free(panels), free(sum);
    return y;
}

/* Integers of the format, found one by one. */
static float *definition(const operands *o, const kind *how, int add) {
    float *y = must_alloc(o->m * o->n * 4);
    for (int64_t i = 0; i < o->m; i++)
        for (int64_t j = 0; j < o->n; j++) {
            float sx = o->scale_x[how->x_rows ? i : 0], sw = o->scale_w[how->w_rows ? j : 0];
            float lo = how->affine ? (float)-o->zero : -127, hi = how->affine ? (float)(255 - o->zero) : 127;
            int64_t sum = 0;
            for (int64_t k = 0; k < o->k; k++)
                sum += (int64_t)rintf(fminf(fmaxf(o->x[i * o->k + k] / sx, lo), hi)) *
                       (int64_t)rintf(o->w[j * o->k + k] / sw);
            float v = (float)sum * sx * sw;
            y[i * o->n + j] = add ? v + o->start[i * o->n + j] : v;
        }
    return y;
}

/* Nearly the product, in double, of the numbers that the codes stand for. */
static void against_double(const operands *o, const kind *how, const sl_kernels *kn, const float *y) {
    sl_quantiser qx = {SL_FORMAT_int8, SL_SCALE_F32, how->x_rows, 0, 0}, qw = qx;
    qw.block_rows = how->w_rows;
    sl_grid gx = grid_of_x(o, how), gw = sl_grid_symmetric(SL_FORMAT_int8);
    float *x = must_alloc(o->m * o->k * 4), *w = must_alloc(o->n * o->k * 4);
    int far = 0;
    ck_assert_int_eq(sl_quant_round(kn, &qx, &gx, "x", o->m, o->k, o->x, o->k, o->scale_x, x, o->k), 0);
    ck_assert_int_eq(sl_quant_round(kn, &qw, &gw, "w", o->n, o->k, o->w, o->k, o->scale_w, w, o->k), 0);
    for (int64_t i = 0; i < o->m; i++)
        for (int64_t j = 0; j < o->n; j++) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < o->k; k++) {
                double p = (double)x[i * o->k + k] * (double)w[j * o->k + k];
                sum += p;
                size += fabs(p);
            }
            /* each factor was rounded once, the integer sum and its two products once each */
            far += !(fabs((double)y[i * o->n + j] - sum) <= 5 * 0x1p-24 * size);
        }
    ck_assert_int_eq(far, 0);
    free(x), free(w);
}

START_TEST(products) {
    const sl_kernels *kn = sl_kernels_tier(tiers[_i / (SHAPES * KINDS)]);
    const kind *how = &kinds[_i % KINDS];
    if (!kn)
        return; /* not built, or not on this machine */
    operands o = make(kn, _i / KINDS % SHAPES, how);
    for (int sum_of = 0; sum_of < SUMS; sum_of++) {
        float *want = definition(&o, how, sum_of != ALONE);
        for (int cut = 1; cut <= SPAN_CUTS; cut++) {
            float *y = product(kn, &o, how, cut, sum_of);
            ck_assert_mem_eq(y, want, (size_t)(o.m * o.n) * 4);
            if (sum_of == ALONE && cut == 1)
                against_double(&o, how, kn, y);
            free(y);
        }
        free(want);
    }
    free(o.x), free(o.w), free(o.scale_x), free(o.scale_w), free(o.start);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gemm_int8");
    TCase *t = tcase_create("gemm_int8");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, products, 0, TIERS * SHAPES * KINDS);
    suite_add_tcase(s, t);
    return run_suite(s);
}
