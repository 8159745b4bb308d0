#include "data/token_array.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 8 << 20 };

sl_token_array sl_token_array_make(const sl_tokenizer *t) {
    return (sl_token_array){.tokens.width = sl_token_width(sl_tokenizer_vocab(t))};
}

void sl_token_array_free(sl_token_array *a) {
    free(a->owned);
    *a = (sl_token_array){0};
}

static int append(sl_token_array *a, const int32_t *id, int64_t count) {
    sl_tokens *t = &a->tokens;
    if (a->capacity - t->count < count) {
        int64_t want = t->count + count;
        want += want / 4;
        void *grown = (uint64_t)want <= SIZE_MAX / 4 ? realloc(a->owned, (size_t)want * (size_t)t->width) : NULL;
        if (!grown)
            return sl_fail("out of memory for %lld tokens; use less text", (long long)want);
        t->id = a->owned = grown;
        a->capacity = want;
    }
    for (int64_t i = 0; i < count; i++) {
        if (t->width == 2)
            ((uint16_t *)a->owned)[t->count + i] = (uint16_t)id[i];
        else
            ((uint32_t *)a->owned)[t->count + i] = (uint32_t)id[i];
    }
    t->count += count;
    return 0;
}

int sl_token_array_push(sl_token_array *a, int32_t id) { return append(a, &id, 1); }

/* End of the piece that starts at `at`: behind a boundary line, where any tokenizer may be stopped. */
static size_t piece_end(const char *text, size_t n, size_t at) {
    if (n - at <= PIECE_BYTES)
        return n;
    const char *line = memrchr(text + at, '\n', PIECE_BYTES);
    size_t from = line ? (size_t)(line + 1 - text) : at, after;
    sl_document_end(text, n, from, &after);
    return after;
}

int sl_token_array_encode(sl_token_array *a, const sl_tokenizer *t, const char *text, size_t n) {
    for (size_t at = 0, end; at < n; at = end) {
        int32_t *id;
        int64_t count;
        end = piece_end(text, n, at);
        if (sl_tokenizer_encode(t, text + at, end - at, &id, &count))
            return -1;
        int rc = append(a, id, count);
        free(id);
        if (rc)
            return -1;
    }
    return 0;
}
