/* Tokenizers. Bytes: ids 0..255 are the bytes, 256 is BOS (also the document boundary), vocabulary 257.
 * BPE: that of a Hugging Face tokenizers `tokenizer.json` or of a GGUF, byte-level or SentencePiece's (data/bpe.h says
 * which, and which token is BOS).
 * Ids: no text at all, only a vocabulary and a BOS, for token bins made elsewhere. */
#ifndef SL_DATA_TOKENIZER_H
#define SL_DATA_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sl_tokenizer sl_tokenizer;

/* spec: "bytes", "bpe:FILE", "gguf:FILE" or "ids:VOCABULARY[:BOS]" (BOS defaults to the last id). NULL with a
 * message. */
sl_tokenizer *sl_tokenizer_open(const char *spec);
void sl_tokenizer_close(sl_tokenizer *t);
int32_t sl_tokenizer_vocab(const sl_tokenizer *t);
int32_t sl_tokenizer_bos(const sl_tokenizer *t); /* -1: it has none */
/* Whether texts begin with BOS by the tokenizer's own rule. Encoding never adds it: windows do (data.bos). */
bool sl_tokenizer_adds_bos(const sl_tokenizer *t);
/* Makes another token BOS: an id, or the token as its file writes it. */
int sl_tokenizer_set_bos(sl_tokenizer *t, const char *token);
/* From now on special tokens that stand in a text ("<s>") are text like any other. */
void sl_tokenizer_take_literally(sl_tokenizer *t);
/* Whether it knows texts: false of "ids:", which encodes nothing and has no pieces. */
bool sl_tokenizer_has_text(const sl_tokenizer *t);
/* Hash of what the tokenizer does: names token caches. */
uint64_t sl_tokenizer_hash(const sl_tokenizer *t);
/* Tokens of n bytes of text; a line that holds only "<|endoftext|>" becomes, with its line end, one BOS, and fails if
 * there is none. *out is malloc'ed. Any bytes are legal (invalid UTF-8 too). Between such lines BPE gives what
 * tokenizers' encode(add_special_tokens=False) gives, so an added token inside a line is that token as well. */
int sl_tokenizer_encode(const sl_tokenizer *t, const char *text, size_t n, int32_t **out, int64_t *count);
/* Bytes of one token (not terminated), NULL for BOS or an id outside the vocabulary. */
const char *sl_tokenizer_piece(const sl_tokenizer *t, int32_t id, size_t *n);

/* The boundary line, with its line end. */
#define SL_DOCUMENT_LINE "<|endoftext|>\n"
/* Where the next boundary line at or after `at` starts, n if there is none; `at` must be the start of a line.
 * *after: the first byte behind it. */
size_t sl_document_end(const char *text, size_t n, size_t at, size_t *after);

#endif
