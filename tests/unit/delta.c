/* The gated delta rule by itself: beside the formula in double complex, forward and backward, at sizes that cross its
 * chunks, blocks and slices, in every tier and both precisions, for any number of threads, and decoding. */
#include "ops/mixer/delta.h"

#include "alone.h"
#include "ref/ops.h"
#include "ref/tolerance.h"

enum { BEHIND = 2, KINDS = 5, SAMPLES = 40 }; /* columns behind its own; q, k, v, b, a; gradients of each to look at */

typedef struct {
    int64_t batch, seq;
    sl_delta how;
} shape;

/* A key of one channel is a sign alone once it is normalised: its gradient would be rounding. */
static const shape shapes[] = {
    {2, 1, {1, 1, 3, 1, 0, SL_DELTA_SOFTPLUS, true, true, false}},
    {2, 3, {1, 2, 5, 3, 2, SL_DELTA_SOFTPLUS, true, true, false}},
    {1, 130, {2, 6, 9, 17, 1, SL_DELTA_SOFTPLUS, true, true, true}},
    {2, 65, {3, 3, 17, 4, 0, SL_DELTA_NO_DECAY, true, true, false}},
    {2, 129, {1, 2, 8, 9, 3, SL_DELTA_SIGMOID, false, false, false}},
    {1, 257, {2, 2, 5, 9, 0, SL_DELTA_FIXED, false, true, false}}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static int64_t rows_of(const shape *s) { return s->batch * s->seq; }
static int64_t width(const shape *s) { return s->how.heads * s->how.value_dim; }
static bool reads(const shape *s) { return s->how.decay == SL_DELTA_SOFTPLUS || s->how.decay == SL_DELTA_SIGMOID; }
/* Columns of each kind, and where they begin. */
static int64_t count(const shape *s, int kind) {
    const int64_t n[KINDS] = {s->how.key_heads * s->how.key_dim, s->how.key_heads * s->how.key_dim, width(s),
                              s->how.rule ? s->how.heads : 0, reads(s) ? s->how.heads : 0};
    return n[kind];
}
static int64_t begin(const shape *s, int kind) {
    int64_t at = s->how.first;
    for (int k = 0; k < kind; k++)
        at += count(s, k);
    return at;
}
static int64_t columns(const shape *s) { return begin(s, KINDS) + BEHIND; }

static sl_buf build(sl_program *b, sl_buf in, const void *how) {
    return sl_build_delta(b, (sl_scope){.part = SL_PART_core}, "m", in, how);
}

static alone_mixer mixer_of(const shape *s) {
    return (alone_mixer){s->batch, s->seq, columns(s), width(s), build, &s->how};
}

/* ---- what is to come out */

enum { PARAMS = 2 };
typedef struct {
    ref_c *in[KINDS], *param[PARAMS], *y, *log_decay, *beta; /* dt_bias, A_log */
    double *want;                                            /* y */
    int64_t at[KINDS][SAMPLES];                              /* elements of in[kind] */
    double slope[KINDS][SAMPLES], *param_slope[PARAMS];
} formula;

static ref_c log_decay(const shape *s, const formula *f, int64_t i) {
    int64_t head = i % s->how.heads;
    switch (s->how.decay) {
    case SL_DELTA_SOFTPLUS: return -cexp(f->param[1][head]) * clog(1 + cexp(f->in[4][i] + f->param[0][head]));
    case SL_DELTA_NO_DECAY: return 0;
    case SL_DELTA_SIGMOID: return -clog(1 + cexp(-f->in[4][i])) / 16;
    case SL_DELTA_FIXED: return log(1 - pow(2, (double)(-5 - head)));
    }
    return NAN;
}

static void run(const shape *s, const formula *f) {
    const sl_delta *o = &s->how;
    for (int64_t i = 0; i < rows_of(s) * o->heads; i++) {
        f->log_decay[i] = log_decay(s, f, i);
        f->beta[i] = o->rule ? (o->negative ? 2 : 1) / (1 + cexp(-f->in[3][i])) : 1;
    }
    ref_delta r = {o->heads, o->key_heads, o->key_dim, o->value_dim, o->rule, o->unit, f->in[0], f->in[1], f->in[2],
                   f->log_decay, f->beta};
    ref_delta_run(rows_of(s), s->seq, &r, f->y);
}

static double slope(const shape *s, const formula *f, const float *dy, ref_c *p) {
    double sum = 0;
    *p += I * REF_STEP;
    run(s, f);
    for (int64_t i = 0; i < rows_of(s) * width(s); i++)
        sum += dy[i] * cimag(f->y[i]) / REF_STEP;
    *p = creal(*p);
    return sum;
}

static formula expect(const shape *s, const ends *e) {
    formula f = {.y = ref_alloc(rows_of(s) * width(s)), .log_decay = ref_alloc(rows_of(s) * s->how.heads),
                 .beta = ref_alloc(rows_of(s) * s->how.heads)};
    alone a;
    sl_rng r = sl_rng_make(9, SL_STREAM_TEST, 0);
    alone_mixer m = mixer_of(s);
    open_mixer(&a, &m, SL_ISA_SCALAR, false, false, e);
    for (int k = 0; k < KINDS; k++) {
        int64_t n = count(s, k);
        f.in[k] = ref_alloc(rows_of(s) * n);
        for (int64_t i = 0; i < rows_of(s) * n; i++)
            f.in[k][i] = e->value[i / n * columns(s) + begin(s, k) + i % n];
    }
    for (int k = 0; k < a.params.count; k++) {
        f.param[k] = ref_alloc(s->how.heads);
        f.param_slope[k] = malloc((size_t)s->how.heads * sizeof(double));
        for (int64_t h = 0; h < s->how.heads; h++)
            f.param[k][h] = a.params.w[a.params.tensor[k].offset + h];
    }
    close_alone(&a);
    run(s, &f);
    f.want = malloc((size_t)(rows_of(s) * width(s)) * sizeof *f.want);
    for (int64_t i = 0; i < rows_of(s) * width(s); i++)
        f.want[i] = creal(f.y[i]);
    for (int k = 0; k < KINDS; k++)
        for (int i = 0; count(s, k) && i < SAMPLES; i++) {
            f.at[k][i] = (int64_t)sl_rng_below(&r, (uint64_t)(rows_of(s) * count(s, k)));
            f.slope[k][i] = slope(s, &f, e->gradient, f.in[k] + f.at[k][i]);
        }
    for (int k = 0; k < PARAMS && f.param[k]; k++)
        for (int64_t h = 0; h < s->how.heads; h++)
            f.param_slope[k][h] = slope(s, &f, e->gradient, f.param[k] + h);
    return f;
}

static void forget(const formula *f) {
    for (int k = 0; k < KINDS; k++)
        free(f->in[k]);
    for (int k = 0; k < PARAMS; k++)
        free(f->param[k]), free(f->param_slope[k]);
    free(f->y), free(f->log_decay), free(f->beta), free(f->want);
}

/* A state has a term of each position; a gradient of those behind it, and of all that a state is. */
static void check(const shape *s, const formula *f, const alone *a, const ends *e, bool bf16) {
    static const char *const names[] = {"dt_bias", "A_log"};
    double u = 0x1p-24, terms = (double)(rows_of(s) + s->how.key_dim * s->how.value_dim);
    ck_assert_msg(near(rows_of(s) * width(s), e->out, f->want, bf16, REF_FORWARD * u * sqrt(terms / 2)), "forward");
    for (int64_t i = 0; i < rows_of(s) * columns(s); i++) {
        int64_t c = i % columns(s);
        ck_assert_msg((c >= s->how.first && c < begin(s, KINDS)) || e->din[i] == 0, "column %d has a gradient", (int)c);
    }
    for (int k = 0; k < KINDS; k++) {
        float got[SAMPLES];
        int samples = count(s, k) ? SAMPLES : 0;
        for (int i = 0; i < samples; i++) {
            int64_t n = count(s, k), at = f->at[k][i];
            got[i] = e->din[at / n * columns(s) + begin(s, k) + at % n];
        }
        ck_assert_msg(near(samples, got, f->slope[k], bf16, REF_GRADIENT * u * sqrt(terms / 2)), "gradient of %c",
                      "qkvba"[k]);
    }
    for (int k = 0; k < a->params.count; k++)
        ck_assert_msg(near(s->how.heads, a->params.g + a->params.tensor[k].offset, f->param_slope[k], false,
                           REF_GRADIENT * u * sqrt(terms / 2)), "gradient of %s", names[k]);
}

START_TEST(passes_are_the_formula) {
    const shape *s = &shapes[_i];
    alone_mixer m = mixer_of(s);
    ends e = mixer_ends(&m);
    formula f = expect(s, &e);
    for (int isa = SL_ISA_SCALAR; isa <= SL_ISA_NEONBF16; isa++)
        for (int bf16 = 0; bf16 < 2 && sl_kernels_tier((enum sl_isa)isa); bf16++) {
            alone a;
            open_mixer(&a, &m, (enum sl_isa)isa, bf16, false, &e);
            ck_assert(!sl_schedule_forward(&a.b, &a.x, NULL) && !sl_schedule_backward(&a.b, &a.x, NULL));
            check(s, &f, &a, &e, bf16);
            close_alone(&a);
        }
    forget(&f);
    free_ends(&e);
}
END_TEST

START_TEST(threads_do_not_matter) {
    alone_mixer m = mixer_of(&shapes[2]);
    check_threads_of_mixer(&m);
}
END_TEST

/* One position at a time sums in another order than a group: sums of key_dim and up to 8 more terms, whose roundings
 * are some eps in all; in bf16 that may take a result to the next number, 2^-7 of it. */
START_TEST(decoding_is_the_full_pass) {
    alone_mixer m = mixer_of(&shapes[_i]);
    check_decoding_of_mixer(&m, false, 1e-6);
    check_decoding_of_mixer(&m, true, 1.0 / 128);
}
END_TEST

START_TEST(memory_does_not_grow_with_the_window) {
    const sl_delta how = {1, 2, 16, 8, 0, SL_DELTA_SOFTPLUS, true, true, false};
    const shape many = {64, 256, how}, one = {1, 16384, how};
    alone_mixer wide = mixer_of(&many), deep = mixer_of(&one);
    check_memory_of_mixer(&wide, &deep);
}
END_TEST

/* Of 300 heads: softplus(dt_bias) log-uniform in [.001, .1], exp(A_log) uniform in [.01, 16]: half of the heads forget
 * half of their memory in less than 11.3 positions. */
START_TEST(starts_forget_slowly) {
    const shape s = {1, 1, {300, 300, 1, 1, 0, SL_DELTA_SOFTPLUS, true, true, false}};
    alone_mixer m = mixer_of(&s);
    ends e = mixer_ends(&m);
    alone a;
    double log_dt = 0, rates = 0;
    int slow = 0;
    open_mixer(&a, &m, SL_ISA_SCALAR, false, false, &e);
    for (int64_t h = 0; h < 300; h++) {
        const sl_tensor *t = a.params.tensor;
        double dt = log1p(exp((double)a.params.w[t[0].offset + h])), rate = exp((double)a.params.w[t[1].offset + h]);
        ck_assert(dt > .00099 && dt < .1001 && rate >= .0099 && rate <= 16.001);
        log_dt += log(dt) / 300, rates += rate / 300;
        slow += log(2) / (dt * rate) > 11.3;
    }
    ck_assert_double_eq_tol(log_dt, (log(.001) + log(.1)) / 2, 4 * log(100) / sqrt(12 * 300));
    ck_assert_double_eq_tol(rates, 8.005, 4 * 15.99 / sqrt(12 * 300));
    ck_assert_double_eq_tol(slow, 150, 4 * sqrt(300) / 2 + 3);
    for (int k = 0; k < PARAMS; k++)
        ck_assert_int_eq(a.params.tensor[k].decay, SL_DECAY_NONE);
    close_alone(&a);
    free_ends(&e);
}
END_TEST

/* Orthogonal keys of length 1, no decay, beta 2 sigmoid(0) = 1: what was written at a key is read back, whatever was
 * written between, and a second write replaces the first. */
START_TEST(memory_recalls_exactly) {
    enum { T = 6, K = 3 };
    const shape s = {1, T, {1, 1, K, 1, 0, SL_DELTA_NO_DECAY, true, true, true}};
    static const int key[T] = {0, 1, 0, 2, 0, 1}, query[T] = {0, 0, 1, 0, 0, 1};
    static const float value[T] = {3, -5, 7, 11, -2, 4}, read[T] = {3, 3, -5, 7, -2, 4};
    int64_t n = columns(&s);
    alone_mixer m = mixer_of(&s);
    ends e = mixer_ends(&m);
    float *x = (float *)e.value;
    memset(x, 0, (size_t)(T * n) * sizeof *x);
    for (int t = 0; t < T; t++)
        x[t * n + query[t]] = x[t * n + K + key[t]] = 1, x[t * n + 2 * K] = value[t];
    alone a;
    open_mixer(&a, &m, SL_ISA_SCALAR, false, false, &e);
    ck_assert_int_eq(sl_schedule_forward(&a.b, &a.x, NULL), 0);
    for (int t = 0; t < T; t++) /* lengths are 1 but for the 1e-6 under the root */
        ck_assert_double_eq_tol((double)e.out[t], (double)read[t] / sqrt(K), 11e-6 * T);
    close_alone(&a);
    free_ends(&e);
}
END_TEST

int main(void) {
    Suite *s = suite_create("delta");
    TCase *t = tcase_create("delta");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, passes_are_the_formula, 0, SHAPES);
    tcase_add_test(t, threads_do_not_matter);
    tcase_add_loop_test(t, decoding_is_the_full_pass, 0, SHAPES);
    tcase_add_test(t, memory_does_not_grow_with_the_window);
    tcase_add_test(t, starts_forget_slowly);
    tcase_add_test(t, memory_recalls_exactly);
    suite_add_tcase(s, t);
    return run_suite(s);
}
