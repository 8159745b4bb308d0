/* Tokens of a text, from the cache file beside it, or made and cached. The cache is a token bin
 * .sinklab-<tokenizer hash>-<text hash>.bin whose spare header words repeat the version of the rules, both hashes
 * and a hash of the tokens: a file that does not match in everything is made anew. It appears whole (rename). A
 * folder that cannot be written to only costs time. */
#ifndef SL_DATA_TOKEN_CACHE_H
#define SL_DATA_TOKEN_CACHE_H

#include "data/token_array.h"

typedef struct {
    sl_tokens tokens;
    sl_bin bin;           /* holds them when they come from the cache, */
    sl_token_array array; /* otherwise this */
} sl_token_store;

/* folder: where the cache is; NULL for none. */
int sl_tokenize_cached(sl_token_store *s, const sl_tokenizer *t, const char *text, size_t n, const char *folder);
void sl_token_store_free(sl_token_store *s);

#endif
