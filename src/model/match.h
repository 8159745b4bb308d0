/* model.match_params: the width of the feed-forward at which a variant has as many parameters as its baseline
 * (sl_config_baseline), found by building parameter tables: no variant need say how many it has. */
#ifndef SL_MODEL_MATCH_H
#define SL_MODEL_MATCH_H

#include "config/config.h"

typedef struct {
    int64_t params, baseline; /* parameters of the model and of its baseline */
    int64_t ffn;              /* width of the model's feed-forward; of mixtures that of one expert */
} sl_match;

/* The key of the width that is changed: model.ffn, of mixtures model.expert_ffn. */
const char *sl_match_key(const sl_config *c);
/* Sets that key of *c to the matched width if c->model_match_params, else changes nothing; c has passed
 * sl_config_check. Fails where no width comes within 0.1 % (a model so small that one column of the feed-forward is
 * more than that): a study that asks for equal counts must not go on without. */
int sl_match_params(sl_config *c, int32_t vocab);
/* What comes of it. */
int sl_match_count(const sl_config *c, int32_t vocab, sl_match *match);

#endif
