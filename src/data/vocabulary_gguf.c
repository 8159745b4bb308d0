/* Reading the keys tokenizer.ggml.* of a GGUF. */
#include "base/text.h"
#include "data/bpe.h"
#include "data/vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define bad sl_vocabulary_bad
#define KEY(name) "tokenizer.ggml." name

static const char *quote(char buf[SL_QUOTE_CHARS], sl_gguf_string s) {
    char text[SL_QUOTE_CHARS];
    snprintf(text, sizeof text, "%.*s", (int)(s.n < sizeof text ? s.n : sizeof text - 1), s.p ? s.p : "");
    return sl_quote(buf, text);
}

/* ---- Tokens ------------------------------------------------------------------------------------- */

/* An array of one element a token, which must be there. */
static int per_token(const sl_vocabulary *v, const sl_gguf *f, const char *key, enum sl_gguf_type kind,
                     sl_gguf_array *a) {
    *a = (sl_gguf_array){0};
    if (sl_gguf_elements(f, key, kind, a))
        return -1;
    return a->at && a->n == v->count ? 0 : bad(v, "%s must have an element for each of the %d tokens, it has %lld",
                                               key, v->count, (long long)a->n);
}

static int read_tokens(sl_vocabulary *v, const sl_gguf *f) {
    sl_gguf_array tokens = {0}, types, scores = {0};
    if (sl_gguf_elements(f, v->tokens_field, SL_GGUF_STRING, &tokens))
        return -1;
    if (!tokens.at)
        return bad(v, "%s is missing: the file holds no tokenizer", v->tokens_field);
    if (sl_vocabulary_allocate(v, tokens.n) || per_token(v, f, KEY("token_type"), SL_GGUF_I64, &types) ||
        (v->scored && per_token(v, f, KEY("scores"), SL_GGUF_F64, &scores)))
        return -1;
    for (int32_t id = 0; id < v->count; id++) {
        sl_gguf_string s = sl_gguf_next(&tokens);
        int64_t type = sl_gguf_whole_at(&types, id);
        double score = v->scored ? sl_gguf_real_at(&scores, id) : 0;
        if (type < SL_TOKEN_NORMAL || type > SL_TOKEN_BYTE)
            return bad(v, "%s[%d] is %lld; there are the types 1 to 6", KEY("token_type"), id, (long long)type);
        if (score != score)
            return bad(v, "%s[%d] is no number", KEY("scores"), id);
        if (s.n) /* an empty one is a place without a token */
            v->token[id] = (sl_vocabulary_token){{s.p, s.n}, (float)score, (uint8_t)type};
    }
    return 0;
}

/* Tokens that are none of a text's own, and those that a user has added, are cut out of the raw text. */
static int read_added(sl_vocabulary *v, bool phi3) {
    static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
    if (!(v->added = calloc((size_t)v->count, sizeof *v->added)))
        return bad(v, "out of memory");
    for (int32_t id = 0; id < v->count; id++) {
        const sl_vocabulary_token *t = &v->token[id];
        if (t->type != SL_TOKEN_UNKNOWN && t->type != SL_TOKEN_CONTROL && t->type != SL_TOKEN_USER)
            continue;
        bool strips = phi3;
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
            strips &= t->text.n != strlen(plain[i]) || memcmp(t->text.p, plain[i], t->text.n) != 0;
        v->added[v->addeds++] =
            (sl_vocabulary_added){.id = id, .special = t->type != SL_TOKEN_USER, .rstrip = strips};
    }
    return 0;
}

/* "left right": either part may begin with a space, as llama.cpp reads it, but the left one not consist of it. */
static int read_merges(sl_vocabulary *v, const sl_gguf *f) {
    sl_gguf_array merges = {0};
    if (sl_gguf_elements(f, v->merges_field, SL_GGUF_STRING, &merges))
        return -1;
    if (!merges.at)
        return bad(v, "%s is missing", v->merges_field);
    v->merges = (size_t)merges.n;
    if (v->merges && !(v->merge = calloc(v->merges, sizeof *v->merge)))
        return bad(v, "out of memory");
    for (size_t i = 0; i < v->merges; i++) {
        sl_gguf_string s = sl_gguf_next(&merges);
        const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
        size_t left = space ? (size_t)(space - s.p) : 0;
        if (!space || left + 1 == s.n)
            return bad(v, "%s[%zu] must be two tokens, apart by a space", v->merges_field, i);
        v->merge[i] = (sl_vocabulary_merge){{s.p, left}, {space + 1, s.n - left - 1}};
    }
    return 0;
}

/* ---- Kinds -------------------------------------------------------------------------------------- */

static int read_bytes_kind(sl_vocabulary *v, const sl_gguf *f) {
    char quoted[SL_QUOTE_CHARS], names[512] = "";
    sl_gguf_string pre = {0};
    if (sl_gguf_text(f, KEY("pre"), &pre))
        return -1;
    for (const sl_gguf_pre *p = sl_gguf_pres; p->name; p++) {
        if (!sl_gguf_is(pre, p->name)) {
            size_t used = strlen(names);
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", p->name);
            continue;
        }
        v->words = sl_pretokenizer_named(p->pretokenizer);
        v->normalizer = p->nfc ? SL_NORMALIZE_NFC : SL_NORMALIZE_NOT;
        v->whole_words = p->whole_words;
        v->adds_bos = p->adds_bos;
        return read_tokens(v, f) || read_merges(v, f) || read_added(v, false) ? -1 : 0;
    }
    return bad(v, "%s is %s, which isn't supported, and another one in its place would give other tokens; there "
                  "are: %s", KEY("pre"), pre.p ? quote(quoted, pre) : "missing", names);
}

static int read_chars_kind(sl_vocabulary *v, const sl_gguf *f) {
    bool front = true;
    sl_gguf_string architecture = {0};
    if (sl_gguf_bool(f, KEY("add_space_prefix"), &front) || sl_gguf_text(f, "general.architecture", &architecture))
        return -1;
    v->chars = v->scored = v->adds_bos = true;
    v->normalizer = front ? SL_NORMALIZE_SPACES_FRONT : SL_NORMALIZE_SPACES;
    /* The file doesn't say which tokens take the white space behind them; those of Phi-3 do. */
    return read_tokens(v, f) || read_added(v, sl_gguf_is(architecture, "phi3")) ? -1 : 0;
}

static int read_bos(sl_vocabulary *v, const sl_gguf *f) {
    int64_t bos = -1;
    bool adds_eos = false;
    if (sl_gguf_whole(f, KEY("bos_token_id"), &bos) || sl_gguf_bool(f, KEY("add_bos_token"), &v->adds_bos) ||
        sl_gguf_bool(f, KEY("add_eos_token"), &adds_eos))
        return -1;
    if (sl_gguf_has(f, KEY("bos_token_id")) &&
        (bos < 0 || bos >= v->count || v->token[bos].type == SL_TOKEN_NONE))
        return bad(v, "%s is %lld, which is no token", KEY("bos_token_id"), (long long)bos);
    if (v->adds_bos && bos < 0)
        return bad(v, "a BOS is to be added, but %s is missing", KEY("bos_token_id"));
    if (adds_eos)
        return bad(v, "%s is set, which isn't supported", KEY("add_eos_token"));
    v->bos = (int32_t)bos;
    return 0;
}

static int read_all(sl_vocabulary *v, const sl_gguf *f) {
    char quoted[SL_QUOTE_CHARS];
    sl_gguf_string model = {0};
    if (sl_gguf_text(f, KEY("model"), &model))
        return -1;
    if (!sl_gguf_is(model, "gpt2") && !sl_gguf_is(model, "llama"))
        return bad(v, "%s is %s; only gpt2 (byte-level BPE) and llama (SentencePiece BPE) are supported",
                   KEY("model"), model.p ? quote(quoted, model) : "missing");
    return (sl_gguf_is(model, "gpt2") ? read_bytes_kind : read_chars_kind)(v, f) || read_bos(v, f) ? -1 : 0;
}

int sl_vocabulary_of_gguf(sl_vocabulary *v, const sl_gguf *f) {
    *v = (sl_vocabulary){.name = sl_gguf_name(f),
                         .tokens_field = KEY("tokens"),
                         .merges_field = KEY("merges"),
                         .unknown = -1,
                         .bos = -1};
    return read_all(v, f);
}

sl_bpe *sl_bpe_of_gguf(const sl_gguf *f) {
    sl_vocabulary v;
    sl_bpe *b = sl_vocabulary_of_gguf(&v, f) ? NULL : sl_bpe_build(&v);
    sl_vocabulary_free(&v);
    return b;
}
