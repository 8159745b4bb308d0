/* Transformations of quantised models leave the unquantised function as it is, for every variant that they fold into,
 * and refuse the others by name. */
#include "base/err.h"
#include "base/threads.h"
#include "model/model.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"
#include "quant/transform.h"
#include "ref/tolerance.h"
#include "ref/variants.h"
#include "suite.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ref_variant v;
    int64_t rows, values;
    int32_t *in;
    double *plain; /* logits of the model as it is */
    float *weights, *logits;
    int64_t floats;
} fixture;

static void setup(fixture *f) {
    f->rows = f->v.batch * f->v.seq;
    f->values = f->rows * f->v.vocab;
    f->in = calloc((size_t)f->rows, sizeof *f->in);
    f->plain = calloc((size_t)f->values, sizeof *f->plain);
    f->logits = calloc((size_t)f->values, sizeof *f->logits);
    ref_random_tokens(f->rows, f->v.vocab, 11, f->in);
    sl_model *m = sl_model_create(&f->v.config, f->v.vocab, f->v.batch, f->v.seq, 0);
    ck_assert_msg(m != NULL, "%s: %s", f->v.name, sl_error());
    ref_randomise(sl_model_params(m), 3);
    ck_assert(sl_model_logits(m, f->in, f->logits) == 0);
    for (int64_t i = 0; i < f->values; i++)
        f->plain[i] = f->logits[i];
    f->floats = sl_model_params(m)->floats;
    f->weights = calloc((size_t)f->floats, sizeof *f->weights);
    memcpy(f->weights, sl_model_params(m)->w, (size_t)f->floats * sizeof *f->weights);
    sl_model_free(m);
}

static void teardown(fixture *f) {
    free(f->in), free(f->plain), free(f->logits), free(f->weights);
}

/* Two fp32 evaluations, each off by its rounding; the transformed weights are rounded once more. */
static double error(fixture *f, sl_model *m) {
    double relative = ref_relative_error(&f->v.config, f->v.vocab, f->rows);
    ck_assert_msg(sl_model_logits(m, f->in, f->logits) == 0, "%s", sl_error());
    return ref_ratio(f->values, f->logits, f->plain, 2 * REF_FORWARD * relative);
}

static sl_model *create(fixture *f, const sl_quant_options *o) {
    sl_model *m = sl_model_create_quantised(&f->v.config, f->v.vocab, f->v.batch, f->v.seq, o);
    ck_assert_msg(m != NULL, "%s: %s", f->v.name, sl_error());
    memcpy(sl_model_params(m)->w, f->weights, (size_t)f->floats * sizeof *f->weights);
    return m;
}

static int64_t changed(const fixture *f, sl_model *m) {
    int64_t n = 0;
    for (int64_t i = 0; i < f->floats; i++)
        n += f->weights[i] != sl_model_params(m)->w[i];
    return n;
}

/* Maxima that differ a thousandfold from channel to channel. */
static const float *channel_max(void *ctx, int64_t layer, bool ffn) {
    float *max = ctx;
    for (int j = 0; j < 70; j++)
        max[j] = (float)pow(10, fmod(0.7 * j + 0.3 * (double)layer + ffn, 3));
    return max;
}

static double worst;

static void expect_same(fixture *f, const sl_quant_options *o, const char *what) {
    float max[70];
    sl_model *m = create(f, o);
    sl_params *p = sl_model_params(m);
    if (o->migrate)
        ck_assert_msg(sl_migrate_gamma(&f->v.config, p) == 0, "%s: %s", f->v.name, sl_error());
    if (o->smooth >= 0)
        ck_assert_msg(sl_smooth(&f->v.config, p, o->smooth, channel_max, max) == 0, "%s: %s", f->v.name, sl_error());
    if (o->rotate)
        ck_assert_msg(sl_rotate_weights(&f->v.config, p, o->seed) == 0, "%s: %s", f->v.name, sl_error());
    ck_assert_msg(changed(f, m) > 0, "%s: %s changes nothing", f->v.name, what);
    double ratio = error(f, m);
    worst = fmax(worst, ratio);
    ck_assert_msg(ratio <= 1, "%s: %s: error is %.3g times the bound", f->v.name, what, ratio);
    sl_model_free(m);
}

/* What forbids to fold into norms; NULL: nothing. */
static const char *refusal(const sl_config *c) {
    return c->model_norm_place == SL_PLACE_POST         ? "model.norm_place=post"
           : c->model_norm_place == SL_PLACE_OUTPUT     ? "model.norm_place=output"
           : c->model_block == SL_BLOCK_PARALLEL_SHARED ? "model.block=parallel_shared"
                                                        : NULL;
}

static void transformations(fixture *f) {
    sl_quant_options migrate = {.smooth = -1, .migrate = true}, smooth = {.smooth = 0.5},
                     both = {.smooth = 0.8, .migrate = true}, rotate = {.smooth = -1, .rotate = true, .seed = 7},
                     all = {.smooth = -1, .rotate = true, .migrate = true};
    expect_same(f, &rotate, "rotation");
    const char *reason = refusal(&f->v.config);
    if (reason) {
        ck_assert(sl_transform_check(&f->v.config, &smooth) < 0 && sl_transform_check(&f->v.config, &migrate) < 0);
        ck_assert_msg(strstr(sl_error(), reason) != NULL, "%s", sl_error());
        return;
    }
    ck_assert(sl_transform_check(&f->v.config, &smooth) == 0);
    expect_same(f, &migrate, "migration");
    expect_same(f, &smooth, "smoothing");
    expect_same(f, &both, "migration and smoothing");
    expect_same(f, &all, "migration and rotation");
}

static void for_each_model(void (*fn)(fixture *)) {
    fixture f;
    for (int i = 0; ref_variant_moe(i, &f.v); i++)
        setup(&f), fn(&f), teardown(&f);
    for (int i = 0; ref_variant_elsewhere(i, &f.v); i++)
        setup(&f), fn(&f), teardown(&f);
    for (int i = 0; ref_variant_across(i, &f.v); i++)
        setup(&f), fn(&f), teardown(&f);
    for (int i = 0; ref_variant_tiny(i, &f.v); i++)
        setup(&f), fn(&f), teardown(&f);
    for (int i = 1; ref_variant_middle(i, &f.v); i++)
        setup(&f), fn(&f), teardown(&f);
}

START_TEST(same_function) {
    worst = 0;
    for_each_model(transformations);
    printf("transform: worst error / bound %.3f\n", worst);
}
END_TEST

/* Where a gate reads the norm, dividing the norm's weight alone is another function: undoing what W_down was given
 * shows. */
START_TEST(gate_needs_its_part) {
    fixture f;
    float max[70];
    sl_quant_options o = {.smooth = 0.5};
    int i = 0;
    do
        ck_assert(ref_variant_tiny(i++, &f.v));
    while (!strstr(f.v.name, "gated_norm"));
    setup(&f);
    sl_model *m = create(&f, &o);
    sl_params *p = sl_model_params(m);
    ck_assert(sl_smooth(&f.v.config, p, o.smooth, channel_max, max) == 0);
    ck_assert(error(&f, m) <= 1);
    const sl_tensor *t = p->tensor + sl_params_find(p, "model.layers.0.input_layernorm.gate_down.weight");
    memcpy(p->w + t->offset, f.weights + t->offset, (size_t)t->size * sizeof *p->w);
    ck_assert(error(&f, m) > 100);
    sl_model_free(m);
    teardown(&f);
}
END_TEST

/* Factors as published, a clamp included. Layer 0's norm before attention: 1/s on the weight, s on q, k and v. */
START_TEST(smoothing_factors) {
    fixture f;
    float max[70] = {0};
    sl_quant_options o = {.smooth = 0.75};
    ck_assert(ref_variant_tiny(1, &f.v));
    setup(&f);
    sl_model *m = create(&f, &o);
    sl_params *p = sl_model_params(m);
    ck_assert(sl_smooth(&f.v.config, p, o.smooth, channel_max, max) == 0);
    int64_t gamma = p->tensor[sl_params_find(p, "model.layers.0.input_layernorm.weight")].offset;
    int64_t q = p->tensor[sl_params_find(p, "model.layers.0.self_attn.q_proj.weight")].offset;
    channel_max(max, 0, false);
    for (int j = 0; j < 8; j++) {
        double w = 0;
        for (int i = 0; i < 24; i++) /* rows of q, k and v */
            w = fmax(w, fabs((double)f.weights[q + i * 8 + j]));
        double s = pow(max[j], 0.75) / pow(w, 0.25);
        ck_assert_float_eq_tol(p->w[gamma + j], (float)(f.weights[gamma + j] / s), 1e-6f * fabsf(p->w[gamma + j]));
        ck_assert_float_eq_tol(p->w[q + j], (float)(f.weights[q + j] * s), 1e-6f * fabsf(p->w[q + j]));
    }
    sl_model_free(m);
    teardown(&f);
}
END_TEST

/* A weight of 0 moves on; with a bias beside it nothing can. */
START_TEST(migration_of_zero) {
    static const char *const norms[] = {"rmsnorm none", "dyt"};
    for (int k = 0; k < 2; k++) {
        fixture f;
        sl_quant_options o = {.smooth = -1, .migrate = true};
        int i = 1;
        while (ref_variant_tiny(i, &f.v) &&
               strncmp(f.v.name, k ? "dyt" : "rmsnorm", strlen(k ? "dyt" : "rmsnorm")) != 0)
            i++;
        ck_assert_msg(ref_variant_tiny(i, &f.v), "no variant %s", norms[k]);
        setup(&f);
        sl_model *m = create(&f, &o);
        sl_params *p = sl_model_params(m);
        int64_t gamma = p->tensor[sl_params_find(p, "model.layers.1.post_attention_layernorm.weight")].offset;
        p->w[gamma + 2] = 0;
        int rc = sl_migrate_gamma(&f.v.config, p);
        if (k == 0) {
            ck_assert(rc == 0 && p->w[gamma + 2] == 1);
        } else {
            ck_assert(rc < 0);
            ck_assert_msg(strstr(sl_error(), "model.layers.1.post_attention_layernorm.weight is 0 at channel 2"), "%s",
                          sl_error());
        }
        sl_model_free(m);
        teardown(&f);
    }
}
END_TEST

/* R is orthogonal for any size, spreads one channel evenly over all, and its inverse undoes it. */
START_TEST(rotations) {
    static const int64_t sizes[] = {1, 2, 3, 8, 11, 44, 70, 96, 128, 352};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int64_t n = sizes[k];
        sl_rotation *r = sl_rotation_new(5, (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_stream}, n);
        double *x = calloc((size_t)n, sizeof *x), *work = calloc((size_t)n, sizeof *work);
        for (int64_t i = 0; i < n; i++) {
            double norm = 0, most = 0;
            for (int64_t j = 0; j < n; j++)
                x[j] = j == i;
            sl_rotate(r, x, work);
            for (int64_t j = 0; j < n; j++)
                norm += x[j] * x[j], most = fmax(most, fabs(x[j]));
            ck_assert_double_eq_tol(norm, 1, 1e-13);
            ck_assert(most <= sqrt(2 / (double)n) + 1e-13);
            sl_rotate_back(r, x, work);
            for (int64_t j = 0; j < n; j++)
                ck_assert_double_eq_tol(x[j], j == i, 1e-13);
        }
        free(x), free(work);
        sl_rotation_free(r);
    }
}
END_TEST

START_TEST(refused) {
    sl_config c;
    sl_config_defaults(&c);
    sl_quant_options o = {.smooth = 0.5, .rotate = true};
    ck_assert(sl_transform_check(&c, &o) < 0);
    ck_assert_msg(strstr(sl_error(), "--smooth and --rotate"), "%s", sl_error());
}
END_TEST

int main(void) {
    Suite *s = suite_create("transform");
    TCase *t = tcase_create("transform");
    tcase_set_timeout(t, 0);
    sl_threads_set(2);
    tcase_add_test(t, same_function);
    tcase_add_test(t, gate_needs_its_part);
    tcase_add_test(t, smoothing_factors);
    tcase_add_test(t, migration_of_zero);
    tcase_add_test(t, rotations);
    tcase_add_test(t, refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
