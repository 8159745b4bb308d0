#include "cli/load.h"

#include "base/err.h"
#include "base/log.h"
#include "base/threads.h"
#include "data/synthetic.h"
#include "checkpoint/checkpoint.h"

int sl_load_config(const sl_args *args, sl_config *c, char dir[SL_DIR_CHARS], int32_t *vocab) {
    if (sl_checkpoint_open(args->positional[0], dir, c, vocab) || sl_args_override(args, c) ||
        sl_config_check(c))
        return -1;
    if (*sl_checkpoint_passed_over())
        sl_warn("%s; reading %s instead", sl_checkpoint_passed_over(), dir);
    return sl_threads_start((int)c->threads, (enum sl_pin)c->pin);
}

sl_dataset *sl_load_dataset(const sl_config *c, int32_t vocab) {
    sl_tokenizer *t = sl_dataset_open_tokenizer(c);
    if (!t)
        return NULL;
    int32_t its = sl_tokenizer_vocab(t);
    sl_tokenizer_close(t);
    if (its == vocab)
        return sl_dataset_open(c);
    /* Before a large corpus is tokenized for nothing. */
    bool text = !sl_synthetic_named(c->data_corpus);
    sl_fail("the checkpoint has %d tokens, but %s=%s has %d; give the one it was trained with", vocab,
            text ? "data.tokenizer" : "data.corpus", text ? c->data_tokenizer : c->data_corpus, its);
    return NULL;
}
