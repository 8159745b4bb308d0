#include "kern.h"

#include <math.h>

struct pack {
    int64_t n, k, is, ks;
    int p;
};

static void call_pack(const sl_kernels *t, const k_case *c) {
    const struct pack *a = c->arg;
    t->pack_f32(a->n, a->k, k_f32(c, 0), a->is, a->ks, a->p, k_f32(c, 1));
}

/* Layout of the source: row-major n x k (ks = 1), or its transpose (is = 1). */
static void pack_case(k_case *c, int64_t n, int64_t k, int transposed, int p, enum k_data kind) {
    static struct pack a;
    int64_t rows = transposed ? k : n, cols = transposed ? n : k, ld = k_stride(c, cols);
    if (ld == 0)
        ld = 1;
    a = (struct pack){n, k, transposed ? 1 : ld, transposed ? ld : 1, p};
    k_begin(c, call_pack, &a, "n=%d k=%d is=%d ks=%d p=%d %s", (int)n, (int)k, (int)a.is, (int)a.ks,
            p, k_data_name(kind));
    k_buf *src = k_add(c, "src", K_F32, K_IN, rows, cols, ld);
    int64_t padded = (n + p - 1) / p * p;
    k_buf *dst = k_add(c, "dst", K_F32, K_OUT, 1, padded * k, padded * k);
    dst->align = 64;
    k_fill(c, src, kind);
    const float *x = src->init;
    for (int64_t i = 0; i < padded; i++)
        for (int64_t kk = 0; kk < k; kk++)
            k_want(dst, i / p * p * k + kk * p + i % p,
                   i < n ? (double)x[transposed ? kk * cols + i : i * cols + kk] : 0, 0);
    k_run(c);
}

static void check_pack(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int which = 0; which < 4; which++) {
            int p = which & 1 ? c->k->gemm_mr : c->k->gemm_nr;
            int64_t n = k_count(c, i), k = k_count(c, (int)k_range(c, 0, 20));
            if (i % 2) {
                int64_t swap = n;
                n = k, k = swap;
            }
            pack_case(c, n, k, which >> 1, p, i % 3 ? K_NORMAL : i % 2 ? K_POSINF : K_NAN);
        }
}

struct gemm {
    int64_t k;
    int m, n, add;
};

static void call_gemm(const sl_kernels *t, const k_case *c) {
    const struct gemm *a = c->arg;
    t->gemm_f32(a->k, k_f32(c, 0), k_f32(c, 1), k_f32(c, 2), k_ld(c, 2), a->m, a->n, a->add);
}

/* The contract says more than an error bound: k in order, one accumulator an element, so that an
 * element has the same bits wherever it lies in a tile. The accumulator may be fused or not and may
 * start at c or be added to it; nothing else. */
static int possible; /* bit v: no call of this check has contradicted variant v yet */

static void check_chain(k_case *c, const struct gemm *g, const k_buf *out) {
    const float *a = c->buf[0].init, *b = c->buf[1].init, *got = out->got, *old = out->init;
    int mr = c->k->gemm_mr, nr = c->k->gemm_nr;
    for (int i = 0; i < g->m; i++)
        for (int j = 0; j < g->n; j++) {
            float start = g->add ? old[i * g->n + j] : 0, acc[4] = {0, 0, start, start};
            for (int64_t k = 0; k < g->k; k++) {
                float x = a[k * mr + i], y = b[k * nr + j], xy = x * y;
                acc[0] = fmaf(x, y, acc[0]), acc[2] = fmaf(x, y, acc[2]);
                acc[1] += xy, acc[3] += xy;
            }
            acc[0] = g->add ? acc[0] + start : acc[0];
            acc[1] = g->add ? acc[1] + start : acc[1];
            for (int v = 0; v < 4; v++)
                if (acc[v] != got[i * g->n + j] && !(isnan(acc[v]) && isnan(got[i * g->n + j])))
                    possible &= ~(1 << v);
            if (!possible)
                k_fail(c, "c[%d][%d] is not the sum over k in order, with one accumulator", i, j);
        }
}

static void gemm_case(k_case *c, int m, int n, int64_t k, int add, enum k_data kind) {
    static struct gemm g;
    int mr = c->k->gemm_mr, nr = c->k->gemm_nr;
    int64_t ldc = k_stride(c, n);
    g = (struct gemm){k, m, n, add};
    k_begin(c, call_gemm, &g, "k=%d m=%d n=%d ldc=%d add=%d %s", (int)k, m, n, (int)ldc, add,
            k_data_name(kind));
    k_buf *a = k_add(c, "a", K_F32, K_IN, 1, k * mr, k * mr);
    k_buf *b = k_add(c, "b", K_F32, K_IN, 1, k * nr, k * nr);
    k_buf *out = k_add(c, "c", K_F32, add ? K_INOUT : K_OUT, m, n, ldc);
    a->align = b->align = 64;
    k_fill(c, a, kind);
    k_fill(c, b, kind == K_NAN || kind == K_POSINF || kind == K_NEGINF ? K_NORMAL : kind);
    if (add)
        k_fill_normal(c, out, 0, 1);
    float *x = a->init, *y = b->init, *old = out->init;
    for (int64_t kk = 0; kk < k; kk++) { /* what lies past the corner must not matter */
        for (int i = m; i < mr; i++)
            x[kk * mr + i] = NAN;
        for (int j = n; j < nr; j++)
            y[kk * nr + j] = NAN;
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = add ? (double)old[i * n + j] : 0, size = fabs(sum);
            for (int64_t kk = 0; kk < k; kk++) {
                double term = (double)x[kk * mr + i] * (double)y[kk * nr + j];
                sum += term, size += fabs(term);
            }
            /* k products and at most k + 1 additions, one chain: (k + 2) u sum|terms|. Overwriting
             * with an empty sum is exact. */
            double bound = k || add ? (double)(k + 2) * (U * size + TINY) : 0;
            k_want(out, i * n + j, sum, isinf(sum) ? 1 : bound);
        }
    k_run(c);
    check_chain(c, &g, out);
}

static void check_gemm(k_case *c) {
    static const int ks[] = {0, 1, 2, 3, 7, 16, 31, 32, 33, 100};
    static const enum k_data kinds[] = {K_NORMAL, K_WIDE,   K_DENORMAL, K_OUTLIER,
                                        K_NEGINF, K_POSINF, K_NAN};
    int mr = c->k->gemm_mr, nr = c->k->gemm_nr;
    possible = 15;
    for (int m = 0; m <= mr; m++)
        for (int n = 0; n <= nr; n++) {
            int64_t k = ks[k_range(c, 0, 9)];
            for (int add = 0; add < 2; add++)
                gemm_case(c, m, n, k, add, kinds[k_range(c, 0, 1) ? 0 : k_range(c, 1, 6)]);
        }
    for (int i = 0; i < 10; i++)
        for (int add = 0; add < 2; add++) {
            gemm_case(c, mr, nr, ks[i], add, K_NORMAL);
            gemm_case(c, (int)k_range(c, 1, mr), (int)k_range(c, 1, nr), k_range(c, 100, 700), add,
                      kinds[i % 7]);
        }
    gemm_case(c, mr, nr, 384, 1, K_OFFSET);
    gemm_case(c, mr - 1, nr - 1, 1024, 0, K_NORMAL);
}

static void bench_pack(k_case *c) {
    static struct pack a;
    int mr = c->k->gemm_mr;
    int64_t n = 8 * mr, k = 384;
    a = (struct pack){n, k, k, 1, mr};
    k_begin(c, call_pack, &a, "n=%d k=384, rows along k", (int)n);
    k_fill_normal(c, k_add(c, "src", K_F32, K_IN, n, k, k), 0, 1);
    k_add(c, "dst", K_F32, K_OUT, 1, n * k, n * k);
    c->bytes = (double)(8 * n * k);
    c->flops = 0;
}

static void bench_gemm(k_case *c) {
    static struct gemm g;
    int mr = c->k->gemm_mr, nr = c->k->gemm_nr;
    int64_t k = 384;
    g = (struct gemm){k, mr, nr, 0};
    k_begin(c, call_gemm, &g, "k=384, tile %d x %d", mr, nr);
    k_fill_normal(c, k_add(c, "a", K_F32, K_IN, 1, k * mr, k * mr), 0, 1);
    k_fill_normal(c, k_add(c, "b", K_F32, K_IN, 1, k * nr, k * nr), 0, 1);
    k_add(c, "c", K_F32, K_OUT, mr, nr, nr);
    c->bytes = (double)(4 * (k * (mr + nr) + mr * nr));
    c->flops = 2.0 * (double)k * mr * nr;
}

const k_kernel k_gemm[] = {
    K_KERNEL(pack_f32, check_pack, bench_pack, K_BY_TILE),
    K_KERNEL(gemm_f32, check_gemm, bench_gemm, K_BY_TILE),
    {0},
};
