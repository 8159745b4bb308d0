/* The running means of channels behind model.sink_nullify, and what each mode keeps and replaces. Gradients:
 * grad_model; values: golden. */
#include "base/err.h"
#include "model/model.h"
#include "ref/variants.h"
#include "suite.h"
#include "train/train.h"
#include "gradients.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 8, SEQ = 5, BATCH = 2, ROWS = SEQ * BATCH, VOCAB = 11, K = 2 };
#define MEANS "model.layers.0.input_layernorm.channel_mean"

static int32_t in[2 * ROWS], target[2 * ROWS];

static sl_model *create(const char *const *changes, bool training) {
    ref_variant v;
    ck_assert(ref_variant_tiny(1, &v));
    for (int i = 0; changes && changes[i]; i++)
        ck_assert_msg(sl_config_override(&v.config, changes[i]) == 0, "%s", sl_error());
    sl_model *m = sl_model_create(&v.config, VOCAB, BATCH, SEQ, (training ? SL_MODEL_TRAINING : 0) | SL_MODEL_TAPS);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ref_randomise(sl_model_params(m), 3);
    ref_random_tokens(2 * ROWS, VOCAB, 1, in);
    ref_random_tokens(2 * ROWS, VOCAB, 2, target);
    return m;
}

static float *values(sl_model *m, const char *name) {
    sl_params *p = sl_model_params(m);
    int t = sl_params_find(p, name);
    ck_assert_msg(t >= 0, "no tensor %s", name);
    return p->w + p->tensor[t].offset;
}

static void clear_means(sl_model *m) {
    sl_params *p = sl_model_params(m);
    for (int i = 0; i < p->count; i++)
        if (p->tensor[i].state)
            memset(p->w + p->tensor[i].offset, 0, (size_t)p->tensor[i].size * sizeof *p->w);
}

static bool edited(const sl_model *m, int row) { return row % SEQ >= sl_model_config(m)->model_sink_nullify_from; }
static double rows_edited(const sl_model *m) { return BATCH * (SEQ - sl_model_config(m)->model_sink_nullify_from); }

/* Means of the channels of h_0 over `passes` batches, at positions that are edited: what the first norm reads. */
static void input_means(sl_model *m, int passes, double mean[DIM]) {
    memset(mean, 0, DIM * sizeof *mean);
    for (int i = 0; i < passes; i++) {
        ck_assert(sl_model_forward(m, in + i * ROWS, NULL, NULL, NULL) == 0);
        const float *h = sl_model_residual(m, 0);
        for (int k = 0; k < ROWS * DIM; k++)
            mean[k % DIM] += edited(m, k / DIM) ? (double)h[k] / (rows_edited(m) * passes) : 0;
    }
}

static bool never(void *ctx, double loss, double grad_norm) {
    (void)ctx, (void)loss, (void)grad_norm;
    return false;
}

static void step(sl_model *m, int accumulate, sl_apply_fn *apply) {
    sl_step_result r;
    sl_optim *o = sl_optim_create(m);
    ck_assert(o != NULL);
    sl_optim_zero_grad(o);
    ck_assert_msg(sl_train_step(o, in, target, accumulate, 0, apply, NULL, &r) == 0, "%s", sl_error());
    sl_optim_free(o);
}

static const char *const on[] = {"model.sink_nullify=2", "train.lr=0", NULL};
static const char *const behind[] = {"model.sink_nullify=2", "train.lr=0", "model.sink_nullify_from=2", NULL};
static const char *const off[] = {"train.lr=0", NULL};

/* The first step's means are those of its rows, all passes of it; later steps move them by a hundredth of the way; a
 * pass for evaluation and a skipped step leave them. A sum of 20 floats errs by 20 roundings at most. */
static void check_means(const char *const *changes, const char *tensor) {
    sl_model *m = create(changes, true);
    float *mean = values(m, tensor), before[DIM];
    double want[DIM];
    clear_means(m);
    input_means(m, 2, want);
    step(m, 2, never);
    for (int j = 0; j < DIM; j++)
        ck_assert(mean[j] == 0);
    step(m, 2, NULL);
    for (int j = 0; j < DIM; j++)
        ck_assert_msg(fabs(mean[j] - want[j]) <= 0x1p-18, "channel %d: %.9g, want %.9g", j, (double)mean[j], want[j]);
    memcpy(before, mean, sizeof before);
    input_means(m, 1, want);
    ck_assert(memcmp(before, mean, sizeof before) == 0);
    step(m, 1, NULL);
    for (int j = 0; j < DIM; j++) {
        double moved = before[j] + 0.01 * (want[j] - before[j]);
        ck_assert_msg(fabs(mean[j] - moved) <= 0x1p-18 && fabs(want[j] - before[j]) > 0x1p-10,
                      "channel %d: %.9g, want %.9g", j, (double)mean[j], moved);
    }
    sl_model_free(m);
}

START_TEST(means_run) {
    check_means(on, MEANS);
    check_means(behind, MEANS "_from_2");
}
END_TEST

/* Means of 2 batches of the squares of h_0, and of what RMSNorm makes of its rows, in double. */
static void second_means(sl_model *m, double square[DIM], double output[DIM]) {
    memset(square, 0, DIM * sizeof *square);
    memset(output, 0, DIM * sizeof *output);
    for (int i = 0; i < 2 * ROWS; i++) {
        if (i % ROWS == 0)
            ck_assert(sl_model_forward(m, in + i, NULL, NULL, NULL) == 0);
        const float *h = sl_model_residual(m, 0) + i % ROWS * DIM;
        double sum = 0;
        for (int j = 0; j < DIM; j++)
            sum += (double)h[j] * h[j] / DIM;
        for (int j = 0; edited(m, i) && j < DIM; j++) {
            square[j] += (double)h[j] * h[j] / (2 * rows_edited(m));
            output[j] += h[j] / sqrt(sum + sl_model_config(m)->norm_eps) / (2 * rows_edited(m));
        }
    }
}

/* The first step takes them as they are, the second moves them by a hundredth of the way. */
static void check_second(const char *value, const char *from, const char *first, const char *tensor, bool squares) {
    const char *const changes[] = {"model.sink_nullify=2", "train.lr=0", "model.sink_nullify_mode=output", value, from,
                                   NULL};
    sl_model *m = create(changes, true);
    float *got = values(m, tensor);
    double square[DIM], output[DIM], *want = squares ? square : output;
    clear_means(m);
    second_means(m, square, output);
    for (int steps = 0; steps < 2; steps++) {
        step(m, 2, NULL);
        for (int j = 0; j < DIM; j++)
            ck_assert_msg(fabs(got[j] - want[j]) <= 0x1p-18, "%s: channel %d, step %d: %.9g, want %.9g", value, j,
                          steps, (double)got[j], want[j]);
        ck_assert(fabs(got[3] - values(m, first)[3]) > 0x1p-10);
    }
    step(m, 1, NULL); /* of the first batch alone */
    ck_assert(fabs(got[3] - want[3]) > 0x1p-16 && fabs(got[3] - want[3]) < 0.05);
    sl_model_free(m);
}

START_TEST(second_means_run) {
    const char *all = "model.sink_nullify_from=0", *some = "model.sink_nullify_from=3";
    check_second("model.sink_nullify_value=rms", all, MEANS, MEANS "_square", true);
    check_second("model.sink_nullify_value=mean_output", all, MEANS, MEANS "_output", false);
    check_second("model.sink_nullify_value=rms", some, MEANS "_from_3", MEANS "_square_from_3", true);
    check_second("model.sink_nullify_value=mean_output", some, MEANS "_from_3", MEANS "_output_from_3", false);
}
END_TEST

/* No running mean, nothing replaced: the same bits as without the intervention. */
START_TEST(nothing_without_means) {
    sl_model *m = create(on, true), *plain = create(off, true);
    clear_means(m);
    ck_assert(forward_backward(m, in, target, 1) == forward_backward(plain, in, target, 1));
    sl_model_free(m), sl_model_free(plain);
}
END_TEST

/* Parameters are counted without the means. */
START_TEST(means_are_no_parameters) {
    sl_model *m = create(on, false), *plain = create(off, false);
    ck_assert_int_eq(sl_model_params(m)->params, sl_model_params(plain)->params);
    ck_assert_int_eq(sl_model_params(m)->count, sl_model_params(plain)->count + 4);
    sl_model_free(m), sl_model_free(plain);
}
END_TEST

/* Makes the two largest |means| of the first norm those of channels 6 and 1. */
static void set_means(sl_model *m) {
    char name[64];
    long long from = sl_model_config(m)->model_sink_nullify_from;
    snprintf(name, sizeof name, from ? MEANS "_from_%lld" : MEANS, from);
    for (int j = 0; j < DIM; j++)
        values(m, name)[j] = j == 6 ? -3 : j == 1 ? 2 : 1;
}

/* Output of the first norm. */
static void first_norm(const char *mode, const char *from, float out[ROWS * DIM]) {
    const char *const changes[] = {mode ? mode : "model.sink_nullify=0", mode ? "model.sink_nullify=2" : NULL, from,
                                   NULL};
    sl_model *m = create(changes, false);
    if (mode)
        set_means(m);
    ck_assert(sl_model_forward(m, in, NULL, NULL, NULL) == 0);
    memcpy(out, sl_model_norm_output(m, 0, 0), ROWS * DIM * sizeof *out);
    sl_model_free(m);
}

/* With RMSNorm, y plain, b without the channels in numerator and denominator: "output" is y but 0 at the channels;
 * "denominator" is b elsewhere, and at the channels y scaled by what the others grew by. */
START_TEST(modes) {
    float plain[ROWS * DIM], both[ROWS * DIM], output[ROWS * DIM], denominator[ROWS * DIM];
    first_norm(NULL, NULL, plain);
    first_norm("model.sink_nullify_mode=both", NULL, both);
    first_norm("model.sink_nullify_mode=output", NULL, output);
    first_norm("model.sink_nullify_mode=denominator", NULL, denominator);
    for (int i = 0; i < ROWS * DIM; i++) {
        int j = i % DIM, other = i - j + 3;
        bool sink = j == 6 || j == 1;
        ck_assert(output[i] == (sink ? 0 : plain[i]));
        ck_assert(sink ? both[i] == 0 : fabsf(both[i]) > fabsf(plain[i]) && both[i] == denominator[i]);
        double grown = (double)plain[i] * both[other] / plain[other];
        ck_assert_msg(fabs(denominator[i] - grown) <= 0x1p-20 * fabs(grown), "%d: %.9g, want %.9g", i,
                      (double)denominator[i], grown);
    }
}
END_TEST

/* Positions before sink_nullify_from are a plain norm's and the others those of an edit of all, bit for bit. */
START_TEST(first_positions_stay) {
    static const char *const mode[] = {"model.sink_nullify_mode=both", "model.sink_nullify_mode=output",
                                       "model.sink_nullify_mode=denominator"};
    float plain[ROWS * DIM], all[ROWS * DIM], got[ROWS * DIM];
    first_norm(NULL, NULL, plain);
    for (int i = 0; i < 3; i++)
        for (int from = 1; from < SEQ; from++) {
            char key[40];
            snprintf(key, sizeof key, "model.sink_nullify_from=%d", from);
            first_norm(mode[i], NULL, all);
            first_norm(mode[i], key, got);
            for (int r = 0; r < ROWS; r++)
                ck_assert_msg(memcmp(got + r * DIM, (r % SEQ < from ? plain : all) + r * DIM, DIM * sizeof *got) == 0,
                              "%s, %s: row %d", mode[i], key, r);
            ck_assert(memcmp(plain, all, sizeof all) != 0);
        }
}
END_TEST

/* Means of other positions are none of this model's: it runs no pass with them. */
START_TEST(means_of_other_positions) {
    sl_model *all = create(on, false), *some = create(behind, false), *same = create(behind, false);
    ck_assert_msg(sl_model_take(some, all) == 0 && sl_model_take(same, some) == 0, "%s", sl_error());
    ck_assert(sl_model_states_missing(some) && sl_model_states_missing(same));
    ck_assert(sl_model_forward(some, in, NULL, NULL, NULL) != 0);
    ck_assert_msg(strstr(sl_error(), "holds no channel means") != NULL, "%s", sl_error());
    sl_model_free(all), sl_model_free(some), sl_model_free(same);
}
END_TEST

/* A channel that is the same number c at every token is deleted by neither: what the norm divides by keeps c^2, and
 * mean_output keeps the average of what it was. */
START_TEST(a_constant_stays) {
    float plain[ROWS * DIM], kept[ROWS * DIM];
    const char *const rms[] = {"model.sink_nullify=1", "model.sink_nullify_mode=denominator",
                               "model.sink_nullify_value=rms", NULL};
    const char *const output[] = {"model.sink_nullify=1", "model.sink_nullify_mode=output",
                                  "model.sink_nullify_value=mean_output", NULL};
    for (int which = 0; which < 2; which++) {
        sl_model *m = create(which ? output : rms, false), *without = create(NULL, false);
        for (int k = 0; k < 2; k++)
            for (int t = 0; t < VOCAB; t++)
                values(k ? m : without, "model.embed_tokens.weight")[t * DIM + 6] = -3;
        ck_assert(sl_model_forward(without, in, NULL, NULL, NULL) == 0);
        memcpy(plain, sl_model_norm_output(without, 0, 0), sizeof plain);
        double mean = 0, gain = values(m, "model.layers.0.input_layernorm.weight")[6];
        for (int t = 0; t < ROWS; t++)
            mean += plain[t * DIM + 6] / gain / ROWS;
        clear_means(m);
        values(m, MEANS)[6] = -3;
        values(m, which ? "model.layers.0.input_layernorm.channel_mean_output"
                        : "model.layers.0.input_layernorm.channel_mean_square")[6] = which ? (float)mean : 9;
        ck_assert(sl_model_forward(m, in, NULL, NULL, NULL) == 0);
        memcpy(kept, sl_model_norm_output(m, 0, 0), sizeof kept);
        for (int i = 0; i < ROWS * DIM; i++) {
            double want = which && i % DIM == 6 ? gain * mean : plain[i];
            ck_assert_msg(fabs(kept[i] - want) <= 0x1p-20 * fabs(want), "%d: %.9g, want %.9g", i, (double)kept[i],
                          want);
        }
        sl_model_free(m), sl_model_free(without);
    }
}
END_TEST

/* Which channels the first two norms replace under this seed, as bits; channels 6 and 1 have the largest |means|. */
static void replaced(const char *seed, unsigned channels[2]) {
    const char *const changes[] = {"model.sink_nullify=2", "model.sink_nullify_channels=random",
                                   "model.sink_nullify_mode=output", seed, NULL};
    sl_model *m = create(changes, false);
    for (int which = 0; which < 2; which++)
        for (int j = 0; j < DIM; j++)
            values(m, which ? "model.layers.0.post_attention_layernorm.channel_mean" : MEANS)[j] =
                j == 6 ? -3 : j == 1 ? 2 : 1;
    ck_assert(sl_model_forward(m, in, NULL, NULL, NULL) == 0);
    for (int which = 0; which < 2; which++) {
        const float *y = sl_model_norm_output(m, 0, which);
        channels[which] = 0;
        for (int j = 0; j < DIM; j++)
            channels[which] |= (unsigned)(y[j] == 0) << j;
    }
    sl_model_free(m);
}

/* Two others than the largest in each norm, the same for the same seed; over 20 seeds every one of the six comes, and
 * the two norms do not go together. */
START_TEST(random_channels) {
    unsigned all = 0, apart = 0;
    for (int seed = 1; seed <= 20; seed++) {
        char key[32];
        unsigned first[2], again[2];
        snprintf(key, sizeof key, "seed=%d", seed);
        replaced(key, first);
        replaced(key, again);
        ck_assert(first[0] == again[0] && first[1] == again[1]);
        for (int which = 0; which < 2; which++)
            ck_assert_int_eq(__builtin_popcount(first[which]), 2);
        all |= first[0] | first[1];
        apart += first[0] != first[1];
    }
    ck_assert_uint_eq(all, 0xFFu & ~(1u << 6 | 1u << 1));
    ck_assert_uint_gt(apart, 0);
}
END_TEST

/* A decoder with the means of a model of whole windows gives that one's logits, behind a prompt in one pass too. */
static void check_decoder(const char *const *changes, int prompt) {
    float *want = calloc(ROWS * VOCAB, sizeof *want), got[VOCAB];
    sl_model *m = create(changes, false);
    sl_model *decoder = sl_model_create_decoder(sl_model_config_given(m), VOCAB, 1, SEQ);
    ck_assert_msg(decoder && want, "%s", sl_error());
    ref_randomise(sl_model_params(decoder), 3);
    clear_means(decoder);
    set_means(m);
    ck_assert_msg(sl_model_take(decoder, m) == 0, "%s", sl_error());
    ck_assert(sl_model_logits(m, in, want) == 0);
    ck_assert_msg(prompt == 0 || sl_model_prompt(decoder, in, prompt) == 0, "%s", sl_error());
    for (int t = prompt; t < SEQ; t++) {
        ck_assert_msg(sl_model_decode(decoder, in + t, t, got) == 0, "%s", sl_error());
        for (int k = 0; k < VOCAB; k++)
            ck_assert_double_eq_tol(got[k], want[t * VOCAB + k], 1e-5);
    }
    free(want);
    sl_model_free(decoder), sl_model_free(m);
}

START_TEST(decoder_takes_means) {
    check_decoder(on, 0);
    for (int prompt = 0; prompt < SEQ; prompt++)
        check_decoder(behind, prompt);
}
END_TEST

START_TEST(refused) {
    static const struct {
        const char *change[5], *message;
    } cases[] = {
        {{"model.sink_nullify=1", "model.seq=5", "model.sink_nullify_from=5", NULL},
         "model.sink_nullify_from = 5 leaves no position to edit in windows of model.seq = 5"},
        {{"model.sink_nullify=9", NULL}, "model.sink_nullify = 9 channels are more than model.dim = 8"},
        {{"model.sink_nullify=5", "model.sink_nullify_channels=random", NULL},
         "model.sink_nullify_channels=random draws among the other channels, and of model.dim = 8 no 5 are left"},
        {{"model.sink_nullify=1", "model.norm=dyt", "model.sink_nullify_mode=denominator", NULL},
         "model.sink_nullify_mode=denominator needs a norm that divides"},
        {{"model.sink_nullify=1", "model.sink_nullify_value=mean_output", NULL},
         "model.sink_nullify_value=mean_output is what a norm gives, and only model.sink_nullify_mode=output"},
        {{"model.sink_nullify=1", "model.norm=dyt", "model.sink_nullify_mode=output",
          "model.sink_nullify_value=mean_output"}, "model.sink_nullify_value=mean_output needs a norm that divides"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ref_variant v;
        ck_assert(ref_variant_tiny(1, &v));
        for (int k = 0; cases[i].change[k]; k++)
            ck_assert(sl_config_override(&v.config, cases[i].change[k]) == 0);
        ck_assert(sl_model_create(&v.config, VOCAB, BATCH, SEQ, SL_MODEL_TRAINING) == NULL);
        ck_assert_msg(strstr(sl_error(), cases[i].message) == sl_error(), "%s", sl_error());
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("nullify");
    TCase *t = tcase_create("nullify");
    tcase_add_test(t, means_run);
    tcase_add_test(t, second_means_run);
    tcase_add_test(t, nothing_without_means);
    tcase_add_test(t, means_are_no_parameters);
    tcase_add_test(t, modes);
    tcase_add_test(t, first_positions_stay);
    tcase_add_test(t, means_of_other_positions);
    tcase_add_test(t, a_constant_stays);
    tcase_add_test(t, random_channels);
    tcase_add_test(t, decoder_takes_means);
    tcase_add_test(t, refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
