/* Byte-level BPE as Hugging Face tokenizers does it, from its `tokenizer.json`. Gives the ids that
 * tokenizers' encode(text, add_special_tokens=False) gives, for the models that it takes:
 *   normalizer      null
 *   pre_tokenizer   ByteLevel, use_regex true (GPT-2's pattern) or false, add_prefix_space true or false
 *   model           BPE without dropout, affixes, byte_fallback or ignore_merges; all 256 byte tokens
 *   added_tokens    any, without single_word, lstrip and rstrip
 * decoder and post_processor are not read: they do not touch these ids. */
#ifndef SL_DATA_BPE_H
#define SL_DATA_BPE_H

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
void sl_bpe_free(sl_bpe *b);
int32_t sl_bpe_vocab(const sl_bpe *b); /* largest id + 1 */
int32_t sl_bpe_bos(const sl_bpe *b);
/* What encoding needs beside the model: room for a word and a cache of words. Of one thread; `bytes` is about how
 * much text will come. */
typedef struct sl_bpe_encoder sl_bpe_encoder;
sl_bpe_encoder *sl_bpe_encoder_new(const sl_bpe *b, size_t bytes);
void sl_bpe_encoder_free(sl_bpe_encoder *e);
/* Appends the ids of one document. Any bytes are legal. */
int sl_bpe_encode(sl_bpe_encoder *e, const char *text, size_t n, sl_ids *out);
/* Bytes of one token, NULL outside the vocabulary. */
const char *sl_bpe_piece(const sl_bpe *b, int32_t id, size_t *n);

#endif
