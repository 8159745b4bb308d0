/* Tokenizers. Bytes: ids 0..255 are the bytes, 256 is BOS (also the document boundary), vocabulary 257.
 * BPE: a Hugging Face tokenizers `tokenizer.json` (byte-level BPE); BOS is its special token
 * "<|endoftext|>" (or "<s>"), which the vocabulary must hold. */
#ifndef SL_DATA_TOKENIZER_H
#define SL_DATA_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

typedef struct sl_tokenizer sl_tokenizer;

/* spec: "bytes" or "bpe:FILE". NULL with a message. */
sl_tokenizer *sl_tokenizer_open(const char *spec);
void sl_tokenizer_close(sl_tokenizer *t);
int32_t sl_tokenizer_vocab(const sl_tokenizer *t);
int32_t sl_tokenizer_bos(const sl_tokenizer *t);
/* Hash of what the tokenizer does (its name or the bytes of its file): names token caches. */
uint64_t sl_tokenizer_hash(const sl_tokenizer *t);
/* Tokens of n bytes of text; a line that holds only "<|endoftext|>" becomes one BOS. *out is malloc'ed.
 * Any bytes are legal (invalid UTF-8 too). */
int sl_tokenizer_encode(const sl_tokenizer *t, const char *text, size_t n, int32_t **out, int64_t *count);
/* Bytes of one token (not terminated), NULL for BOS or an id outside the vocabulary. */
const char *sl_tokenizer_piece(const sl_tokenizer *t, int32_t id, size_t *n);

#endif
