/* Tokens of texts, collected in memory as 2- or 4-byte ids, whichever the vocabulary needs. */
#ifndef SL_DATA_TOKEN_ARRAY_H
#define SL_DATA_TOKEN_ARRAY_H

#include "data/bin.h"
#include "data/tokenizer.h"

typedef struct {
    sl_tokens tokens;
    void *owned;
    int64_t capacity;
} sl_token_array;

sl_token_array sl_token_array_make(const sl_tokenizer *t);
void sl_token_array_free(sl_token_array *a);
int sl_token_array_push(sl_token_array *a, int32_t id);
/* Appends the tokens of a text, made piece by piece, so that 4-byte ids of all of it never exist. */
int sl_token_array_encode(sl_token_array *a, const sl_tokenizer *t, const char *text, size_t n);

#endif
