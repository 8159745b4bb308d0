#include "data/token_cache.h"

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Raise it when the tokens of a text change: document rule, word pattern, merging. */
enum { RULES = 1 };
/* Text is tokenized in pieces of about this size, so that 4-byte ids of all of it never exist. */
enum { PIECE_BYTES = 8 << 20 };

/* End of the piece that starts at `at`: behind a boundary line, where any tokenizer may be stopped. */
static size_t piece_end(const char *text, size_t n, size_t at) {
    if (n - at <= PIECE_BYTES)
        return n;
    const char *line = memrchr(text + at, '\n', PIECE_BYTES);
    size_t from = line ? (size_t)(line + 1 - text) : at, after;
    sl_document_end(text, n, from, &after);
    return after;
}

static int append(sl_tokens *t, void **owned, int64_t *capacity, const int32_t *id, int64_t count) {
    if (*capacity - t->count < count) {
        int64_t want = t->count + count;
        want += want / 4;
        void *grown = (uint64_t)want <= SIZE_MAX / 4 ? realloc(*owned, (size_t)want * (size_t)t->width) : NULL;
        if (!grown)
            return sl_fail("out of memory for %lld tokens; use less text", (long long)want);
        t->id = *owned = grown;
        *capacity = want;
    }
    for (int64_t i = 0; i < count; i++) {
        if (t->width == 2)
            ((uint16_t *)*owned)[t->count + i] = (uint16_t)id[i];
        else
            ((uint32_t *)*owned)[t->count + i] = (uint32_t)id[i];
    }
    t->count += count;
    return 0;
}

int sl_tokenize_narrow(sl_tokens *tokens, void **owned, const sl_tokenizer *t, const char *text, size_t n) {
    *tokens = (sl_tokens){.width = sl_token_width(sl_tokenizer_vocab(t))};
    *owned = NULL;
    int64_t capacity = 0;
    for (size_t at = 0, end; at < n; at = end) {
        int32_t *id;
        int64_t count;
        end = piece_end(text, n, at);
        if (sl_tokenizer_encode(t, text + at, end - at, &id, &count))
            return -1;
        int rc = append(tokens, owned, &capacity, id, count);
        free(id);
        if (rc)
            return -1;
    }
    return 0;
}

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

int sl_tokenize_cached(sl_token_store *s, const sl_tokenizer *t, const char *text, size_t n, const char *folder) {
    *s = (sl_token_store){0};
    if (!folder)
        return sl_tokenize_narrow(&s->tokens, &s->owned, t, text, n);
    char path[4200];
    uint64_t key[4] = {RULES, sl_tokenizer_hash(t), XXH3_64bits(text, n), 0};
    int chars = snprintf(path, sizeof path, "%s/.sinklab-%016llx-%016llx.bin", folder, (unsigned long long)key[1],
                         (unsigned long long)key[2]);
    if (read_cache(s, path, key, sl_token_width(sl_tokenizer_vocab(t))))
        return 0;
    if (sl_tokenize_narrow(&s->tokens, &s->owned, t, text, n))
        return -1;
    key[3] = hash_tokens(&s->tokens);
    if (chars < (int)sizeof path)
        (void)sl_bin_write(path, &s->tokens, key); /* a read-only folder or a full disk: go on without */
    return 0;
}

void sl_token_store_free(sl_token_store *s) {
    sl_bin_close(&s->bin);
    free(s->owned);
    *s = (sl_token_store){0};
}
