/* Inside of a BPE tokenizer: what bpe_json.c fills and bpe.c applies. */
#ifndef SL_DATA_BPE_IMPL_H
#define SL_DATA_BPE_IMPL_H

#include "data/bpe.h"

#include <stdbool.h>

enum {
    SL_BPE_MAX_VOCAB = 1 << 21,  /* bounds what a hostile file can make us allocate */
    SL_BPE_NO_RANK = INT32_MAX,
};

typedef struct {
    size_t at; /* in `bytes` */
    uint32_t n;
    bool there;
} sl_bpe_token;

/* A token that is looked for in the text before words are cut. */
typedef struct {
    char *text;
    size_t n;
    int32_t id;
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
    int32_t vocab, bos, byte_id[256];
    bool use_regex, prefix_space;
    sl_bpe_token *token; /* [vocab] */
    char *bytes;
    sl_bpe_merge *merge; /* open addressing; a power of two with free places */
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

#endif
