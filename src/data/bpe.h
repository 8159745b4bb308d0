/* Tokenizers that merge pairs: byte-level BPE as GPT-2 has it, and SentencePiece's BPE of characters with bytes for
 * what is no token. Gives the ids that the tokenizers library gives for the same tokenizer.json, which are those of
 * llama.cpp for a GGUF but where llama.cpp itself differs from the model's own tokenizer (it leaves out NFC).
 *   tokenizer.json
 *     normalizer      null, NFC; of characters: Replace of " " by U+2581, with or without a Prepend of it before
 *     pre_tokenizer   ByteLevel; Split or Digits before it, with patterns of tables/pretokenizer.inc; of characters:
 *                     null, Metaspace
 *     model           BPE without dropout and affixes, with all bytes of text; byte_fallback where it is of characters
 *     post_processor  none, ByteLevel, TemplateProcessing that adds one token in front or none
 *     added_tokens    any, without single_word
 *   GGUF              tokenizer.ggml.model gpt2, with a tokenizer.ggml.pre of tables/pretokenizer.inc, or llama
 * Anything else is refused: what is nearly the right tokenizer makes another model. */
#ifndef SL_DATA_BPE_H
#define SL_DATA_BPE_H

#include "io/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sl_bpe sl_bpe;

/* Ids that grow; free with sl_ids_free. */
typedef struct {
    int32_t *id;
    int64_t count, capacity;
} sl_ids;

/* Room for `more` ids behind the last one. */
int sl_ids_reserve(sl_ids *ids, int64_t more);
void sl_ids_free(sl_ids *ids);

/* From the bytes of a tokenizer.json; `name` stands for the file in messages, which name the field. */
sl_bpe *sl_bpe_parse(const char *json, size_t n, const char *name);
/* From the keys tokenizer.ggml.* of a GGUF, which may be closed afterwards. */
sl_bpe *sl_bpe_of_gguf(const sl_gguf *f);
void sl_bpe_free(sl_bpe *b);
int32_t sl_bpe_vocab(const sl_bpe *b); /* largest id + 1 */
/* The token that the tokenizer starts texts with; where it doesn't, that of a tokenizer.json named "<|endoftext|>" or
 * "<s>", that of a GGUF's tokenizer.ggml.bos_token_id; -1: none. */
int32_t sl_bpe_bos(const sl_bpe *b);
bool sl_bpe_adds_bos(const sl_bpe *b); /* does it start texts with BOS by itself? */
uint64_t sl_bpe_hash(const sl_bpe *b); /* of all that decides the ids */
/* The id of a token as the file writes it, -1 if there is none. */
int32_t sl_bpe_id(const sl_bpe *b, const char *token, size_t n);
/* What encoding needs beside the model: room for a word and a cache of words. Of one thread; `bytes` is about how
 * much text will come. literal: special tokens in the text are text. */
typedef struct sl_bpe_encoder sl_bpe_encoder;
sl_bpe_encoder *sl_bpe_encoder_new(const sl_bpe *b, size_t bytes, bool literal);
void sl_bpe_encoder_free(sl_bpe_encoder *e);
/* Appends the ids of one document, without BOS. Any bytes are legal; one that the vocabulary has no token for (some
 * have none for control characters) becomes the model's unknown token or, without one, nothing: so in the library. */
int sl_bpe_encode(sl_bpe_encoder *e, const char *text, size_t n, sl_ids *out);
/* Bytes of text that one token stands for (U+2581 of SentencePiece is a space), NULL outside the vocabulary. */
const char *sl_bpe_piece(const sl_bpe *b, int32_t id, size_t *n);

#endif
