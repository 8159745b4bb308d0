/* The tokens of largest norm in each layer of the residual stream, |h_t| over channels in double: which tokens at
 * which place are the massive activations (arXiv 2402.17762). Token 0 of a window and all others are ranked apart,
 * since a first token outgrows the others whatever it is. */
#ifndef SL_PROBE_TOP_TOKENS_H
#define SL_PROBE_TOP_TOKENS_H

#include "model/model.h"

enum { SL_TOP_TOKENS = 10, SL_TOP_FIRST = 0, SL_TOP_OTHERS = 1 };

typedef struct {
    double norm;
    int64_t window, position; /* window: of those added, from 0 */
    int32_t token;
} sl_top_token;

/* The largest first; of equal norms the earlier one. */
typedef struct {
    int count; /* at most SL_TOP_TOKENS */
    sl_top_token row[SL_TOP_TOKENS];
} sl_top_list;

typedef struct sl_top_tokens sl_top_tokens;

/* NULL with a message. */
sl_top_tokens *sl_top_tokens_create(const sl_model *m);
void sl_top_tokens_free(sl_top_tokens *t);
/* Adds the pass over `in` that m has just done; m as above, with taps. The lists are the same for any number of
 * threads. */
int sl_top_tokens_add(sl_top_tokens *t, const sl_model *m, const int32_t *in);
/* The layer 0..layers that the largest norm of all is in, the lowest of equals. */
int64_t sl_top_tokens_layer(const sl_top_tokens *t);
/* kind: SL_TOP_FIRST or SL_TOP_OTHERS. */
const sl_top_list *sl_top_tokens_list(const sl_top_tokens *t, int64_t layer, int kind);
/* Mean norm of all tokens but those at position 0; NaN without any. */
double sl_top_tokens_mean(const sl_top_tokens *t, int64_t layer);

#endif
