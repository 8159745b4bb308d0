/* What verbs on a checkpoint share. */
#ifndef SL_CLI_LOAD_H
#define SL_CLI_LOAD_H

#include "cli/args.h"
#include "data/dataset.h"
#include "model/model.h"

/* Reads the configuration of the checkpoint at args->positional[0], applies the overrides, sets the threads. The
 * folder (or GGUF file) that is meant goes to dir, its vocabulary to *vocab. A model of others begins windows with BOS
 * where its tokenizer does, and of a text without a val part the share `measured` is its val part. bos, the flag of
 * SL_FLAG_BOS: NULL as that, "none", or the token or id to begin with. */
int sl_load_config(const sl_args *args, const char *bos, double measured, sl_config *c, char dir[SL_DIR_CHARS],
                   int32_t *vocab);
/* The overrides of args on the configuration of the checkpoint in dir; refuses what would make another model of it. */
int sl_load_override(const sl_args *args, sl_config *c, const char *dir);
/* The weights of the checkpoint in dir. A run that is training may have taken it away: then its newest, and dir is
 * that. */
int sl_load_weights(sl_model *m, char dir[SL_DIR_CHARS]);
/* Whether dir was a checkpoint of a run, is gone, and the run has another one, which is dir then. */
bool sl_load_moved_on(char dir[SL_DIR_CHARS]);
/* Opens the configured corpus; fails if its vocabulary is not that of the checkpoint in dir. Of models of others the
 * embedding may be filled up to a round number of tokens. */
sl_dataset *sl_load_dataset(const sl_config *c, const char *dir, int32_t vocab);
#define SL_FLAG_BOS(bos) \
    SL_FLAG_STR("bos", "TOKEN", bos, "what windows begin with: none, an id, or a token as the tokenizer's file " \
                                     "writes it; default: the run's, or of models of others the tokenizer's own rule")
/* What that flag says; NULL: nothing. */
int sl_load_bos(const char *bos, sl_config *c);
/* The id of BOS in the windows of a dataset of c; -1: they have none. */
int sl_load_bos_id(const sl_config *c, int32_t *id);

#endif
