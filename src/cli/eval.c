#include "base/err.h"
#include "cli/args.h"
#include "cli/load.h"
#include "cli/verbs.h"
#include "eval/evaluate.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static int report(const sl_dataset *d, const sl_losses *l, int64_t windows, int64_t seq, bool json) {
    double loss = l->all, bytes = sl_dataset_bytes_per_token(d, SL_VAL), bits = loss / log(2) / bytes;
    if (!isfinite(loss))
        return sl_fail("the loss is not a number; the checkpoint is broken or was diverging");
    if (!json) {
        printf("loss             %.6f nats a token\nperplexity       %.4f\n", loss, exp(loss));
        if (bytes > 0)
            printf("bits per byte    %.6f\n", bits);
        if (sl_dataset_has_marks(d))
            printf("at triggers      %.6f\nelsewhere        %.6f\n", l->trigger, l->other);
        printf("tokens           %lld in %lld windows\n", (long long)(windows * seq), (long long)windows);
        return 0;
    }
    json_t *o = json_pack("{s:f, s:o, s:o, s:I, s:I}", "loss", loss, "perplexity",
                          isfinite(exp(loss)) ? json_real(exp(loss)) : json_null(), "bits_per_byte",
                          bytes > 0 ? json_real(bits) : json_null(), "tokens", (json_int_t)(windows * seq),
                          "windows", (json_int_t)windows);
    if (!o)
        return sl_fail("out of memory for the result");
    if (sl_dataset_has_marks(d)) {
        json_object_set_new(o, "loss_trigger", isfinite(l->trigger) ? json_real(l->trigger) : json_null());
        json_object_set_new(o, "loss_other", isfinite(l->other) ? json_real(l->other) : json_null());
    }
    json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(o);
    return 0;
}

static int evaluate(const sl_config *c, char *dir, int32_t vocab, int64_t windows, bool json) {
    sl_dataset *d = sl_load_dataset(c, dir, vocab);
    sl_model *m = d ? sl_model_create(c, vocab, c->train_batch, c->model_seq, 0) : NULL;
    int rc = -1;
    if (m && sl_load_weights(m, dir) == 0 && sl_measure_states(m, d) == 0) {
        if (windows == 0 || windows > sl_dataset_windows(d, SL_VAL))
            windows = sl_dataset_windows(d, SL_VAL);
        sl_losses losses;
        rc = sl_evaluate(m, d, windows, &losses);
        if (rc == 0)
            rc = report(d, &losses, windows, c->model_seq, json);
    }
    sl_model_free(m);
    sl_dataset_close(d);
    return rc;
}

int sl_verb_eval(int argc, char **argv) {
    int64_t windows = 0;
    bool json = false;
    const char *bos = NULL;
    const sl_flag flags[] = {
        SL_FLAG_INT("windows", "N", &windows, 0, 1e12, "validation windows, from the first one; default all"),
        SL_FLAG_BOS(&bos),
        SL_FLAG_BOOL("json", &json,
                     "print one JSON object: loss, perplexity, bits_per_byte, tokens, windows; of synthetic tasks also "
                     "loss_trigger, loss_other"),
        SL_FLAG_END};
    const sl_verb_spec spec = {.verb = "eval",
                               .operands = "CHECKPOINT [key=value ...]",
                               .about = "Loss of a checkpoint (its folder, a run folder, a Hugging Face folder or a "
                                        "GGUF file) on validation text, by default that of its own corpus.",
                               .flags = flags,
                               .min_positionals = 1,
                               .max_positionals = 1,
                               .overrides = true,
                               .examples = "sinklab eval runs/gated --json\n"
                                           "sinklab eval runs/gated data.corpus=other.txt\n"};
    sl_args args;
    sl_config c;
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (sl_load_config(&args, bos, 1, &c, dir, &vocab))
        return -1;
    return evaluate(&c, dir, vocab, windows, json);
}
