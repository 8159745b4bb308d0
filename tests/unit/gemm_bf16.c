/* The bf16 products against sums in double over the same bf16 operands, on every tier of this machine, and bit for bit
 * between cuts. */
#include "ops/product/gemm_bf16.h"
#include "base/rng.h"
#include "spans.h"
#include "suite.h"
#include "tiers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t m, n, k;
} shape;

/* Tails in every direction; k over one chunk; few rows (columns are cut); n < k and n > k (the
 * weight gradient transposes one or the other); m over one chunk of the weight gradient. */
static const shape shapes[] = {
    {1, 1, 1},      {1, 300, 40},  {33, 70, 45},   {130, 64, 96},  {257, 33, 1100},
    {1030, 40, 64}, {1101, 70, 33}, {96, 200, 32}, {600, 17, 100}, {2, 1000, 160}, {515, 129, 129},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static double value(sl_bf16 h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return (double)f;
}

static sl_bf16 nearest(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (sl_bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void *must_alloc(int64_t n, size_t size) {
    void *p = aligned_alloc(64, ((size_t)n * size + 127) / 64 * 64);
    ck_assert_ptr_nonnull(p);
    memset(p, 0, ((size_t)n * size + 127) / 64 * 64);
    return p;
}

/* Row-major bf16 with zeros up to ld. */
static sl_bf16 *random_bf16(sl_rng *r, int64_t rows, int64_t cols, int64_t ld) {
    sl_bf16 *x = must_alloc(rows * ld, sizeof *x);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            x[i * ld + j] = nearest((float)sl_rng_normal(r));
    return x;
}

/* The operands of one shape: x[m,k], dy[m,n], w[n,k] and w's rounded copy. */
typedef struct {
    shape s;
    int64_t ldx, ldy;
    sl_bf16 *x, *dy;
    float *w;
} operands;

static operands make(shape s) {
    sl_rng r = sl_rng_make(3, SL_STREAM_TEST, (uint64_t)(s.m * 31 + s.n * 7 + s.k));
    operands o = {
        s, sl_bf16_ld(s.k), sl_bf16_ld(s.n), NULL, NULL, must_alloc(s.n * s.k, sizeof(float))};
    o.x = random_bf16(&r, s.m, s.k, o.ldx);
    o.dy = random_bf16(&r, s.m, s.n, o.ldy);
    for (int64_t i = 0; i < s.n * s.k; i++)
        o.w[i] = (float)sl_rng_normal(&r);
    return o;
}

static void drop(operands *o) {
    free(o->x);
    free(o->dy);
    free(o->w);
}

/* Results of the three products; of the forward one also onto a residual and a bias, rounded, and rounded onto what is
 * there. */
typedef struct {
    float *y, *sum, *dx, *dw, *bias;
    sl_bf16 *rounded, *more;
} results;

static void pack(const void *args, const sl_span *s, void *scratch) { (void)scratch, sl_gemm_bf16_pack(args, s); }
static void multiply(const void *args, const sl_span *s, void *scratch) {
    (void)scratch;
    sl_gemm_bf16_rows(args, s);
}
typedef struct {
    sl_gemm_bf16_wgrad_args g;
    int workers;
} wgrad;
static void weigh(const void *args, const sl_span *s, void *scratch) {
    const wgrad *w = args;
    sl_gemm_bf16_wgrad(&w->g, w->workers, s, scratch);
}
static void fold(const void *args, const sl_span *s, void *scratch) { (void)scratch, sl_gemm_bf16_fold(args, s); }

static void product(const sl_gemm_bf16_args *g, int cut) {
    each_span(g, g->m, sl_gemm_bf16_rows_split(g), multiply, cut, 0);
}

static void forward(const sl_kernels *kn, const operands *o, const sl_bf16 *panels, int cut, results *r) {
    shape s = o->s;
    sl_gemm_bf16_args g = {.k = kn, .m = s.m, .n = s.n, .depth = s.k, .a = o->x, .lda = o->ldx, .b = panels, .c = r->y,
                           .ldc = s.n};
    product(&g, cut);
    g.c = r->sum, g.residual = r->sum, g.bias = r->bias;
    product(&g, cut);
    g.c = NULL, g.residual = NULL, g.bias = NULL, g.y = r->rounded, g.ldy = o->ldy;
    product(&g, cut);
    g.y = r->more, g.add = true;
    product(&g, cut);
}

/* Long ones in chunks of rows, the last one smaller than a part of the sum. */
static void weight_gradient(const sl_kernels *kn, const operands *o, int cut, float *dw) {
    shape s = o->s;
    int64_t chunk = sl_min(s.m, 1040), partials = sl_gemm_bf16_wgrad_partials(chunk, s.n, s.k);
    float *partial = must_alloc(partials + 1, 4);
    for (int64_t row = 0; row < s.m; row += chunk) {
        wgrad w = {{.k = kn, .m = sl_min(chunk, s.m - row), .n = s.n, .depth = s.k, .chunk = chunk,
                    .dy = o->dy + row * o->ldy, .lddy = o->ldy, .x = o->x + row * o->ldx, .ldx = o->ldx, .dw = dw,
                    .lddw = s.k, .partials = partial}, cut};
        each_item(&w, sl_gemm_bf16_wgrad_split(&w.g, cut), weigh, cut, sl_gemm_bf16_wgrad_scratch_bytes(s.n, s.k));
        each_item(&w.g, sl_gemm_bf16_fold_split(&w.g), fold, cut, 0);
    }
    free(partial);
}

static results run(const sl_kernels *kn, const operands *o, int cut) {
    shape s = o->s;
    results r = {must_alloc(s.m * s.n, 4), must_alloc(s.m * s.n, 4), must_alloc(s.m * s.k, 4), must_alloc(s.n * s.k, 4),
                 must_alloc(s.n, 4), must_alloc(s.m * o->ldy, 2), must_alloc(s.m * o->ldy, 2)};
    sl_bf16 *fwd = must_alloc(sl_bf16_panels_size(s.n, s.k), 2);
    sl_bf16 *back = must_alloc(sl_bf16_panels_size(s.k, s.n), 2);
    for (int64_t i = 0; i < s.m * s.k; i++)
        r.dx[i] = 1;
    for (int64_t i = 0; i < s.n * s.k; i++)
        r.dw[i] = 1;
    for (int64_t i = 0; i < s.m * s.n; i++)
        r.sum[i] = 1;
    for (int64_t j = 0; j < s.n; j++)
        r.bias[j] = (float)(j % 7);
    for (int64_t i = 0; i < s.m * o->ldy; i++)
        r.more[i] = r.rounded[i] = nearest(1);
    sl_gemm_bf16_pack_args p = {.k = kn, .n = s.n, .depth = s.k, .w = o->w, .ldw = s.k, .forward = fwd, .back = back};
    each_item(&p, sl_gemm_bf16_pack_split(&p), pack, cut, 0);
    forward(kn, o, fwd, cut, &r);
    product(&(sl_gemm_bf16_args){.k = kn, .m = s.m, .n = s.k, .depth = s.n, .a = o->dy, .lda = o->ldy, .b = back,
                                 .c = r.dx, .ldc = s.k, .add = true}, cut);
    weight_gradient(kn, o, cut, r.dw);
    free(fwd);
    free(back);
    return r;
}

static void release(results *r) {
    free(r->y), free(r->sum), free(r->dx), free(r->dw), free(r->bias), free(r->rounded), free(r->more);
}

/* The forms of the forward product, from the plain one; padding is zero up to whole panels and untouched behind. */
static void forms_agree(const operands *o, const results *r) {
    shape s = o->s;
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t j = 0; j < o->ldy; j++) {
            bool inside = j < s.n, padding = !inside && j < sl_bf16_kpad(s.n);
            float y = inside ? r->y[i * s.n + j] : 0;
            ck_assert_uint_eq(r->rounded[i * o->ldy + j], inside ? nearest(y) : padding ? 0 : nearest(1));
            ck_assert_uint_eq(r->more[i * o->ldy + j], inside ? nearest(y + 1) : padding ? 0 : nearest(1));
            if (inside)
                ck_assert(r->sum[i * s.n + j] == (y + (float)(j % 7)) + 1);
        }
}

/* |error| <= (k + 2) u S (simd/kernels.h), k rounded up to whole panels and one more sum for the
 * start value; operands are normal numbers, so nothing is flushed but sums under 2^-126, which
 * normal deviates do not make. */
static void near_enough(float got, double want, double s, int64_t k, const sl_kernels *kn) {
    double u = ldexp(1, strcmp(kn->tier, "neonbf16") == 0 ? -23 : -24);
    ck_assert_double_le(fabs((double)got - want), (double)(sl_bf16_kpad(k) + 3) * u * s);
}

static void against_double(const sl_kernels *kn, const operands *o, const results *r) {
    shape s = o->s;
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t j = 0; j < s.n; j++) {
            double sum = 0, abs = 0;
            for (int64_t k = 0; k < s.k; k++) {
                double p = value(o->x[i * o->ldx + k]) * value(nearest(o->w[j * s.k + k]));
                sum += p;
                abs += fabs(p);
            }
            near_enough(r->y[i * s.n + j], sum, abs, s.k, kn);
        }
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t k = 0; k < s.k; k++) {
            double sum = 1, abs = 1;
            for (int64_t j = 0; j < s.n; j++) {
                double p = value(o->dy[i * o->ldy + j]) * value(nearest(o->w[j * s.k + k]));
                sum += p;
                abs += fabs(p);
            }
            near_enough(r->dx[i * s.k + k], sum, abs, s.n, kn);
        }
    for (int64_t j = 0; j < s.n; j++)
        for (int64_t k = 0; k < s.k; k++) {
            double sum = 1, abs = 1;
            for (int64_t i = 0; i < s.m; i++) {
                double p = value(o->dy[i * o->ldy + j]) * value(o->x[i * o->ldx + k]);
                sum += p;
                abs += fabs(p);
            }
            near_enough(r->dw[j * s.k + k], sum, abs, s.m, kn);
        }
}

START_TEST(products) {
    const sl_kernels *kn = sl_kernels_tier(tiers[_i / SHAPES]);
    if (!kn)
        return; /* not built, or not on this machine */
    operands o = make(shapes[_i % SHAPES]);
    shape s = o.s;
    results one = run(kn, &o, 1);
    against_double(kn, &o, &one);
    forms_agree(&o, &one);
    for (int cut = 2; cut <= SPAN_CUTS; cut++) {
        results r = run(kn, &o, cut);
        ck_assert_mem_eq(r.y, one.y, (size_t)(s.m * s.n) * 4);
        ck_assert_mem_eq(r.sum, one.sum, (size_t)(s.m * s.n) * 4);
        ck_assert_mem_eq(r.dx, one.dx, (size_t)(s.m * s.k) * 4);
        ck_assert_mem_eq(r.dw, one.dw, (size_t)(s.n * s.k) * 4);
        ck_assert_mem_eq(r.rounded, one.rounded, (size_t)(s.m * o.ldy) * 2);
        ck_assert_mem_eq(r.more, one.more, (size_t)(s.m * o.ldy) * 2);
        release(&r);
    }
    release(&one);
    drop(&o);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gemm_bf16");
    TCase *t = tcase_create("gemm_bf16");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, products, 0, TIERS * SHAPES);
    suite_add_tcase(s, t);
    return run_suite(s);
}
