/* The tokens of largest norm (probe/top_tokens.h) as `probe` tells them. */
#ifndef SL_SESSION_TOKENS_H
#define SL_SESSION_TOKENS_H

#include "eval/windows.h"
#include "probe/top_tokens.h"

#include <jansson.h>

/* {layer: that of the largest norm, mean_norm: of all tokens there but those at position 0, first: [...], others:
 * [...]}, each list of {norm, window, position, token, text}, the largest first. window counts from the first window of
 * the text on: `probe --windows 1 --skip WINDOW` is of that one. text: the token's bytes, those that are no UTF-8 as
 * U+FFFD; null where the data's tokenizer knows none, of BOS above all. NULL with a message when out of memory. */
json_t *sl_top_tokens_json(const sl_top_tokens *t, const sl_dataset *d, const sl_windows *w);

#endif
