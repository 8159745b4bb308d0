/* What a file says about a BPE tokenizer, whichever its format. vocabulary_json.c fills it from a tokenizer.json,
 * vocabulary_gguf.c from the keys of a GGUF; bpe_build.c makes a tokenizer of it. Texts are the file's own bytes, which
 * outlive this. */
#ifndef SL_DATA_VOCABULARY_H
#define SL_DATA_VOCABULARY_H

#include "data/bpe.h"
#include "data/pretokenizer.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SL_VOCABULARY_MAX = 1 << 21 }; /* tokens; bounds what a hostile file can make us allocate */

/* GGUF's numbers for the types of tokens. */
enum sl_token_type {
    SL_TOKEN_NONE, /* no token has this id */
    SL_TOKEN_NORMAL,
    SL_TOKEN_UNKNOWN,
    SL_TOKEN_CONTROL,
    SL_TOKEN_USER,
    SL_TOKEN_UNUSED,
    SL_TOKEN_BYTE /* <0x00> .. <0xFF>, of a byte whose character is no token */
};

typedef struct {
    const char *p;
    size_t n;
} sl_span;

typedef struct {
    sl_span text;
    float score;
    uint8_t type;
} sl_vocabulary_token;

typedef struct {
    sl_span left, right;
} sl_vocabulary_merge;

/* A token that is cut out of the text before anything else: out of the raw one, or out of what normalizing left. */
typedef struct {
    int32_t id;
    bool special;        /* text only where special tokens are (sl_bpe_encoder_new) */
    bool lstrip, rstrip; /* takes the white space before it, behind it */
    bool normalized;
} sl_vocabulary_added;

/* What is done to the text between added tokens. */
enum sl_normalizer {
    SL_NORMALIZE_NOT,
    SL_NORMALIZE_NFC,
    SL_NORMALIZE_SPACES,       /* spaces become U+2581 */
    SL_NORMALIZE_SPACES_FRONT, /* a space is put in front, then they do */
};

/* Where a space is put in front of the text between added tokens, unless there is one. */
enum sl_front { SL_FRONT_NEVER, SL_FRONT_FIRST /* at the start of the document */, SL_FRONT_EACH };

typedef struct {
    const char *name; /* stands for the file in messages */
    const char *tokens_field, *merges_field;
    sl_vocabulary_token *token; /* [count], by id */
    int32_t count;
    sl_vocabulary_merge *merge; /* [merges], the first is done first */
    size_t merges;
    bool scored;                /* instead of merges: the pair is done first whose token scores highest */
    sl_vocabulary_added *added; /* [addeds] */
    size_t addeds;
    bool chars; /* merges characters, and bytes of those that are no tokens; else bytes, written in GPT-2's alphabet */
    bool whole_words; /* a word that is a token is not merged */
    enum sl_normalizer normalizer;
    enum sl_front front;
    const sl_pretokenizer *words; /* of bytes; NULL: the text is one word */
    bool metaspace;               /* of chars: spaces become U+2581 after normalizing */
    bool split_spaces;            /* of chars: each U+2581 starts a word */
    int32_t unknown;              /* stands for a byte that has no token; -1: nothing does */
    bool fuse_unknown;            /* one for several of them */
    int32_t bos;                  /* -1: none */
    bool adds_bos;
} sl_vocabulary;

/* "<name>: <message>"; returns -1. */
__attribute__((format(printf, 2, 3))) int sl_vocabulary_bad(const sl_vocabulary *v, const char *fmt, ...);
/* Allocates count tokens of no type. */
int sl_vocabulary_allocate(sl_vocabulary *v, int64_t count);
void sl_vocabulary_free(sl_vocabulary *v); /* what is allocated in it */
/* Fill all of *v, which is to be freed after a failure too; the file, or its JSON, must outlive it. */
int sl_vocabulary_of_gguf(sl_vocabulary *v, const sl_gguf *f);
int sl_vocabulary_of_json(sl_vocabulary *v, const json_t *root, const char *name);

/* NULL with a message that names the file and the field. */
sl_bpe *sl_bpe_build(const sl_vocabulary *v);

#endif
