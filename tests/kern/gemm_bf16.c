#include "kern.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum { NR = SL_BF16_NR, MAX_K = 1152 };

static double value(sl_bf16 h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return (double)f;
}

/* ---- packing: exact, and so the same bits in every tier */

struct shape {
    int64_t n, k; /* columns of B, rows of B */
    int transposed;
};

static void call_pack(const sl_kernels *t, const k_case *c) {
    const struct shape *s = c->arg;
    const k_buf *src = &c->buf[0];
    if (src->type == K_F32)
        (s->transposed ? t->pack_bt_f32 : t->pack_b_f32)(s->n, s->k, src->p, src->ld, c->buf[1].p);
    else
        (s->transposed ? t->pack_bt_bf16 : t->pack_b_bf16)(s->n, s->k, src->p, src->ld,
                                                           c->buf[1].p);
}

static k_buf *describe_pack(k_case *c, struct shape s, enum k_type type, const char *data) {
    static struct shape arg;
    arg = s;
    int64_t rows = s.transposed ? s.n : s.k, cols = s.transposed ? s.k : s.n;
    k_begin(c, call_pack, &arg, "n=%d k=%d %s", (int)s.n, (int)s.k, data);
    k_add(c, "src", type, K_IN, rows, cols, k_stride(c, cols));
    k_buf *panel =
        k_add(c, "panel", K_BF16, K_OUT, 1, sl_bf16_kpad(s.k) * NR, sl_bf16_kpad(s.k) * NR);
    panel->align = 64;
    return panel;
}

static void random_bits(k_case *c, k_buf *b) {
    sl_bf16 *x = b->init;
    for (int64_t i = 0; i < b->rows * b->cols; i++)
        x[i] = (sl_bf16)sl_rng_u32(&c->rng); /* subnormals, infinities and NaNs among them */
}

/* Puts the lower halves about the tie, which random numbers hardly ever meet. */
static void near_ties(k_case *c, k_buf *b) {
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8000, 0x8001, 0xffff};
    uint32_t u;
    for (int64_t i = 0; i < b->rows * b->cols; i++) {
        memcpy(&u, (float *)b->init + i, sizeof u);
        u = (u & 0xffff0000) | low[k_range(c, 0, 6)];
        memcpy((float *)b->init + i, &u, sizeof u);
    }
}

static void pack_case(k_case *c, struct shape s, enum k_type type, enum k_data kind) {
    k_buf *panel = describe_pack(c, s, type, type == K_F32 ? k_data_name(kind) : "bits"),
          *src = &c->buf[0];
    if (type == K_F32)
        k_fill(c, src, kind);
    else
        random_bits(c, src);
    if (type == K_F32 && k_range(c, 0, 1))
        near_ties(c, src);
    for (int64_t kk = 0; kk < sl_bf16_kpad(s.k); kk++)
        for (int64_t j = 0; j < NR; j++) {
            double want = 0;
            if (kk < s.k && j < s.n) {
                int64_t at = s.transposed ? j * src->cols + kk : kk * src->cols + j;
                want = type == K_F32 ? k_round_bf16(c, (double)((const float *)src->init)[at])
                                     : value(((const sl_bf16 *)src->init)[at]);
            }
            k_want(panel, kk / 2 * 2 * NR + j * 2 + kk % 2, want, 0);
        }
    k_run(c);
}

static void check_pack(k_case *c, enum k_type type, int transposed) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int j = 0; j < 4; j++) {
            int64_t n = i < 3 ? i : k_range(c, 1, j ? NR : 1);
            pack_case(c, (struct shape){n, k_count(c, i + j < K_COUNTS ? i + j : i), transposed},
                      type, (enum k_data)k_range(c, 0, K_KINDS - 1));
        }
    pack_case(c, (struct shape){NR, 100, transposed}, type, K_NAN);
}

static void check_pack_bt_f32(k_case *c) { check_pack(c, K_F32, 1); }
static void check_pack_b_f32(k_case *c) { check_pack(c, K_F32, 0); }
static void check_pack_bt_bf16(k_case *c) { check_pack(c, K_BF16, 1); }
static void check_pack_b_bf16(k_case *c) { check_pack(c, K_BF16, 0); }

static void bench_pack(k_case *c, enum k_type type, int transposed) {
    int64_t k = 384;
    describe_pack(c, (struct shape){NR, k, transposed}, type, "");
    if (type == K_F32)
        k_fill_normal(c, &c->buf[0], 0, 1);
    c->bytes = (double)((type == K_F32 ? 6 : 4) * k * NR);
    c->flops = 0;
}

static void bench_pack_bt_f32(k_case *c) { bench_pack(c, K_F32, 1); }
static void bench_pack_b_f32(k_case *c) { bench_pack(c, K_F32, 0); }
static void bench_pack_bt_bf16(k_case *c) { bench_pack(c, K_BF16, 1); }
static void bench_pack_b_bf16(k_case *c) { bench_pack(c, K_BF16, 0); }

/* ---- transposes */

static void call_transpose_bf16(const sl_kernels *t, const k_case *c) {
    t->transpose_bf16(c->buf[0].rows, c->buf[0].cols, c->buf[0].p, k_ld(c, 0), c->buf[1].p,
                      k_ld(c, 1));
}

static void transpose_bf16_case(k_case *c, int64_t rows, int64_t cols) {
    int64_t wide = sl_bf16_kpad(rows);
    k_begin(c, call_transpose_bf16, NULL, "rows=%d cols=%d", (int)rows, (int)cols);
    k_buf *src = k_add(c, "src", K_BF16, K_IN, rows, cols, k_stride(c, cols));
    k_buf *dst = k_add(c, "dst", K_BF16, K_OUT, cols, wide, k_stride(c, wide));
    random_bits(c, src);
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < wide; i++)
            k_want(dst, j * wide + i, i < rows ? value(((sl_bf16 *)src->init)[i * cols + j]) : 0,
                   0);
    k_run(c);
}

static void check_transpose_bf16(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++) {
        int64_t n = k_count(c, i);
        transpose_bf16_case(c, n, k_range(c, 1, 70));
        transpose_bf16_case(c, k_range(c, 1, 70), n);
    }
}

static void call_transpose_f32(const sl_kernels *t, const k_case *c) {
    const int *add = c->arg;
    t->transpose_f32(c->buf[0].rows, c->buf[0].cols, k_f32(c, 0), k_ld(c, 0), k_f32(c, 1),
                     k_ld(c, 1), *add);
}

static void transpose_f32_case(k_case *c, int64_t rows, int64_t cols, int add, enum k_data kind) {
    static int arg;
    arg = add;
    k_begin(c, call_transpose_f32, &arg, "rows=%d cols=%d add=%d %s", (int)rows, (int)cols, add,
            k_data_name(kind));
    k_buf *src = k_add(c, "src", K_F32, K_IN, rows, cols, k_stride(c, cols));
    k_buf *dst = k_add(c, "dst", K_F32, add ? K_INOUT : K_OUT, cols, rows, k_stride(c, rows));
    k_fill(c, src, kind);
    if (add)
        k_fill_normal(c, dst, 0, 1);
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++) {
            float x = ((float *)src->init)[i * cols + j];
            if (add)
                x = ((float *)dst->init)[j * rows + i] + x; /* one rounding: exact again */
            k_want(dst, j * rows + i, (double)x, 0);
        }
    k_run(c);
}

static void check_transpose_f32(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++) {
        int64_t n = k_count(c, i), m = k_range(c, 1, 70);
        transpose_f32_case(c, n, m, i % 2, i % 5 ? K_NORMAL : K_NAN);
        transpose_f32_case(c, m, n, 1 - i % 2, i % 5 ? K_WIDE : K_DENORMAL);
    }
}

static void bench_transpose_bf16(k_case *c) {
    k_begin(c, call_transpose_bf16, NULL, "512 x 256");
    k_add(c, "src", K_BF16, K_IN, 512, 256, 256 + NR);
    k_add(c, "dst", K_BF16, K_OUT, 256, 512, 512 + NR);
    c->bytes = 4 * 512 * 256;
    c->flops = 0;
}

static void bench_transpose_f32(k_case *c) {
    static int arg = 1;
    k_begin(c, call_transpose_f32, &arg, "256 x 256, add");
    k_fill_normal(c, k_add(c, "src", K_F32, K_IN, 256, 256, 256 + 16), 0, 1);
    k_fill_normal(c, k_add(c, "dst", K_F32, K_INOUT, 256, 256, 256 + 16), 0, 1);
    c->bytes = 12 * 256 * 256;
    c->flops = 0;
}

/* ---- the product */

struct gemm {
    int64_t m, n, k;
    int add;
};

static void call_gemm(const sl_kernels *t, const k_case *c) {
    const struct gemm *g = c->arg;
    t->gemm_bf16(g->m, g->n, g->k, c->buf[0].p, k_ld(c, 0), c->buf[1].p, k_f32(c, 2), k_ld(c, 2),
                 g->add);
}

/* bf16 numbers, rows of `cols` of which the first `used` hold data and the rest zeros. */
static void fill_bf16(k_case *c, k_buf *b, int64_t used, enum k_data kind) {
    sl_bf16 *x = b->init;
    for (int64_t i = 0; i < b->rows * b->cols; i++) {
        double z = sl_rng_normal(&c->rng);
        float f = (float)(kind == K_WIDE ? ldexp(z, (int)k_range(c, -40, 40)) : z);
        if (kind == K_DENORMAL && k_range(c, 0, 1))
            f = (float)ldexp(z, -128);
        if (k_range(c, 0, 30) == 0)
            f = kind == K_POSINF ? INFINITY : kind == K_NAN ? NAN : f;
        sl_kernels_tier(SL_ISA_SCALAR)->to_bf16(1, &f, &x[i]);
        if (i % b->cols >= used)
            x[i] = 0;
    }
}

static k_buf *describe_gemm(k_case *c, struct gemm g, const char *data) {
    static struct gemm arg;
    arg = g;
    k_begin(c, call_gemm, &arg, "m=%d n=%d k=%d add=%d %s", (int)g.m, (int)g.n, (int)g.k, g.add,
            data);
    k_add(c, "a", K_BF16, K_IN, g.m, g.k, k_stride(c, g.k));
    k_add(c, "panel", K_BF16, K_IN, 1, g.k * NR, g.k * NR)->align = 64;
    return k_add(c, "c", K_F32, g.add ? K_INOUT : K_OUT, g.m, g.n, k_stride(c, g.n));
}

/* simd/kernels.h: |error| <= (k + 2) u sum|ab|; units that flush lose |ab| of each subnormal factor
 * and 2^-126 at each sum. Others may lose half of TINY at each. */
static void want_gemm(k_case *c, const struct gemm *g, k_buf *out) {
    const sl_bf16 *a = c->buf[0].init, *panel = c->buf[1].init;
    const char *tier = c->k->tier;
    int odd = strcmp(tier, "neonbf16") == 0;
    int flush = odd || k_flushes(c);
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = g->add ? (double)((float *)out->init)[i * g->n + j] : 0, size = fabs(sum),
                   lost = 0;
            for (int64_t k = 0; k < g->k; k++) {
                double x = value(a[i * g->k + k]), y = value(panel[k / 2 * 2 * NR + 2 * j + k % 2]);
                sum += x * y;
                size += fabs(x * y);
                if (fabs(x) < SMALLEST || fabs(y) < SMALLEST)
                    lost += fabs(x * y);
            }
            double u = odd ? 2 * U : U, each = flush ? SMALLEST : TINY;
            double bound = (double)(g->k + 2) * (u * size + each) + (flush ? lost : 0);
            if (g->k == 0)
                bound = 0;
            k_want(out, i * g->n + j, sum, isfinite(sum) ? bound : 1);
        }
}

/* The contract's other half: cut anywhere in m, n, and at multiples of 32 in k, the bits stay. */
static void check_cuts(k_case *c, const struct gemm *g, const k_buf *out) {
    static _Alignas(64) sl_bf16 panel[MAX_K * NR];
    const sl_bf16 *a = c->buf[0].init;
    const float *got = out->got, *old = out->init;
    memcpy(panel, c->buf[1].init, (size_t)(g->k * NR) * sizeof *panel);
    int64_t row = k_range(c, 0, g->m - 1), rows = k_range(c, 1, g->m - row),
            cols = k_range(c, 1, g->n);
    int64_t k = k_range(c, 0, g->k / SL_BF16_KR) * SL_BF16_KR;
    float cut[NR];
    for (int64_t i = row; i < row + rows; i++) {
        if (g->add)
            memcpy(cut, old + i * g->n, (size_t)cols * sizeof *cut);
        c->k->gemm_bf16(1, cols, k, a + i * g->k, g->k, panel, cut, NR, g->add);
        c->k->gemm_bf16(1, cols, g->k - k, a + i * g->k + k, g->k, panel + k * NR, cut, NR, 1);
        for (int64_t j = 0; j < cols; j++)
            if (cut[j] != got[i * g->n + j] && !(isnan(cut[j]) && isnan(got[i * g->n + j])))
                k_fail(c, "c[%d][%d] has other bits when computed in parts (k cut at %d)", (int)i,
                       (int)j, (int)k);
    }
}

/* `used` of the k are data, the rest is the padding of both operands. */
static void gemm_case(k_case *c, struct gemm g, int64_t used, enum k_data kind) {
    k_buf *out = describe_gemm(c, g, k_data_name(kind));
    fill_bf16(c, &c->buf[0], used, kind);
    fill_bf16(c, &c->buf[1], used * NR, kind == K_WIDE ? K_WIDE : K_NORMAL);
    if (g.add)
        k_fill_normal(c, out, 0, 1);
    want_gemm(c, &g, out);
    k_run(c);
    if (g.m > 0 && g.n > 0)
        check_cuts(c, &g, out);
}

/* Tile state belongs to a thread: threads with other shapes, and so other tile configurations, side by side give the
 * bits that each gives alone. */
enum { THREADS = 4, SIDE_K = 96, SIDE_CALLS = 2000 };

typedef struct {
    const sl_kernels *k;
    const sl_bf16 *a, *panel;
    int64_t m, n;
    float want[40 * NR];
    int wrong;
} side;

static void *run_side(void *arg) {
    side *s = arg;
    float got[40 * NR];
    for (int i = 0; i < SIDE_CALLS; i++) {
        s->k->gemm_bf16(s->m, s->n, SIDE_K, s->a, SIDE_K, s->panel, got, s->n, 0);
        s->wrong |= memcmp(got, s->want, (size_t)(s->m * s->n) * sizeof *got) != 0;
    }
    return NULL;
}

static void check_threads(k_case *c) {
    static const int64_t m[THREADS] = {40, 5, 17, 32}, n[THREADS] = {32, 32, 7, 19};
    static _Alignas(64) sl_bf16 a[40 * SIDE_K], panel[SIDE_K * NR];
    static side s[THREADS];
    pthread_t id[THREADS];
    int started = 0;
    for (int i = 0; i < 40 * SIDE_K; i++)
        a[i] = (sl_bf16)(0x3f80 + k_range(c, 0, 127));
    for (int i = 0; i < SIDE_K * NR; i++)
        panel[i] = (sl_bf16)(0x3f80 + k_range(c, 0, 127));
    for (int t = 0; t < THREADS; t++) {
        s[t] = (side){.k = c->k, .a = a, .panel = panel, .m = m[t], .n = n[t]};
        c->k->gemm_bf16(m[t], n[t], SIDE_K, a, SIDE_K, panel, s[t].want, n[t], 0);
    }
    while (started < THREADS && pthread_create(&id[started], NULL, run_side, &s[started]) == 0)
        started++;
    for (int t = 0; t < started; t++)
        pthread_join(id[t], NULL);
    for (int t = 0; t < THREADS; t++)
        if (t >= started || s[t].wrong)
            k_fail(c, t >= started ? "thread %d did not start" : "thread %d has other bits beside others than alone",
                   t);
}

static void check_gemm_bf16(k_case *c) {
    check_threads(c);

    static const enum k_data kinds[] = {K_NORMAL, K_WIDE, K_DENORMAL, K_POSINF, K_NAN};
    for (int64_t n = 0; n <= NR; n++) /* every width, rows about the blocks of 4, 12, 16 and 32 */
        for (int64_t m = 0; m <= 34; m += k_range(c, 1, 4))
            for (int add = 0; add < 2; add++) {
                int64_t used = k_range(c, 0, 100);
                gemm_case(c, (struct gemm){m, n, sl_bf16_kpad(used), add}, used,
                          kinds[k_range(c, 0, 4)]);
            }
    for (int64_t m = 30; m < 100; m++)
        gemm_case(c, (struct gemm){m, k_range(c, 1, NR), 64, (int)(m % 2)}, 64, kinds[m % 5]);
    for (int64_t k = 128; k <= MAX_K; k += 256)
        gemm_case(c, (struct gemm){45, 27, k, 1}, k, K_NORMAL);
}

static void bench_gemm_bf16(k_case *c) {
    struct gemm g = {96, NR, 384, 0};
    describe_gemm(c, g, "");
    fill_bf16(c, &c->buf[0], g.k, K_NORMAL);
    fill_bf16(c, &c->buf[1], g.k * NR, K_NORMAL);
    c->bytes = (double)(2 * g.m * g.k + 2 * g.k * NR + 4 * g.m * NR);
    c->flops = 2.0 * (double)(g.m * g.n * g.k);
}

/* ---- the product that is stored at once: bit for bit gemm_bf16 and a pass over its sums */

enum form { ROUNDED, ROUNDED_ONTO, PLAIN, PLAIN_ONTO, RESIDUAL, PANELS, PANELS_ONTO, FORMS };
static const char *const form_name[] = {"y", "y add", "c", "c add", "c residual", "c in panels", "c in panels add"};
enum { BIAS = 3 }; /* its buffer; the residual's is behind it */

static int adds(enum form f) { return f == ROUNDED_ONTO || f == PLAIN_ONTO || f == PANELS_ONTO; }

struct stored {
    int64_t m, n, k;
    enum form form;
    int biased; /* not one that adds */
};

static void call_stored(const sl_kernels *t, const k_case *c) {
    const struct stored *g = c->arg;
    sl_bf16_store to = {.add = adds(g->form)};
    if (g->form <= ROUNDED_ONTO)
        to.y = c->buf[2].p, to.ldy = k_ld(c, 2);
    else
        to.c = k_f32(c, 2), to.ldc = k_ld(c, 2), to.ldp = g->form >= PANELS ? g->m * k_ld(c, 2) : NR;
    if (g->biased)
        to.bias = k_f32(c, BIAS);
    if (g->form == RESIDUAL)
        to.residual = k_f32(c, BIAS + 1);
    t->gemm_bf16_store(g->m, g->n, g->k, c->buf[0].p, k_ld(c, 0), c->buf[1].p, &to);
}

/* Buffers a, panels, the result, the bias, and the residual, which the result may be written over. */
static k_buf *describe_stored(k_case *c, struct stored g, const char *data) {
    static struct stored arg;
    arg = g;
    int rounded = g.form <= ROUNDED_ONTO, panels = g.form >= PANELS;
    int64_t wide = rounded ? sl_bf16_kpad(g.n) : panels ? NR : g.n, ld = k_stride(c, wide);
    int64_t rows = panels ? (g.n + NR - 1) / NR * g.m : g.m;
    k_begin(c, call_stored, &arg, "m=%d n=%d k=%d %s%s %s", (int)g.m, (int)g.n, (int)g.k, form_name[g.form],
            g.biased ? " bias" : "", data);
    k_add(c, "a", K_BF16, K_IN, g.m, g.k, k_stride(c, g.k));
    k_add(c, "panels", K_BF16, K_IN, 1, g.k * sl_bf16_kpad(g.n), g.k * sl_bf16_kpad(g.n))->align = 64;
    k_buf *out = k_add(c, rounded ? "y" : "c", rounded ? K_BF16 : K_F32, adds(g.form) || panels ? K_INOUT : K_OUT,
                       rows, wide, ld);
    k_add(c, "bias", K_F32, K_IN, 1, g.n, g.n);
    if (g.form == RESIDUAL)
        k_alias(c, out, k_add(c, "residual", K_F32, K_IN, g.m, g.n, ld));
    return out;
}

/* Element j of a row of sums t and of what was there, through the tier's own kernels. */
static double stored_value(const k_case *c, enum form form, float t, const k_buf *old, int64_t at) {
    sl_bf16 y;
    if (form == RESIDUAL)
        c->k->sum(1, &t, (const float *)old->init + at, &t);
    if (form >= PLAIN)
        return (double)t;
    if (form == ROUNDED_ONTO) {
        float sum = (float)value(((const sl_bf16 *)old->init)[at]);
        c->k->add(1, &t, &sum);
        t = sum;
    }
    c->k->to_bf16(1, &t, &y);
    return value(y);
}

static void want_stored(k_case *c, const struct stored *g, k_buf *out) {
    static _Alignas(64) sl_bf16 panel[MAX_K * NR];
    const k_buf *old = g->form == RESIDUAL ? &c->buf[BIAS + 1] : out;
    for (int64_t col = 0; col < g->n; col += NR) {
        int64_t cols = g->n - col < NR ? g->n - col : NR;
        memcpy(panel, (const sl_bf16 *)c->buf[1].init + col * g->k, (size_t)(g->k * NR) * sizeof *panel);
        for (int64_t i = 0; i < g->m; i++) {
            float t[NR];
            int64_t at = g->form >= PANELS ? (col / NR * g->m + i) * out->cols : i * out->cols + col;
            int onto = g->form == PLAIN_ONTO || g->form == PANELS_ONTO;
            if (onto)
                memcpy(t, (const float *)out->init + at, (size_t)cols * sizeof *t);
            c->k->gemm_bf16(1, cols, g->k, (const sl_bf16 *)c->buf[0].init + i * g->k, g->k, panel, t, NR,
                            onto);
            if (g->biased)
                c->k->add(cols, (const float *)c->buf[BIAS].init + col, t);
            for (int64_t j = 0; j < cols; j++)
                k_want(out, at + j, stored_value(c, g->form, t[j], old, at + j), 0);
            for (int64_t j = cols; g->form <= ROUNDED_ONTO && j < NR; j++)
                k_want(out, at + j, 0, 0);
            for (int64_t j = cols; g->form >= PANELS && j < NR; j++) /* left alone */
                k_want(out, at + j, (double)((const float *)out->init)[at + j], 0);
        }
    }
}

/* Columns behind n are zero in the panels, whatever is in y. */
static void fill_panels(k_case *c, const struct stored *g, enum k_data kind) {
    fill_bf16(c, &c->buf[1], c->buf[1].cols, kind);
    for (int64_t j = g->n; j < sl_bf16_kpad(g->n); j++)
        for (int64_t k = 0; k < g->k; k++)
            ((sl_bf16 *)c->buf[1].init)[j / NR * g->k * NR + k / 2 * 2 * NR + j % NR * 2 + k % 2] = 0;
}

static void stored_case(k_case *c, struct stored g, enum k_data kind) {
    k_buf *out = describe_stored(c, g, k_data_name(kind));
    fill_bf16(c, &c->buf[0], g.k, kind);
    fill_panels(c, &g, kind == K_WIDE ? K_WIDE : K_NORMAL);
    if (g.form == ROUNDED_ONTO)
        random_bits(c, out);
    if (g.form == PLAIN_ONTO || g.form >= PANELS)
        k_fill(c, out, kind);
    k_fill(c, &c->buf[BIAS], kind);
    if (g.form == RESIDUAL)
        k_fill(c, &c->buf[BIAS + 1], kind);
    want_stored(c, &g, out);
    k_run(c);
}

static void check_gemm_bf16_store(k_case *c) {
    static const enum k_data kinds[] = {K_NORMAL, K_WIDE, K_DENORMAL, K_POSINF, K_NAN};
    for (enum form f = 0; f < FORMS; f++) {
        for (int64_t m = 0; m <= 70; m += k_range(c, 1, 3)) /* about the blocks of 4, 12, 16 and 32 */
            stored_case(c, (struct stored){m, k_range(c, 1, 3 * NR), k_range(c, 0, 3) * SL_BF16_KR, f,
                                           m % 2 && !adds(f)},
                        kinds[k_range(c, 0, 4)]);
        for (int64_t n = 0; n <= 2 * NR; n++)
            stored_case(c, (struct stored){k_range(c, 1, 40), n, 64, f, n % 2 && !adds(f)}, kinds[k_range(c, 0, 4)]);
        for (int64_t k = 512; k <= MAX_K; k += 160) /* panels in parts, and more rows than are in work at a time */
            stored_case(c, (struct stored){k_range(c, 1, 170), k_range(c, 1, 40), k, f, k / 160 % 2 && !adds(f)},
                        K_NORMAL);
        stored_case(c, (struct stored){160, NR, 544, f, 0}, K_DENORMAL);
    }
}

static void bench_gemm_bf16_store(k_case *c) {
    struct stored g = {128, 384, 384, ROUNDED, 0};
    describe_stored(c, g, "");
    fill_bf16(c, &c->buf[0], g.k, K_NORMAL);
    fill_panels(c, &g, K_NORMAL);
    c->bytes = (double)(2 * g.m * g.k + 2 * g.k * g.n + 2 * g.m * g.n);
    c->flops = 2.0 * (double)(g.m * g.n * g.k);
}

/* ---- the yardstick */

enum { ROUNDS = 1000 };

static void call_peak(const sl_kernels *t, const k_case *c) {
    (void)c;
    t->peak_bf16(ROUNDS);
}

static void check_peak(k_case *c) {
    int64_t one = c->k->peak_bf16(1), many = c->k->peak_bf16(ROUNDS);
    k_begin(c, call_peak, NULL, "rounds=%d", ROUNDS);
    if (one <= 0 || many != one * ROUNDS)
        k_fail(c, "%lld FLOP in one round, %lld in %d", (long long)one, (long long)many, ROUNDS);
}

static void bench_peak(k_case *c) {
    k_begin(c, call_peak, NULL, "rounds=%d, registers alone", ROUNDS);
    c->bytes = 0;
    c->flops = (double)c->k->peak_bf16(ROUNDS);
}

const k_kernel k_gemm_bf16[] = {
    K_KERNEL(gemm_bf16, check_gemm_bf16, bench_gemm_bf16, 0),
    K_KERNEL(gemm_bf16_store, check_gemm_bf16_store, bench_gemm_bf16_store, 0),
    K_KERNEL(pack_bt_f32, check_pack_bt_f32, bench_pack_bt_f32, 0),
    K_KERNEL(pack_b_f32, check_pack_b_f32, bench_pack_b_f32, 0),
    K_KERNEL(pack_bt_bf16, check_pack_bt_bf16, bench_pack_bt_bf16, K_SAME_BITS),
    K_KERNEL(pack_b_bf16, check_pack_b_bf16, bench_pack_b_bf16, K_SAME_BITS),
    K_KERNEL(transpose_bf16, check_transpose_bf16, bench_transpose_bf16, K_SAME_BITS),
    K_KERNEL(transpose_f32, check_transpose_f32, bench_transpose_f32, K_SAME_BITS),
    K_KERNEL(peak_bf16, check_peak, bench_peak, K_BY_TILE),
    {0},
};
