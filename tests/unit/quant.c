/* Number formats, scales and quantised matrices: against PyTorch and ml_dtypes (golden/quant.safetensors, made by
 * golden/make_quant.py), all codes, the edges of scales, refusals; on every tier, with 1 to 3 threads. */
#include "formats/format.h"

#include "base/err.h"
#include "base/rng.h"
#include "base/threads.h"
#include "io/safetensors.h"
#include "suite.h"
#include "tiers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sl_st_file *golden;

static void open_golden(void) {
    char path[512];
    snprintf(path, sizeof path, "%s/golden/quant.safetensors", getenv("SL_TESTS"));
    golden = sl_st_open(path);
    ck_assert_msg(golden != NULL, "%s", sl_error());
}
static void close_golden(void) { sl_st_close(golden); }

static const sl_st_tensor *tensor(const char *of, const char *part) {
    char name[64];
    snprintf(name, sizeof name, "%s%s", of, part);
    const sl_st_tensor *t = sl_st_find(golden, name);
    ck_assert_msg(t != NULL, "no tensor %s", name);
    return t;
}
static const void *data(const char *of, const char *part) { return sl_st_data(golden, tensor(of, part)); }

static void *must_alloc(int64_t n, size_t each) {
    void *p = calloc((size_t)n + 1, each);
    ck_assert_ptr_nonnull(p);
    return p;
}

/* ---- single numbers */

START_TEST(all_codes) {
    const sl_format *f = &sl_formats[_i];
    int codes = 1 << f->bits;
    char name[16];
    snprintf(name, sizeof name, "%s.", f->name);
    const float *values = f->integer ? NULL : data(name, "values");
    for (int code = 0; code < codes; code++) {
        float v = sl_format_value((enum sl_format)_i, (uint8_t)code);
        if (values)
            ck_assert_msg(memcmp(&v, &values[code], sizeof v) == 0 || (isnan(v) && isnan(values[code])),
                          "%s 0x%02x is %g, want %g", f->name, (unsigned)code, (double)v, (double)values[code]);
        else
            ck_assert(v == (float)(code < codes / 2 ? code : code - codes));
        if (isnan(v) || (f->integer && fabsf(v) > f->max))
            continue; /* a code that no number has */
        ck_assert_int_eq(sl_format_code((enum sl_format)_i, v) & (codes - 1), code);
        float again = sl_format_round((enum sl_format)_i, v);
        ck_assert_mem_eq(&again, &v, sizeof v);
    }
}
END_TEST

START_TEST(rounding_as_others) {
    const sl_kernels *k = sl_kernels_tier(tiers[_i / SL_FORMATS]);
    enum sl_format f = (enum sl_format)(_i % SL_FORMATS);
    if (!k)
        return; /* not built, or not on this machine */
    char name[16];
    snprintf(name, sizeof name, "%s.", sl_formats[f].name);
    int64_t n = tensor(name, "x")->shape[0];
    float *x = must_alloc(n, sizeof *x), *y = must_alloc(n, sizeof *y), one = 1;
    const float *want = data(name, "y");
    const uint8_t *want_code = data(name, "code");
    uint8_t *code = must_alloc(n, 1);
    memcpy(x, data(name, "x"), (size_t)n * sizeof *x);
    sl_grid g = sl_grid_symmetric(f);
    ck_assert_int_eq(k->quant_round(&g, 1, n, x, n, n, &one, 1, y, n), 1);
    ck_assert_int_eq(k->quant_codes(&g, 1, n, x, n, n, &one, 1, code, n), 1);
    for (int64_t i = 0; i < n; i++) {
        float single = sl_format_round(f, x[i]);
        ck_assert_msg(memcmp(&y[i], &want[i], 4) == 0 && memcmp(&single, &want[i], 4) == 0,
                      "%s: %a becomes %a, alone %a, want %a", name, (double)x[i], (double)y[i], (double)single,
                      (double)want[i]);
        ck_assert_int_eq(code[i], want_code[i]);
        ck_assert_int_eq(sl_format_code(f, x[i]), want_code[i]);
    }
    free(x), free(y), free(code);
}
END_TEST

/* ---- scales */

START_TEST(e8m0_scales) {
    const float *values = data("e8m0.", "values");
    for (int code = 0; code < 255; code++) {
        float v = sl_scale_value(SL_SCALE_E8M0, (uint8_t)code, 0);
        ck_assert_mem_eq(&v, &values[code], sizeof v);
    }
    static const struct {
        float amax;
        int exponent;
    } row[] = {{4, 0}, {6, 0}, {0x1.fffffep2f, 0}, {8, 1}, {3.99f, -1}, {1, -2}, {0, -127}, {0x1p-149f, -127},
               {0x1p-125f, -127}, {0x1p-124f, -126}, {0x1.fffffep127f, 125}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        uint8_t code;
        float s = sl_scale_of(SL_SCALE_E8M0, SL_FORMAT_e2m1, row[i].amax, 0, &code);
        ck_assert(s == ldexpf(1, row[i].exponent));
        ck_assert_int_eq(code, row[i].exponent + 127);
    }
}
END_TEST

START_TEST(two_level_scales) {
    uint8_t code = 77;
    float outer = sl_scale_outer(SL_FORMAT_e2m1, 2688);
    ck_assert(outer == 1);
    ck_assert(sl_scale_of(SL_SCALE_E4M3, SL_FORMAT_e2m1, 2688, outer, &code) == 448); /* the largest block */
    ck_assert_int_eq(code, 0x7e);
    ck_assert(sl_scale_of(SL_SCALE_E4M3, SL_FORMAT_e2m1, 1e9f, outer, &code) == 448); /* above it: saturates */
    ck_assert(sl_scale_of(SL_SCALE_E4M3, SL_FORMAT_e2m1, 6 * 0x1p-9f, outer, &code) == 0x1p-9f);
    ck_assert(sl_scale_of(SL_SCALE_E4M3, SL_FORMAT_e2m1, 6 * 0x1p-10f, outer, &code) == 0); /* a tie: to even */
    ck_assert_int_eq(code, 0);
    ck_assert(sl_scale_of(SL_SCALE_E4M3, SL_FORMAT_e2m1, 0, 0, &code) == 0); /* a matrix of zeros */
}
END_TEST

START_TEST(affine_scales) {
    static const struct {
        float lo, hi, scale;
        int zero;
    } row[] = {{-1, 254, 1, 1}, {0, 255, 1, 0}, {3, 255, 1, 0}, {-255, 0, 1, 255}, {-255, -3, 1, 255},
               {-127.5f, 127.5f, 1, 128}, {0, 0, 0, 0}, {-5.1f, 0, 5.1f / 255, 255}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        int zero;
        ck_assert(sl_scale_affine(SL_FORMAT_int8, row[i].lo, row[i].hi, &zero) == row[i].scale);
        ck_assert_int_eq(zero, row[i].zero);
    }
    int zero;
    ck_assert(isfinite(sl_scale_affine(SL_FORMAT_int8, -3e38f, 3e38f, &zero)));
    sl_grid g = sl_grid_affine(SL_FORMAT_int8, 0);
    float value[256];
    sl_grid_values(&g, value);
    ck_assert(value[255] == 255); /* and not -1 */
    g = sl_grid_affine(SL_FORMAT_int4, 9);
    sl_grid_values(&g, value);
    ck_assert(g.lo == -9 && g.hi == 6 && value[0] == -9 && value[15] == 6);
}
END_TEST

/* ---- matrices */

typedef struct {
    const char *name;
    sl_quantiser q;
    int64_t rows;
} scheme;
static const scheme schemes[] = {
    {"int8_row", {SL_FORMAT_int8, SL_SCALE_F32, 1, 0, 0}, 24},
    {"int4_row", {SL_FORMAT_int4, SL_SCALE_F32, 1, 0, 0}, 24},
    {"int8_tensor", {SL_FORMAT_int8, SL_SCALE_F32, 0, 0, 0}, 24},
    {"int4_g32", {SL_FORMAT_int4, SL_SCALE_F32, 1, 32, 0}, 24},
    {"e4m3_block", {SL_FORMAT_e4m3, SL_SCALE_F32, 128, 128, 0}, 130},
    {"nvfp4_tensor", {SL_FORMAT_e2m1, SL_SCALE_E4M3, 1, 16, 0}, 24},
    {"nvfp4_row", {SL_FORMAT_e2m1, SL_SCALE_E4M3, 1, 16, 1}, 24},
    {"mxfp4", {SL_FORMAT_e2m1, SL_SCALE_E8M0, 1, 32, 0}, 24},
};
enum { SCHEMES = sizeof schemes / sizeof *schemes, D = 133 };

typedef struct {
    float *amax, *scale, *outer, *y, *back;
    uint8_t *scale_code, *code;
    sl_scale_layout blocks;
} quantised;

static quantised quantise(const sl_kernels *k, const scheme *s, const float *x) {
    const sl_quantiser *q = &s->q;
    sl_grid g = sl_grid_symmetric(q->format);
    quantised r = {.blocks = sl_quant_blocks(q, s->rows, D)};
    int64_t blocks = r.blocks.down * r.blocks.across;
    r.amax = must_alloc(blocks, 4), r.scale = must_alloc(blocks, 4), r.outer = must_alloc(r.blocks.outers, 4);
    r.scale_code = must_alloc(blocks, 1);
    r.y = must_alloc(s->rows * D, 4), r.back = must_alloc(s->rows * D, 4), r.code = must_alloc(s->rows * D, 1);
    ck_assert_int_eq(sl_quant_amax(k, q, "x", s->rows, D, x, D, r.amax), 0);
    if (r.blocks.outers)
        sl_quant_outer(q, s->rows, D, r.amax, r.outer);
    sl_quant_scales(q, s->rows, D, r.amax, r.blocks.outers ? r.outer : NULL, r.scale, r.scale_code);
    ck_assert_int_eq(sl_quant_round(k, q, &g, "x", s->rows, D, x, D, r.scale, r.y, D), 0);
    ck_assert_int_eq(sl_quant_codes(k, q, &g, "x", s->rows, D, x, D, r.scale, r.code, D), 0);
    sl_quant_values(k, q, &g, s->rows, D, r.code, D, r.scale, r.back, D);
    return r;
}

static void drop(quantised *r) {
    free(r->amax), free(r->scale), free(r->outer), free(r->y), free(r->back), free(r->scale_code), free(r->code);
}

START_TEST(matrices_as_others) {
    const sl_kernels *k = sl_kernels_tier(tiers[_i / SCHEMES]);
    const scheme *s = &schemes[_i % SCHEMES];
    if (!k)
        return;
    const float *x = data("x", "");
    for (int threads = 1; threads <= 3; threads++) {
        sl_threads_set(threads);
        quantised r = quantise(k, s, x);
        int64_t blocks = r.blocks.down * r.blocks.across;
        const float *want = data(s->name, ".y");
        for (int64_t i = 0; i < s->rows * D; i++)
            ck_assert_msg(memcmp(&r.y[i], &want[i], 4) == 0, "%s[%d][%d] = %a, want %a", s->name, (int)(i / D),
                          (int)(i % D), (double)r.y[i], (double)want[i]);
        ck_assert_mem_eq(r.back, r.y, (size_t)(s->rows * D) * 4);
        if (s->q.scale == SL_SCALE_F32)
            ck_assert_mem_eq(r.scale, data(s->name, ".scale"), (size_t)blocks * 4);
        else {
            ck_assert_mem_eq(r.scale_code, data(s->name, ".scale"), (size_t)blocks);
            ck_assert_mem_eq(r.code, data(s->name, ".code"), (size_t)(s->rows * D));
        }
        if (r.blocks.outers)
            ck_assert_mem_eq(r.outer, data(s->name, ".outer"), (size_t)r.blocks.outers * 4);
        for (int64_t i = 0; i < blocks && s->q.scale != SL_SCALE_F32; i++) {
            float outer = r.outer[s->q.outer_rows ? i / r.blocks.across / s->q.outer_rows : 0];
            float again = sl_scale_value(s->q.scale, r.scale_code[i], outer);
            ck_assert_mem_eq(&again, &r.scale[i], 4);
        }
        drop(&r);
    }
}
END_TEST

/* In one pass over the rows, of several items, as in three. */
START_TEST(codes_by_row) {
    const sl_kernels *k = sl_kernels_tier(tiers[_i / SCHEMES]);
    scheme s = schemes[_i % SCHEMES];
    if (!k || s.q.block_rows != 1 || s.q.scale == SL_SCALE_E4M3)
        return;
    const float *x = data("x", "");
    s.rows = 130;
    sl_grid g = sl_grid_symmetric(s.q.format);
    for (int threads = 1; threads <= 3; threads++) {
        sl_threads_set(threads);
        quantised r = quantise(k, &s, x);
        int64_t scales = r.blocks.down * r.blocks.across;
        float *scale = must_alloc(scales, 4);
        uint8_t *code = must_alloc(s.rows * D, 1);
        ck_assert_int_eq(sl_quant_codes_by_row(k, &s.q, &g, "x", s.rows, D, x, D, scale, code, D), 0);
        ck_assert_mem_eq(scale, r.scale, (size_t)scales * 4);
        ck_assert_mem_eq(code, r.code, (size_t)(s.rows * D));
        free(scale), free(code);
        drop(&r);
    }
}
END_TEST

START_TEST(static_as_others) {
    const sl_kernels *k = sl_kernels_tier(tiers[_i]);
    if (!k)
        return;
    const sl_quantiser q = {SL_FORMAT_int8, SL_SCALE_F32, 0, 0, 0};
    enum { ROWS = 24 };
    int zero;
    float scale = sl_scale_affine(SL_FORMAT_int8, -3, 5, &zero), *y = must_alloc(ROWS * D, 4);
    ck_assert_mem_eq(&scale, data("uint8_static", ".scale"), 4);
    ck_assert_int_eq(zero, *(const int32_t *)data("uint8_static", ".zero"));
    sl_grid g = sl_grid_affine(SL_FORMAT_int8, zero);
    ck_assert_int_eq(sl_quant_round(k, &q, &g, "x", ROWS, D, data("x", ""), D, &scale, y, D), 0);
    ck_assert_mem_eq(y, data("uint8_static", ".y"), ROWS * D * 4);
    uint8_t *code = must_alloc(ROWS * D, 1);
    float *back = must_alloc(ROWS * D, 4);
    ck_assert_int_eq(sl_quant_codes(k, &q, &g, "x", ROWS, D, data("x", ""), D, &scale, code, D), 0);
    sl_quant_values(k, &q, &g, ROWS, D, code, D, &scale, back, D);
    ck_assert_mem_eq(back, y, ROWS * D * 4);
    free(y), free(code), free(back);
}
END_TEST

/* Blocks of 3 rows, which items of 32 rows cut: as if each were quantised alone. */
START_TEST(blocks_of_rows) {
    const sl_kernels *k = sl_kernels_select(SL_ISA_AUTO);
    const scheme s = {"", {SL_FORMAT_e4m3, SL_SCALE_E4M3, 3, 50, 6}, 130};
    const scheme one = {"", {SL_FORMAT_e4m3, SL_SCALE_E4M3, 3, 50, 0}, 6};
    const float *x = data("x", "");
    quantised all = quantise(k, &s, x);
    for (int64_t row = 0; row + 6 <= 130; row += 6) {
        quantised alone = quantise(k, &one, x + row * D);
        ck_assert_mem_eq(alone.y, all.y + row * D, 6 * D * 4);
        ck_assert_mem_eq(alone.scale, all.scale + row / 3 * all.blocks.across, (size_t)(2 * all.blocks.across) * 4);
        drop(&alone);
    }
    drop(&all);
}
END_TEST

START_TEST(refused) {
    const sl_kernels *k = sl_kernels_select(SL_ISA_AUTO);
    const sl_quantiser q = {SL_FORMAT_int8, SL_SCALE_F32, 0, 0, 0}, token = {SL_FORMAT_int8, SL_SCALE_F32, 1, 0, 0};
    sl_grid g = sl_grid_symmetric(SL_FORMAT_int8);
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float x[40 * 5] = {0}, y[40 * 5], amax, scale = 1, scales[40];
        uint8_t code[40 * 5];
        ck_assert_int_eq(sl_quant_amax(k, &q, "w", 40, 5, x, 5, &amax), 0);
        x[199 - i] = odd[i];
        ck_assert_int_eq(sl_quant_amax(k, &q, "layer 3's input", 40, 5, x, 5, &amax), -1);
        ck_assert_ptr_nonnull(strstr(sl_error(), "cannot quantise layer 3's input"));
        ck_assert_int_eq(sl_quant_round(k, &q, &g, "w", 40, 5, x, 5, &scale, y, 5), -1);
        ck_assert_int_eq(sl_quant_codes(k, &q, &g, "w", 40, 5, x, 5, &scale, code, 5), -1);
        ck_assert_int_eq(sl_quant_codes_by_row(k, &token, &g, "w", 40, 5, x, 5, scales, code, 5), -1);
        x[199 - i] = 0;
        ck_assert_int_eq(sl_quant_codes_by_row(k, &token, &g, "w", 40, 5, x, 5, scales, code, 5), 0);
        ck_assert_int_eq(sl_quant_codes(k, &q, &g, "w", 40, 5, x, 5, &scale, code, 5), 0);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("quant");
    TCase *t = tcase_create("quant");
    tcase_add_unchecked_fixture(t, open_golden, close_golden);
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, all_codes, 0, SL_FORMATS);
    tcase_add_loop_test(t, rounding_as_others, 0, TIERS * SL_FORMATS);
    tcase_add_test(t, e8m0_scales);
    tcase_add_test(t, two_level_scales);
    tcase_add_test(t, affine_scales);
    tcase_add_loop_test(t, matrices_as_others, 0, TIERS * SCHEMES);
    tcase_add_loop_test(t, codes_by_row, 0, TIERS * SCHEMES);
    tcase_add_loop_test(t, static_as_others, 0, TIERS);
    tcase_add_test(t, blocks_of_rows);
    tcase_add_test(t, refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
