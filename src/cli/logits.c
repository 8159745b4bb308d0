#include "base/err.h"
#include "cli/args.h"
#include "session/load.h"
#include "cli/verbs.h"
#include "io/file.h"
#include "io/npy.h"

#include <stdlib.h>

static int compute(const sl_config *c, char *dir, int32_t vocab, const char *in, const char *out) {
    int64_t shape[3];
    int32_t *tokens = NULL;
    if (sl_npy_read_tokens(in, shape, &tokens))
        return -1;
    if (shape[0] == 0 || shape[1] == 0) {
        free(tokens);
        return sl_fail("%s holds no tokens", in);
    }
    shape[2] = vocab;
    sl_model *m = sl_model_create(c, vocab, shape[0], shape[1], sl_load_compact(c, dir));
    float *logits = malloc((size_t)(shape[0] * shape[1] * vocab) * sizeof *logits);
    int rc = m ? 0 : -1;
    if (m && !logits)
        rc = sl_fail("out of memory for logits of %lld tokens", (long long)(shape[0] * shape[1]));
    if (rc == 0 && (rc = sl_load_weights(m, dir)) == 0) {
        rc = sl_model_logits(m, tokens, logits) ? sl_fail_prefix("%s", in)
                                                : sl_npy_write(out, "<f4", 3, shape, logits);
    }
    free(logits);
    free(tokens);
    sl_model_free(m);
    return rc;
}

int sl_verb_logits(int argc, char **argv) {
    const char *tokens = NULL, *out = NULL;
    const sl_flag flags[] = {
        SL_FLAG_STR("tokens", "X.npy", &tokens, "integer array [windows, positions] or [positions]"),
        SL_FLAG_STR("out", "Y.npy", &out, "where the float32 array [windows, positions, vocabulary] goes"),
        SL_FLAG_END};
    const sl_verb_spec spec = {.verb = "logits",
                               .operands = "CHECKPOINT --tokens X.npy --out Y.npy",
                               .about = "Logits of a checkpoint for given tokens; no token is added in front.",
                               .flags = flags,
                               .min_positionals = 1,
                               .max_positionals = 1,
                               .overrides = true,
                               .examples = "sinklab logits runs/base --tokens tokens.npy --out logits.npy\n"};
    sl_args args;
    sl_config c;
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (!tokens || !out)
        return sl_fail_usage("logits needs --tokens X.npy and --out Y.npy");
    if (sl_same_file(tokens, out))
        return sl_fail_usage("logits: --out %s is the file that --tokens reads; give another", out);
    if (sl_args_load(&args, NULL, 1, &c, dir, &vocab))
        return -1;
    return compute(&c, dir, vocab, tokens, out);
}
