/* The word pattern of GPT-2 that byte-level BPE cuts text with before merging:
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * Letters, numbers and white space are those of the table in unicode_classes.inc, not of the machine's C library
 * or of a Unicode library: ids must not depend on the version that a distribution ships. */
#ifndef SL_DATA_SPLIT_H
#define SL_DATA_SPLIT_H

#include <stddef.h>

/* End of the word that starts at text[at], at < n; at < end <= n. Any bytes are legal: a byte that is no part of
 * valid UTF-8 counts as a character that is neither letter, number nor white space. */
size_t sl_split_word(const char *text, size_t n, size_t at);

#endif
