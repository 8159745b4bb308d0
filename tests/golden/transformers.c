/* Models of each family, from transformers or the gguf package (make_transformers.py), give the same logits here. */
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

/* A folder, or a GGUF file, or the first part of one. */
static const char *const models[] = {"llama", "llama_bias", "llama_yarn", "mistral", "qwen2", "qwen3", "qwen3_moe",
                                     "gemma2", "gemma3", "olmo2", "smollm3", "gpt2", "gpt_neox", "opt", "phi",
                                     "gpt_oss", "gpt_oss_mxfp4", "mamba2", "qwen3_next", "qwen3_next_moe",
                                     "llama.gguf", "qwen2.gguf", "qwen3.gguf", "qwen3_moe.gguf", "gemma2.gguf",
                                     "gemma3.gguf", "olmo2.gguf", "smollm3-00001-of-00002.gguf", "gpt2.gguf",
                                     "gpt_neox.gguf", "phi.gguf", "phi_fused.gguf", "gpt_oss.gguf"};

static sl_st_file *open_expected(const char *model) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%.*s%sexpected.safetensors", TRANSFORMERS_DIR, (int)strcspn(model, "-."), model,
             strchr(model, '.') ? "." : "/");
    sl_st_file *f = sl_st_open(path);
    ck_assert_msg(f != NULL, "%s", sl_error());
    return f;
}

START_TEST(logits_are_the_same) {
    char dir[SL_DIR_CHARS], path[4200];
    sl_config c;
    int32_t vocab;
    snprintf(path, sizeof path, "%s/%s", TRANSFORMERS_DIR, models[_i]);
    ck_assert_msg(sl_checkpoint_open(path, dir, &c, &vocab) == 0, "%s", sl_error());
    ck_assert_str_eq(dir, path);
    ck_assert_int_eq(c.model_seq, 64);
    c.precision = SL_PRECISION_FP32;

    sl_st_file *f = open_expected(models[_i]);
    const sl_st_tensor *tokens = sl_st_find(f, "tokens"), *logits = sl_st_find(f, "logits");
    ck_assert(tokens && tokens->dtype == SL_I32 && tokens->ndim == 2);
    ck_assert(logits && logits->dtype == SL_F32 && logits->ndim == 3);
    ck_assert_int_eq(vocab, logits->shape[2]);
    int64_t n = logits->shape[0] * logits->shape[1] * logits->shape[2];

    sl_model *m = sl_model_create(&c, vocab, tokens->shape[0], tokens->shape[1], 0);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ck_assert_msg(sl_model_load(m, dir, NULL) == 0, "%s", sl_error());
    float *got = calloc((size_t)n, sizeof *got);
    ck_assert_int_eq(sl_model_logits(m, sl_st_data(f, tokens), got), 0);
    const float *want = sl_st_data(f, logits);
    double worst = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - want[i]);
        most = fmax(most, fabs(want[i]));
        if (!(error <= worst))
            worst = isnan(error) ? INFINITY : error;
    }
    printf("transformers: %s, largest difference %.3g of logits up to %.3g\n", models[_i], worst, most);
    ck_assert_msg(worst <= TOLERANCE, "%s: logits differ by %.3g", models[_i], worst);
    free(got);
    sl_model_free(m);
    sl_st_close(f);
}
END_TEST

int main(void) {
    Suite *s = suite_create("transformers");
    TCase *tc = tcase_create("transformers");
    tcase_set_timeout(tc, 0);
    tcase_add_loop_test(tc, logits_are_the_same, 0, sizeof models / sizeof *models);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
