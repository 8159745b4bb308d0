/* Checkpoint folders written by transformers (make_transformers.py) give the same logits here. */
#include "base/err.h"
#include "io/safetensors.h"
#include "model/model.h"
#include "checkpoint/checkpoint.h"
#include "unit/suite.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef TRANSFORMERS_DIR
#error "TRANSFORMERS_DIR: folder of the checkpoints"
#endif

/* Both sides are fp32 and logits are a few units: 1e-4 is some 100 roundings of the largest. */
#define TOLERANCE 1e-4

static void check_folder(const char *folder, bool qk_norm) {
    char dir[4096], path[4200];
    sl_config c;
    ck_assert_msg(sl_checkpoint_resolve(folder, dir) == 0, "%s", sl_error());
    ck_assert_msg(sl_checkpoint_config(dir, &c) == 0, "%s", sl_error());
    int32_t vocab;
    ck_assert_msg(sl_checkpoint_vocab(dir, &vocab) == 0, "%s", sl_error());
    ck_assert_str_eq(sl_choices_norm[c.model_norm].name, "rmsnorm");
    ck_assert_int_eq(c.model_qk_norm, qk_norm);
    c.precision = SL_PRECISION_FP32;

    snprintf(path, sizeof path, "%s/expected.safetensors", folder);
    sl_st_file *f = sl_st_open(path);
    ck_assert_msg(f != NULL, "%s", sl_error());
    const sl_st_tensor *tokens = sl_st_find(f, "tokens"), *logits = sl_st_find(f, "logits");
    ck_assert(tokens && tokens->dtype == SL_I32 && tokens->ndim == 2);
    ck_assert(logits && logits->dtype == SL_F32 && logits->ndim == 3);
    ck_assert_int_eq(vocab, logits->shape[2]);
    int64_t n = logits->shape[0] * logits->shape[1] * logits->shape[2];

    sl_model *m = sl_model_create(&c, vocab, tokens->shape[0], tokens->shape[1], 0);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ck_assert_msg(sl_checkpoint_load(dir, sl_model_params(m), NULL) == 0, "%s", sl_error());
    float *got = calloc((size_t)n, sizeof *got);
    sl_model_logits(m, sl_st_data(f, tokens), got);
    const float *want = sl_st_data(f, logits);
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - want[i]);
        if (!(error <= worst))
            worst = isnan(error) ? INFINITY : error;
    }
    printf("transformers: %s, largest difference %.3g\n", strrchr(folder, '/') + 1, worst);
    ck_assert_msg(worst <= TOLERANCE, "%s: logits differ by %.3g", folder, worst);
    free(got);
    sl_model_free(m);
    sl_st_close(f);
}

START_TEST(test_llama) { check_folder(TRANSFORMERS_DIR "/llama", false); }
END_TEST

START_TEST(test_qwen3) { check_folder(TRANSFORMERS_DIR "/qwen3", true); }
END_TEST

START_TEST(test_qwen3_moe) { check_folder(TRANSFORMERS_DIR "/qwen3_moe", true); }
END_TEST

int main(void) {
    Suite *s = suite_create("transformers");
    TCase *tc = tcase_create("transformers");
    tcase_set_timeout(tc, 0);
    tcase_add_test(tc, test_llama);
    tcase_add_test(tc, test_qwen3);
    tcase_add_test(tc, test_qwen3_moe);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
