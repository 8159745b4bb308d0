/* The loop over windows: which windows a batch has, what stands behind the last one, what becomes of a failure. */
#include "eval/windows.h"
#include "base/err.h"
#include "base/threads.h"
#include "eval/evaluate.h"
#include "scratch.h"
#include "suite.h"

#include <math.h>

enum { SEQ = 4, BATCH = 3, MOST = 16 };

static sl_dataset *data;
static sl_model *model;

static void setup(void) {
    sl_config c;
    sl_threads_start(1, SL_PIN_OFF);
    scratch_make();
    setenv("SINKLAB_DATA", scratch, 1);
    put_file(in_scratch("t.txt"), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN", 40);
    sl_config_defaults(&c);
    snprintf(c.data_corpus, sizeof c.data_corpus, "%s", in_scratch("t.txt"));
    c.data_bos = false;
    c.data_val_fraction = 0.5;
    c.model_seq = SEQ, c.model_layers = 1, c.model_dim = 8, c.model_heads = 2, c.model_ffn = 8;
    data = sl_dataset_open(&c);
    ck_assert_msg(data != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_dataset_windows(data, SL_VAL), 4);
    model = sl_model_create(&c, sl_dataset_vocab(data), BATCH, SEQ, 0);
    ck_assert_msg(model != NULL, "%s", sl_error());
    sl_model_init(model, 1);
}

static void teardown(void) {
    sl_model_free(model);
    sl_dataset_close(data);
    scratch_remove();
}

/* What a loop has handed out. */
typedef struct {
    int batches, fail_at; /* 0: never */
    int64_t first[MOST], n[MOST];
    int32_t in[MOST][BATCH * SEQ], target[MOST][BATCH * SEQ];
} seen;

static int look(void *ctx, sl_model *m, const sl_batch *b) {
    seen *s = ctx;
    ck_assert_ptr_eq(m, model);
    ck_assert_ptr_null(b->mark);
    int i = s->batches++;
    s->first[i] = b->first, s->n[i] = b->n;
    memcpy(s->in[i], b->in, sizeof s->in[i]);
    memcpy(s->target[i], b->target, sizeof s->target[i]);
    return s->batches == s->fail_at ? sl_fail("batch %d is bad", s->batches) : 0;
}

/* Place `place` of batch i holds this window of the validation text. */
static void check_window(const seen *s, int i, int64_t place, int64_t window) {
    int32_t in[SEQ], target[SEQ];
    sl_dataset_val_window(data, window, in, target);
    ck_assert_mem_eq(s->in[i] + place * SEQ, in, sizeof in);
    ck_assert_mem_eq(s->target[i] + place * SEQ, target, sizeof target);
}

START_TEST(last_batch_without_loss) {
    seen s = {0};
    ck_assert_int_eq(sl_each_batch(model, data, (sl_windows){SL_VAL, 4, SL_FILL_NO_LOSS, 0}, look, &s), 0);
    ck_assert_int_eq(s.batches, 2);
    ck_assert(s.first[0] == 0 && s.n[0] == 3 && s.first[1] == 3 && s.n[1] == 1);
    for (int64_t i = 0; i < 4; i++)
        check_window(&s, (int)(i / BATCH), i % BATCH, i);
    for (int i = SEQ; i < BATCH * SEQ; i++)
        ck_assert(s.in[1][i] == 0 && s.target[1][i] == -1);
}
END_TEST

START_TEST(windows_in_front_are_left_out) {
    seen s = {0};
    ck_assert_int_eq(sl_each_batch(model, data, (sl_windows){SL_VAL, 2, SL_FILL_NO_LOSS, 2}, look, &s), 0);
    ck_assert(s.batches == 1 && s.first[0] == 0 && s.n[0] == 2);
    for (int64_t i = 0; i < 2; i++)
        check_window(&s, 0, i, 2 + i);
}
END_TEST

/* Also where the text has fewer of them than are asked for, and to fill a batch. */
START_TEST(windows_are_spread) {
    const struct {
        int64_t windows, at[2 * BATCH];
    } want[] = {{1, {0, 0, 0}}, {2, {0, 2, 0}}, {3, {0, 1, 2}}, {4, {0, 1, 2, 3, 0, 1}}, {5, {0, 1, 2, 3, 0, 1}}};
    for (size_t c = 0; c < sizeof want / sizeof *want; c++) {
        seen s = {0};
        sl_windows w = {SL_VAL, want[c].windows, SL_FILL_WINDOWS, SL_SPREAD};
        ck_assert_int_eq(sl_each_batch(model, data, w, look, &s), 0);
        ck_assert_int_eq(s.batches, (w.windows + BATCH - 1) / BATCH);
        for (int64_t i = 0; i < s.batches * BATCH; i++) {
            check_window(&s, (int)(i / BATCH), i % BATCH, want[c].at[i]);
            ck_assert_int_eq(sl_val_window(data, &w, i), want[c].at[i]);
        }
    }
}
END_TEST

START_TEST(there_are_so_many_windows) {
    ck_assert_int_eq(sl_val_windows(data, 0, SL_SPREAD), 4);
    ck_assert_int_eq(sl_val_windows(data, 3, SL_SPREAD), 3);
    ck_assert_int_eq(sl_val_windows(data, 9, SL_SPREAD), 4);
    ck_assert_int_eq(sl_val_windows(data, 0, 3), 1);
    ck_assert_int_eq(sl_val_windows(data, 9, 0), 4);
    ck_assert_int_eq(sl_val_windows(data, 1, 4), -1);
    ck_error("4 windows left out leave none of the 4 of the text; leave out fewer");
}
END_TEST

START_TEST(last_batch_begins_again) {
    seen s = {0};
    ck_assert_int_eq(sl_each_batch(model, data, (sl_windows){SL_VAL, 5, SL_FILL_WINDOWS, 0}, look, &s), 0);
    ck_assert_int_eq(s.batches, 2);
    ck_assert_int_eq(s.n[1], 2);
    for (int64_t i = 0; i < 2 * BATCH; i++)
        check_window(&s, (int)(i / BATCH), i % BATCH, i % 4);
}
END_TEST

START_TEST(training_windows_come_in_order_of_training) {
    seen s = {0};
    int32_t in[SEQ], target[SEQ];
    ck_assert_int_eq(sl_each_batch(model, data, (sl_windows){SL_TRAIN, 3, SL_FILL_WINDOWS, 0}, look, &s), 0);
    for (int64_t i = 0; i < BATCH; i++) {
        sl_dataset_train_window(data, (uint64_t)sl_model_config(model)->seed, i, in, target);
        ck_assert_mem_eq(s.in[0] + i * SEQ, in, sizeof in);
        ck_assert_mem_eq(s.target[0] + i * SEQ, target, sizeof target);
    }
}
END_TEST

START_TEST(first_failure_ends_it) {
    seen s = {.fail_at = 2};
    ck_assert_int_eq(sl_each_batch(model, data, (sl_windows){SL_VAL, 9, SL_FILL_WINDOWS, 0}, look, &s), -1);
    ck_assert_int_eq(s.batches, 2);
    ck_error("batch 2 is bad");
}
END_TEST

START_TEST(no_windows_no_batch) {
    seen s = {0};
    ck_assert_int_eq(sl_each_batch(model, data, (sl_windows){SL_VAL, 0, SL_FILL_WINDOWS, 0}, look, &s), 0);
    ck_assert_int_eq(s.batches, 0);
}
END_TEST

/* The mean over the windows alone: what fills the last batch has no part in it. */
START_TEST(evaluation_is_the_mean_of_the_windows) {
    sl_losses all;
    double sum = 0, each[4], of_window[4];
    int32_t in[BATCH * SEQ] = {0}, target[BATCH * SEQ];
    for (int64_t w = 0; w < 4; w++) {
        double loss;
        for (int i = 0; i < BATCH * SEQ; i++)
            target[i] = -1;
        sl_dataset_val_window(data, w, in, target);
        ck_assert_int_eq(sl_model_forward(model, in, target, &loss, NULL), 0);
        sum += each[w] = loss;
    }
    ck_assert_int_eq(sl_evaluate(model, data, 100, SL_SPREAD, &all, of_window), 0);
    for (int w = 0; w < 4; w++)
        ck_assert_double_eq_tol(of_window[w], each[w], 1e-6);
    ck_assert_double_eq_tol(all.all, sum / 4, 1e-6); /* fp32 losses, summed in double */
    ck_assert(isnan(all.trigger) && isnan(all.other));
}
END_TEST

START_TEST(failed_evaluation_leaves_the_losses) {
    sl_losses losses = {1, 2, 3};
    sl_threads_set(2); /* more than the model was made for */
    ck_assert_int_eq(sl_evaluate(model, data, 4, SL_SPREAD, &losses, NULL), -1);
    sl_threads_set(1);
    ck_assert(losses.all == 1 && losses.trigger == 2 && losses.other == 3);
}
END_TEST

int main(void) {
    Suite *s = suite_create("windows");
    TCase *t = tcase_create("windows");
    tcase_add_unchecked_fixture(t, setup, teardown);
    tcase_add_test(t, last_batch_without_loss);
    tcase_add_test(t, windows_in_front_are_left_out);
    tcase_add_test(t, windows_are_spread);
    tcase_add_test(t, there_are_so_many_windows);
    tcase_add_test(t, last_batch_begins_again);
    tcase_add_test(t, training_windows_come_in_order_of_training);
    tcase_add_test(t, first_failure_ends_it);
    tcase_add_test(t, no_windows_no_batch);
    tcase_add_test(t, evaluation_is_the_mean_of_the_windows);
    tcase_add_test(t, failed_evaluation_leaves_the_losses);
    suite_add_tcase(s, t);
    return run_suite(s);
}
