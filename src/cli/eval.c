#include "base/err.h"
#include "cli/args.h"
#include "cli/verbs.h"
#include "eval/windows.h"
#include "session/load.h"
#include "session/measure.h"

#include <math.h>
#include <stdlib.h>

static double number(const json_t *x) { return json_is_real(x) ? json_real_value(x) : NAN; }

static void print_cloze(const json_t *o) {
    printf("accuracy         %.4f of the tokens are the first choice\n", number(json_object_get(o, "accuracy")));
    if (json_is_real(json_object_get(o, "cloze")))
        printf("cloze            %.4f of %lld words\n", number(json_object_get(o, "cloze")),
               (long long)json_integer_value(json_object_get(o, "words")));
}

static int report(const json_t *o, bool json) {
    if (json) {
        json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
        putchar('\n');
        return 0;
    }
    const json_t *bits = json_object_get(o, "bits_per_byte"), *trigger = json_object_get(o, "loss_trigger");
    double loss = json_real_value(json_object_get(o, "loss"));
    printf("loss             %.6f nats a token\nperplexity       %.4f\n", loss, exp(loss));
    if (json_is_real(bits))
        printf("bits per byte    %.6f\n", json_real_value(bits));
    if (trigger)
        printf("at triggers      %.6f\nelsewhere        %.6f\n", number(trigger),
               number(json_object_get(o, "loss_other")));
    if (json_object_get(o, "words"))
        print_cloze(o);
    printf("tokens           %lld in %lld windows\n", (long long)json_integer_value(json_object_get(o, "tokens")),
           (long long)json_integer_value(json_object_get(o, "windows")));
    return 0;
}

static int evaluate(const sl_config *c, char *dir, int32_t vocab, const sl_eval_options *how, bool json) {
    sl_dataset *d = sl_open_data(c, dir, vocab);
    sl_model *m = d ? sl_model_create(c, vocab, c->train_batch, c->model_seq, sl_load_compact(c, dir)) : NULL;
    json_t *o = m && sl_load_weights(m, dir) == 0 ? sl_eval(m, d, how) : NULL;
    int rc = o ? report(o, json) : -1;
    json_decref(o);
    sl_model_free(m);
    sl_dataset_close(d);
    return rc;
}

int sl_verb_eval(int argc, char **argv) {
    sl_eval_options how = {.skip = SL_SPREAD};
    bool json = false;
    const char *bos = NULL;
    const sl_flag flags[] = {
        SL_FLAG_INT("windows", "N", &how.windows, 0, 1e12, "validation windows; default all"),
        SL_FLAG_SKIP(&how.skip),
        SL_FLAG_BOS(&bos),
        SL_FLAG_BOOL("cloze", &how.cloze,
                     "also how often the first choice is right: of tokens (accuracy), and of whole words in the second "
                     "half of their window (cloze; src/eval/cloze.h says which)"),
        SL_FLAG_BOOL("each-window", &how.each_window,
                     "with --json: also \"window_loss\", the mean loss of each window"),
        SL_FLAG_BOOL("json", &json,
                     "print one JSON object: loss, perplexity, bits_per_byte, tokens, windows; of synthetic tasks also "
                     "loss_trigger, loss_other; with --cloze accuracy, cloze, words"),
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
                                           "sinklab eval runs/gated --cloze --windows 200\n"
                                           "sinklab eval runs/gated data.corpus=other.txt\n"};
    sl_args args;
    sl_config c;
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (sl_args_load(&args, bos, 1, &c, dir, &vocab))
        return -1;
    return evaluate(&c, dir, vocab, &how, json);
}
