#include "kern.h"
#include "ref.h"

/* The short causal convolution: y_t = b + sum_j w_j x_{t-j}. Rows before, or behind, are those of the buffer. */
struct shape {
    int64_t rows, d, width, around;
    int bias;
};

enum { FX, FW, FB, FY };
enum { XDY, XW, XDX };
enum { WDY, WX, WDW, WDB };

static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    t->conv_fwd(a->rows, a->d, a->width, a->around, k_f32(c, FX) + a->around * k_ld(c, FX), k_ld(c, FX), k_f32(c, FW),
                a->bias ? k_f32(c, FB) : NULL, k_f32(c, FY), k_ld(c, FY));
}

static void call_bwd_x(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    t->conv_bwd_x(a->rows, a->d, a->width, a->around, k_f32(c, XDY), k_ld(c, XDY), k_f32(c, XW), k_f32(c, XDX),
                  k_ld(c, XDX));
}

static void call_bwd_w(const sl_kernels *t, const k_case *c) {
    const struct shape *a = c->arg;
    t->conv_bwd_w(a->rows, a->d, a->width, a->around, k_f32(c, WDY), k_ld(c, WDY),
                  k_f32(c, WX) + a->around * k_ld(c, WX), k_ld(c, WX), k_f32(c, WDW), a->bias ? k_f32(c, WDB) : NULL);
}

static double at(const k_buf *b, int64_t i) { return (double)((const float *)b->init)[i]; }

/* A sum of n products onto a start, in any order: each product and each partial sum is rounded once. */
typedef struct {
    double sum, size;
    int64_t n;
} total;

static void start(total *s, double x) { *s = (total){x, fabs(x), 0}; }
static void add(total *s, double a, double b) {
    s->sum += a * b;
    s->size += fabs(a * b);
    s->n++;
}
static void want(k_buf *b, int64_t i, const total *s) {
    k_want(b, i, s->sum, isfinite(s->sum) ? (double)(s->n + 2) * (U * s->size + TINY) : 0);
}

static void fwd_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t d = a->d, ldx = k_stride(c, d), ldy = k_stride(c, d);
    k_begin(c, call_fwd, a, "rows=%d d=%d width=%d before=%d bias=%d %s", (int)a->rows, (int)d, (int)a->width,
            (int)a->around, a->bias, k_data_name(kind));
    k_buf *x = k_add(c, "x", K_F32, K_IN, a->around + a->rows, d, ldx), *w = k_add(c, "w", K_F32, K_IN, a->width, d, d);
    k_buf *b = k_add(c, "b", K_F32, K_IN, 1, d, d), *y = k_add(c, "y", K_F32, K_OUT, a->rows, d, ldy);
    k_fill(c, x, kind);
    k_fill_normal(c, w, 0, 0.5);
    k_fill_normal(c, b, 0, 0.5);
    for (int64_t t = 0; t < a->rows; t++)
        for (int64_t j = 0; j < d; j++) {
            total s;
            start(&s, a->bias ? at(b, j) : 0);
            for (int64_t k = 0; k < a->width && k <= a->around + t; k++)
                add(&s, at(w, k * d + j), at(x, (a->around + t - k) * d + j));
            want(y, t * d + j, &s);
        }
    k_run(c);
}

static void bwd_x_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t d = a->d, lddy = k_stride(c, d), lddx = k_stride(c, d);
    k_begin(c, call_bwd_x, a, "rows=%d d=%d width=%d after=%d %s", (int)a->rows, (int)d, (int)a->width, (int)a->around,
            k_data_name(kind));
    k_buf *dy = k_add(c, "dy", K_F32, K_IN, a->rows + a->around, d, lddy);
    k_buf *w = k_add(c, "w", K_F32, K_IN, a->width, d, d), *dx = k_add(c, "dx", K_F32, K_OUT, a->rows, d, lddx);
    k_fill(c, dy, kind);
    k_fill_normal(c, w, 0, 0.5);
    for (int64_t t = 0; t < a->rows; t++)
        for (int64_t j = 0; j < d; j++) {
            total s;
            start(&s, 0);
            for (int64_t k = 0; k < a->width && t + k < a->rows + a->around; k++)
                add(&s, at(w, k * d + j), at(dy, (t + k) * d + j));
            want(dx, t * d + j, &s);
        }
    k_run(c);
}

static void bwd_w_case(k_case *c, const struct shape *a, enum k_data kind) {
    int64_t d = a->d, lddy = k_stride(c, d), ldx = k_stride(c, d);
    k_begin(c, call_bwd_w, a, "rows=%d d=%d width=%d before=%d bias=%d %s", (int)a->rows, (int)d, (int)a->width,
            (int)a->around, a->bias, k_data_name(kind));
    k_buf *dy = k_add(c, "dy", K_F32, K_IN, a->rows, d, lddy);
    k_buf *x = k_add(c, "x", K_F32, K_IN, a->around + a->rows, d, ldx);
    k_buf *dw = k_add(c, "dw", K_F32, K_INOUT, a->width, d, d), *db = k_add(c, "db", K_F32, K_INOUT, 1, d, d);
    k_fill_normal(c, dy, 0, 1);
    k_fill(c, x, kind);
    k_fill_normal(c, dw, 0, 1);
    k_fill_normal(c, db, 0, 1);
    for (int64_t j = 0; j < d; j++) {
        total s;
        for (int64_t k = 0; k < a->width; k++) {
            start(&s, at(dw, k * d + j));
            for (int64_t t = 0; t < a->rows; t++)
                if (k <= a->around + t)
                    add(&s, at(dy, t * d + j), at(x, (a->around + t - k) * d + j));
            want(dw, k * d + j, &s);
        }
        start(&s, at(db, j));
        for (int64_t t = 0; a->bias && t < a->rows; t++)
            add(&s, at(dy, t * d + j), 1);
        want(db, j, &s);
    }
    k_run(c);
}

/* Widths of 1 to 5, windows shorter than the taps, and rows around that are more than any tap reaches. */
static void check(k_case *c, void (*one)(k_case *, const struct shape *, enum k_data)) {
    static const int rows[] = {1, 3, 0, 2, 9};
    for (int i = 0; i < K_COUNTS; i++)
        for (int kind = 0; kind < K_KINDS; kind++) {
            struct shape a = {rows[(i + kind) % 5], k_count(c, i), k_range(c, 1, 5), k_range(c, 0, 5),
                              (int)k_range(c, 0, 1)};
            one(c, &a, (enum k_data)kind);
        }
}

static void check_fwd(k_case *c) { check(c, fwd_case); }
static void check_bwd_x(k_case *c) { check(c, bwd_x_case); }
static void check_bwd_w(k_case *c) { check(c, bwd_w_case); }

enum { ROWS = 64, D = 256, WIDTH = 4 };
static const struct shape bench_shape = {ROWS, D, WIDTH, WIDTH - 1, 1};

static k_buf *bench_buf(k_case *c, const char *name, enum k_role role, int64_t rows) {
    k_buf *b = k_add(c, name, K_F32, role, rows, D, D);
    if (role != K_OUT)
        k_fill_normal(c, b, 0, 1);
    return b;
}

static void bench_fwd(k_case *c) {
    k_begin(c, call_fwd, &bench_shape, "64 rows of 256, width 4");
    bench_buf(c, "x", K_IN, ROWS + WIDTH - 1), bench_buf(c, "w", K_IN, WIDTH), bench_buf(c, "b", K_IN, 1);
    bench_buf(c, "y", K_OUT, ROWS);
    c->bytes = 8 * ROWS * D;
    c->flops = 2 * WIDTH * ROWS * D;
}

static void bench_bwd_x(k_case *c) {
    k_begin(c, call_bwd_x, &bench_shape, "64 rows of 256, width 4");
    bench_buf(c, "dy", K_IN, ROWS + WIDTH - 1), bench_buf(c, "w", K_IN, WIDTH), bench_buf(c, "dx", K_OUT, ROWS);
    c->bytes = 8 * ROWS * D;
    c->flops = 2 * WIDTH * ROWS * D;
}

static void bench_bwd_w(k_case *c) {
    k_begin(c, call_bwd_w, &bench_shape, "64 rows of 256, width 4");
    bench_buf(c, "dy", K_IN, ROWS), bench_buf(c, "x", K_IN, ROWS + WIDTH - 1);
    bench_buf(c, "dw", K_INOUT, WIDTH), bench_buf(c, "db", K_INOUT, 1);
    c->bytes = 8 * ROWS * D;
    c->flops = 2 * (WIDTH + 1) * ROWS * D;
}

const k_kernel k_conv[] = {
    K_KERNEL(conv_fwd, check_fwd, bench_fwd, 0),
    K_KERNEL(conv_bwd_x, check_bwd_x, bench_bwd_x, 0),
    K_KERNEL(conv_bwd_w, check_bwd_w, bench_bwd_w, 0),
    {0},
};
