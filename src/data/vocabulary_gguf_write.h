/* A tokenizer as the keys tokenizer.ggml.* of a GGUF. */
#ifndef SL_DATA_VOCABULARY_GGUF_WRITE_H
#define SL_DATA_VOCABULARY_GGUF_WRITE_H

#include "io/gguf_write.h"

/* What goes into the file beside the tokenizer itself. */
typedef struct {
    int32_t rows;  /* tokens of the model; those that the tokenizer lacks are put in as unused ones */
    int32_t bos;   /* -1: the tokenizer's own, if it has one */
    bool adds_bos; /* whether texts begin with it */
} sl_gguf_tokenizer;

/* spec as of sl_tokenizer_open. Byte-level BPE, and bytes: that is BPE without merges, with "<|endoftext|>" as BOS.
 * Fails, and names what stands in the way, where a GGUF can't say what the tokenizer does: ids, SentencePiece, cuts
 * without a name in tables/pretokenizer.inc, added tokens that take white space. A byte without a token becomes, in
 * GGUF, nothing, also where a tokenizer.json has an unknown token. */
int sl_gguf_add_tokenizer(sl_gguf_plan *g, const char *spec, const sl_gguf_tokenizer *t);

#endif
