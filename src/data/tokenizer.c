#include "data/tokenizer.h"

#include "base/err.h"
#include "base/text.h"
#include "data/bpe.h"
#include "io/file.h"
#include "io/gguf.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BYTE_BOS = 256 };

struct sl_tokenizer {
    enum { BYTES, BPE, IDS } kind;
    int32_t vocab, bos;
    bool adds_bos, literal;
    uint64_t hash; /* but for BOS and literal */
    sl_bpe *bpe;
    char byte[256]; /* the pieces of BYTES */
};

static int use_bpe(sl_tokenizer *t, sl_bpe *bpe) {
    if (!bpe)
        return -1;
    t->kind = BPE;
    t->bpe = bpe;
    t->vocab = sl_bpe_vocab(bpe);
    t->bos = sl_bpe_bos(bpe);
    t->adds_bos = sl_bpe_adds_bos(bpe);
    t->hash = sl_bpe_hash(bpe);
    return 0;
}

static int open_json(sl_tokenizer *t, const char *path) {
    sl_map f;
    sl_bpe *bpe = NULL;
    if (sl_map_open(&f, path))
        return -1;
    if (f.n > (size_t)256 << 20)
        sl_fail("%s: %zu bytes, too large for a tokenizer.json (at most 256 MiB)", path, f.n);
    else
        bpe = sl_bpe_parse((const char *)f.p, f.n, path);
    sl_map_close(&f);
    return use_bpe(t, bpe);
}

static int open_gguf(sl_tokenizer *t, const char *path) {
    sl_gguf *f = sl_gguf_open(path);
    sl_bpe *bpe = f ? sl_bpe_of_gguf(f) : NULL;
    sl_gguf_close(f);
    return use_bpe(t, bpe);
}

/* "VOCABULARY[:BOS]" */
static int open_ids(sl_tokenizer *t, const char *s) {
    char *end;
    long vocab = strtol(s, &end, 10), bos = vocab - 1;
    bool ok = end != s && vocab >= 2 && vocab <= INT32_MAX;
    if (ok && *end == ':') {
        const char *b = end + 1;
        bos = strtol(b, &end, 10);
        ok = end != b;
    }
    if (!ok || *end || bos < 0 || bos >= vocab)
        return sl_fail_usage("tokenizer ids:%.60s: must be ids:VOCABULARY or ids:VOCABULARY:BOS with 0 <= BOS < "
                             "VOCABULARY, as in ids:50257:50256 for GPT-2's ids", s);
    t->kind = IDS;
    t->vocab = (int32_t)vocab;
    t->bos = (int32_t)bos;
    t->adds_bos = true;
    t->hash = XXH3_64bits_withSeed("ids", 3, (uint64_t)vocab);
    return 0;
}

static void open_bytes(sl_tokenizer *t) {
    t->kind = BYTES;
    t->vocab = BYTE_BOS + 1;
    t->bos = BYTE_BOS;
    t->adds_bos = true;
    t->hash = XXH3_64bits("bytes", 5);
    for (int c = 0; c < 256; c++)
        t->byte[c] = (char)c;
}

sl_tokenizer *sl_tokenizer_open(const char *spec) {
    sl_tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        sl_fail("out of memory");
        return NULL;
    }
    int rc = 0;
    if (!strcmp(spec, "bytes"))
        open_bytes(t);
    else if (!strncmp(spec, "bpe:", 4) && spec[4])
        rc = open_json(t, spec + 4);
    else if (!strncmp(spec, "gguf:", 5) && spec[5])
        rc = open_gguf(t, spec + 5);
    else if (!strncmp(spec, "ids:", 4))
        rc = open_ids(t, spec + 4);
    else
        rc = sl_fail_usage("tokenizer \"%.200s\": must be bytes, bpe:FILE (a tokenizer.json), gguf:FILE or "
                            "ids:VOCABULARY[:BOS]", spec);
    if (rc) {
        sl_tokenizer_close(t);
        return NULL;
    }
    return t;
}

void sl_tokenizer_close(sl_tokenizer *t) {
    if (!t)
        return;
    sl_bpe_free(t->bpe);
    free(t);
}

int32_t sl_tokenizer_vocab(const sl_tokenizer *t) { return t->vocab; }
int32_t sl_tokenizer_bos(const sl_tokenizer *t) { return t->bos; }
bool sl_tokenizer_has_text(const sl_tokenizer *t) { return t->kind != IDS; }
bool sl_tokenizer_adds_bos(const sl_tokenizer *t) { return t->adds_bos; }
void sl_tokenizer_take_literally(sl_tokenizer *t) { t->literal = true; }

uint64_t sl_tokenizer_hash(const sl_tokenizer *t) {
    return XXH3_64bits_withSeed(&t->hash, sizeof t->hash, (uint64_t)(uint32_t)t->bos << 1 | t->literal);
}

int sl_tokenizer_find(const sl_tokenizer *t, const char *token, int32_t *id) {
    char quoted[SL_QUOTE_CHARS];
    int64_t found = -1;
    size_t n;
    if (!sl_parse_int(token, &found) && t->kind == BPE)
        found = sl_bpe_id(t->bpe, token, strlen(token));
    if (found < 0 || found >= t->vocab || (t->kind == BPE && !sl_bpe_piece(t->bpe, (int32_t)found, &n)))
        return sl_fail_usage("the tokenizer has no token %s; give one of its tokens, or an id below %d",
                             sl_quote(quoted, token), t->vocab);
    *id = (int32_t)found;
    return 0;
}

int sl_tokenizer_set_bos(sl_tokenizer *t, const char *token) { return sl_tokenizer_find(t, token, &t->bos); }

const char *sl_tokenizer_piece(const sl_tokenizer *t, int32_t id, size_t *n) {
    if (id < 0 || id >= t->vocab || id == t->bos || t->kind == IDS)
        return NULL;
    if (t->kind == BPE)
        return sl_bpe_piece(t->bpe, id, n);
    *n = 1;
    return &t->byte[id];
}

size_t sl_document_end(const char *text, size_t n, size_t at, size_t *after) {
    const size_t mark = sizeof SL_DOCUMENT_LINE - 2; /* without the line end and NUL */
    for (size_t i = at; i < n;) {
        const char *p = memmem(text + i, n - i, SL_DOCUMENT_LINE, mark);
        if (!p)
            break;
        size_t begin = (size_t)(p - text), end = begin + mark;
        if ((begin == at || text[begin - 1] == '\n') && (end == n || text[end] == '\n')) {
            *after = end < n ? end + 1 : n;
            return begin;
        }
        i = end;
    }
    *after = n;
    return n;
}

static int encode_bytes(const char *text, size_t n, sl_ids *ids) {
    if (sl_ids_reserve(ids, (int64_t)n))
        return -1;
    int32_t *id = ids->id + ids->count;
    for (size_t i = 0; i < n; i++)
        id[i] = (unsigned char)text[i];
    ids->count += (int64_t)n;
    return 0;
}

/* e: NULL for BYTES. */
static int encode_documents(const sl_tokenizer *t, sl_bpe_encoder *e, const char *text, size_t n, sl_ids *ids) {
    for (size_t at = 0, after; at < n; at = after) {
        size_t end = sl_document_end(text, n, at, &after);
        if (e ? sl_bpe_encode(e, text + at, end - at, ids) : encode_bytes(text + at, end - at, ids))
            return -1;
        if (end == n)
            break;
        if (t->bos < 0)
            return sl_fail_usage("the text has a line <|endoftext|> between documents, but the tokenizer has no BOS "
                                 "to stand there; name a token with data.bos_token");
        if (sl_ids_reserve(ids, 1))
            return -1;
        ids->id[ids->count++] = t->bos;
    }
    return 0;
}

int sl_tokenizer_encode(const sl_tokenizer *t, const char *text, size_t n, int32_t **out, int64_t *count) {
    *out = NULL;
    *count = 0;
    if (t->kind == IDS)
        return sl_fail_usage("a tokenizer ids:... cannot encode text; give bytes, bpe:FILE or gguf:FILE");
    if (n > INT64_MAX / 8)
        return sl_fail("a text of %zu bytes is too long", n);
    sl_bpe_encoder *e = t->kind == BPE ? sl_bpe_encoder_new(t->bpe, n, t->literal) : NULL;
    if (t->kind == BPE && !e)
        return -1;
    sl_ids ids = {0};
    /* One allocation for the common case; not NULL, even for no text. */
    int rc = sl_ids_reserve(&ids, (int64_t)(e ? n / 3 : n) + 1) || encode_documents(t, e, text, n, &ids) ? -1 : 0;
    sl_bpe_encoder_free(e);
    if (rc) {
        sl_ids_free(&ids);
        return -1;
    }
    *out = ids.id;
    *count = ids.count;
    return 0;
}
