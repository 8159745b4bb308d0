#include "data/tokenizer.h"

#include "base/err.h"
#include "data/bpe.h"
#include "io/file.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BYTE_BOS = 256 };

struct sl_tokenizer {
    enum { BYTES, BPE, IDS } kind;
    int32_t vocab, bos;
    uint64_t hash;
    sl_bpe *bpe;
    char byte[256]; /* the pieces of BYTES */
};

static int open_bpe(sl_tokenizer *t, const char *path) {
    sl_map f;
    if (sl_map_open(&f, path))
        return -1;
    if (f.n > (size_t)256 << 20)
        sl_fail("%s: %zu bytes, too large for a tokenizer.json (at most 256 MiB)", path, f.n);
    else
        t->bpe = sl_bpe_parse((const char *)f.p, f.n, path);
    t->hash = XXH3_64bits(f.p, f.n);
    sl_map_close(&f);
    if (!t->bpe)
        return -1;
    t->kind = BPE;
    t->vocab = sl_bpe_vocab(t->bpe);
    t->bos = sl_bpe_bos(t->bpe);
    return 0;
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
    t->hash = XXH3_64bits_withSeed("ids", 3, (uint64_t)vocab << 32 | (uint64_t)bos);
    return 0;
}

static void open_bytes(sl_tokenizer *t) {
    t->kind = BYTES;
    t->vocab = BYTE_BOS + 1;
    t->bos = BYTE_BOS;
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
        rc = open_bpe(t, spec + 4);
    else if (!strncmp(spec, "ids:", 4))
        rc = open_ids(t, spec + 4);
    else
        rc = sl_fail_usage("tokenizer \"%.200s\": must be bytes, bpe:FILE (a tokenizer.json) or ids:VOCABULARY[:BOS]",
                           spec);
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
uint64_t sl_tokenizer_hash(const sl_tokenizer *t) { return t->hash; }

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
        return sl_fail_usage("a tokenizer ids:... cannot encode text; give bytes or bpe:FILE");
    if (n > INT64_MAX / 8)
        return sl_fail("a text of %zu bytes is too long", n);
    sl_bpe_encoder *e = t->kind == BPE ? sl_bpe_encoder_new(t->bpe, n) : NULL;
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
