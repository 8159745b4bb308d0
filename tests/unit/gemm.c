/* The fp32 products in stages against sums in double, on every tier of this machine and with a BLAS library; bit for
 * bit between cuts where the engine multiplies. */
#include "ops/product/gemm.h"

#include "base/rng.h"
#include "spans.h"
#include "suite.h"
#include "tiers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tails in every direction; depth over one block; few rows (columns are cut); many. */
static const struct {
    int64_t m, n, depth;
} shapes[] = {{1, 1, 1}, {1, 300, 40}, {33, 70, 45}, {260, 64, 390}, {4, 515, 800}, {70, 1, 7}, {300, 9, 1}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* How A and B lie (rows, or turned), and what is added to the product. */
typedef struct {
    bool turn_a, turn_b, tiles;
    enum { ALONE, ONTO, ROWS, ROWS_IN_PLACE } plus;
    bool bias;
} form;
static const form forms[] = {
    {false, true, false, ALONE, false}, /* forward */
    {false, true, false, ALONE, true},
    {false, true, false, ROWS, false}, /* into the residual stream */
    {false, true, false, ROWS_IN_PLACE, false},
    {false, true, false, ROWS, true},
    {false, true, false, ROWS_IN_PLACE, true},
    {false, false, false, ONTO, false}, /* input gradient */
    {true, false, true, ONTO, false},   /* weight gradient */
    {false, false, true, ALONE, false},
};
enum { FORMS = sizeof forms / sizeof *forms };

static float *normals(sl_rng *r, int64_t n) {
    float *x = aligned_alloc(64, ((size_t)n * sizeof *x + 127) / 64 * 64);
    ck_assert_ptr_nonnull(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)sl_rng_normal(r);
    return x;
}

typedef struct {
    sl_gemm_args g;
    const form *f;
    float *a, *b, *start, *bias, *packed;
} problem;

static problem make(const sl_kernels *k, const sl_blas *blas, int shape, const form *f) {
    int64_t m = shapes[shape].m, n = shapes[shape].n, depth = shapes[shape].depth;
    sl_rng r = sl_rng_make(4, SL_STREAM_TEST, (uint64_t)shape);
    problem p = {.f = f, .a = normals(&r, m * depth), .b = normals(&r, n * depth), .start = normals(&r, m * n),
                 .bias = normals(&r, n),
                 .packed = normals(&r, (int64_t)(sl_gemm_packed_bytes(k, n, depth) / sizeof(float)))};
    p.g = (sl_gemm_args){.k = k, .m = m, .n = n, .depth = depth, .packed = p.packed, .ldc = n, .add = f->plus == ONTO,
                         .blas = blas, .bias = f->bias ? p.bias : NULL};
    p.g.a = f->turn_a ? (sl_mat){p.a, 1, m} : (sl_mat){p.a, depth, 1};
    p.g.b = f->turn_b ? (sl_mat){p.b, depth, 1} : (sl_mat){p.b, 1, n};
    return p;
}

static void drop(problem *p) { free(p->a), free(p->b), free(p->start), free(p->bias), free(p->packed); }

static void pack(const void *args, const sl_span *s, void *scratch) { (void)scratch, sl_gemm_pack(args, s); }
static void rows(const void *args, const sl_span *s, void *scratch) { sl_gemm_rows(args, s, scratch); }
static int workers;
static void tiles(const void *args, const sl_span *s, void *scratch) { sl_gemm_tiles(args, workers, s, scratch); }

static float *product(const problem *p, int cut) {
    sl_gemm_args g = p->g, deeper = p->g;
    size_t bytes = sl_gemm_scratch_bytes(g.k), size = (size_t)(g.m * g.n) * sizeof(float);
    float *c = malloc(size);
    ck_assert_ptr_nonnull(c);
    memcpy(c, p->start, size);
    g.c = c;
    g.residual = p->f->plus == ROWS ? p->start : p->f->plus == ROWS_IN_PLACE ? c : NULL;
    deeper.depth += SL_GEMM_KC; /* a stage that is cut for more than there is */
    each_item(&g, sl_gemm_pack_split(&deeper), pack, cut, 0);
    workers = cut;
    if (p->f->tiles)
        each_item(&g, sl_gemm_tiles_split(&g, workers), tiles, cut, bytes);
    else
        each_span(&g, g.m, sl_gemm_rows_split(&g), rows, cut, bytes);
    return c;
}

/* |error| <= (depth + 3) u S: each product and each sum is rounded once. */
static void against_double(const problem *p, const float *c) {
    const sl_gemm_args *g = &p->g;
    int far = 0;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = p->f->plus == ALONE ? 0 : (double)p->start[i * g->n + j], size = fabs(sum);
            if (p->f->bias)
                sum += (double)p->bias[j], size += fabs((double)p->bias[j]);
            for (int64_t k = 0; k < g->depth; k++) {
                double t = (double)g->a.p[i * g->a.is + k * g->a.ks] * (double)g->b.p[j * g->b.is + k * g->b.ks];
                sum += t, size += fabs(t);
            }
            far += !(fabs((double)c[i * g->n + j] - sum) <= (double)(g->depth + 3) * 0x1p-24 * size);
        }
    ck_assert_int_eq(far, 0);
}

START_TEST(own) {
    const sl_kernels *k = sl_kernels_tier(tiers[_i / (SHAPES * FORMS)]);
    if (!k)
        return; /* not built, or not on this machine */
    problem p = make(k, NULL, _i / FORMS % SHAPES, &forms[_i % FORMS]);
    float *first = product(&p, 1);
    against_double(&p, first);
    for (int cut = 2; cut <= SPAN_CUTS; cut++) {
        float *c = product(&p, cut);
        ck_assert_mem_eq(c, first, (size_t)(p.g.m * p.g.n) * sizeof *c);
        free(c);
    }
    free(first);
    drop(&p);
}
END_TEST

/* That of SINKLAB_BLAS, which the build sets to fake_blas.c, or whatever is installed. */
START_TEST(blas) {
    const sl_blas *b = sl_blas_load();
    ck_assert_ptr_nonnull(b);
    ck_assert_ptr_eq(b, sl_blas_load());
    problem p = make(sl_kernels_select(SL_ISA_AUTO), b, _i / FORMS, &forms[_i % FORMS]);
    ck_assert_int_eq(sl_gemm_pack_split(&p.g).items, 0);
    for (int cut = 1; cut <= SPAN_CUTS; cut++) {
        float *c = product(&p, cut);
        against_double(&p, c);
        free(c);
    }
    drop(&p);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gemm");
    TCase *t = tcase_create("gemm");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, own, 0, TIERS * SHAPES * FORMS);
    tcase_add_loop_test(t, blas, 0, SHAPES * FORMS);
    suite_add_tcase(s, t);
    return run_suite(s);
}
