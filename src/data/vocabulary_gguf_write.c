#include "data/vocabulary_gguf_write.h"

#include "base/err.h"
#include "data/bpe_impl.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

#include <stdlib.h>
#include <string.h>

#define bad sl_vocabulary_bad
#define KEY(name) "tokenizer.ggml." name

/* Readers that are not told take the ids of GPT-2's vocabulary, 11: what ends a text is what stands between texts, BOS,
 * where nothing else is known. */
static void add_boundaries(sl_gguf_plan *g, int32_t bos, int32_t eos, bool adds_bos) {
    if (bos >= 0)
        sl_gguf_add_u32(g, KEY("bos_token_id"), (uint32_t)bos);
    if (eos >= 0 || bos >= 0)
        sl_gguf_add_u32(g, KEY("eos_token_id"), (uint32_t)(eos >= 0 ? eos : bos));
    sl_gguf_add_bool(g, KEY("add_bos_token"), adds_bos);
}

/* ---- bytes ---- */

/* Without merges no cut matters, and each byte is the token of its number. */
static int add_bytes(sl_gguf_plan *g, const sl_gguf_tokenizer *t) {
    enum { BYTES = 256 };
    static const char bos[] = "<|endoftext|>";
    char letter[SL_UTF8_MAX];
    if (t->rows != BYTES + 1)
        return sl_fail("data.tokenizer: bytes has %d tokens, the model %d", BYTES + 1, t->rows);
    sl_gguf_add_text(g, KEY("model"), "gpt2");
    sl_gguf_add_text(g, KEY("pre"), "gpt-2");
    sl_gguf_add_array(g, KEY("tokens"), SL_GGUF_STRING, BYTES + 1);
    for (unsigned c = 0; c < BYTES; c++)
        sl_gguf_add_element(g, letter, sl_utf8_put(letter, sl_char_of_byte(c)));
    sl_gguf_add_element(g, bos, sizeof bos - 1);
    sl_gguf_add_array(g, KEY("token_type"), SL_GGUF_I32, BYTES + 1);
    for (int c = 0; c < BYTES; c++)
        sl_gguf_add_whole(g, SL_TOKEN_NORMAL);
    sl_gguf_add_whole(g, SL_TOKEN_CONTROL);
    sl_gguf_add_array(g, KEY("merges"), SL_GGUF_STRING, 0);
    add_boundaries(g, t->bos >= 0 ? t->bos : BYTES, -1, t->adds_bos);
    return 0;
}

/* ---- BPE ---- */

/* What GGUF calls the cuts and what is done before and after them; NULL with a message. */
static const char *name_of_cuts(const sl_vocabulary *v) {
    for (const sl_gguf_pre *p = sl_gguf_pres; v->words && p->name; p++)
        if (!strcmp(p->pretokenizer, v->words->name) && p->nfc == (v->normalizer == SL_NORMALIZE_NFC) &&
            p->whole_words == v->whole_words)
            return p->name;
    bad(v, "its pre_tokenizer, normalizer and ignore_merges together have no name in GGUF "
           "(src/tables/pretokenizer.inc); export with --format hf");
    return NULL;
}

static int check(const sl_vocabulary *v, const sl_gguf_tokenizer *t) {
    if (v->chars)
        return bad(v, "a SentencePiece tokenizer; only byte-level BPE can be written to a GGUF; export with --format "
                      "hf");
    if (v->count > t->rows)
        return bad(v, "%d tokens, but the model has %d; give its own tokenizer", v->count, t->rows);
    if (v->front != SL_FRONT_NEVER)
        return bad(v, "add_prefix_space can't be written to a GGUF; export with --format hf");
    for (size_t i = 0; i < v->addeds; i++) {
        const sl_vocabulary_added *a = &v->added[i];
        if (a->lstrip || a->rstrip || (a->normalized && v->normalizer != SL_NORMALIZE_NOT))
            return bad(v, "added token %d takes white space beside it, or is looked for in normalized text; a GGUF "
                          "can't say so; export with --format hf", a->id);
    }
    for (size_t i = 0; i < v->merges; i++) {
        sl_span left = v->merge[i].left, right = v->merge[i].right;
        if (memchr(left.p, ' ', left.n) || memchr(right.p, ' ', right.n))
            return bad(v, "%s[%zu] has a space in a token, which a GGUF can't write", v->merges_field, i);
    }
    return 0;
}

static void add_tokens(sl_gguf_plan *g, const sl_vocabulary *v, int32_t rows) {
    char unused[32];
    sl_gguf_add_array(g, KEY("tokens"), SL_GGUF_STRING, (uint64_t)rows);
    for (int32_t id = 0; id < rows; id++) {
        if (id < v->count && v->token[id].type != SL_TOKEN_NONE)
            sl_gguf_add_element(g, v->token[id].text.p, v->token[id].text.n);
        else
            sl_gguf_add_element(g, unused, (size_t)snprintf(unused, sizeof unused, "[PAD%d]", id));
    }
}

/* Only what was added is cut out of a text; special tokens are control ones. */
static int add_types(sl_gguf_plan *g, const sl_vocabulary *v, int32_t rows) {
    uint8_t *type = malloc((size_t)rows);
    if (!type)
        return bad(v, "out of memory");
    for (int32_t id = 0; id < rows; id++)
        type[id] = id < v->count && v->token[id].type != SL_TOKEN_NONE ? v->token[id].type : SL_TOKEN_UNUSED;
    for (size_t i = 0; i < v->addeds; i++)
        if (type[v->added[i].id] != SL_TOKEN_UNKNOWN)
            type[v->added[i].id] = v->added[i].special ? SL_TOKEN_CONTROL : SL_TOKEN_USER;
    sl_gguf_add_array(g, KEY("token_type"), SL_GGUF_I32, (uint64_t)rows);
    for (int32_t id = 0; id < rows; id++)
        sl_gguf_add_whole(g, type[id]);
    free(type);
    return 0;
}

static int add_merges(sl_gguf_plan *g, const sl_vocabulary *v) {
    size_t longest = 0;
    for (size_t i = 0; i < v->merges; i++) {
        size_t n = v->merge[i].left.n + v->merge[i].right.n + 1;
        longest = n > longest ? n : longest;
    }
    char *text = malloc(longest + 1);
    if (!text)
        return bad(v, "out of memory");
    sl_gguf_add_array(g, KEY("merges"), SL_GGUF_STRING, v->merges);
    for (size_t i = 0; i < v->merges; i++) {
        sl_span left = v->merge[i].left, right = v->merge[i].right;
        memcpy(text, left.p, left.n);
        text[left.n] = ' ';
        memcpy(text + left.n + 1, right.p, right.n);
        sl_gguf_add_element(g, text, left.n + 1 + right.n);
    }
    free(text);
    return 0;
}

/* eos: -1: not known. */
static int add_vocabulary(sl_gguf_plan *g, const sl_vocabulary *v, int32_t eos, const sl_gguf_tokenizer *t) {
    const char *cuts = check(v, t) ? NULL : name_of_cuts(v);
    int32_t bos = t->bos >= 0 ? t->bos : v->bos;
    if (!cuts)
        return -1;
    sl_gguf_add_text(g, KEY("model"), "gpt2");
    sl_gguf_add_text(g, KEY("pre"), cuts);
    add_tokens(g, v, t->rows);
    if (add_types(g, v, t->rows) || add_merges(g, v))
        return -1;
    add_boundaries(g, bos, eos, t->adds_bos);
    return 0;
}

static int add_json(sl_gguf_plan *g, const char *path, const sl_gguf_tokenizer *t) {
    sl_vocabulary v = {.name = path};
    sl_map f;
    if (sl_map_open(&f, path))
        return -1;
    json_t *root = json_loadb((const char *)f.p, f.n, JSON_REJECT_DUPLICATES, NULL);
    int rc = root ? sl_vocabulary_of_json(&v, root, path) : bad(&v, "no JSON");
    if (rc == 0)
        rc = add_vocabulary(g, &v, -1, t);
    sl_vocabulary_free(&v);
    json_decref(root);
    sl_map_close(&f);
    return rc;
}

static int add_gguf(sl_gguf_plan *g, const char *path, const sl_gguf_tokenizer *t) {
    sl_vocabulary v = {.name = path};
    sl_gguf *f = sl_gguf_open(path);
    int64_t eos = -1;
    int rc = !f || sl_vocabulary_of_gguf(&v, f) || sl_gguf_whole(f, KEY("eos_token_id"), &eos) ? -1 : 0;
    if (rc == 0 && eos >= v.count)
        rc = bad(&v, KEY("eos_token_id") " is %lld, which is no token", (long long)eos);
    if (rc == 0)
        rc = add_vocabulary(g, &v, (int32_t)eos, t);
    sl_vocabulary_free(&v);
    sl_gguf_close(f);
    return rc;
}

int sl_gguf_add_tokenizer(sl_gguf_plan *g, const char *spec, const sl_gguf_tokenizer *t) {
    sl_tokenizer *whole = sl_tokenizer_open(spec); /* refuses what is no tokenizer of ours */
    if (!whole)
        return sl_fail_prefix("data.tokenizer");
    sl_tokenizer_close(whole);
    if (!strcmp(spec, "bytes"))
        return add_bytes(g, t);
    if (!strncmp(spec, "bpe:", 4))
        return add_json(g, spec + 4, t);
    if (!strncmp(spec, "gguf:", 5))
        return add_gguf(g, spec + 5, t);
    return sl_fail_usage("data.tokenizer=%.200s has no texts, which a GGUF must; give another, or --format hf", spec);
}
