#include "cli/load.h"

#include "base/err.h"
#include "base/threads.h"

int sl_load_config(const sl_args *args, sl_config *c, char dir[SL_DIR_CHARS], int32_t *vocab) {
    if (sl_checkpoint_open(args->positional[0], dir, c, vocab) || sl_args_override(args, c) ||
        sl_config_check(c))
        return -1;
    sl_threads_set((int)c->threads);
    return 0;
}

sl_dataset *sl_load_dataset(const sl_config *c, int32_t vocab) {
    sl_dataset *d = sl_dataset_open(c);
    if (d && sl_dataset_vocab(d) != vocab) {
        sl_fail("the checkpoint has %d tokens, but %s with tokenizer %s has %d; give the data.tokenizer it was "
                "trained with", vocab, c->data_corpus, c->data_tokenizer, sl_dataset_vocab(d));
        sl_dataset_close(d);
        return NULL;
    }
    return d;
}
