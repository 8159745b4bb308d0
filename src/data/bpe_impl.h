/* Inside of a BPE tokenizer: what bpe_build.c makes and bpe.c applies. */
#ifndef SL_DATA_BPE_IMPL_H
#define SL_DATA_BPE_IMPL_H

#include "data/vocabulary.h"

#include <string.h>
#include <xxhash.h>

enum { SL_BPE_NO_RANK = INT32_MAX };

/* U+2581, which stands for a space in SentencePiece's tokens. */
#define SL_MARK "\u2581"
enum { SL_MARK_BYTES = sizeof SL_MARK - 1 };

/* At `at` in sl_bpe.bytes. */
typedef struct {
    size_t at;
    uint32_t n;
} sl_bpe_text;

typedef struct {
    bool there;
    sl_bpe_text text, piece; /* as the file writes it; what it stands for */
} sl_bpe_token;

/* A token that is looked for in the text before words are cut. */
typedef struct {
    char *text;
    size_t n;
    int32_t id;
    bool special, lstrip, rstrip;
} sl_bpe_added;

/* tokenizers looks for the added tokens that aren't subject to normalisation first, then for the rest in what is
 * left. */
typedef struct {
    sl_bpe_added *token; /* in the order of their bytes; shorter before longer where one begins the other */
    int count;
    int first[257];      /* those that start with byte c are first[c] .. first[c + 1] - 1 */
} sl_bpe_added_set;

typedef struct {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free */
    int32_t rank, id;
} sl_bpe_merge;

struct sl_bpe {
    int32_t vocab, bos, unknown, byte_id[256]; /* -1: there is none */
    bool fuse_unknown, adds_bos, chars, whole_words, metaspace, split_spaces;
    bool cut_at_marks; /* no merge reaches from another character to a mark behind it */
    enum sl_normalizer normalizer;
    enum sl_front front;
    const sl_pretokenizer *words;
    uint64_t hash;
    sl_bpe_token *token; /* [vocab] */
    char *bytes;
    int32_t *index; /* ids by their texts: open addressing; a power of two with free places, which are -1 */
    uint64_t index_mask;
    sl_bpe_merge *merge; /* as index */
    uint64_t merge_mask;
    sl_bpe_added_set added[2];
};

/* The place of a pair in the table, or the free one where it belongs. */
static inline sl_bpe_merge *sl_bpe_find(const sl_bpe *b, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t h = pair * 0x9E3779B97F4A7C15ull;
    h ^= h >> 32;
    for (uint64_t i = h & b->merge_mask;; i = (i + 1) & b->merge_mask)
        if (b->merge[i].pair == pair || b->merge[i].pair == UINT64_MAX)
            return &b->merge[i];
}

/* The place of a text in the index, or the free one where it belongs. */
static inline int32_t *sl_bpe_place(const sl_bpe *b, const char *text, size_t n) {
    for (uint64_t i = XXH3_64bits(text, n) & b->index_mask;; i = (i + 1) & b->index_mask) {
        const sl_bpe_text *t = b->index[i] < 0 ? NULL : &b->token[b->index[i]].text;
        if (!t || (t->n == n && memcmp(b->bytes + t->at, text, n) == 0))
            return &b->index[i];
    }
}

/* GPT-2's alphabet: each byte is written as one printable character. Printable Latin-1 stands for itself, the other 68
 * bytes, in order, for U+0100 and following. */
static inline uint32_t sl_char_of_byte(unsigned c) {
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174)
        return c;
    return 256 + (c <= 32 ? c : c <= 160 ? c - 127 + 33 : 67);
}

/* Text with its spaces as marks and, if `front`, one more before it; to out, which has n + 2 spaces + 3 bytes. Returns
 * the bytes. */
size_t sl_bpe_mark_spaces(char *out, const char *text, size_t n, bool front);

#endif
