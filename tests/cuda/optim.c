/* The end of a step on the device against its formulas in double: all optimizers, tensors of odd sizes, at odd offsets
 * and of several chunks; clipping, and steps that are skipped. */
#include "cuda/optim.h"

#include "base/err.h"
#include "base/rng.h"
#include "cuda/runtime.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 1500, BLOCKS = 4 }; /* w, g, m, v */

static int failures;

static void need(bool ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, sl_error());
        exit(1);
    }
}

static void close_to(const char *what, const char *of, double got, double want, double within) {
    if (!(fabs(got - want) <= within * (1 + fabs(want)))) {
        printf("FAIL %s: %s is %.9g, expected %.9g\n", what, of, got, want);
        failures++;
    }
}

/* ---- a table of parameters, and its blocks on both sides */

typedef struct {
    sl_tensor tensor[6];
    sl_params p;
    float *host[BLOCKS], *got;
    double *want[BLOCKS];
    float *dev[BLOCKS];
    uint16_t *w16, *got16;
    slc_control *control;
} table;

static void add_tensor(table *t, int64_t rows, int64_t cols, bool matrix, bool join, enum sl_decay decay) {
    sl_tensor *x = &t->tensor[t->p.count++];
    *x = (sl_tensor){.shape = {rows, cols ? cols : 1, 1, 1}, .ndim = cols ? 2 : 1, .matrix = matrix, .decay = decay,
                     .rate = matrix ? 1 : 2};
    x->size = x->shape[0] * x->shape[1];
    x->offset = join ? t->p.floats : (t->p.floats + 15) / 16 * 16;
    x->moments = sl_params_moments(t->p.optimizer, x);
    t->p.floats = x->offset + x->size;
}

static void open_table(table *t, int optimizer) {
    *t = (table){.p = {.tensor = t->tensor, .optimizer = optimizer}};
    add_tensor(t, 150, 120, false, false, SL_DECAY_MATRIX);
    add_tensor(t, 15, 9, true, false, SL_DECAY_MATRIX);
    add_tensor(t, 36, 20, true, true, SL_DECAY_MATRIX);
    add_tensor(t, 257, 0, false, true, SL_DECAY_NORM);
    add_tensor(t, 36, 20, true, false, SL_DECAY_MATRIX);
    add_tensor(t, 20, 500, true, true, SL_DECAY_MATRIX);
    sl_rng rng = sl_rng_make(1, 2, 3);
    size_t n = (size_t)t->p.floats, bytes = n * sizeof(float);
    for (int b = 0; b < BLOCKS; b++) {
        t->host[b] = calloc(n, sizeof(float)), t->want[b] = calloc(n, sizeof(double));
        t->dev[b] = slc_alloc(bytes);
        need(t->host[b] && t->want[b] && t->dev[b], "memory");
        for (int i = 0; i < t->p.count; i++)
            for (int64_t k = t->tensor[i].offset; k < t->tensor[i].offset + t->tensor[i].size; k++) {
                float x = (float)sl_rng_normal(&rng);
                t->host[b][k] = b == 3 ? x * x : x;
            }
        for (size_t k = 0; k < n; k++)
            t->want[b][k] = t->host[b][k];
        need(slc_put(t->dev[b], t->host[b], bytes) == 0, "upload");
    }
    t->got = malloc(bytes), t->got16 = malloc(bytes);
    t->w16 = slc_alloc(n * sizeof *t->w16), t->control = slc_alloc(sizeof *t->control);
    need(t->got && t->got16 && t->w16 && t->control, "memory");
}

static void close_table(table *t) {
    for (int b = 0; b < BLOCKS; b++)
        free(t->host[b]), free(t->want[b]), slc_free(t->dev[b]);
    free(t->got), free(t->got16);
    slc_free(t->w16), slc_free(t->control);
}

/* ---- what is expected */

static double decay_of(const sl_config *c, const sl_tensor *t) {
    return t->decay == SL_DECAY_MATRIX || c->train_decay_norms ? c->train_weight_decay : 0;
}

static void expect_adamw(table *t, const sl_config *c, const sl_tensor *x, const slc_control *k, double scale) {
    double b1 = c->train_betas[0], b2 = c->train_betas[1], decay = decay_of(c, x);
    for (int64_t i = x->offset; i < x->offset + x->size; i++) {
        double g = t->want[1][i] * scale, *w = &t->want[0][i], *m = &t->want[2][i], *v = &t->want[3][i];
        *m = b1 * *m + (1 - b1) * g;
        *v = b2 * *v + (1 - b2) * g * g;
        *w -= k->lr * (double)x->rate * (*m / k->c1 / (sqrt(*v / k->c2) + c->train_eps) + decay * *w);
    }
}

static void expect_sgd(table *t, const sl_config *c, const sl_tensor *x, const slc_control *k, double scale) {
    for (int64_t i = x->offset; i < x->offset + x->size; i++) {
        double *w = &t->want[0][i], *m = &t->want[2][i];
        *m = c->train_momentum * *m + scale * t->want[1][i];
        *w -= k->lr * (double)x->rate * (*m + decay_of(c, x) * *w);
    }
}

/* y[m, n] = a[m, k] b[k, n], elements of b `down` and `across` apart */
static void product(int64_t m, int64_t n, int64_t k, const double *a, const double *b, int64_t down, int64_t across,
                    double *y) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t d = 0; d < k; d++)
                sum += a[i * k + d] * b[d * down + j * across];
            y[i * n + j] = sum;
        }
}

static void expect_muon(table *t, const sl_config *c, const sl_tensor *x, const slc_control *k, double scale) {
    int64_t n = x->shape[0], d = x->shape[1], size = x->size;
    double *u = malloc(sizeof(double) * (size_t)(2 * size + 2 * n * n)), *y = u + size, *gram = y + size,
           *power = gram + n * n, norm = 0, mu = c->train_muon_momentum;
    need(u != NULL, "memory");
    for (int64_t i = 0; i < size; i++) {
        double g = scale * t->want[1][x->offset + i], *m = &t->want[2][x->offset + i];
        *m = mu * *m + g;
        u[i] = g + mu * *m;
        norm += u[i] * u[i];
    }
    for (int64_t i = 0; i < size; i++)
        u[i] /= sqrt(norm) + 1e-7;
    for (int step = 0; step < 5; step++) { /* (X X^T) X = X (X^T X): one side does for both shapes */
        product(n, n, d, u, u, 1, d, gram);
        product(n, n, n, gram, gram, n, 1, power);
        for (int64_t i = 0; i < n * n; i++)
            power[i] = 2.0315 * power[i] - 4.7750 * gram[i] + (i / n == i % n ? 3.4445 : 0);
        product(n, d, n, power, u, d, 1, y);
        memcpy(u, y, sizeof(double) * (size_t)size);
    }
    for (int64_t i = 0; i < size; i++) {
        double *w = &t->want[0][x->offset + i];
        *w -= k->lr * (0.2 * sqrt((double)(n > d ? n : d)) * u[i] + decay_of(c, x) * *w);
    }
    free(u);
}

static void expect(table *t, const sl_config *c, const slc_control *k, double scale) {
    for (int i = 0; i < t->p.count; i++) {
        const sl_tensor *x = &t->tensor[i];
        if (t->p.optimizer == SL_OPTIM_sgd)
            expect_sgd(t, c, x, k, scale);
        else if (x->moments == 1)
            expect_muon(t, c, x, k, scale);
        else
            expect_adamw(t, c, x, k, scale);
    }
}

/* ---- a step */

static double norm_of(const table *t) {
    double sum = 0;
    for (int64_t i = 0; i < t->p.floats; i++)
        sum += t->want[1][i] * t->want[1][i];
    return sqrt(sum);
}

static void compare(table *t, const char *what, bool changed) {
    size_t bytes = (size_t)t->p.floats * sizeof(float);
    static const char *const names[] = {"w", "g", "m", "v"};
    for (int b = 0; b < BLOCKS; b++) {
        need(slc_get(t->got, t->dev[b], bytes) == 0, "download");
        for (int i = 0; i < t->p.count; i++)
            for (int64_t k = t->tensor[i].offset; k < t->tensor[i].offset + t->tensor[i].size; k++)
                close_to(what, names[b], t->got[k], b == 1 ? 0 : t->want[b][k], b == 0 ? 3e-5 : 3e-6);
    }
    need(slc_get(t->got, t->dev[0], bytes) == 0 && slc_get(t->got16, t->w16, bytes / 2) == 0, "download");
    for (int i = 0; i < t->p.count && changed; i++)
        for (int64_t k = t->tensor[i].offset; k < t->tensor[i].offset + t->tensor[i].size; k++) {
            uint32_t u = (uint32_t)t->got16[k] << 16;
            float x;
            memcpy(&x, &u, sizeof x);
            close_to(what, "w16", x, t->got[k], 0x1p-8);
        }
}

typedef struct {
    const char *name;
    int optimizer;
    double clip, most_loss;
    float spoil; /* one gradient is this */
    bool skipped;
} step_case;

static void run_step(table *t, slc_blas *blas, const sl_config *c, const step_case *k, const float *loss,
                     const int32_t *targets, double mean) {
    slc_control got, set = {.lr = 0.02f, .c1 = 0.4f, .c2 = 0.2f, .clip_norm = k->clip, .most_loss = k->most_loss};
    slc_optim *o = slc_optim_open(&t->p, c, t->dev[0], t->dev[1], t->dev[2], t->dev[3], t->w16, t->control);
    need(o && slc_put(t->control, &set, sizeof set) == 0, "the optimizer");
    double norm = norm_of(t);
    slc_begin_step(NULL, t->control);
    for (int i = 0; i < 2; i++)
        slc_mean_loss(NULL, ROWS, loss, targets, 0.5, t->control);
    need(slc_optim_judge(o, NULL) == 0 && slc_optim_update(o, blas, NULL) == 0 && slc_sync(NULL) == 0, "a step");
    need(slc_get(&got, t->control, sizeof got) == 0, "download");
    double scale = k->clip > 0 && norm > k->clip ? k->clip / norm : 1;
    close_to(k->name, "skipped", got.skipped, k->skipped, 0);
    close_to(k->name, "applied", got.applied, !k->skipped, 0);
    close_to(k->name, "the loss", got.loss, mean, 1e-12);
    if (isfinite(norm)) {
        close_to(k->name, "the norm", got.grad_norm, norm, 1e-12);
        close_to(k->name, "the scale", got.scale, scale, 1e-7);
    }
    if (!k->skipped)
        expect(t, c, &set, scale);
    compare(t, k->name, !k->skipped);
    slc_optim_close(o);
}

int main(void) {
    if (slc_devices() < 0) {
        printf("skipped: %s\n", sl_error());
        return 77;
    }
    static const step_case cases[] = {
        {"adamw", SL_OPTIM_adamw, 0, INFINITY, 1, false},         {"adamw, clipped", SL_OPTIM_adamw, 0.5, 9, 1, false},
        {"adamw, NaN", SL_OPTIM_adamw, 1, INFINITY, NAN, true},   {"adamw, a spike", SL_OPTIM_adamw, 1, 0.1, 1, true},
        {"sgd", SL_OPTIM_sgd, 1, INFINITY, 1, false},             {"sgd, infinite", SL_OPTIM_sgd, 1, 9, INFINITY, true},
        {"muon", SL_OPTIM_muon, 1, INFINITY, 1, false},           {"muon, a spike", SL_OPTIM_muon, 1, 0.1, 1, true}};
    float loss[ROWS], *dev_loss = slc_alloc(sizeof loss);
    int32_t targets[ROWS], *dev_targets = slc_alloc(sizeof targets);
    double sum = 0, count = 0;
    for (int i = 0; i < ROWS; i++) {
        loss[i] = (float)(i % 97) * 0.1f, targets[i] = i % 5 ? i : -1;
        if (i % 5)
            sum += (double)loss[i], count++;
    }
    sl_config *c = sl_config_create();
    slc_blas *blas;
    need(c && dev_loss && dev_targets && slc_blas_open(&blas) == 0, "memory");
    c->train_weight_decay = 0.1;
    need(slc_put(dev_loss, loss, sizeof loss) == 0 && slc_put(dev_targets, targets, sizeof targets) == 0, "upload");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        table t;
        open_table(&t, cases[i].optimizer);
        t.host[1][17] = cases[i].spoil, t.want[1][17] = (double)cases[i].spoil;
        need(slc_put(t.dev[1], t.host[1], (size_t)t.p.floats * sizeof(float)) == 0, "upload");
        run_step(&t, blas, c, &cases[i], dev_loss, dev_targets, sum / count);
        close_table(&t);
    }
    slc_blas_close(blas);
    slc_free(dev_loss), slc_free(dev_targets);
    sl_config_free(c);
    return failures != 0;
}
