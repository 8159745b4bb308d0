/* Tokenizers. Bytes: ids 0..255 are the bytes, 256 is BOS (also the document boundary), vocabulary 257.
 * BPE: that of a Hugging Face tokenizers `tokenizer.json` or of a GGUF, byte-level or SentencePiece's (data/bpe.h says
 * which, and which token is BOS).
 * Ids: no text at all, only a vocabulary and a BOS, for token bins made elsewhere. */
#ifndef SL_DATA_TOKENIZER_H
#define SL_DATA_TOKENIZER_H

#include "sinklab.h" /* opening, encoding, pieces */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether it knows texts: false of "ids:", which encodes nothing and has no pieces. */
bool sl_tokenizer_has_text(const sl_tokenizer *t);
/* Hash of what the tokenizer does: names token caches. */
uint64_t sl_tokenizer_hash(const sl_tokenizer *t);

/* The boundary line, with its line end. */
#define SL_DOCUMENT_LINE "<|endoftext|>\n"
/* Where the next boundary line at or after `at` starts, n if there is none; `at` must be the start of a line.
 * *after: the first byte behind it. */
size_t sl_document_end(const char *text, size_t n, size_t at, size_t *after);

#endif
