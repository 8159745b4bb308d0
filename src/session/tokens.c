#include "session/tokens.h"

#include "base/err.h"
#include "data/utf8.h"
#include "probe/put.h"

#include <stdlib.h>
#include <string.h>

/* n bytes, every one that begins no character as U+FFFD; NULL when out of memory. */
static json_t *text_json(const char *bytes, size_t n) {
    static const char replacement[] = "\xEF\xBF\xBD";
    char *text = malloc(3 * n + 1);
    size_t out = 0, taken;
    uint32_t code;
    for (size_t at = 0; text && at < n; at += taken ? taken : 1) {
        taken = sl_utf8_get(bytes + at, n - at, &code);
        memcpy(text + out, taken ? bytes + at : replacement, taken ? taken : 3);
        out += taken ? taken : 3;
    }
    json_t *s = text ? json_stringn(text, out) : NULL;
    free(text);
    return s;
}

static json_t *row_json(const sl_top_token *r, const sl_dataset *d, const sl_windows *w) {
    const sl_tokenizer *tokenizer = sl_dataset_tokenizer(d);
    size_t n;
    const char *piece = tokenizer ? sl_tokenizer_piece(tokenizer, r->token, &n) : NULL;
    return json_pack("{s:o, s:I, s:I, s:i, s:o}", "norm", real(r->norm), "window",
                     (json_int_t)sl_val_window(d, w, r->window), "position", (json_int_t)r->position, "token",
                     (int)r->token, "text", piece ? text_json(piece, n) : json_null());
}

json_t *sl_top_tokens_json(const sl_top_tokens *t, const sl_dataset *d, const sl_windows *w) {
    int64_t layer = sl_top_tokens_layer(t);
    json_t *o = json_pack("{s:I, s:o}", "layer", (json_int_t)layer, "mean_norm", real(sl_top_tokens_mean(t, layer)));
    bool ok = o != NULL;
    for (int kind = 0; ok && kind < 2; kind++) {
        const sl_top_list *l = sl_top_tokens_list(t, layer, kind);
        json_t *rows = json_array();
        ok = put(o, kind == SL_TOP_FIRST ? "first" : "others", rows) == 0;
        for (int i = 0; ok && i < l->count; i++)
            ok = json_array_append_new(rows, row_json(&l->row[i], d, w)) == 0;
    }
    if (ok)
        return o;
    json_decref(o);
    sl_fail("out of memory for the tokens of largest norm");
    return NULL;
}
