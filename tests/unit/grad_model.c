/* Gradients of whole models: the engine in fp32 against complex-step derivatives of the reference
 * model in tests/ref, for every norm in the table and every other option, on every kernel tier. */
#include "base/err.h"
#include "base/rng.h"
#include "base/threads.h"
#include "model/model.h"
#include "ref/model.h"
#include "ref/tolerance.h"
#include "ref/variants.h"
#include "simd/kernels.h"
#include "suite.h"
#include "gradients.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A variant with data, and the engine's table and parameters (a copy that outlives the model). */
typedef struct {
    ref_variant v;
    int32_t *in, *target;
    sl_params table;
    ref_c *w;
    ref_model ref;
    double loss, objective; /* of the reference */
    double relative; /* expected rounding error of a gradient */
} fixture;

static sl_model *create(const fixture *f) {
    const ref_variant *v = &f->v;
    ck_assert_msg(sl_config_check(&v->config) == 0, "%s: %s", v->name, sl_error());
    sl_model *m = sl_model_create(&v->config, v->vocab, v->batch, v->seq, SL_MODEL_TRAINING);
    ck_assert_msg(m != NULL, "%s: %s", v->name, sl_error());
    ref_randomise(sl_model_params(m), 7);
    return m;
}

static void setup(fixture *f) {
    const ref_variant *v = &f->v;
    int64_t n = v->batch * v->seq;
    f->in = calloc((size_t)n, sizeof *f->in);
    f->target = calloc((size_t)n, sizeof *f->target);
    ref_random_tokens(n, v->vocab, 1, f->in);
    ref_random_tokens(n, v->vocab, 2, f->target);
    f->target[n - 2] = -1;
    f->relative = ref_relative_error(&v->config, v->vocab, n);

    sl_model *m = create(f);
    const sl_params *p = sl_model_params(m);
    f->table = *p;
    f->table.tensor = malloc((size_t)p->count * sizeof *p->tensor);
    memcpy(f->table.tensor, p->tensor, (size_t)p->count * sizeof *p->tensor);
    f->w = ref_from_float(p->floats, p->w);
    f->ref = (ref_model){.config = &f->v.config, .table = &f->table, .w = f->w, .vocab = v->vocab,
                         .batch = v->batch, .seq = v->seq};
    sl_model_free(m);
    f->loss = creal(ref_model_loss(&f->ref, f->in, f->target, NULL, NULL));
    f->objective = creal(ref_model_objective(&f->ref, f->in, f->target));
}

static void teardown(fixture *f) {
    free(f->in);
    free(f->target);
    free(f->table.tensor);
    free(f->w);
}

/* The loss, and check(f, tier, engine gradients, data), on each tier. */
static void for_each_tier(fixture *f,
                          void (*check)(const fixture *, const char *, const float *,
                                        const double *),
                          const double *data) {
    for (int isa = SL_ISA_SCALAR; isa <= SL_ISA_AVX512; isa++) {
        const sl_kernels *k = sl_kernels_tier((enum sl_isa)isa);
        if (!k)
            continue;
        f->v.config.isa = isa;
        sl_model *m = create(f);
        double loss = forward_backward(m, f->in, f->target, 1);
        ck_assert_msg(fabs(loss - f->loss) <= REF_FORWARD * f->relative * (1 + f->loss),
                      "%s, %s: loss %.9g, want %.9g", f->v.name, k->tier, loss, f->loss);
        loss += sl_model_router_loss(m);
        ck_assert_msg(fabs(loss - f->objective) <= REF_FORWARD * f->relative * (1 + f->objective),
                      "%s, %s: with the routers' losses %.9g, want %.9g", f->v.name, k->tier, loss, f->objective);
        check(f, k->tier, sl_model_params(m)->g, data);
        sl_model_free(m);
    }
}

static double worst;

static void compare_all(const fixture *f, const char *tier, const float *g, const double *want) {
    for (int i = 0; i < f->table.count; i++) {
        const sl_tensor *t = f->table.tensor + i;
        double ratio = ref_gradient_ratio(&f->table, i, g, want, f->relative);
        worst = fmax(worst, ratio);
        ck_assert_msg(ratio <= 1, "%s, %s: gradient of %s: error is %.3g times the tolerance",
                      f->v.name, tier, t->name, ratio);
    }
}

/* A tiny variant, with or without experts or options from elsewhere. */
static bool tiny(int i, ref_variant *v) {
    for (int k = 0; ref_variant_elsewhere(k, v) && v->config.model_dim < 20; k++)
        if (i-- == 0)
            return true;
    for (int k = 0; ref_variant_across(k, v) && v->config.model_dim < 20; k++)
        if (i-- == 0)
            return true;
    for (int k = 0; ref_variant_moe(k, v) && v->config.model_dim < 20; k++)
        if (i-- == 0)
            return true;
    return ref_variant_tiny(i, v);
}

static bool middle(int i, ref_variant *v) {
    for (int k = 0; ref_variant_elsewhere(k, v); k++)
        if (v->config.model_dim >= 20 && i-- == 0)
            return true;
    for (int k = 0; ref_variant_across(k, v); k++)
        if (v->config.model_dim >= 20 && i-- == 0)
            return true;
    for (int k = 0; ref_variant_moe(k, v); k++)
        if (v->config.model_dim >= 20 && i-- == 0)
            return true;
    return ref_variant_middle(i, v);
}

/* Every element of every tensor: loss(w + ih e_i) = loss + ih dloss/dw_i. */
START_TEST(test_every_parameter) {
    fixture f;
    int variants = 0;
    worst = 0;
    for (; tiny(variants, &f.v); variants++) {
        setup(&f);
        double *want = calloc((size_t)f.table.floats, sizeof *want);
        for (int i = 0; i < f.table.count; i++)
            for (int64_t k = 0; k < f.table.tensor[i].size; k++) {
                int64_t at = f.table.tensor[i].offset + k;
                ref_c w = f.w[at];
                f.w[at] += I * REF_STEP;
                want[at] = cimag(ref_model_objective(&f.ref, f.in, f.target)) / REF_STEP;
                f.w[at] = w;
            }
        for_each_tier(&f, compare_all, want);
        free(want);
        teardown(&f);
    }
    ck_assert_int_ge(variants, 16 * 3);
    printf("grad_model: %d tiny models, every parameter, worst error / tolerance %.3f\n", variants,
           worst);
}
END_TEST

/* want: the slope, then its direction r. Errors e_k of a gradient's elements, of deviation `relative` times their rms
 * and independent of r, give the slope the deviation relative |g| rms(r). One normal direction finds an error of size
 * e with probability 1 - O(tolerance / e). */
static void compare_slope(const fixture *f, const char *tier, const float *g, const double *want) {
    const double *r = want + 1;
    double slope = 0, squares = 0;
    for (int64_t k = 0; k < f->table.floats; k++) {
        slope += r[k] * g[k];
        squares += (double)g[k] * g[k];
    }
    double ratio = fabs(slope - want[0]) / (REF_FORWARD * f->relative * sqrt(squares));
    if (isnan(ratio))
        ratio = INFINITY;
    worst = fmax(worst, ratio);
    ck_assert_msg(ratio <= 1, "%s, %s: slope %.9g, want %.9g: error is %.3g times the tolerance", f->v.name, tier,
                  slope, want[0], ratio);
}

START_TEST(test_directional) {
    fixture f;
    worst = 0;
    int variants = 0;
    for (; middle(variants, &f.v); variants++) {
        setup(&f);
        double *want = calloc((size_t)f.table.floats + 1, sizeof *want);
        sl_rng rng = sl_rng_make((uint64_t)variants, SL_STREAM_TEST, 9);
        for (int64_t k = 0; k < f.table.floats; k++)
            want[1 + k] = sl_rng_normal(&rng);
        want[0] = ref_model_slope(&f.ref, f.in, f.target, want + 1);
        for_each_tier(&f, compare_slope, want);
        free(want);
        teardown(&f);
    }
    printf("grad_model: %d models, slopes along random directions, worst error / tolerance %.3f\n",
           variants, worst);
}
END_TEST

int main(void) {
    Suite *s = suite_create("grad_model");
    TCase *tc = tcase_create("grad_model");
    tcase_set_timeout(tc, 0);
    tcase_add_test(tc, test_every_parameter);
    tcase_add_test(tc, test_directional);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
