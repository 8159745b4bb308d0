/* Mamba-2's recurrence by itself: beside the formula in double complex, forward and backward, at sizes that cross its
 * chunks, blocks and slices, in every tier and both precisions, for any number of threads, and decoding. */
#include "ops/mixer/ssd.h"

#include "alone.h"
#include "ref/ops.h"
#include "ref/tolerance.h"

enum { BEHIND = 2, KINDS = 4, SAMPLES = 40 }; /* columns behind its own; x, B, C, dt; gradients of each to look at */

typedef struct {
    int64_t batch, seq;
    sl_ssd how;
} shape;

static const shape shapes[] = {{2, 1, {1, 1, 1, 1, 0}},
                               {2, 3, {.heads = 2, .head_dim = 3, .groups = 1, .state = 5, .first = 2}},
                               {1, 130, {.heads = 6, .head_dim = 9, .groups = 2, .state = 5, .first = 1}},
                               {2, 65, {.heads = 10, .head_dim = 4, .groups = 1, .state = 17, .first = 0}},
                               {1, 257, {.heads = 1, .head_dim = 17, .groups = 1, .state = 3, .first = 3}}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static int64_t rows_of(const shape *s) { return s->batch * s->seq; }
static int64_t width(const shape *s) { return s->how.heads * s->how.head_dim; }
/* Columns of each kind, and where they begin. */
static int64_t count(const shape *s, int kind) {
    return kind == 0 ? width(s) : kind == 3 ? s->how.heads : s->how.groups * s->how.state;
}
static int64_t begin(const shape *s, int kind) {
    int64_t at = s->how.first;
    for (int k = 0; k < kind; k++)
        at += count(s, k);
    return at;
}
static int64_t columns(const shape *s) { return begin(s, KINDS) + BEHIND; }

static sl_buf build(sl_program *b, sl_buf in, const void *how) {
    return sl_build_ssd(b, (sl_scope){.part = SL_PART_core}, "m", in, how);
}

static alone_mixer mixer_of(const shape *s) {
    return (alone_mixer){s->batch, s->seq, columns(s), width(s), build, &s->how};
}

/* ---- what is to come out */

typedef struct {
    ref_c *in[KINDS], *param[3], *y; /* dt_bias, A_log, D */
    double *want;                    /* y */
    int64_t at[KINDS][SAMPLES];      /* elements of in[kind] */
    double slope[KINDS][SAMPLES], *param_slope[3];
} formula;

static void run(const shape *s, const formula *f) {
    const sl_ssd *o = &s->how;
    ref_ssd r = {o->heads, o->head_dim, o->groups, o->state, f->in[0], f->in[1], f->in[2], f->in[3],
                 f->param[0], f->param[1], f->param[2]};
    ref_ssd_run(rows_of(s), s->seq, &r, f->y);
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
    formula f = {.y = ref_alloc(rows_of(s) * width(s))};
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
    for (int k = 0; k < 3; k++) {
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
        for (int i = 0; i < SAMPLES; i++) {
            f.at[k][i] = (int64_t)sl_rng_below(&r, (uint64_t)(rows_of(s) * count(s, k)));
            f.slope[k][i] = slope(s, &f, e->gradient, f.in[k] + f.at[k][i]);
        }
    for (int k = 0; k < 3; k++)
        for (int64_t h = 0; h < s->how.heads; h++)
            f.param_slope[k][h] = slope(s, &f, e->gradient, f.param[k] + h);
    return f;
}

static void forget(const formula *f) {
    for (int k = 0; k < KINDS; k++)
        free(f->in[k]);
    for (int k = 0; k < 3; k++)
        free(f->param[k]), free(f->param_slope[k]);
    free(f->y), free(f->want);
}

/* A state has a term of each position; a gradient of those behind it, and of all that a state is. */
static void check(const shape *s, const formula *f, const alone *a, const ends *e, bool bf16) {
    static const char *const names[] = {"dt_bias", "A_log", "D"};
    double u = 0x1p-24, terms = (double)(rows_of(s) + s->how.state * s->how.head_dim);
    ck_assert_msg(near(rows_of(s) * width(s), e->out, f->want, bf16, REF_FORWARD * u * sqrt(terms / 2)), "forward");
    for (int64_t i = 0; i < rows_of(s) * columns(s); i++) {
        int64_t c = i % columns(s);
        ck_assert_msg((c >= s->how.first && c < begin(s, KINDS)) || e->din[i] == 0, "column %d has a gradient", (int)c);
    }
    for (int k = 0; k < KINDS; k++) {
        float got[SAMPLES];
        for (int i = 0; i < SAMPLES; i++) {
            int64_t n = count(s, k), at = f->at[k][i];
            got[i] = e->din[at / n * columns(s) + begin(s, k) + at % n];
        }
        ck_assert_msg(near(SAMPLES, got, f->slope[k], bf16, REF_GRADIENT * u * sqrt(terms / 2)), "gradient of %c",
                      "xBCt"[k]);
    }
    for (int k = 0; k < 3; k++)
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
    alone_mixer m = mixer_of(&shapes[3]);
    check_threads_of_mixer(&m);
}
END_TEST

START_TEST(decoding_is_the_full_pass) {
    alone_mixer m = mixer_of(&shapes[_i]);
    for (int bf16 = 0; bf16 < 2; bf16++)
        check_decoding_of_mixer(&m, bf16, 0);
}
END_TEST

START_TEST(memory_does_not_grow_with_the_window) {
    static const shape many = {64, 256, {.heads = 2, .head_dim = 8, .groups = 1, .state = 16}},
                       one = {1, 16384, {.heads = 2, .head_dim = 8, .groups = 1, .state = 16}};
    alone_mixer wide = mixer_of(&many), deep = mixer_of(&one);
    check_memory_of_mixer(&wide, &deep);
}
END_TEST

/* Of 300 heads: softplus(dt_bias) log-uniform in [.001, .1], exp(A_log) uniform in [1, 16], D = 1. */
START_TEST(starts_are_mamba2s) {
    const shape s = {1, 1, {.heads = 300, .head_dim = 1, .groups = 1, .state = 1}};
    alone_mixer m = mixer_of(&s);
    ends e = mixer_ends(&m);
    alone a;
    double log_dt = 0, decay = 0;
    open_mixer(&a, &m, SL_ISA_SCALAR, false, false, &e);
    for (int64_t h = 0; h < 300; h++) {
        const sl_tensor *t = a.params.tensor;
        double dt = log1p(exp((double)a.params.w[t[0].offset + h])), rate = exp((double)a.params.w[t[1].offset + h]);
        ck_assert(dt > .00099 && dt < .1001 && rate >= .999 && rate <= 16.001 && a.params.w[t[2].offset + h] == 1);
        log_dt += log(dt) / 300, decay += rate / 300;
    }
    ck_assert_double_eq_tol(log_dt, (log(.001) + log(.1)) / 2, 4 * log(100) / sqrt(12 * 300));
    ck_assert_double_eq_tol(decay, 8.5, 4 * 15 / sqrt(12 * 300));
    for (int k = 0; k < 3; k++)
        ck_assert_int_eq(a.params.tensor[k].decay, SL_DECAY_NONE);
    close_alone(&a);
    free_ends(&e);
}
END_TEST

int main(void) {
    Suite *s = suite_create("ssd");
    TCase *t = tcase_create("ssd");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, passes_are_the_formula, 0, SHAPES);
    tcase_add_test(t, threads_do_not_matter);
    tcase_add_loop_test(t, decoding_is_the_full_pass, 0, SHAPES);
    tcase_add_test(t, memory_does_not_grow_with_the_window);
    tcase_add_test(t, starts_are_mamba2s);
    suite_add_tcase(s, t);
    return run_suite(s);
}
