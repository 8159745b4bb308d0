/* Optimizers: one step against the formulas in double, what each keeps, resuming, threads, and whose state it is. */
#include "base/err.h"
#include "base/rng.h"
#include "scratch.h"
#include "suite.h"
#include "checkpoint/checkpoint.h"
#include "train/optim.h"
#include "train/train.h"

#include <math.h>

enum { VOCAB = 37, BATCH = 3, SEQ = 16, TOKENS = BATCH * SEQ };
static const double unit = 0x1p-24; /* of fp32 rounding */
static sl_config config;

static void setup(void) {
    scratch_make();
    sl_threads_set(2);
}

/* A model with wide, tall and square matrices, tied to nothing. */
static sl_model *make(int optimizer) {
    sl_config_defaults(&config);
    config.model_layers = 2;
    config.model_dim = 24;
    config.model_heads = 2;
    config.model_ffn = 50;
    config.model_seq = SEQ;
    config.train_batch = BATCH;
    config.train_optimizer = optimizer;
    config.train_warmup = 0;
    config.train_steps = 10;
    config.train_lr = 0.01;
    config.precision = SL_PRECISION_FP32;
    ck_assert_msg(sl_config_check(&config) == 0, "%s", sl_error());
    sl_model *m = sl_model_create(&config, VOCAB, BATCH, SEQ, SL_MODEL_TRAINING);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_model_init(m, 3), 0);
    return m;
}

static void fill(float *p, int64_t n, uint64_t sub, double std) {
    sl_rng r = sl_rng_make(5, SL_STREAM_TEST, sub);
    for (int64_t i = 0; i < n; i++)
        p[i] = (float)(std * sl_rng_normal(&r));
}

static float *copy(const float *p, int64_t n) {
    float *c = malloc((size_t)n * sizeof *c);
    memcpy(c, p, (size_t)n * sizeof *c);
    return c;
}

/* ---- the formulas in double, one tensor */

typedef struct {
    const sl_tensor *t;
    const float *w, *g, *m, *v; /* before the step */
    double lr, gscale, decay;
    int64_t step;
} before;

/* Each operation rounds once: to a few units of the largest term. (Check writes to a file at every ck_assert.) */
static void check_near(const before *b, const char *what, int64_t i, double have, double want, double size) {
    if (!(fabs(have - want) <= 8 * unit * size))
        ck_abort_msg("%s of %s[%lld]: %.9g, want %.9g", what, b->t->name, (long long)i, have, want);
}

static void check_adamw(const before *b, const float *w, const float *m, const float *v) {
    double b1 = config.train_betas[0], b2 = config.train_betas[1];
    double c1 = 1 - pow(b1, (double)b->step), c2 = 1 - pow(b2, (double)b->step);
    for (int64_t i = 0; i < b->t->size; i++) {
        double g = b->gscale * b->g[i], first = b1 * b->m[i] + (1 - b1) * g, second = b2 * b->v[i] + (1 - b2) * g * g;
        double move = first / c1 / (sqrt(second / c2) + config.train_eps) + b->decay * b->w[i];
        /* The fp32 betas differ from the double ones by one unit, 1 - beta by up to 1/(1 - beta) = 20 of them. */
        check_near(b, "m", i, m[i], first, 20 * (fabs(b->m[i]) + fabs(g)));
        check_near(b, "v", i, v[i], second, 20 * (b->v[i] + g * g));
        double first_size = (fabs(b->m[i]) + fabs(g)) / c1 / sqrt(second / c2);
        check_near(b, "w", i, w[i], b->w[i] - b->lr * move, fabs(b->w[i]) + 60 * b->lr * (first_size + fabs(move)));
    }
}

static void check_sgd(const before *b, const float *w, const float *m) {
    for (int64_t i = 0; i < b->t->size; i++) {
        double g = b->gscale * b->g[i], first = config.train_momentum * b->m[i] + g;
        check_near(b, "m", i, m[i], first, fabs(b->m[i]) + fabs(g));
        check_near(b, "w", i, w[i], b->w[i] - b->lr * (first + b->decay * b->w[i]),
                   fabs(b->w[i]) + b->lr * (fabs(b->m[i]) + fabs(g) + b->decay * fabs(b->w[i])));
    }
}

static double frobenius(int64_t n, const double *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

/* y = a x + b (x x^T) x + c (x x^T)^2 x, the plain way. */
static void newton_schulz(int64_t rows, int64_t cols, const double *x, double *y) {
    double *gram = calloc((size_t)(rows * rows), sizeof *gram), *p = calloc((size_t)(rows * rows), sizeof *p);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < rows; j++)
            for (int64_t k = 0; k < cols; k++)
                gram[i * rows + j] += x[i * cols + k] * x[j * cols + k];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < rows; j++) {
            p[i * rows + j] = (i == j ? 3.4445 : 0) - 4.7750 * gram[i * rows + j];
            for (int64_t k = 0; k < rows; k++)
                p[i * rows + j] += 2.0315 * gram[i * rows + k] * gram[k * rows + j];
        }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            y[i * cols + j] = 0;
            for (int64_t k = 0; k < rows; k++)
                y[i * cols + j] += p[i * rows + k] * x[k * cols + j];
        }
    free(gram), free(p);
}

static void check_muon(const before *b, const float *w, const float *m) {
    int64_t rows = b->t->shape[0], cols = b->t->shape[1], n = b->t->size;
    double mu = config.train_muon_momentum, *x = malloc((size_t)n * sizeof *x), *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        double g = b->gscale * b->g[i], first = mu * b->m[i] + g;
        check_near(b, "m", i, m[i], first, fabs(b->m[i]) + fabs(g));
        x[i] = g + mu * first;
    }
    double norm = frobenius(n, x) + 1e-7;
    for (int64_t i = 0; i < n; i++)
        x[i] /= norm;
    for (int i = 0; i < 5; i++) {
        newton_schulz(rows, cols, x, y);
        memcpy(x, y, (size_t)n * sizeof *x);
    }
    /* Singular values between .5 and 1.5, as the polynomial is made to do; the smallest may not have got there. */
    double size = frobenius(n, x), side = (double)(rows < cols ? rows : cols);
    ck_assert(size * size > .5 * side && size * size < 1.5 * side);
    /* Errors of one step: three products, each of sqrt(depth) units; the polynomial's slope is at most 4, so that
     * five steps amplify the first errors 4^4 times, in all (4^5 - 1)/3 = 341 times. */
    double scale = b->lr * .2 * sqrt((double)(rows > cols ? rows : cols)), error = 0, whole = 0;
    double tolerance = 341 * 3 * sqrt((double)(rows > cols ? rows : cols)) * unit;
    for (int64_t i = 0; i < n; i++) {
        double want = b->w[i] - scale * x[i] - b->lr * b->decay * b->w[i];
        error += (w[i] - want) * (w[i] - want);
        whole += (double)b->w[i] * b->w[i];
    }
    ck_assert_msg(sqrt(error) <= tolerance * scale * size + 4 * unit * sqrt(whole), "%s: off by %.3g of %.3g",
                  b->t->name, sqrt(error), scale * size);
    free(x), free(y);
}

static void check_tensor(int optimizer, const before *b, const sl_params *p) {
    const float *w = p->w + b->t->offset, *m = p->m + b->t->offset;
    bool block_matrix = b->t->ndim == 2 && strncmp(b->t->name, "model.layers.", 13) == 0;
    for (int64_t i = 0; i < b->t->size; i++)
        if (p->g[b->t->offset + i] != 0)
            ck_abort_msg("gradient of %s is not zero", b->t->name);
    if (optimizer == SL_OPTIM_sgd)
        check_sgd(b, w, m);
    else if (optimizer == SL_OPTIM_muon && block_matrix)
        check_muon(b, w, m);
    else
        check_adamw(b, w, m, p->v + b->t->offset);
}

/* A few steps with random gradients from random moments. */
START_TEST(formulas) {
    sl_model *model = make(_i);
    sl_optim *o = sl_optim_create(model);
    sl_params *p = sl_model_params(model);
    for (int64_t step = 1; step <= 3; step++) {
        fill(p->g, p->floats, (uint64_t)step, 0.1);
        float *w = copy(p->w, p->floats), *g = copy(p->g, p->floats), *m = copy(p->m, p->floats),
              *v = p->v ? copy(p->v, p->floats) : NULL;
        sl_optim_step(o, 0.02, 0.5, step);
        for (int t = 0; t < p->count; t++) {
            const sl_tensor *x = &p->tensor[t];
            before b = {.t = x, .w = w + x->offset, .g = g + x->offset, .m = m + x->offset,
                        .v = v ? v + x->offset : NULL, .lr = 0.02, .gscale = 0.5, .step = step};
            b.decay = x->decay == SL_DECAY_MATRIX ? config.train_weight_decay : 0;
            check_tensor(_i, &b, p);
        }
        free(w), free(g), free(m), free(v);
    }
    sl_optim_free(o);
    sl_model_free(model);
}
END_TEST

/* No gradient at all: weights move by their decay alone, and nothing becomes NaN. */
START_TEST(no_gradient) {
    sl_model *model = make(_i);
    sl_optim *o = sl_optim_create(model);
    sl_params *p = sl_model_params(model);
    float *w = copy(p->w, p->floats);
    sl_optim_step(o, 0.02, 1, 1);
    for (int t = 0; t < p->count; t++)
        for (int64_t i = p->tensor[t].offset, end = i + p->tensor[t].size; i < end; i++) {
            double decay = p->tensor[t].decay == SL_DECAY_MATRIX ? config.train_weight_decay : 0;
            if (!(fabs(p->w[i] - w[i] * (1 - 0.02 * decay)) <= 4 * unit * fabs(w[i])))
                ck_abort_msg("%s[%lld]: %.9g", p->tensor[t].name, (long long)i, p->w[i]);
        }
    free(w);
    sl_optim_free(o);
    sl_model_free(model);
}
END_TEST

/* ---- training */

static void batch(int64_t step, int32_t *in, int32_t *target) {
    sl_rng r = sl_rng_make(7, SL_STREAM_TEST, (uint64_t)step);
    for (int i = 0; i < TOKENS; i++) {
        in[i] = (int32_t)sl_rng_below(&r, VOCAB);
        target[i] = (int32_t)sl_rng_below(&r, VOCAB);
    }
}

static void train(sl_optim *o, int64_t first, int64_t end) {
    int32_t in[TOKENS], target[TOKENS];
    sl_step_result r;
    for (int64_t step = first; step < end; step++) {
        batch(step, in, target);
        ck_assert_int_eq(sl_train_step(o, in, target, 1, step, NULL, NULL, &r), 0);
        ck_assert(!r.skipped);
    }
}

static void check_same(const sl_params *a, const sl_params *b) {
    size_t bytes = (size_t)a->floats * sizeof(float);
    ck_assert_mem_eq(a->w, b->w, bytes);
    ck_assert_mem_eq(a->m, b->m, bytes);
    ck_assert((a->v != NULL) == (b->v != NULL));
    if (a->v)
        ck_assert_mem_eq(a->v, b->v, bytes);
}

START_TEST(resumes) {
    sl_model *whole = make(_i), *parts = make(_i), *rest = make(_i);
    sl_optim *a = sl_optim_create(whole), *b = sl_optim_create(parts), *c = sl_optim_create(rest);
    sl_train_state s = {.step = 3, .loss_mean = NAN, .best_val_loss = NAN};
    char dir[SL_DIR_CHARS];
    train(a, 0, 6);
    train(b, 0, 3);
    ck_assert_msg(sl_model_save(parts, scratch, &s, 2) == 0, "%s", sl_error());
    ck_assert_int_eq(sl_checkpoint_resolve(scratch, dir), 0);
    ck_assert_msg(sl_model_load(rest, dir, &s) == 0, "%s", sl_error());
    train(c, 3, 6);
    check_same(sl_model_params(whole), sl_model_params(rest));
    sl_optim_free(a), sl_optim_free(b), sl_optim_free(c);
    sl_model_free(whole), sl_model_free(parts), sl_model_free(rest);
}
END_TEST

START_TEST(threads) {
    sl_model *model[2];
    for (int i = 0; i < 2; i++) {
        sl_threads_set(i == 0 ? 1 : 3);
        model[i] = make(_i);
        sl_optim *o = sl_optim_create(model[i]);
        train(o, 0, 3);
        sl_optim_free(o);
    }
    check_same(sl_model_params(model[0]), sl_model_params(model[1]));
    sl_model_free(model[0]), sl_model_free(model[1]);
}
END_TEST

START_TEST(too_many_threads) {
    int32_t in[TOKENS], target[TOKENS];
    sl_step_result r;
    sl_threads_set(3);
    sl_model *m = make(SL_OPTIM_muon);
    sl_threads_set(1);
    sl_optim *o = sl_optim_create(m);
    sl_threads_set(3);
    batch(0, in, target);
    ck_assert_int_eq(sl_train_step(o, in, target, 1, 0, NULL, NULL, &r), -1);
    ck_error("made for 1 threads");
    sl_optim_free(o);
    sl_model_free(m);
}
END_TEST

/* State of another optimizer is refused and nothing is changed; without state to restore it does not matter. */
START_TEST(whose_state) {
    sl_train_state s = {.step = 1, .loss_mean = NAN, .best_val_loss = NAN};
    char dir[SL_DIR_CHARS];
    sl_model *saved = make(_i);
    ck_assert_int_eq(sl_model_save(saved, scratch, &s, 1), 0);
    ck_assert_int_eq(sl_checkpoint_resolve(scratch, dir), 0);
    for (int other = 0; sl_choices_optim[other].name; other++) {
        sl_model *m = make(other);
        sl_params *p = sl_model_params(m);
        p->w[0] = 77;
        if (other == _i) {
            ck_assert_int_eq(sl_model_load(m, dir, &s), 0);
        } else {
            ck_assert_int_eq(sl_model_load(m, dir, &s), -1);
            char want[64];
            snprintf(want, sizeof want, "the state of train.optimizer=%s", sl_choices_optim[_i].name);
            ck_error(want);
            ck_assert(p->w[0] == 77);
            ck_assert_int_eq(sl_model_load(m, dir, NULL), 0);
        }
        sl_model_free(m);
    }
    sl_model_free(saved);
}
END_TEST

START_TEST(momentum_below_one) {
    sl_config_defaults(&config);
    config.train_muon_momentum = 1;
    ck_assert_int_eq(sl_config_check(&config), -1);
    ck_error("train.muon_momentum must be below 1");
    config.train_momentum = 1;
    ck_assert_int_eq(sl_config_check(&config), -1);
    ck_error("train.momentum must be below 1");
}
END_TEST

int main(void) {
    int optimizers = 0;
    while (sl_choices_optim[optimizers].name)
        optimizers++;
    Suite *s = suite_create("optim");
    TCase *c = tcase_create("optim");
    tcase_add_checked_fixture(c, setup, scratch_remove);
    tcase_add_loop_test(c, formulas, 0, optimizers);
    tcase_add_loop_test(c, no_gradient, 0, optimizers);
    tcase_add_loop_test(c, resumes, 0, optimizers);
    tcase_add_loop_test(c, threads, 0, optimizers);
    tcase_add_test(c, too_many_threads);
    tcase_add_loop_test(c, whose_state, 0, optimizers);
    tcase_add_test(c, momentum_below_one);
    suite_add_tcase(s, c);
    return run_suite(s);
}
