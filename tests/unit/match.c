/* model.match_params: every variant gets the parameters of its baseline, by the nearest width, and keeps it. */
#include "base/err.h"
#include "config/keys.h"
#include "io/file.h"
#include "model/match.h"
#include "model/model.h"
#include "scratch.h"
#include "suite.h"
#include "checkpoint/checkpoint.h"

#include <jansson.h>

enum { VOCAB = 257, FFN = 512, EXPERTS = 4, PARTS = 3 };
static sl_config config;
static bool mixture; /* variants of a mixture of experts, two and a shared one for each token */

static void defaults(void) {
    sl_config_defaults(&config);
    config.model_layers = 2;
    config.model_dim = 192;
    config.model_heads = 4;
    config.model_ffn = FFN;
    config.model_match_params = true;
    if (!mixture)
        return;
    config.model_experts = EXPERTS;
    config.model_shared_experts = 1;
    config.model_ffn = FFN * PARTS;
}

static int64_t count(const sl_config *c, int64_t ffn) {
    sl_config with = *c;
    if (mixture)
        with.model_expert_ffn = ffn;
    else
        with.model_ffn = ffn;
    return sl_model_count_params(&with, VOCAB);
}

/* The plain model's parameters, counted by hand. */
static int64_t plain(void) {
    int64_t d = config.model_dim, block = 4 * d * d + 3 * d * FFN + 2 * d;
    if (mixture)
        block += EXPERTS * 3 * d * FFN + EXPERTS * d; /* the shared one is counted already; the router */
    return 2 * VOCAB * d + 2 * block + d;
}

static void check_matched(const char *what) {
    sl_match m;
    ck_assert_msg(sl_match_count(&config, VOCAB, &m) == 0, "%s: %s", what, sl_error());
    ck_assert_msg(m.baseline == plain(), "%s: a baseline of %lld", what, (long long)m.baseline);
    ck_assert_msg(llabs(m.params - m.baseline) * 1000 <= m.baseline, "%s: %lld and %lld", what, (long long)m.params,
                  (long long)m.baseline);
    ck_assert_int_eq(m.params, count(&config, m.ffn));
    for (int by = -1; by <= 1; by += 2) /* no neighbour is nearer */
        ck_assert_int_ge(llabs(count(&config, m.ffn + by) - m.baseline), llabs(m.params - m.baseline));
    config.precision = SL_PRECISION_FP32;
    sl_model *model = sl_model_create(&config, VOCAB, 1, 8, 0);
    ck_assert_msg(model != NULL, "%s: %s", what, sl_error());
    ck_assert_int_eq(sl_model_params(model)->params, m.params);
    const sl_config *built = sl_model_config(model), *given = sl_model_config_given(model);
    ck_assert_int_eq(mixture ? built->model_expert_ffn : built->model_ffn, m.ffn);
    ck_assert_int_eq(mixture ? given->model_ffn / PARTS : given->model_ffn, FFN);
    ck_assert_int_eq(given->model_expert_ffn, 0);
    sl_model_free(model);
}

/* Every choice and every switch of section model, whatever there is. */
START_TEST(every_variant) {
    int variants = 0;
    mixture = _i;
    for (const sl_key *k = sl_keys; k->name; k++) {
        bool yes = k->type == SL_KEY_BOOL;
        if (strncmp(k->name, "model.", 6) || (!yes && k->type != SL_KEY_ENUM) ||
            !strcmp(k->name, "model.match_params") || !strcmp(k->name, "model.tie_embeddings"))
            continue;
        for (const sl_choice *ch = k->choices; yes || ch->name; ch++) {
            char assignment[256];
            defaults();
            snprintf(assignment, sizeof assignment, "%s=%s", k->name, yes ? "true" : ch->name);
            ck_assert_int_eq(sl_config_override(&config, assignment), 0);
            if (sl_config_check(&config) == 0) { /* some need another key */
                check_matched(assignment);
                variants++;
            }
            if (yes)
                break;
        }
    }
    mixture = false;
    ck_assert_int_ge(variants, 8);
}
END_TEST

/* Four experts and the shared one pay for the gates: a column of each costs 5*2*3*192, the gates are 24576. */
START_TEST(known_width_of_experts) {
    sl_match m;
    mixture = true;
    defaults();
    ck_assert_int_eq(sl_config_override(&config, "model.norm=gated_norm"), 0);
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), 0);
    ck_assert_int_eq(m.ffn, FFN - 4);
    ck_assert_str_eq(sl_match_key(&config), "model.expert_ffn");
    config.model_dim = 24; /* a column is more than 0.1 % */
    config.model_ffn = 15;
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), -1);
    ck_error("model.match_params: the nearest width, model.expert_ffn=");
    mixture = false;
}
END_TEST

/* Narrower for a variant that adds, wider for one that takes away: GELU has two matrices of three. */
START_TEST(known_widths) {
    sl_match m;
    defaults();
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), 0);
    ck_assert(m.ffn == FFN && m.params == m.baseline);
    config.model_ffn_kind = SL_FFN_gelu;
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), 0);
    ck_assert(m.ffn == FFN * 3 / 2 && m.params == m.baseline);
    defaults();
    ck_assert_int_eq(sl_config_override(&config, "model.norm=gated_norm"), 0);
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), 0);
    /* Four gates of 2*192*16 parameters are 24576; a column costs 2*3*192. */
    ck_assert_int_eq(m.ffn, FFN - 21);
    config.norm_rank = 17; /* 26112: 22.7 columns, and the nearest width has fewer parameters */
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), 0);
    ck_assert(m.ffn == FFN - 23 && m.params < m.baseline);
    config.norm_rank = 16;
    config.model_match_params = false;
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), 0);
    ck_assert(m.ffn == FFN && m.params == m.baseline + 24576);
}
END_TEST

/* The configuration keeps what was asked for, config.json what was built; a model made from it is the same. */
START_TEST(checkpoints) {
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    sl_config read;
    sl_train_state s = {.step = 1, .loss_mean = NAN, .best_val_loss = NAN};
    defaults();
    config.model_ffn_kind = SL_FFN_gelu;
    sl_model *m = sl_model_create(&config, VOCAB, 1, 8, SL_MODEL_TRAINING), *again;
    ck_assert_int_eq(sl_model_init(m, 3), 0);
    ck_assert_msg(sl_model_save(m, scratch, &s, 1) == 0, "%s", sl_error());
    ck_assert_msg(sl_checkpoint_open(scratch, dir, &read, &vocab) == 0, "%s", sl_error());
    ck_assert(read.model_match_params && read.model_ffn == FFN);
    again = sl_model_create(&read, vocab, 1, 8, SL_MODEL_TRAINING);
    ck_assert_msg(sl_model_load(again, dir, &s) == 0, "%s", sl_error());
    size_t bytes = (size_t)sl_model_params(m)->floats * sizeof(float);
    ck_assert_mem_eq(sl_model_params(m)->w, sl_model_params(again)->w, bytes);
    char path[SL_DIR_CHARS + 32];
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *o = json_load_file(path, 0, NULL);
    ck_assert_int_eq(json_integer_value(json_object_get(o, "intermediate_size")), FFN * 3 / 2);
    json_decref(o);
    sl_model_free(m), sl_model_free(again);
}
END_TEST

START_TEST(impossible) {
    sl_match m;
    defaults();
    config.model_ffn = 0;
    ck_assert_int_eq(sl_config_check(&config), -1);
    ck_error("model.ffn = 0 asks for none");
    defaults();
    config.model_dim = 24;
    config.model_ffn = 5;
    ck_assert_int_eq(sl_config_override(&config, "model.ffn_kind=gelu"), 0);
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), -1);
    ck_error("model.match_params: the nearest width, model.ffn=8, gives ");
    ck_assert_ptr_null(sl_model_create(&config, VOCAB, 1, 8, 0));
    defaults();
    config.model_dim = 16;
    config.model_ffn = 1;
    ck_assert_int_eq(sl_config_override(&config, "model.norm=gated_norm"), 0);
    ck_assert_int_eq(sl_match_count(&config, VOCAB, &m), -1); /* the gates alone are more than the baseline has */
    ck_error("model.ffn=1, gives ");
}
END_TEST

int main(void) {
    Suite *s = suite_create("match");
    TCase *t = tcase_create("match");
    tcase_add_checked_fixture(t, scratch_make, scratch_remove);
    tcase_add_loop_test(t, every_variant, 0, 2);
    tcase_add_test(t, known_width_of_experts);
    tcase_add_test(t, known_widths);
    tcase_add_test(t, checkpoints);
    tcase_add_test(t, impossible);
    suite_add_tcase(s, t);
    return run_suite(s);
}
