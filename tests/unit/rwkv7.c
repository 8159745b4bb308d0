/* RWKV-7 at sizes that cross its chunks and blocks: slopes beside the formula in double complex, in every tier;
 * decoding beside the whole window; what it is without its decay and its rule; its starts. */
#include "gradients.h"
#include "ref/model.h"
#include "ref/tolerance.h"
#include "ref/variants.h"
#include "scratch.h"
#include "suite.h"

#include <math.h>
#include <string.h>

static const struct {
    int64_t layers, dim, head_dim, batch, seq;
} shapes[] = {{2, 16, 8, 2, 70}, {3, 34, 17, 1, 65}, {1, 9, 9, 2, 32}, {2, 12, 2, 1, 33}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static ref_variant variant(int i) {
    ref_variant v;
    ck_assert(ref_variant_tiny(1, &v));
    sl_config *c = &v.config;
    static const char *const changes[] = {"model.mixer=rwkv7", "model.ffn_shift=true", "model.ffn_kind=relu2",
                                          "model.norm=layernorm", "model.norm_opts.bias=true",
                                          "model.rwkv7_opts.decay_rank=3", "model.rwkv7_opts.gate_rank=5",
                                          "model.rwkv7_opts.rate_rank=2", "model.rwkv7_opts.value_rank=4"};
    for (size_t k = 0; k < sizeof changes / sizeof *changes; k++)
        ck_assert_msg(sl_config_override(c, changes[k]) == 0, "%s", sl_error());
    c->model_layers = shapes[i].layers, c->model_dim = shapes[i].dim, c->rwkv7_head_dim = shapes[i].head_dim;
    c->model_heads = c->model_kv_heads = 1, c->model_head_dim = 2;
    v.batch = c->train_batch = shapes[i].batch, v.seq = c->model_seq = shapes[i].seq;
    ck_assert_msg(sl_config_check(c) == 0, "%s", sl_error());
    return v;
}

static sl_model *create(const ref_variant *v, unsigned how) {
    sl_model *m = sl_model_create(&v->config, v->vocab, v->batch, v->seq, how);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ref_randomise(sl_model_params(m), 7);
    return m;
}

static int32_t *tokens(const ref_variant *v, uint64_t seed) {
    int32_t *t = calloc((size_t)(v->batch * v->seq), sizeof *t);
    ref_random_tokens(v->batch * v->seq, v->vocab, seed, t);
    return t;
}

/* Of each tensor by itself, along a random direction. */
START_TEST(slopes_are_those_of_the_formula) {
    ref_variant v = variant(_i);
    int32_t *in = tokens(&v, 1), *target = tokens(&v, 2);
    double relative = ref_relative_error(&v.config, v.vocab, v.batch * v.seq);
    sl_model *m = create(&v, SL_MODEL_TRAINING);
    const sl_params *p = sl_model_params(m);
    ref_c *w = ref_from_float(p->floats, p->w);
    ref_model ref = {.config = &v.config, .table = p, .w = w, .vocab = v.vocab, .batch = v.batch, .seq = v.seq};
    double *direction = calloc((size_t)p->floats, sizeof *direction), *want = calloc((size_t)p->count, sizeof *want);
    double *along = calloc((size_t)p->floats, sizeof *along);
    double loss = creal(ref_model_loss(&ref, in, target, NULL, NULL));
    sl_rng r = sl_rng_make(3, SL_STREAM_TEST, 0);
    for (int t = 0; t < p->count; t++) {
        memset(direction, 0, (size_t)p->floats * sizeof *direction);
        for (int64_t k = p->tensor[t].offset; k < p->tensor[t].offset + p->tensor[t].size; k++)
            direction[k] = along[k] = sl_rng_normal(&r);
        want[t] = ref_model_slope(&ref, in, target, direction);
    }
    for (int isa = SL_ISA_SCALAR; isa <= SL_ISA_AVX512; isa++) {
        if (!sl_kernels_tier((enum sl_isa)isa))
            continue;
        v.config.isa = isa;
        sl_model *tier = create(&v, SL_MODEL_TRAINING);
        const float *g = sl_model_params(tier)->g;
        ck_assert_double_eq_tol(forward_backward(tier, in, target, 1), loss, REF_FORWARD * relative * (1 + loss));
        for (int t = 0; t < p->count; t++) {
            double slope = 0, squares = 0;
            for (int64_t k = p->tensor[t].offset; k < p->tensor[t].offset + p->tensor[t].size; k++)
                slope += along[k] * g[k], squares += (double)g[k] * g[k];
            double ratio = fabs(slope - want[t]) / (REF_GRADIENT * relative * sqrt(squares));
            ck_assert_msg(ratio <= 1, "slope of %s: %.9g, want %.9g: error is %.3g times the tolerance",
                          p->tensor[t].name, slope, want[t], ratio);
        }
        sl_model_free(tier);
    }
    sl_model_free(m);
    free(in), free(target), free(w), free(direction), free(along), free(want);
}
END_TEST

/* The same operations on the same numbers, but for sums of products, whose order hangs on how many rows there are. */
START_TEST(decoding_is_the_whole_window) {
    ref_variant v = variant(_i);
    int32_t *in = tokens(&v, 4), token[4];
    float *all = malloc((size_t)(v.batch * v.seq * v.vocab) * sizeof *all), got[256];
    double want[64], tolerance = REF_FORWARD * ref_relative_error(&v.config, v.vocab, v.batch * v.seq);
    sl_model *full = create(&v, 0), *m = sl_model_create_decoder(&v.config, v.vocab, v.batch, v.seq);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ref_randomise(sl_model_params(m), 7);
    ck_assert_int_eq(sl_model_logits(full, in, all), 0);
    for (int64_t k = 0; k < 2 * v.seq; k++) {
        int64_t t = k % v.seq;
        for (int64_t b = 0; b < v.batch; b++)
            token[b] = in[b * v.seq + t];
        ck_assert_msg(sl_model_decode(m, token, t, got) == 0, "%s", sl_error());
        for (int64_t b = 0; b < v.batch; b++) {
            for (int64_t j = 0; j < v.vocab; j++)
                want[j] = all[(b * v.seq + t) * v.vocab + j];
            ck_assert_double_le(ref_ratio(v.vocab, got + b * v.vocab, want, tolerance), 1);
        }
    }
    sl_model_free(full), sl_model_free(m);
    free(in), free(all);
}
END_TEST

/* A decoder of softmax layers can go back, but not behind a shifted feed-forward. */
START_TEST(a_shift_does_not_go_back) {
    ref_variant v = variant(0);
    float logits[256];
    int32_t token[4] = {1, 2, 1, 2};
    ck_assert_int_eq(sl_config_override(&v.config, "model.mixer=softmax"), 0);
    sl_model *m = sl_model_create_decoder(&v.config, v.vocab, v.batch, v.seq);
    ck_assert_msg(m && sl_model_init(m, 1) == 0, "%s", sl_error());
    for (int64_t t = 0; t < 3; t++)
        ck_assert_int_eq(sl_model_decode(m, token, t, logits), 0);
    ck_assert_int_eq(sl_model_decode(m, token, 1, logits), -1);
    ck_error("cannot go back to position 1: model.ffn_shift keeps what position 3 read alone; begin again at 0");
    ck_assert_int_eq(sl_model_decode(m, token, 0, logits), 0);
    sl_model_free(m);
}
END_TEST

/* Also of softmax layers, whose caches alone a prompt could fill in one pass. */
START_TEST(a_prompt_is_its_positions) {
    ref_variant v = variant(0);
    ck_assert_int_eq(sl_config_override(&v.config, _i ? "model.mixer=softmax" : "model.mixer=[rwkv7, softmax]"), 0);
    float want[256], got[256];
    int32_t *in = tokens(&v, 6), prompt[8], token[2];
    for (int i = 0; i < 8; i++)
        prompt[i] = in[i / 4 * v.seq + i % 4];
    sl_model *m = sl_model_create_decoder(&v.config, v.vocab, v.batch, v.seq);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ref_randomise(sl_model_params(m), 7);
    for (int64_t t = 0; t <= 4; t++) {
        for (int64_t b = 0; b < v.batch; b++)
            token[b] = in[b * v.seq + t];
        ck_assert_int_eq(sl_model_decode(m, token, t, want), 0);
    }
    ck_assert_msg(sl_model_prompt(m, prompt, 4) == 0, "%s", sl_error());
    ck_assert_int_eq(sl_model_decode(m, token, 4, got), 0);
    ck_assert_mem_eq(want, got, (size_t)(v.batch * v.vocab) * sizeof *got);
    sl_model_free(m);
    free(in);
}
END_TEST

/* As many positions in one window as in many take no more memory in training. */
START_TEST(memory_does_not_grow_with_the_window) {
    ref_variant v = variant(0);
    int64_t bytes[2];
    for (int i = 0; i < 2; i++) {
        v.batch = v.config.train_batch = i ? 1 : 64;
        v.seq = v.config.model_seq = i ? 16384 : 256;
        sl_model *m = create(&v, SL_MODEL_TRAINING);
        bytes[i] = sl_model_activation_bytes(m);
        sl_model_free(m);
    }
    ck_assert_int_le(bytes[1], bytes[0]);
}
END_TEST

/* w = 1 and nothing taken away: y_t = sum_{i <= t} <k_i, r_t> v_i. */
START_TEST(without_decay_and_rule_it_is_linear_attention) {
    enum { T = 40, N = 6 };
    float r[T * N], k[T * N], v[T * N], w[T * N], none[T * N] = {0}, s[N * N] = {0}, e[T * N], y[T * N];
    sl_rng g = sl_rng_make(8, SL_STREAM_TEST, 0);
    for (int i = 0; i < T * N; i++) {
        r[i] = (float)sl_rng_normal(&g), k[i] = (float)sl_rng_normal(&g), v[i] = (float)sl_rng_normal(&g);
        w[i] = 1;
    }
    sl_kernels_tier(SL_ISA_SCALAR)->rwkv7_fwd(T, N, N, r, N, w, N, k, k, none, N, v, N, s, 0, e, N, y, N);
    for (int t = 0; t < T; t++)
        for (int c = 0; c < N; c++) {
            double sum = 0, size = 0;
            for (int i = 0; i <= t; i++)
                for (int j = 0; j < N; j++) {
                    double term = (double)k[i * N + j] * r[t * N + j] * v[i * N + c];
                    sum += term, size += fabs(term);
                }
            ck_assert_double_eq_tol(y[t * N + c], sum, 1e-5 * size);
        }
}
END_TEST

static const float *values(const sl_params *p, const char *name, const sl_tensor **t) {
    int i = sl_params_find(p, name);
    ck_assert_msg(i >= 0, "no tensor %s", name);
    *t = &p->tensor[i];
    return p->w + p->tensor[i].offset;
}

/* As RWKV-LM's: from the first channel of a head to its last, and over all channels. */
START_TEST(starts_are_rwkv_lms) {
    ref_variant v = variant(1);
    const sl_tensor *t;
    sl_model *m = sl_model_create(&v.config, v.vocab, v.batch, v.seq, SL_MODEL_TRAINING);
    ck_assert_msg(m && sl_model_init(m, 1) == 0, "%s", sl_error());
    const sl_params *p = sl_model_params(m);
    const float *x = values(p, "model.layers.1.att.x_w", &t);
    ck_assert(x[0] == 1 && fabs(x[17] - (1 - pow(.5, .9 * 2 / 3))) < 1e-6 && t->decay == SL_DECAY_NONE);
    x = values(p, "model.layers.2.mlp.x_k", &t);
    ck_assert(fabs(x[17] - (1 - pow(.5, pow(1.0 / 3, 4)))) < 1e-6 && t->decay == SL_DECAY_NONE);
    x = values(p, "model.layers.0.att.w0", &t);
    ck_assert(fabs(x[0] + 8) < 1e-5 && fabs(x[33] - 3) < 1e-5 && fabs(x[8] - (-5.5 + 6 * 8 / 33.0)) < 1e-5);
    x = values(p, "model.layers.2.att.w0", &t);
    ck_assert(fabs(x[8] - (-5.5 + 6 * pow(8 / 33.0, 2))) < 1e-5);
    x = values(p, "model.layers.1.att.v0", &t);
    ck_assert(fabs(x[0] - .93) < 1e-6 && fabs(x[33] - .53) < 1e-6);
    x = values(p, "model.layers.1.att.ln_x.weight", &t);
    ck_assert(fabs(x[5] - pow(2.0 / 3, .7)) < 1e-6 && t->decay == SL_DECAY_NORM);
    x = values(p, "model.layers.0.att.output.weight", &t);
    for (int64_t i = 0; i < t->size; i++)
        ck_assert(x[i] == 0);
    x = values(p, "model.layers.0.att.key.weight", &t);
    double most = 0;
    for (int64_t i = 0; i < t->size; i++)
        most = fmax(most, fabs(x[i]));
    ck_assert(most <= .05 / sqrt(34) && most > .049 / sqrt(34) && t->decay == SL_DECAY_MATRIX && t->matrix);
    x = values(p, "model.layers.0.att.g2.weight", &t);
    ck_assert(t->shape[0] == 34 && t->shape[1] == 5 && t->decay == SL_DECAY_NONE);
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++) {
            double sum = 0;
            for (int k = 0; k < 34; k++)
                sum += (double)x[k * 5 + i] * x[k * 5 + j];
            ck_assert_double_eq_tol(sum, i == j ? .01 : 0, 1e-7);
        }
    ck_assert_int_lt(sl_params_find(p, "model.layers.0.att.v0"), 0);
    sl_model_free(m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("rwkv7");
    TCase *t = tcase_create("rwkv7");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, slopes_are_those_of_the_formula, 0, SHAPES);
    tcase_add_loop_test(t, decoding_is_the_whole_window, 0, SHAPES);
    tcase_add_test(t, a_shift_does_not_go_back);
    tcase_add_loop_test(t, a_prompt_is_its_positions, 0, 2);
    tcase_add_test(t, memory_does_not_grow_with_the_window);
    tcase_add_test(t, without_decay_and_rule_it_is_linear_attention);
    tcase_add_test(t, starts_are_rwkv_lms);
    suite_add_tcase(s, t);
    return run_suite(s);
}
