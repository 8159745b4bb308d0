#include "data/token_cache.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* Raise it when the tokens of a text change: document rule, word pattern, merging. */
enum { RULES = 1 };

static uint64_t hash_tokens(const sl_tokens *t) { return XXH3_64bits(t->id, (size_t)t->count * (size_t)t->width); }

static bool read_cache(sl_token_store *s, const char *path, const uint64_t key[3], int width) {
    uint64_t extra[4];
    if (sl_bin_open(&s->bin, path))
        return false;
    if (sl_bin_extra(&s->bin, extra) && !memcmp(extra, key, 3 * sizeof *key) && s->bin.tokens.width == width &&
        extra[3] == hash_tokens(&s->bin.tokens)) {
        s->tokens = s->bin.tokens;
        return true;
    }
    sl_bin_close(&s->bin);
    return false;
}

static int make(sl_token_store *s, const sl_tokenizer *t, const char *text, size_t n) {
    s->array = sl_token_array_make(t);
    if (sl_token_array_encode(&s->array, t, text, n))
        return -1;
    s->tokens = s->array.tokens;
    return 0;
}

int sl_tokenize_cached(sl_token_store *s, const sl_tokenizer *t, const char *text, size_t n, const char *folder) {
    *s = (sl_token_store){0};
    if (!folder)
        return make(s, t, text, n);
    char path[4200];
    uint64_t key[4] = {RULES, sl_tokenizer_hash(t), XXH3_64bits(text, n), 0};
    int chars = snprintf(path, sizeof path, "%s/.sinklab-%016llx-%016llx.bin", folder, (unsigned long long)key[1],
                         (unsigned long long)key[2]);
    if (chars < (int)sizeof path && read_cache(s, path, key, sl_token_width(sl_tokenizer_vocab(t))))
        return 0;
    if (make(s, t, text, n))
        return -1;
    key[3] = hash_tokens(&s->tokens);
    if (chars < (int)sizeof path)
        (void)sl_bin_write(path, &s->tokens, key); /* a read-only folder or a full disk: go on without */
    return 0;
}

void sl_token_store_free(sl_token_store *s) {
    sl_bin_close(&s->bin);
    sl_token_array_free(&s->array);
    *s = (sl_token_store){0};
}
