/* The short causal convolution by itself, in place on some columns of rows: beside the formula in double complex,
 * forward and backward, in every tier and both precisions, for any number of threads, and decoding. */
#include "ops/mixer/convolution.h"

#include "alone.h"
#include "ref/ops.h"
#include "ref/tolerance.h"

enum { BEHIND = 2 }; /* columns that it leaves alone behind those that it changes */

typedef struct {
    int64_t batch, seq;
    sl_convolution how;
} shape;

static const shape shapes[] = {{2, 1, {0, 3, 4, true, true}},    {3, 2, {1, 5, 4, false, true}},
                               {2, 3, {4, 1, 2, true, false}},   {1, 130, {3, 300, 4, true, true}},
                               {2, 65, {2, 257, 5, false, false}}, {1, 64, {0, 512, 3, true, true}}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static int64_t columns(const shape *s) { return s->how.first + s->how.channels + BEHIND; }
static int64_t size_of(const shape *s) { return s->batch * s->seq * columns(s); }

static sl_buf build(sl_program *b, sl_buf in, const void *how) {
    sl_build_convolution(b, (sl_scope){.part = SL_PART_core}, "m", in, how);
    return in;
}

static alone_mixer mixer_of(const shape *s) {
    return (alone_mixer){s->batch, s->seq, columns(s), columns(s), build, &s->how};
}

/* ---- what is to come out */

/* Of the columns that change, dense. */
static ref_c *changed(const shape *s, const float *rows) {
    ref_c *p = ref_alloc(s->batch * s->seq * s->how.channels);
    for (int64_t i = 0; i < s->batch * s->seq * s->how.channels; i++)
        p[i] = rows[i / s->how.channels * columns(s) + s->how.first + i % s->how.channels];
    return p;
}

static ref_c *parameter(const sl_params *p, int t) {
    ref_c *w = ref_alloc(p->tensor[t].size);
    for (int64_t i = 0; i < p->tensor[t].size; i++)
        w[i] = p->w[p->tensor[t].offset + i];
    return w;
}

typedef struct {
    const shape *s;
    ref_c *x, *dy, *w, *bias, *y;
} formula;

static void apply(const formula *f) {
    const sl_convolution *o = &f->s->how;
    ref_convolution(f->s->batch * f->s->seq, f->s->seq, o->channels, o->width, f->x, f->w, f->bias, o->silu, f->y);
}

/* The derivative of sum dy y along steps at p, `stride` apart, one for each channel: channels do not see each other. */
static void slopes(const formula *f, ref_c *p, int64_t stride, double *to, int64_t to_stride) {
    int64_t n = f->s->how.channels;
    for (int64_t c = 0; c < n; c++)
        p[c * stride] += I * REF_STEP;
    apply(f);
    for (int64_t c = 0; c < n; c++) {
        double sum = 0;
        for (int64_t r = 0; r < f->s->batch * f->s->seq; r++)
            sum += cimag(f->dy[r * n + c] * f->y[r * n + c]) / REF_STEP;
        to[c * to_stride] = sum;
        p[c * stride] = creal(p[c * stride]);
    }
}

/* ---- */

/* Rows: `want` where the operation changes them, and what they were elsewhere. */
static void check_rows(const shape *s, const float *got, const float *before, const double *want, bool bf16,
                       double tolerance, const char *what) {
    int64_t n = s->batch * s->seq * s->how.channels;
    float *dense = malloc((size_t)n * sizeof *dense);
    for (int64_t i = 0; i < size_of(s); i++) {
        int64_t c = i % columns(s) - s->how.first;
        if (c >= 0 && c < s->how.channels)
            dense[i / columns(s) * s->how.channels + c] = got[i];
        else
            ck_assert_msg(got[i] == before[i], "%s: column %d has changed", what, (int)(i % columns(s)));
    }
    ck_assert_msg(near(n, dense, want, bf16, tolerance), "%s: too far off", what);
    free(dense);
}

static double tolerance(int64_t terms, double margin) { return margin * 0x1p-24 * sqrt((double)terms / 2 + 1); }

/* Sums of width terms forward, of all rows in the gradients of parameters. */
static void check_pass(const alone *a, const shape *s, const ends *e, bool bf16) {
    const sl_convolution *o = &s->how;
    const sl_params *p = &a->params;
    int64_t n = o->channels, rows = s->batch * s->seq;
    formula f = {s, changed(s, e->value), changed(s, e->gradient), parameter(p, 0), o->bias ? parameter(p, 1) : NULL,
                 ref_alloc(rows * n)};
    double *want = malloc((size_t)(rows * n) * sizeof *want), *dw = malloc((size_t)(n * o->width) * sizeof *dw);
    apply(&f);
    for (int64_t i = 0; i < rows * n; i++)
        want[i] = creal(f.y[i]);
    check_rows(s, e->out, e->value, want, bf16, tolerance(o->width, REF_FORWARD), "forward");
    for (int64_t r = 0; r < rows; r++)
        slopes(&f, f.x + r * n, 1, want + r * n, 1);
    check_rows(s, e->din, e->gradient, want, bf16, tolerance(2 * o->width, REF_FORWARD), "input gradient");
    for (int64_t j = 0; j < o->width; j++)
        slopes(&f, f.w + j, o->width, dw + j, o->width);
    double sums = tolerance(rows + o->width, REF_GRADIENT);
    ck_assert_msg(near(n * o->width, p->g + p->tensor[0].offset, dw, false, sums), "gradient of the taps");
    if (o->bias) {
        slopes(&f, f.bias, 1, dw, 1);
        ck_assert_msg(near(n, p->g + p->tensor[1].offset, dw, false, sums), "gradient of the bias");
    }
    free(f.x), free(f.dy), free(f.w), free(f.bias), free(f.y), free(want), free(dw);
}

START_TEST(passes_are_the_formula) {
    for (int i = 0; i < SHAPES; i++)
        for (int isa = SL_ISA_SCALAR; isa <= SL_ISA_NEONBF16; isa++)
            for (int bf16 = 0; bf16 < 2 && sl_kernels_tier((enum sl_isa)isa); bf16++) {
                alone_mixer m = mixer_of(&shapes[i]);
                ends e = mixer_ends(&m);
                alone a;
                open_mixer(&a, &m, (enum sl_isa)isa, bf16, false, &e);
                ck_assert_int_eq(sl_schedule_forward(&a.b, &a.x, NULL), 0);
                ck_assert_int_eq(sl_schedule_backward(&a.b, &a.x, NULL), 0);
                check_pass(&a, &shapes[i], &e, bf16);
                close_alone(&a);
                free_ends(&e);
            }
}
END_TEST

START_TEST(threads_do_not_matter) {
    alone_mixer m = mixer_of(&shapes[4]);
    check_threads_of_mixer(&m);
}
END_TEST

START_TEST(decoding_is_the_full_pass) {
    for (int i = 0; i < SHAPES; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            alone_mixer m = mixer_of(&shapes[i]);
            check_decoding_of_mixer(&m, bf16, 0);
        }
}
END_TEST

START_TEST(taps_start_uniform) {
    alone_mixer m = mixer_of(&shapes[3]);
    ends e = mixer_ends(&m);
    alone a;
    open_mixer(&a, &m, SL_ISA_SCALAR, false, false, &e);
    const sl_tensor *t = &a.params.tensor[0];
    double square = 0, most = 0;
    ck_assert(t->ndim == 3 && t->shape[0] == 300 && t->shape[1] == 1 && t->shape[2] == 4 && !t->matrix);
    ck_assert_str_eq(t->name, "m.conv1d.weight");
    for (int64_t i = 0; i < t->size; i++) {
        double w = a.params.w[t->offset + i];
        square += w * w / (double)t->size;
        most = fmax(most, fabs(w));
    }
    ck_assert(most <= 0.5 && most > 0.45); /* 1200 of U(-1/2, 1/2) */
    ck_assert_double_eq_tol(square, 1.0 / 12, 0.01);
    close_alone(&a);
    free_ends(&e);
}
END_TEST

int main(void) {
    Suite *s = suite_create("convolution");
    TCase *t = tcase_create("convolution");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, passes_are_the_formula);
    tcase_add_test(t, threads_do_not_matter);
    tcase_add_test(t, decoding_is_the_full_pass);
    tcase_add_test(t, taps_start_uniform);
    suite_add_tcase(s, t);
    return run_suite(s);
}
