/* The engine and the reference model of tests/ref against golden values from PyTorch
 * (make_golden.py): loss, token losses, logits, gradients, and five AdamW steps, on every kernel
 * tier, with 1 and 2 threads, and on a device where one is (SL_GOLDEN_EVERY=N: every N-th case there). */
#include "base/err.h"
#include "base/threads.h"
#include "io/safetensors.h"
#include "model/model.h"
#include "ref/model.h"
#include "ref/tolerance.h"
#include "simd/kernels.h"
#include "train/train.h"
#include "unit/suite.h"
#include "unit/gradients.h"

#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef GOLDEN_DIR
#error "GOLDEN_DIR: folder of the cases"
#endif

enum { STEPS = 5 };

/* ---- a case read from its two files */
typedef struct {
    char name[128];
    sl_config config;
    sl_st_file *file;
    sl_params table; /* built from the w.* tensors; w filled */
    int32_t vocab;
    int64_t batch, seq, rows;
    const int32_t *tokens, *targets;
    double relative; /* expected rounding error, ref/tolerance.h */
} golden;

static const void *data_of(const golden *g, const char *name, enum sl_dtype dtype, int64_t values) {
    const sl_st_tensor *t = sl_st_find(g->file, name);
    ck_assert_msg(t && t->dtype == dtype, "%s: no tensor %s", g->name, name);
    ck_assert_int_eq((int64_t)(t->end - t->begin), values * sl_dtype_size(dtype));
    return sl_st_data(g->file, t);
}

/* Values of <kind>.<name of tensor t> as floats. */
static void read_tensor(const golden *g, const char *kind, const sl_tensor *t, float *dst) {
    char name[160];
    snprintf(name, sizeof name, "%s.%s", kind, t->name);
    ck_assert_msg(sl_st_read_f32(g->file, name, t->ndim, t->shape, dst) == 0, "%s", sl_error());
}

static void read_table(golden *g) {
    sl_params *p = &g->table;
    int n = sl_st_count(g->file);
    p->tensor = calloc((size_t)n, sizeof *p->tensor);
    for (int i = 0; i < n; i++) {
        const sl_st_tensor *from = sl_st_at(g->file, i);
        if (strncmp(from->name, "w.", 2) != 0)
            continue;
        sl_tensor *t = p->tensor + p->count++;
        snprintf(t->name, sizeof t->name, "%s", from->name + 2);
        t->ndim = from->ndim;
        t->size = 1;
        for (int k = 0; k < t->ndim; k++)
            t->size *= t->shape[k] = from->shape[k];
        t->offset = p->floats;
        p->floats += t->size;
    }
    p->params = p->floats;
    p->w = calloc((size_t)p->floats, sizeof *p->w);
    for (int i = 0; i < p->count; i++)
        read_tensor(g, "w", p->tensor + i, p->w + p->tensor[i].offset);
}

static golden open_case(const char *yaml) {
    golden g = {0};
    char path[4096];
    const char *base = strrchr(yaml, '/') + 1;
    snprintf(g.name, sizeof g.name, "%.*s", (int)(strlen(base) - strlen(".yaml")), base);
    snprintf(path, sizeof path, "%s/%s.safetensors", GOLDEN_DIR, g.name);
    sl_config_defaults(&g.config);
    ck_assert_msg(sl_config_read(&g.config, yaml) == 0, "%s", sl_error());
    ck_assert_msg(sl_config_check(&g.config) == 0, "%s", sl_error());
    g.file = sl_st_open(path);
    ck_assert_msg(g.file != NULL, "%s", sl_error());
    read_table(&g);
    int embed = sl_params_find(&g.table, "model.embed_tokens.weight");
    ck_assert_int_ge(embed, 0);
    g.vocab = (int32_t)g.table.tensor[embed].shape[0];
    g.batch = g.config.train_batch;
    g.seq = g.config.model_seq;
    g.rows = g.batch * g.seq;
    g.tokens = data_of(&g, "tokens", SL_I32, g.rows);
    g.targets = data_of(&g, "targets", SL_I32, g.rows);
    g.relative = ref_relative_error(&g.config, g.vocab, g.rows);
    return g;
}

static void close_case(golden *g) {
    sl_st_close(g->file);
    free(g->table.tensor);
    free(g->table.w);
}

static void for_each_case(void (*fn)(const golden *)) {
    glob_t found;
    ck_assert_int_eq(glob(GOLDEN_DIR "/*.yaml", 0, NULL, &found), 0);
    ck_assert_uint_ge(found.gl_pathc, 29);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        golden g = open_case(found.gl_pathv[i]);
        fn(&g);
        close_case(&g);
    }
    globfree(&found);
}

/* ---- comparisons */
static double worst; /* largest ratio of error to tolerance of a test */

static void expect(const golden *g, const char *what, const char *where, double ratio) {
    worst = fmax(worst, ratio);
    ck_assert_msg(ratio <= 1, "%s: %s %s: error is %.3g times the tolerance", g->name, what, where,
                  ratio);
}

static void expect_near(const golden *g, const char *what, const char *where, double got,
                        double want, double tolerance) {
    double error = fabs(got - want);
    expect(g, what, where, isnan(error) ? INFINITY : error == 0 ? 0 : error / tolerance);
}

/* A cross-entropy is a difference of logits of either sign: its error is absolute, at least a
 * nat's. */
static double loss_tolerance(const golden *g, double loss) {
    return REF_FORWARD * g->relative * (1 + fabs(loss));
}

/* The mean cross-entropy of a training pass. */
static double train_loss(const golden *g) {
    const char *name = sl_st_find(g->file, "train_loss") ? "train_loss" : "loss";
    return *(const double *)data_of(g, name, SL_F64, 1);
}

/* ---- the reference model: double against double, so the tolerance is double's rounding */
static void reference_case(const golden *g) {
    ref_c *w = ref_from_float(g->table.floats, g->table.w);
    ref_c *loss = ref_alloc(g->rows), *logits = ref_alloc(g->rows * g->vocab);
    sl_config evaluation = g->config;
    evaluation.model_expert_capacity = 0;
    ref_model m = {.config = &g->config, .table = &g->table, .w = w, .vocab = g->vocab, .batch = g->batch,
                   .seq = g->seq};
    expect_near(g, "reference", "training loss", creal(ref_model_loss(&m, g->tokens, g->targets, NULL, NULL)),
                train_loss(g), 1e-12);
    m.config = &evaluation;
    double mean = creal(ref_model_loss(&m, g->tokens, g->targets, loss, logits));
    m.config = &g->config;
    expect_near(g, "reference", "loss", mean, *(const double *)data_of(g, "loss", SL_F64, 1),
                1e-12);
    const double *want = data_of(g, "token_loss", SL_F64, g->rows);
    for (int64_t i = 0; i < g->rows; i++)
        expect_near(g, "reference", "token loss", creal(loss[i]), want[i], 1e-12);
    const float *want_logits = data_of(g, "logits", SL_F32, g->rows * g->vocab);
    for (int64_t i = 0; i < g->rows * g->vocab; i++)
        expect_near(g, "reference", "logits", creal(logits[i]), want_logits[i],
                    0x1p-23 * (0.1 + fabs(want_logits[i])));
    free(loss);
    free(logits);

    /* The slope along a direction on one tensor at a time is the sum of g times the direction; each
     * g was rounded to float once (relative 2^-24), the errors add up at random (6 of their
     * deviations allowed). */
    double *direction = calloc((size_t)g->table.floats, sizeof *direction);
    float *grad = calloc((size_t)g->table.floats, sizeof *grad);
    for (int i = 0; i < g->table.count; i++) {
        const sl_tensor *t = g->table.tensor + i;
        read_tensor(g, "g", t, grad);
        double sum = 0, squares = 0;
        for (int64_t k = 0; k < t->size; k++) {
            double r = cos(1 + 2.4 * (double)k);
            direction[t->offset + k] = r;
            sum += r * grad[k];
            squares += r * r * grad[k] * grad[k];
        }
        expect_near(g, "reference gradient", t->name,
                    ref_model_slope(&m, g->tokens, g->targets, direction), sum,
                    6 * 0x1p-24 * sqrt(squares));
        memset(direction + t->offset, 0, (size_t)t->size * sizeof *direction);
    }
    free(direction);
    free(grad);
    free(w);
}

START_TEST(test_reference) {
    worst = 0;
    for_each_case(reference_case);
    printf("golden: reference model, worst error / tolerance %.3f\n", worst);
}
END_TEST

/* ---- the engine */
static sl_model *create(const golden *g) {
    sl_model *m = sl_model_create(&g->config, g->vocab, g->batch, g->seq, SL_MODEL_TRAINING);
    ck_assert_msg(m != NULL, "%s: %s", g->name, sl_error());
    sl_params *p = sl_model_params(m);
    ck_assert_int_eq(p->count, g->table.count);
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = p->tensor + i;
        read_tensor(g, "w", t, p->w + t->offset);
        bool decays = t->decay == SL_DECAY_MATRIX ||
                      (t->decay == SL_DECAY_NORM && g->config.train_decay_norms);
        static const char *const never[] = {".bias_", ".sinks", ".channel_mean", "_proj.bias", "lm_head.bias",
                                            "conv1d.bias", ".dt_bias", ".A_log", "mixer.D", "mlp.gate.bias",
                                            "_coef", ".query", ".coupling", ".recency", ".x_"},
                                 *const whole[] = {"receptance.", "key.", "value.", "output.", "ln_x.weight"};
        bool own = strstr(t->name, ".att.") != NULL; /* of rwkv7 whole matrices and the norm's weight decay */
        for (size_t k = 0; k < sizeof whole / sizeof *whole; k++)
            own = own && !strstr(t->name, whole[k]);
        for (size_t k = 0; k < sizeof never / sizeof *never; k++)
            own = own || strstr(t->name, never[k]);
        ck_assert_msg(decays == (!own && (t->ndim > 1 || g->config.train_decay_norms)),
                      "%s: decay group of %s", g->name, t->name);
    }
    ck_assert_msg(sl_model_params_written(m) == 0, "%s: %s", g->name, sl_error());
    return m;
}

static void check_forward(const golden *g, sl_model *m) {
    float *loss = calloc((size_t)g->rows, sizeof *loss);
    float *logits = calloc((size_t)(g->rows * g->vocab), sizeof *logits);
    double *want_logits = calloc((size_t)(g->rows * g->vocab), sizeof *want_logits);
    double want = *(const double *)data_of(g, "loss", SL_F64, 1);
    const double *want_loss = data_of(g, "token_loss", SL_F64, g->rows);
    double mean;
    ck_assert_msg(sl_model_forward(m, g->tokens, g->targets, &mean, loss) == 0, "%s", sl_error());
    expect_near(g, "forward", "loss", mean, want, loss_tolerance(g, want));
    for (int64_t i = 0; i < g->rows; i++) {
        if (g->targets[i] < 0)
            ck_assert_msg(loss[i] == 0, "%s: token loss without a target", g->name);
        expect_near(g, "forward", "token loss", loss[i], want_loss[i],
                    loss_tolerance(g, want_loss[i]));
    }
    const float *stored = data_of(g, "logits", SL_F32, g->rows * g->vocab);
    for (int64_t i = 0; i < g->rows * g->vocab; i++)
        want_logits[i] = stored[i];
    sl_model_logits(m, g->tokens, logits);
    expect(g, "logits", "",
           ref_ratio(g->rows * g->vocab, logits, want_logits, REF_FORWARD * g->relative));
    free(loss);
    free(logits);
    free(want_logits);
}

/* Gradients are added to what is there and scaled: a pass at 1/4 and one at 3/4 give the gradient.
 */
static void check_gradients(const golden *g, sl_model *m) {
    sl_params *p = sl_model_params(m);
    memset(p->g, 0, (size_t)p->floats * sizeof *p->g);
    double want = train_loss(g);
    expect_near(g, "backward", "loss", forward_backward(m, g->tokens, g->targets, 0.25f),
                want, loss_tolerance(g, want));
    forward_backward(m, g->tokens, g->targets, 0.75f);
    ck_assert_msg(sl_model_read_params(m) == 0, "%s: %s", g->name, sl_error());
    double *gradient = calloc((size_t)p->floats, sizeof *gradient);
    float *stored = calloc((size_t)p->floats, sizeof *stored);
    for (int i = 0; i < p->count; i++)
        read_tensor(g, "g", p->tensor + i, stored + p->tensor[i].offset);
    for (int64_t k = 0; k < p->floats; k++)
        gradient[k] = stored[k];
    for (int i = 0; i < p->count; i++)
        expect(g, "gradient", p->tensor[i].name, ref_gradient_ratio(p, i, p->g, gradient, g->relative));
    free(gradient);
    free(stored);
}

/* AdamW moves an element by lr f(g'), g' the clipped gradient, and f has no slope above 1/eps. So a
 * gradient that is wrong by e moves it wrong by at most lr e/eps in each of the steps; what the
 * moved parameters do to later gradients is allowed for by a factor 2. e: REF_FORWARD relative
 * errors of the rms that the gradients of a tensor have, at most clip_norm (or the norm itself)
 * spread over its elements. accumulate 1 or 2: the same batch once or twice, which is the same
 * step. */
static void check_steps(const golden *g, sl_model *m, int accumulate) {
    const sl_config *c = &g->config;
    size_t batch = (size_t)g->rows;
    int32_t *in = calloc(2 * batch, sizeof *in), *target = calloc(2 * batch, sizeof *target);
    for (size_t i = 0; i < 2; i++) {
        memcpy(in + i * batch, g->tokens, batch * sizeof *in);
        memcpy(target + i * batch, g->targets, batch * sizeof *target);
    }
    const double *want_loss = data_of(g, "step_loss", SL_F64, STEPS + 1);
    const double *want_norm = data_of(g, "step_norm", SL_F64, STEPS);
    sl_params *p = sl_model_params(m);
    sl_optim *o = sl_optim_create(m);
    ck_assert_msg(o != NULL, "%s", sl_error());
    sl_optim_zero_grad(o);
    for (int step = 0; step < STEPS; step++) {
        sl_step_result r;
        ck_assert_msg(sl_train_step(o, in, target, accumulate, step, NULL, NULL, &r) == 0, "%s",
                      sl_error());
        ck_assert(!r.skipped && r.lr == c->train_lr);
        /* The parameters' errors, at random to the gradient, change the loss by its norm times one
         * of them. */
        double moved = step * c->train_lr * 2 * REF_FORWARD * g->relative / c->train_eps /
                       sqrt((double)p->params);
        expect_near(g, "step", "loss", r.loss, want_loss[step],
                    loss_tolerance(g, want_loss[step]) + moved * want_norm[step]);
        expect_near(g, "step", "gradient norm", r.grad_norm, want_norm[step],
                    REF_FORWARD * g->relative * want_norm[step] + moved * want_norm[step]);
    }
    ck_assert_msg(sl_model_read_params(m) == 0, "%s: %s", g->name, sl_error());
    float *want = calloc((size_t)p->floats, sizeof *want);
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = p->tensor + i;
        double norm = c->train_clip_norm > 0 ? c->train_clip_norm : want_norm[0];
        double error = REF_FORWARD * g->relative * norm / sqrt((double)t->size);
        double tolerance = STEPS * c->train_lr * 2 * error / c->train_eps;
        read_tensor(g, "f", t, want);
        for (int64_t k = 0; k < t->size; k++)
            expect_near(g, "after 5 steps", t->name, p->w[t->offset + k], want[k],
                        tolerance + 0x1p-21 * fabs(want[k]));
    }
    free(want);
    sl_optim_free(o);
    free(in);
    free(target);
}

static void engine_case(const golden *g) {
    golden at = *g;
    for (int isa = SL_ISA_SCALAR; isa <= SL_ISA_AVX512; isa++) {
        if (!sl_kernels_tier((enum sl_isa)isa))
            continue;
        at.config.isa = isa;
        for (int threads = 1; threads <= 2; threads++) {
            sl_threads_set(threads);
            sl_model *m = create(&at);
            check_forward(&at, m);
            check_gradients(&at, m);
            check_steps(&at, m, threads);
            sl_model_free(m);
        }
    }
}

START_TEST(test_engine) {
    worst = 0;
    for_each_case(engine_case);
    printf("golden: engine, worst error / tolerance %.3f\n", worst);
}
END_TEST

/* Has the device no kernels for an option of the case, which it then says? */
static bool is_refused(const golden *g) {
    sl_model *m = sl_model_create(&g->config, g->vocab, g->batch, g->seq, SL_MODEL_TRAINING);
    bool refused = !m && strncmp(sl_error(), "device: cuda has ", strlen("device: cuda has ")) == 0;
    sl_model_free(m);
    return refused;
}

static int refused;

static void device_case(const golden *g) {
    static int seen;
    const char *every = getenv("SL_GOLDEN_EVERY");
    golden at = *g;
    at.config.device = SL_DEVICE_CUDA;
    if (seen++ % (every ? atoi(every) : 1))
        return;
    if (is_refused(&at)) {
        refused++;
        return;
    }
    for (int accumulate = 1; accumulate <= 2; accumulate++) {
        sl_model *m = create(&at);
        check_forward(&at, m);
        check_gradients(&at, m);
        check_steps(&at, m, accumulate);
        sl_model_free(m);
    }
}

START_TEST(test_device) {
    const sl_device *d;
    sl_config c;
    sl_config_defaults(&c);
    c.device = SL_DEVICE_CUDA;
    if (sl_device_of(&c, &d)) {
        printf("golden: no device: %s\n", sl_error());
        return;
    }
    worst = 0;
    sl_threads_set(1);
    for_each_case(device_case);
    ck_assert_int_le(refused, 15); /* kinds of attention, mixers */
    printf("golden: %s, worst error / tolerance %.3f; %d cases refused\n", d->name(), worst, refused);
}
END_TEST

int main(void) {
    Suite *s = suite_create("golden");
    TCase *tc = tcase_create("golden");
    tcase_set_timeout(tc, 0);
    tcase_add_test(tc, test_reference);
    tcase_add_test(tc, test_engine);
    suite_add_tcase(s, tc);
    TCase *device = tcase_create("device");
    tcase_set_timeout(device, 0);
    tcase_add_test(device, test_device);
    suite_add_tcase(s, device);
    return run_suite(s);
}
