/* What verbs on a checkpoint share. */
#ifndef SL_CLI_LOAD_H
#define SL_CLI_LOAD_H

#include "cli/args.h"
#include "data/dataset.h"
#include "model/model.h"

/* Reads the configuration of the checkpoint at args->positional[0], applies the overrides, sets the threads. The
 * folder that is meant goes to dir, its vocabulary to *vocab. */
int sl_load_config(const sl_args *args, sl_config *c, char dir[SL_DIR_CHARS], int32_t *vocab);
/* Opens the configured corpus; fails if its vocabulary is not the checkpoint's. */
sl_dataset *sl_load_dataset(const sl_config *c, int32_t vocab);

#endif
