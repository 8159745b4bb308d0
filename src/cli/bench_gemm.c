#include "cli/bench_gemm.h"

#include "base/blas.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"
#include "model/model.h"
#include "probe/measures.h"
#include "train/multiply.h"

#include <string.h>

/* The linear layers of bench-10m on 4096 tokens, each as y = x W^T, dx = dy W, dW = dy^T x. */
typedef struct {
    const char *name;
    int64_t in, out;
} layer;
static const layer layers[] = {
    {"qkv", 384, 1152}, {"attention out", 384, 384}, {"ffn in", 384, 2048}, {"ffn out", 1024, 384}};
enum { TOKENS = 4096, LAYERS = 4, PRODUCTS = 3, REPEATS = 9 };
static const char *const product_names[PRODUCTS] = {"forward", "input gradient", "weight gradient"};

typedef struct {
    sl_multiplier m;
    float *act, *grad, *weight, *out;
    const sl_blas *blas; /* NULL: none is there */
} workspace;

static bool open_workspace(workspace *w, enum sl_isa isa) {
    enum { WIDEST = 2048 };
    const sl_kernels *k = sl_kernels_select(isa);
    w->act = sl_alloc((size_t)TOKENS * WIDEST * 4, "bench");
    w->grad = sl_alloc((size_t)TOKENS * WIDEST * 4, "bench");
    w->weight = sl_alloc((size_t)WIDEST * WIDEST * 4, "bench");
    w->out = sl_alloc((size_t)TOKENS * WIDEST * 4, "bench");
    if (sl_multiplier_open(&w->m, k, sl_gemm_packed_bytes(k, WIDEST, TOKENS)))
        return false;
    if (!w->act || !w->grad || !w->weight || !w->out)
        return false;
    for (int64_t i = 0; i < (int64_t)TOKENS * WIDEST; i++)
        w->act[i] = (float)(i % 17 - 8) / 16, w->grad[i] = (float)(i % 13 - 6) / 16;
    for (int64_t i = 0; i < (int64_t)WIDEST * WIDEST; i++)
        w->weight[i] = (float)(i % 11 - 5) / 16;
    return true;
}

static void close_workspace(workspace *w) {
    void *all[] = {w->act, w->grad, w->weight, w->out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        sl_free(all[i]);
    sl_multiplier_close(&w->m);
}

static void shape_of(const layer *l, int product, int64_t mnk[3]) {
    int64_t s[PRODUCTS][3] = {{TOKENS, l->out, l->in}, {TOKENS, l->in, l->out}, {l->out, l->in, TOKENS}};
    memcpy(mnk, s[product], sizeof s[product]);
}

static void ours(const workspace *w, const layer *l, int product) {
    int64_t s[3];
    shape_of(l, product, s);
    sl_mat a[PRODUCTS] = {{w->act, l->in, 1}, {w->grad, l->out, 1}, {w->grad, 1, l->out}};
    sl_mat b[PRODUCTS] = {{w->weight, l->in, 1}, {w->weight, 1, l->in}, {w->act, 1, l->in}};
    sl_multiply(&w->m, (sl_gemm_args){.m = s[0], .n = s[1], .depth = s[2], .a = a[product], .b = b[product],
                                      .c = w->out, .ldc = s[1], .add = product == 2});
}

static void theirs(const workspace *w, const layer *l, int product) {
    int64_t s[3];
    shape_of(l, product, s);
    sl_blas_sgemm(w->blas, &(sl_sgemm){.m = s[0], .n = s[1], .k = s[2], .turn_a = product == 2, .turn_b = product == 0,
                                       .add = product == 2, .a = product == 0 ? w->act : w->grad,
                                       .lda = product == 0 ? l->in : l->out, .b = product == 2 ? w->act : w->weight,
                                       .ldb = l->in, .c = w->out, .ldc = s[1]});
}

static double best_gflops(const workspace *w, const layer *l, int product,
                          void (*run)(const workspace *, const layer *, int)) {
    int64_t s[3];
    shape_of(l, product, s);
    double best = 1e30;
    for (int i = 0; i < REPEATS; i++) {
        double start = sl_now();
        run(w, l, product);
        double t = sl_now() - start;
        best = t < best ? t : best;
    }
    return 2e-9 * (double)s[0] * (double)s[1] * (double)s[2] / best;
}

static json_t *one_product(const workspace *w, const layer *l, int product, bool json) {
    int64_t s[3];
    shape_of(l, product, s);
    double own = best_gflops(w, l, product, ours);
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:f}", "layer", l->name, "product", product_names[product], "m",
                          (json_int_t)s[0], "n", (json_int_t)s[1], "k", (json_int_t)s[2], "gflops", own);
    if (!json)
        printf("%-14s %-16s %5lld x %5lld x %5lld %9.1f", l->name, product_names[product], (long long)s[0],
               (long long)s[1], (long long)s[2], own);
    double blas = w->blas ? best_gflops(w, l, product, theirs) : 0;
    if (w->blas) {
        json_object_set_new(o, "blas", json_string(sl_blas_name(w->blas)));
        json_object_set_new(o, "blas_gflops", json_real(blas));
        json_object_set_new(o, "ratio", json_real(own / blas));
    }
    if (w->blas && !json)
        printf(" %9.1f %7.2f", blas, own / blas);
    if (!json)
        putchar('\n');
    return o;
}

json_t *sl_bench_gemm(const sl_args *args, bool json) {
    sl_config c;
    workspace w = {0};
    sl_config_defaults(&c);
    if (sl_args_override(args, &c) || sl_config_check(&c) || sl_threads_start((int)c.threads, (enum sl_pin)c.pin))
        return NULL;
    json_t *list = json_array();
    if (!open_workspace(&w, (enum sl_isa)c.isa)) {
        json_decref(list);
        list = NULL;
    }
    if ((w.blas = sl_blas_load()))
        sl_blas_set_threads(w.blas, sl_threads());
    else
        sl_warn("%s", sl_error());
    if (list && !json)
        printf("%-14s %-16s %21s %9s %9s %7s\n", "layer", "product", "m x n x k", "GFLOP/s", "BLAS", "ratio");
    for (int i = 0; list && i < LAYERS * PRODUCTS; i++)
        json_array_append_new(list, one_product(&w, &layers[i / PRODUCTS], i % PRODUCTS, json));
    close_workspace(&w);
    return list;
}

/* ---- the kernel alone */

/* Each thread multiplies operands of its own, again and again: C[rows, cols] = A[rows, DEPTH] B[DEPTH, cols]. */
enum { DEPTH = SL_GEMM_KC, WINDOWS = 25 };

typedef struct {
    const sl_kernels *k;
    bool bf16;
    int64_t rows, cols;
    size_t a_bytes, b_bytes, bytes, stride; /* A, B and all three matrices of a thread; to the next thread's */
    char *memory;
    double start;
    double *rate; /* [WINDOWS][threads], operations a second */
} alone;

static void set_shape(alone *a, int64_t rows, int64_t cols) {
    a->rows = a->bf16 ? rows : rows / a->k->gemm_mr * a->k->gemm_mr;
    a->cols = a->bf16 ? cols : cols / a->k->gemm_nr * a->k->gemm_nr;
    a->a_bytes = (size_t)sl_round_up(a->rows * (a->bf16 ? sl_bf16_ld(DEPTH) * 2 : DEPTH * 4), SL_ALIGN);
    a->b_bytes = (size_t)(a->cols * DEPTH * (a->bf16 ? 2 : 4));
    a->bytes = a->a_bytes + a->b_bytes + (size_t)(a->rows * a->cols * 4);
    a->stride = (size_t)sl_round_up((int64_t)a->bytes, 4096) + SL_ALIGN; /* threads must not share sets of the cache */
}

/* The largest that takes at most three quarters of L2; all are more than an L1. */
static void fit_l2(alone *a) {
    enum { SHAPES = 5, UNKNOWN = 512 << 10 };
    static const int64_t shape[SHAPES][2] = {{256, 384}, {256, 192}, {128, 192}, {128, 96}, {64, 96}};
    sl_cpu cpu;
    sl_cpu_detect(&cpu);
    size_t most = (size_t)(cpu.l2 ? cpu.l2 : UNKNOWN) / 4 * 3;
    for (int i = 0; i < SHAPES && (i == 0 || a->bytes > most); i++)
        set_shape(a, shape[i][0], shape[i][1]);
}

static void fill_item(void *ctx, int64_t item, int thread) {
    (void)item;
    const alone *a = ctx;
    char *at = a->memory + (size_t)thread * a->stride;
    size_t n = (a->a_bytes + a->b_bytes) / (a->bf16 ? 2 : 4);
    for (size_t i = 0; i < n; i++) {
        float x = (float)((int)(i % 17) - 8) / 16;
        if (a->bf16)
            a->k->to_bf16(1, &x, (sl_bf16 *)at + i);
        else
            ((float *)at)[i] = x;
    }
}

static void multiply_alone(const alone *a, char *at) {
    const sl_kernels *k = a->k;
    char *b = at + a->a_bytes;
    float *c = (float *)(b + a->b_bytes);
    int64_t wide = a->bf16 ? SL_BF16_NR : k->gemm_nr, high = a->bf16 ? a->rows : k->gemm_mr;
    for (int64_t j = 0; j < a->cols; j += wide)
        for (int64_t i = 0; i < a->rows; i += high) {
            float *to = c + i * a->cols + j;
            if (a->bf16)
                k->gemm_bf16(high, wide, DEPTH, (sl_bf16 *)at, sl_bf16_ld(DEPTH), (sl_bf16 *)b + j * DEPTH, to,
                             a->cols, 0);
            else
                k->gemm_f32(DEPTH, (float *)at + i * DEPTH, (float *)b + j * DEPTH, to, a->cols, (int)high, (int)wide,
                            0);
        }
}

/* Windows are cut by the clock, the same for all threads, so that their rates may be added. */
static void alone_item(void *ctx, int64_t item, int thread) {
    (void)item;
    const double window = 0.02, warm = 0.1;
    const alone *a = ctx;
    char *at = a->memory + (size_t)thread * a->stride;
    while (sl_now() < a->start + warm)
        multiply_alone(a, at);
    for (int w = 0; w < WINDOWS; w++) {
        double begin = sl_now(), end = a->start + warm + (w + 1) * window, now, done = 0;
        do {
            multiply_alone(a, at);
            done += 2.0 * (double)(a->rows * a->cols) * DEPTH;
        } while ((now = sl_now()) < end);
        a->rate[w * sl_threads() + thread] = done / (now - begin);
    }
}

static json_t *report_alone(const alone *a, bool json) {
    double gflops[WINDOWS] = {0};
    for (int i = 0; i < WINDOWS * sl_threads(); i++)
        gflops[i / sl_threads()] += a->rate[i] / 1e9;
    double sorted[WINDOWS], median = sl_median(WINDOWS, gflops, sorted), best = sorted[WINDOWS - 1];
    const char *precision = a->bf16 ? "bf16" : "fp32";
    if (!json)
        printf("kernel %s  %lld x %lld x %d, %zu KiB a thread in L2  %.1f GFLOP/s, best %.1f  %s, %d threads\n",
               precision, (long long)a->rows, (long long)a->cols, DEPTH, a->bytes >> 10, median, best, a->k->tier,
               sl_threads());
    return json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:i, s:I, s:f, s:f, s:i}", "bench", "kernel", "precision",
                     precision, "tier", a->k->tier, "threads", sl_threads(), "m", (json_int_t)a->rows, "n",
                     (json_int_t)a->cols, "k", DEPTH, "bytes", (json_int_t)a->bytes, "gflops", median, "best_gflops",
                     best, "repetitions", WINDOWS);
}

json_t *sl_bench_kernel(const sl_args *args, bool json) {
    sl_config c;
    json_t *o = NULL;
    sl_config_defaults(&c);
    if (sl_args_override(args, &c) || sl_config_check(&c) || sl_threads_start((int)c.threads, (enum sl_pin)c.pin))
        return NULL;
    alone a = {.k = sl_kernels_select((enum sl_isa)c.isa), .bf16 = sl_model_precision(&c) == SL_PRECISION_BF16};
    fit_l2(&a);
    a.memory = sl_alloc_threads(sl_threads(), a.stride, "bench");
    a.rate = sl_alloc((size_t)(WINDOWS * sl_threads()) * sizeof *a.rate, "bench");
    if (a.memory && a.rate) {
        sl_each_thread(sl_threads(), fill_item, &a);
        a.start = sl_now();
        sl_each_thread(sl_threads(), alone_item, &a);
        o = report_alone(&a, json);
    }
    sl_free(a.memory), sl_free(a.rate);
    return o;
}
