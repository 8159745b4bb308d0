/* How often a model's first choice is right: what a benchmark of answers asks, of models too small for those. */
#ifndef SL_EVAL_CLOZE_H
#define SL_EVAL_CLOZE_H

#include "data/dataset.h"
#include "model/model.h"

#include <stdbool.h>

/* A token's first choice is the one of greatest logit, of several the first. Words: letters (of ASCII, and bytes from
 * 0x80 on) behind white space, in one token or several; known whole where a token of something else follows in the
 * window, and right where each of its tokens is the first choice behind those before it, as LAMBADA counts (arXiv
 * 1606.06031). Those that begin in the second half of their window count, so that half a window at least is known. */
typedef struct {
    int64_t tokens, tokens_right;
    int64_t words, words_right; /* 0 of synthetic tasks, and where the tokenizer knows no text */
} sl_cloze;

/* Adds a window: of each of `seq` positions its target (-1: none) and whether the first choice is right. */
void sl_cloze_add(sl_cloze *c, const sl_tokenizer *t, int64_t seq, const int32_t *target, const bool *right);

/* Over so many validation windows (all if fewer), skip as of sl_windows. Needs a float for each position of the model's
 * batch and token of the vocabulary. Returns 0, or -1 with a message and *c untouched. */
int sl_cloze_windows(sl_model *m, const sl_dataset *d, int64_t windows, int64_t skip, sl_cloze *c);

#endif
