/* What a mixture of experts reports and keeps between steps: loads, losses, biases, capacity, counts. Its gradients:
 * grad_model.c and golden. */
#include "base/err.h"
#include "base/threads.h"
#include "model/model.h"
#include "ref/variants.h"
#include "suite.h"
#include "train/optim.h"
#include "gradients.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EXPERTS = 4, TOP = 2, ROWS = 10 };
static const char bias_name[] = "model.layers.0.mlp.gate.e_score_correction_bias";

static ref_variant v;
static int32_t in[ROWS], target[ROWS];

static sl_model *make(int router, int balance, double capacity) {
    ref_variant_moe(0, &v);
    sl_config *c = &v.config;
    c->model_layers = 1;
    c->model_experts = EXPERTS;
    c->model_experts_per_token = TOP;
    c->model_shared_experts = 0;
    c->model_router = router;
    c->model_balance = balance;
    c->model_balance_rate = 0.125;
    c->model_router_z_loss = 0;
    c->model_expert_capacity = capacity;
    sl_model *m = sl_model_create(c, v.vocab, v.batch, v.seq, SL_MODEL_TRAINING);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ck_assert_int_eq(v.batch * v.seq, ROWS);
    ref_randomise(sl_model_params(m), 3);
    ref_random_tokens(ROWS, v.vocab, 1, in);
    ref_random_tokens(ROWS, v.vocab, 2, target);
    return m;
}

static float *values(sl_model *m, const char *name) {
    const sl_params *p = sl_model_params(m);
    int i = sl_params_find(p, name);
    ck_assert_msg(i >= 0, "no %s", name);
    return p->w + p->tensor[i].offset;
}

static sl_expert_load end_step(sl_model *m, bool applied) {
    sl_expert_load l;
    sl_model_end_step(m, applied);
    ck_assert(sl_model_expert_load(m, 0, &l));
    return l;
}

/* A router of zeros: all scores are equal, so the first experts are chosen; shares are even and the loss is 1. */
START_TEST(equal_scores_take_the_first) {
    sl_model *m = make(_i, SL_BALANCE_AUX, 0);
    memset(values(m, "model.layers.0.mlp.gate.weight"), 0, (size_t)(EXPERTS * v.config.model_dim) * sizeof(float));
    for (int pass = 0; pass < 3; pass++)
        forward_backward(m, in, target, 1);
    ck_assert_double_eq_tol(sl_model_router_loss(m), v.config.model_balance_coef, 1e-6);
    ck_assert_int_eq(sl_model_forward(m, in, target, NULL, NULL), 0); /* an evaluation does not count */
    sl_expert_load l = end_step(m, true);
    ck_assert_int_eq(l.experts, EXPERTS);
    ck_assert_int_eq(l.choices, 3 * ROWS * TOP);
    ck_assert_int_eq(l.dropped, 0);
    for (int e = 0; e < EXPERTS; e++)
        ck_assert_int_eq(l.count[e], e < TOP ? 3 * ROWS : 0);
    ck_assert_double_eq_tol(l.aux_loss, 1, 1e-6);
    double lse = _i == SL_ROUTER_SOFTMAX ? log(EXPERTS) : 0;
    ck_assert_double_eq_tol(l.z_loss, lse * lse, 1e-6);
    ck_assert(!sl_model_expert_load(m, 1, &l));
    ck_assert_int_eq(end_step(m, true).choices, 0);
    sl_model_free(m);
}
END_TEST

/* Biases go up below the mean load and down above it, after applied steps only; no gradient or decay moves them. */
START_TEST(biases_follow_loads) {
    sl_model *m = make(SL_ROUTER_SIGMOID, SL_BALANCE_BIAS, 0);
    float *bias = values(m, bias_name);
    const float start[EXPERTS] = {5, -5, 5, -5}; /* scores lie within 0..1, so 0 and 2 are chosen */
    memcpy(bias, start, sizeof start);
    sl_optim *o = sl_optim_create(m);
    ck_assert_ptr_nonnull(o);
    forward_backward(m, in, target, 1);
    sl_optim_step(o, 0.1, 1, 1);
    ck_assert(memcmp(bias, start, sizeof start) == 0);
    sl_expert_load l = end_step(m, false);
    ck_assert(memcmp(bias, start, sizeof start) == 0);
    ck_assert_int_eq(l.count[0], ROWS);
    ck_assert_int_eq(l.count[1], 0);
    forward_backward(m, in, target, 1);
    end_step(m, true);
    for (int e = 0; e < EXPERTS; e++)
        ck_assert(bias[e] == (e % 2 ? start[e] + 0.125f : start[e] - 0.125f));
    end_step(m, true); /* without a pass */
    ck_assert(bias[0] == 4.875f);
    sl_optim_free(o);
    sl_model_free(m);
}
END_TEST

/* A capacity below what two experts get: each keeps its first rows in a training pass and all in an evaluation. */
START_TEST(capacity_keeps_the_first) {
    sl_model *m = make(SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0.75),
             *free_model = make(SL_ROUTER_SOFTMAX, SL_BALANCE_AUX, 0);
    const int64_t most = 4; /* ceil(.75 * 10 * 2 / 4) */
    float token_loss[2][ROWS];
    sl_model *both[] = {m, free_model};
    for (int i = 0; i < 2; i++) {
        memset(values(both[i], "model.layers.0.mlp.gate.weight"), 0,
               (size_t)(EXPERTS * v.config.model_dim) * sizeof(float));
        ck_assert_int_eq(sl_model_forward(both[i], in, target, NULL, token_loss[i]), 0);
    }
    ck_assert(memcmp(token_loss[0], token_loss[1], sizeof token_loss[0]) == 0);
    double dropping = forward_backward(m, in, target, 1), whole = forward_backward(free_model, in, target, 1);
    ck_assert(dropping != whole);
    /* Only rows that are dropped change: with losses of the first rows alone both agree. */
    for (int64_t i = most; i < ROWS; i++)
        target[i] = -1;
    ck_assert(forward_backward(m, in, target, 1) == forward_backward(free_model, in, target, 1));
    sl_expert_load l = end_step(m, true);
    ck_assert_int_eq(l.dropped, 2 * TOP * (ROWS - most));
    ck_assert_int_eq(l.count[0], 2 * ROWS);
    sl_model_free(m);
    sl_model_free(free_model);
}
END_TEST

/* A router that is no number chooses some experts all the same, and the loss says so. */
START_TEST(not_a_number) {
    sl_model *m = make(_i, SL_BALANCE_NONE, 0);
    float *w = values(m, "model.layers.0.mlp.gate.weight");
    for (int64_t i = 0; i < EXPERTS * v.config.model_dim; i++)
        w[i] = NAN;
    ck_assert(isnan(forward_backward(m, in, target, 1)));
    ck_assert_int_eq(end_step(m, false).choices, ROWS * TOP);
    sl_model_free(m);
}
END_TEST

/* As many active parameters as the dense model, the router apart; biases are not parameters that are learned. */
START_TEST(counts) {
    sl_config c;
    sl_config_defaults(&c);
    sl_model *dense = sl_model_create(&c, 100, 1, 8, 0);
    double flops = sl_model_flops_per_token(dense);
    int64_t params = sl_model_params(dense)->params, layers = c.model_layers;
    sl_model_free(dense);
    c.model_experts = 8;
    c.model_balance = SL_BALANCE_BIAS;
    sl_model *m = sl_model_create(&c, 100, 1, 8, 0);
    double router = (double)(layers * 8 * c.model_dim);
    ck_assert_double_eq(sl_model_flops_per_token(m), flops + 6 * router);
    ck_assert_int_eq(sl_model_params(m)->params, params + (int64_t)router + layers * 3 * 3 * c.model_dim * c.model_ffn);
    sl_model_free(m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("moe");
    TCase *tc = tcase_create("moe");
    sl_threads_set(2);
    tcase_set_timeout(tc, 0);
    tcase_add_loop_test(tc, equal_scores_take_the_first, 0, 2);
    tcase_add_test(tc, biases_follow_loads);
    tcase_add_test(tc, capacity_keeps_the_first);
    tcase_add_loop_test(tc, not_a_number, 0, 2);
    tcase_add_test(tc, counts);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
