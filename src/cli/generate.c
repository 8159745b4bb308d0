/* Text generation with a key/value cache. */
#include "base/err.h"
#include "checkpoint/checkpoint.h"
#include "cli/args.h"
#include "session/load.h"
#include "cli/verbs.h"
#include "data/synthetic.h"
#include "eval/evaluate.h"

#include <stdlib.h>
#include <string.h>

enum { TOKENS = 200 };

typedef struct {
    const char *prompt, *bos;
    int64_t tokens; /* 0: not given */
    int64_t seed;
    sl_sampling sampling;
} options;

static void print_token(const sl_tokenizer *t, int32_t id) {
    size_t n = 0;
    const char *piece = sl_tokenizer_piece(t, id, &n);
    if (piece)
        fwrite(piece, 1, n, stdout);
    else
        fputs("\n<|endoftext|>\n", stdout);
    fflush(stdout);
}

/* Feeds the prompt, its last token with the logits, then samples until the cache is full or enough tokens are out. */
static int decode(sl_model *m, const sl_tokenizer *t, const int32_t *prompt, int64_t n,
                  const options *o, float *logits, sl_sampler *sampler) {
    int32_t token = prompt[n - 1];
    if (n > 1 && sl_model_prompt(m, prompt, n - 1))
        return -1;
    for (int64_t at = n - 1; at < n + o->tokens - 1; at++) {
        if (sl_model_decode(m, &token, at, logits))
            return -1;
        token = sl_sample(sampler, &o->sampling, logits);
        print_token(t, token);
    }
    putchar('\n');
    return 0;
}

/* The running means that model.sink_nullify goes by, where the checkpoint has none: measured as eval does, by a model
 * of whole windows. */
static int take_states(sl_model *decoder, const sl_config *c, char *dir, int32_t vocab) {
    if (!sl_model_states_missing(decoder))
        return 0;
    sl_dataset *d = sl_open_data(c, dir, vocab);
    sl_model *m = d ? sl_model_create(c, vocab, c->train_batch, c->model_seq, sl_load_compact(c, dir)) : NULL;
    int rc = m && sl_load_weights(m, dir) == 0 && sl_measure_states(m, d) == 0 ? sl_model_take(decoder, m) : -1;
    sl_model_free(m);
    sl_dataset_close(d);
    return rc;
}

/* The prompt as tokens with BOS in front (if the model was trained so). */
static int prompt_tokens(const sl_config *c, const sl_tokenizer *t, const char *text, int32_t **out, int64_t *n) {
    int32_t *body = NULL;
    int64_t count = 0;
    if (sl_tokenizer_encode(t, text, strlen(text), &body, &count))
        return -1;
    bool bos = c->data_bos || count == 0;
    if (bos && sl_tokenizer_bos(t) < 0) {
        free(body);
        return sl_fail_usage("the tokenizer has no BOS to begin with; give a --prompt");
    }
    *out = malloc((size_t)(count + 1) * sizeof **out);
    if (!*out) {
        free(body);
        return sl_fail("out of memory for the prompt");
    }
    if (bos)
        (*out)[0] = sl_tokenizer_bos(t);
    if (count)
        memcpy(*out + bos, body, (size_t)count * sizeof **out);
    *n = count + bos;
    free(body);
    int32_t first;
    if (sl_dataset_first_token(c, t, &first)) {
        free(*out);
        *out = NULL;
        return -1;
    }
    if (first >= 0)
        (*out)[0] = first;
    return 0;
}

static int generate(const sl_config *c, char *dir, int32_t vocab, options *o) {
    if (sl_synthetic_named(c->data_corpus))
        return sl_fail_usage("the checkpoint was trained on %s, whose tokens are no text", c->data_corpus);
    sl_tokenizer *t = sl_dataset_open_tokenizer(c);
    int32_t *prompt = NULL;
    int64_t n = 0;
    int rc = -1;
    sl_model *m = NULL;
    sl_sampler *sampler = NULL;
    float *logits = NULL;
    if (!t || prompt_tokens(c, t, o->prompt, &prompt, &n))
        goto end;
    if (sl_tokenizer_vocab(t) > vocab || (sl_tokenizer_vocab(t) < vocab && !sl_checkpoint_foreign(dir))) {
        sl_fail("the checkpoint has %d tokens, but data.tokenizer=%s has %d; give the one it was trained with", vocab,
                c->data_tokenizer, sl_tokenizer_vocab(t));
        goto end;
    }
    if (o->tokens == 0 && n < c->model_seq)
        o->tokens = c->model_seq - n < TOKENS ? c->model_seq - n : TOKENS;
    if (o->tokens == 0 || n + o->tokens > c->model_seq) {
        sl_fail_usage("a prompt of %lld tokens and %lld new ones pass the model's window of %lld positions (model.seq)",
                      (long long)n, (long long)(o->tokens ? o->tokens : 1), (long long)c->model_seq);
        goto end;
    }
    m = sl_load_compact(c, dir) ? sl_model_create_compact_decoder(c, vocab, 1, c->model_seq)
                                : sl_model_create_decoder(c, vocab, 1, c->model_seq);
    if (!m || !(sampler = sl_sampler_create(vocab, (uint64_t)o->seed)) || sl_load_weights(m, dir) ||
        take_states(m, c, dir, vocab))
        goto end;
    if (!(logits = malloc((size_t)vocab * sizeof *logits))) {
        sl_fail("out of memory for logits");
        goto end;
    }
    fputs(o->prompt, stdout);
    rc = decode(m, t, prompt, n, o, logits, sampler);
end:
    free(logits);
    free(prompt);
    sl_sampler_free(sampler);
    sl_model_free(m);
    sl_tokenizer_close(t);
    return rc;
}

int sl_verb_generate(int argc, char **argv) {
    options o = {.prompt = "", .seed = 1, .sampling = {.temperature = 1, .top_p = 1}};
    const sl_flag flags[] = {
        SL_FLAG_STR("prompt", "TEXT", &o.prompt, "text to go on from; default none"),
        SL_FLAG_BOS(&o.bos),
        SL_FLAG_INT("tokens", "N", &o.tokens, 1, 1e9,
                    "tokens to generate; default 200, fewer where the window ends before"),
        SL_FLAG_REAL("temperature", "T", &o.sampling.temperature, 0, 100, "0 takes the likeliest token; default 1"),
        SL_FLAG_INT("top-k", "K", &o.sampling.top_k, 0, 1e9, "sample among the K likeliest tokens; 0 = all (default)"),
        SL_FLAG_REAL("top-p", "P", &o.sampling.top_p, 0, 1,
                     "sample among the likeliest tokens that hold a share P of the probability; default 1"),
        SL_FLAG_INT("seed", "N", &o.seed, 0, 9007199254740991.0, "same seed, same text; default 1"),
        SL_FLAG_END};
    const sl_verb_spec spec = {.verb = "generate",
                               .operands = "CHECKPOINT [key=value ...]",
                               .about = "Writes text with a checkpoint: its folder, a run folder, a Hugging Face "
                                        "folder or a GGUF file.",
                               .flags = flags,
                               .min_positionals = 1,
                               .max_positionals = 1,
                               .overrides = true,
                               .examples = "sinklab generate runs/base --prompt 'The Lord is' --temperature 0.8\n"
                                           "sinklab generate model.gguf --prompt 'The Lord is' data.corpus=text.txt "
                                           "model.sink_nullify=2\n"};
    sl_args args;
    sl_config c;
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (sl_args_load(&args, o.bos, 1, &c, dir, &vocab))
        return -1;
    return generate(&c, dir, vocab, &o);
}
