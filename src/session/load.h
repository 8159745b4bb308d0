/* A checkpoint opened to be used: the command line and sl_open() of sinklab.h. */
#ifndef SL_SESSION_LOAD_H
#define SL_SESSION_LOAD_H

#include "data/dataset.h"
#include "model/model.h"

/* sl_open(), but of a text without a val part only the share `measured` is the val part of a model of others. */
int sl_load_config(const char *path, const sl_open_options *o, double measured, sl_config *c, char dir[SL_DIR_CHARS],
                   int32_t *vocab);
/* Another data.corpus; NULL: as it is. */
int sl_load_corpus(const char *corpus, sl_config *c);
/* The weights of the checkpoint in dir. A run that is training may have taken it away: then its newest, and dir is
 * that. */
int sl_load_weights(sl_model *m, char dir[SL_DIR_CHARS]);
/* SL_MODEL_COMPACT, or 0 where a run that trained with fp32 products, bf16 asked for but without a unit, would be read
 * with rounded weights. */
unsigned sl_load_compact(const sl_config *c, const char *dir);
/* Whether dir was a checkpoint of a run, is gone, and the run has another one, which is dir then. */
bool sl_load_moved_on(char dir[SL_DIR_CHARS]);
/* The id of BOS in the windows of a dataset of c; -1: they have none. */
int sl_load_bos_id(const sl_config *c, int32_t *id);

#endif
