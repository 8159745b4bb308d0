#include "kern.h"
#include "ref.h"

/* Mixtures of two rows with a factor for each term and element. Buffers in the order of the enums. */
enum { FA, FX, FB, FY, FOUT };
enum { BA, BX, BB, BY, BDOUT, BDX, BDY, BDA, BDB };

static const int sets = 0, adds = 1; /* what backward does to dx */

static void call_fwd(const sl_kernels *t, const k_case *c) {
    t->blend_fwd(c->buf[FA].cols, k_f32(c, FA), k_f32(c, FX), k_f32(c, FB), k_f32(c, FY), k_f32(c, FOUT));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    t->blend_bwd(c->buf[BA].cols, k_f32(c, BA), k_f32(c, BX), k_f32(c, BB), k_f32(c, BY), k_f32(c, BDOUT),
                 *(const int *)c->arg, k_f32(c, BDX), k_f32(c, BDY), k_f32(c, BDA), k_f32(c, BDB));
}

static double at(const k_buf *b, int64_t i) { return (double)((const float *)b->init)[i]; }

/* A sum of two terms, one of them a product: rounded once or, without fused multiplication, twice. */
static void want_sum(k_buf *b, int64_t i, double first, double second) {
    double want = first + second;
    k_want(b, i, want, isfinite(want) ? 2 * (U * (fabs(first) + fabs(second)) + TINY) : 0);
}

static k_buf *row(k_case *c, const char *name, enum k_role role, int64_t n, enum k_data kind) {
    k_buf *b = k_add(c, name, K_F32, role, 1, n, n);
    if (role != K_OUT)
        k_fill(c, b, kind);
    return b;
}

static void fwd_case(k_case *c, int64_t n, enum k_data kind) {
    k_begin(c, call_fwd, NULL, "n=%d %s", (int)n, k_data_name(kind));
    k_buf *a = row(c, "a", K_IN, n, K_NORMAL), *x = row(c, "x", K_IN, n, kind), *b = row(c, "b", K_IN, n, K_NORMAL),
          *y = row(c, "y", K_IN, n, kind), *out = row(c, "out", K_OUT, n, kind);
    for (int64_t i = 0; i < n; i++)
        want_sum(out, i, at(a, i) * at(x, i), at(b, i) * at(y, i));
    k_run(c);
}

static void bwd_case(k_case *c, int64_t n, enum k_data kind, const int *add) {
    k_begin(c, call_bwd, add, "n=%d add=%d %s", (int)n, *add, k_data_name(kind));
    k_buf *a = row(c, "a", K_IN, n, K_NORMAL), *x = row(c, "x", K_IN, n, kind), *b = row(c, "b", K_IN, n, K_NORMAL),
          *y = row(c, "y", K_IN, n, kind), *dout = row(c, "dout", K_IN, n, K_NORMAL);
    k_buf *dx = row(c, "dx", *add ? K_INOUT : K_OUT, n, K_NORMAL), *dy = row(c, "dy", K_OUT, n, kind),
          *da = row(c, "da", K_INOUT, n, K_NORMAL), *db = row(c, "db", K_INOUT, n, K_NORMAL);
    for (int64_t i = 0; i < n; i++) {
        double d = at(dout, i);
        want_sum(dx, i, *add ? at(dx, i) : 0, at(a, i) * d);
        want_sum(dy, i, 0, at(b, i) * d);
        want_sum(da, i, at(da, i), d * at(x, i));
        want_sum(db, i, at(db, i), d * at(y, i));
    }
    k_run(c);
}

static const enum k_data kinds[] = {K_NORMAL, K_CONST, K_OUTLIER, K_OFFSET, K_DENORMAL, K_ZEROS, K_NAN};

static void check_fwd(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
            fwd_case(c, k_count(c, i), kinds[kind]);
}

static void check_bwd(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
            bwd_case(c, k_count(c, i), kinds[kind], kind % 2 ? &adds : &sets);
}

enum { BENCH_N = 4096 };

static void bench_fwd(k_case *c) {
    static const char *const rows[] = {"a", "x", "b", "y"};
    k_begin(c, call_fwd, NULL, "4096");
    for (int i = 0; i < 4; i++)
        row(c, rows[i], K_IN, BENCH_N, K_NORMAL);
    row(c, "out", K_OUT, BENCH_N, K_NORMAL);
    c->bytes = 20 * BENCH_N;
    c->flops = 3 * BENCH_N;
}

static void bench_bwd(k_case *c) {
    static const char *const rows[] = {"a", "x", "b", "y", "dout"};
    k_begin(c, call_bwd, &adds, "4096");
    for (int i = 0; i < 5; i++)
        row(c, rows[i], K_IN, BENCH_N, K_NORMAL);
    row(c, "dx", K_INOUT, BENCH_N, K_NORMAL), row(c, "dy", K_OUT, BENCH_N, K_NORMAL);
    row(c, "da", K_INOUT, BENCH_N, K_NORMAL), row(c, "db", K_INOUT, BENCH_N, K_NORMAL);
    c->bytes = 48 * BENCH_N;
    c->flops = 7 * BENCH_N;
}

const k_kernel k_blend[] = {
    K_KERNEL(blend_fwd, check_fwd, bench_fwd, K_SAME_BITS),
    K_KERNEL(blend_bwd, check_bwd, bench_bwd, K_SAME_BITS),
    {0},
};
