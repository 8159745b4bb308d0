/* Pre-tokenizers, the rows of tables/pretokenizer.inc: what cuts a text into words before their bytes are merged.
 * Letters, numbers and white space are those of unicode_classes.inc, not of the machine's C library or of a Unicode
 * library: ids must not depend on the version that a distribution ships. */
#ifndef SL_DATA_PRETOKENIZER_H
#define SL_DATA_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const char *name;
    /* As in a tokenizer.json; several, which are applied one after the other, are apart by line ends. */
    const char *patterns;
    /* End of the word that starts at text[at], at < n; at < end <= n. Any bytes are legal: a byte that is no part of
     * valid UTF-8 counts as a character that is neither letter, number nor white space. */
    size_t (*word_end)(const char *text, size_t n, size_t at);
} sl_pretokenizer;

/* NULL if there is none of these patterns, of this name. */
const sl_pretokenizer *sl_pretokenizer_of_patterns(const char *patterns);
const sl_pretokenizer *sl_pretokenizer_named(const char *name);

/* What a GGUF's tokenizer.ggml.pre stands for. */
typedef struct {
    const char *name, *pretokenizer;
    bool nfc, whole_words, adds_bos;
} sl_gguf_pre;
extern const sl_gguf_pre sl_gguf_pres[]; /* to {NULL} */

/* Bytes of white space at the start or the end of a text. */
size_t sl_space_before(const char *text, size_t n);
size_t sl_space_behind(const char *text, size_t n);

#endif
