/* Any bytes through the word pattern and a small fixed model: the pieces must give the bytes back, and a second
 * encoder the same ids. */
#include "data/bpe.h"
#include "data/tokenizer.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A tokenizer.json with the byte alphabet, a few merges and added tokens. */
static sl_bpe *make_model(int use_regex) {
    static const char *const merges[][2] = {{"t", "h"}, {"th", "e"}, {"a", "a"}, {"aa", "aa"}, {"aa", "a"}};
    char *json = NULL, token[8];
    size_t n = 0;
    FILE *f = open_memstream(&json, &n);
    if (!f)
        abort();
    fprintf(f, "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"use_regex\": %s}, \"added_tokens\": [{\"id\": 0, "
               "\"content\": \"<|endoftext|>\"}, {\"id\": 300, \"content\": \"<|\", \"normalized\": true}], "
               "\"model\": {\"vocab\": {\"<|endoftext|>\": 0", use_regex ? "true" : "false");
    for (int c = 0, other = 256; c < 256; c++) {
        int printable = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174, code = printable ? c : other++;
        if (code < 128)
            snprintf(token, sizeof token, c == '"' || c == '\\' ? "\\%c" : "%c", code);
        else
            snprintf(token, sizeof token, "%c%c", 0xC0 | code >> 6, 0x80 | (code & 0x3F));
        fprintf(f, ", \"%s\": %d", token, c + 1);
    }
    for (int m = 0; m < 5; m++)
        fprintf(f, ", \"%s%s\": %d", merges[m][0], merges[m][1], 257 + m);
    fputs("}, \"merges\": [", f);
    for (int m = 0; m < 5; m++)
        fprintf(f, "%s[\"%s\", \"%s\"]", m ? ", " : "", merges[m][0], merges[m][1]);
    fputs("]}}", f);
    if (fclose(f) != 0)
        abort();
    sl_bpe *b = sl_bpe_parse(json, n, "model");
    if (!b)
        abort();
    free(json);
    return b;
}

static void check(const sl_bpe *b, const char *text, size_t n) {
    sl_ids ids = {0}, again = {0};
    size_t at = 0, len;
    sl_bpe_encoder *e = sl_bpe_encoder_new(b, n, false);
    if (!e || sl_bpe_encode(e, text, n, &ids) != 0 || sl_bpe_encode(e, text, n, &again) != 0)
        abort();
    for (int64_t i = 0; i < ids.count; i++, at += len) {
        const char *p = sl_bpe_piece(b, ids.id[i], &len);
        if (!p || at + len > n || memcmp(p, text + at, len) != 0)
            abort();
    }
    /* the second time words come from the cache */
    if (at != n || again.count != ids.count ||
        (n && memcmp(again.id, ids.id, (size_t)ids.count * sizeof *ids.id) != 0))
        abort();
    sl_ids_free(&ids);
    sl_ids_free(&again);
    sl_bpe_encoder_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static sl_bpe *model[2];
    static sl_tokenizer *bytes;
    for (int k = 0; k < 2; k++) {
        if (!model[k])
            model[k] = make_model(k);
        check(model[k], (const char *)data, n);
    }
    if (!bytes && !(bytes = sl_tokenizer_open("bytes")))
        abort();
    int32_t *id;
    int64_t count;
    if (sl_tokenizer_encode(bytes, (const char *)data, n, &id, &count) != 0 || (uint64_t)count > n)
        abort();
    free(id);
    return 0;
}
