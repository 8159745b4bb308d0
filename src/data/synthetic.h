/* Synthetic corpora (data.corpus = synthetic:KIND, the kinds are in data/synthetic.inc): endless, every sequence a
 * pure function of a generator of random numbers. Tokens are symbols 0 .. symbols-1; BOS is the next id. A
 * sequence is laid out in windows by data/dataset.c; here it has no BOS. */
#ifndef SL_DATA_SYNTHETIC_H
#define SL_DATA_SYNTHETIC_H

#include "base/rng.h"
#include "config/config.h"

typedef struct sl_synthetic sl_synthetic;

/* The kind that a checked configuration names, with its data.synthetic.* options. NULL with a message. */
sl_synthetic *sl_synthetic_open(const sl_config *c);
void sl_synthetic_close(sl_synthetic *s); /* also NULL */
int32_t sl_synthetic_symbols(const sl_synthetic *s);
/* Whether every answer is the next token (or left out). */
bool sl_synthetic_next_token(const sl_synthetic *s);
/* n tokens, n >= 1, and the answer that is wanted at each; *start: the answer wanted before the first. -1: none. */
void sl_synthetic_draw(const sl_synthetic *s, sl_rng *r, int64_t n, int32_t *in, int32_t *target, int32_t *start);
/* Marks (1, else 0) the positions of a window of n inputs, BOS among them or not, whose answer the task computes
 * from earlier tokens: the triggers of backcopy and mean, what is copied in copy and block. */
void sl_synthetic_mark(const sl_synthetic *s, int64_t n, const int32_t *in, uint8_t *mark);

#endif
