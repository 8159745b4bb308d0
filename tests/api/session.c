/* The level that the verbs and the Python package share, on the public header alone: a training run that is stopped
 * and goes on, its checkpoint opened with other keys, measured and rounded; texts.  session FOLDER */
#include <sinklab.h>

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2, SEQ = 16, STEPS = 6 };

static const char config[] = "model: {layers: 2, dim: 16, heads: 2, ffn: 24, seq: 16}\n"
                             "data: {corpus: synthetic:backcopy}\n"
                             "train: {steps: 6, batch: 2, warmup: 1, eval_every: 2, eval_windows: 4, probe_every: 0}\n";

static void must(bool ok, const char *what) {
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, sl_error());
    exit(1);
}

/* The call must have failed with `message`. */
static void failed(bool failure, const char *message) {
    must(failure && strstr(sl_error(), message), message);
}

static bool stop_at_once(void *ctx) {
    ++*(int *)ctx;
    return true;
}

static void keep(void *ctx, const char *line) { snprintf(ctx, 256, "%.255s", line); }

/* Steps to the end; the figures of the last one are freed by the caller. */
static char *run_to_the_end(sl_run *r) {
    char *last = NULL, *line;
    int rc;
    while ((rc = sl_run_step(r, &line)) > 0) {
        free(last);
        last = line;
    }
    must(rc == 0 && sl_run_steps(r) == STEPS, "steps");
    return last;
}

static void without_seconds(char *line) { *strstr(line, "\"tokens_per_s\"") = 0; }

static void train(const char *folder) {
    sl_config *c = sl_config_create();
    must(c && sl_config_parse(c, config, sizeof config - 1, "session.c") == 0, "configuration");
    sl_run *whole = sl_run_open(c, NULL, false), *r = sl_run_open(c, folder, false);
    must(whole && r, "run");
    char *expected = run_to_the_end(whole), *line;
    failed(sl_run_save(whole) != 0, "no folder");
    sl_run_close(whole);

    int asked = 0;
    must(sl_run_step(r, &line) == 1, "step");
    free(line);
    sl_stop_when(stop_at_once, &asked); /* in the evaluation behind step 2 */
    failed(sl_run_step(r, &line) < 0, "interrupted");
    must(asked == 1 && sl_run_steps(r) == 2, "the step that was broken off is done");
    sl_stop_when(NULL, NULL);
    must(sl_run_step(r, &line) == 1 && strstr(line, "\"step\":2") && strstr(line, "\"val_loss\""), "what was left");
    free(line);
    must(sl_run_save(r) == 0, "save");
    failed(!sl_run_open(c, folder, true), "another process"); /* it has the folder */
    sl_run_close(r);

    failed(!sl_run_open(c, folder, false), "already holds a run");
    r = sl_run_open(c, folder, true);
    must(r && sl_run_steps(r) == 2, "resumed");
    char *got = run_to_the_end(r), *result = sl_run_result(r), *probe = sl_run_probe(r, false);
    must(result && strstr(result, "\"finished\"") && probe && strstr(probe, "\"att0_trigger\""), "result");
    without_seconds(expected), without_seconds(got);
    must(strcmp(expected, got) == 0, "the same figures as of a run that was not stopped");
    free(expected), free(got), free(result), free(probe);
    sl_run_close(r);
    sl_config_free(c);
}

/* A model of other batches with the same weights computes the same. */
static void take(const sl_config *c, const sl_model *m, int32_t vocab, double loss, const int32_t *in,
                 const int32_t *target) {
    double again;
    sl_model *one = sl_model_create(c, vocab, 1, BATCH * SEQ, 0), *same = sl_model_create(c, vocab, BATCH, SEQ, 0);
    must(sl_model_take(one, m) == 0 && sl_model_take(same, m) == 0, "take");
    must(sl_model_forward(same, in, target, &again, NULL) == 0 && again == loss, "the same loss");
    failed(sl_model_take(NULL, m) != 0, "NULL");
    failed(sl_model_take(one, NULL) != 0, "NULL");
    sl_config *wide = sl_config_copy(c);
    must(wide && sl_config_override(wide, "model.ffn=32") == 0, "wider");
    sl_model *other = sl_model_create(wide, vocab, BATCH, SEQ, 0);
    failed(sl_model_take(other, m) != 0, "none of that size");
    sl_model_free(one), sl_model_free(same), sl_model_free(other);
    sl_config_free(wide);
}

static void attention(const sl_model *m) {
    float map[BATCH * SEQ * SEQ];
    must(sl_model_attention_weights(m, 1, 1, map) == 0, "attention weights");
    for (int row = 0; row < BATCH * SEQ; row++) {
        double sum = 0;
        for (int key = 0; key < SEQ; key++) {
            sum += map[row * SEQ + key];
            must(key <= row % SEQ || map[row * SEQ + key] == 0, "no query sees what comes after it");
        }
        must(fabs(sum - 1) < 1e-6, "rows sum to 1");
    }
    failed(sl_model_attention_weights(m, 0, 2, map) != 0, "no head 2");
    failed(sl_model_attention_weights(m, 2, 0, map) != 0, "layer 2, of 2");
    failed(sl_model_attention_weights(NULL, 0, 0, map) != 0, "NULL");
}

static void measure(const char *folder) {
    char dir[SL_DIR_CHARS], warned[256] = "";
    const char *const keys[] = {"model.clip=50", "threads=400"}, *const other[] = {"model.dim=32"};
    int32_t vocab, in[BATCH * SEQ], target[BATCH * SEQ];
    double loss;
    sl_config *c = sl_config_create();
    sl_warn_to(keep, warned);
    must(sl_open(folder, &(sl_open_options){keys, 2, NULL}, c, dir, &vocab) == 0, "open");
    must(strstr(warned, "threads=400") != NULL, "the warning goes where it is wanted");
    sl_warn_to(NULL, NULL);
    sl_threads_set(2);
    failed(sl_open(folder, &(sl_open_options){other, 1, NULL}, c, dir, &vocab) != 0, "another model");
    must(sl_open(folder, &(sl_open_options){keys, 1, NULL}, c, dir, &vocab) == 0, "open again");
    failed(sl_config_change(c, &(sl_open_options){other, 1, NULL}, "it") != 0, "it: was trained as another model");
    char *json = sl_config_json(c), *yaml = sl_config_yaml(c);
    must(json && strstr(json, "\"model.clip\": 50") && yaml && strstr(yaml, "clip: 50"), "configuration as text");
    free(json), free(yaml);

    sl_dataset *d = sl_open_data(c, dir, vocab);
    sl_model *m = sl_model_create(c, vocab, BATCH, SEQ, SL_MODEL_TAPS);
    must(d && sl_dataset_windows(d, SL_VAL) > 4 && sl_model_load(m, dir, NULL) == 0, "data and model");
    char *figures = sl_measure_json(m, d, 4, "norms", false), *lost = sl_eval_json(m, d, 3, true);
    must(figures && strstr(figures, "\"measures\":{\"norms\"") && lost && strstr(lost, "\"loss_trigger\""), "figures");
    free(figures), free(lost);
    failed(!sl_measure_json(m, d, 3, NULL, false), "not whole batches");
    failed(!sl_measure_json(m, d, 4, "nrom", false), "did you mean norms");
    failed(!sl_measure_json(NULL, d, 4, NULL, false), "NULL");
    must(sl_measure_batch(20) == 10 && sl_measure_batch(17) == 1 && sl_measure_batch(64) == 16, "batches");

    for (int i = 0; i < BATCH * SEQ; i++)
        in[i] = i % vocab, target[i] = (i + 1) % vocab;
    must(sl_model_forward(m, in, target, &loss, NULL) == 0, "forward");
    attention(m);
    take(c, m, vocab, loss, in, target);
    failed(!sl_dataset_of_tokens(c, in, SEQ - 1), "not enough for one window");
    sl_dataset *own = sl_dataset_of_tokens(c, in, BATCH * SEQ);
    must(own && sl_dataset_windows(own, SL_VAL) == BATCH && sl_dataset_windows(own, SL_TRAIN) == 0, "own tokens");
    sl_dataset_close(own), sl_dataset_close(d);
    sl_model_free(m);
    sl_config_free(c);
}

static void texts(void) {
    int32_t *tokens = NULL;
    int64_t n;
    size_t bytes;
    float logits[3] = {1, 3, 2};
    sl_tokenizer *t = sl_tokenizer_open("bytes");
    must(t && sl_tokenizer_encode(t, "sink", 4, &tokens, &n) == 0 && n == 4 && tokens[0] == 's', "encode");
    must(*sl_tokenizer_piece(t, 'k', &bytes) == 'k' && bytes == 1 && !sl_tokenizer_piece(t, 257, &bytes), "pieces");
    free(tokens);
    sl_tokenizer_close(t);
    sl_sampler *s = sl_sampler_create(3, 1);
    must(s && sl_sample(s, &(sl_sampling){0, 0, 1}, logits) == 1, "the likeliest");
    must(sl_sample(s, &(sl_sampling){9, 1, 1}, logits) == 1, "among one");
    sl_sampler_free(s);
    char *keys = sl_config_keys_json(), *config_schema = sl_config_schema(), *schema = sl_measure_schema();
    must(keys && config_schema && schema && strstr(schema, "2020-12"), "tables");
    free(keys), free(config_schema), free(schema);
    must(*sl_tier() && (sl_cuda() || *sl_error()), "what there is");
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *at) {
    (void)s, (void)type, (void)at;
    return remove(path);
}

int main(int argc, char **argv) {
    must(argc == 2, "usage: session FOLDER");
    nftw(argv[1], remove_one, 8, FTW_DEPTH | FTW_PHYS); /* what an earlier test has left */
    train(argv[1]);
    measure(argv[1]);
    texts();
    return 0;
}
