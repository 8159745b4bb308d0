/* Small text tools for parsing and messages: numbers, quoting, spelling, wrapping. None of them
 * depends on the locale. */
#ifndef SL_BASE_TEXT_H
#define SL_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A whole decimal number, sign allowed; also a real that is exactly one and within +-2^53
 * (1e3, 2.0). False for anything else, *v unchanged. The text ends at its NUL: no blanks, hex or
 * underscores. */
bool sl_parse_int(const char *text, int64_t *v);
/* A finite decimal number: 3, -0.5, .5, 1e-3. False for anything else, inf, nan and overflow. */
bool sl_parse_real(const char *text, double *v);

enum { SL_REAL_CHARS = 32 };
/* The shortest decimal form that reads back as the same finite double. Returns buf. */
char *sl_format_real(char buf[SL_REAL_CHARS], double v);

enum { SL_QUOTE_CHARS = 96 };
/* The text in double quotes, control characters escaped, cut with "..." after about 60 bytes: fit
 * for a one-line message whatever the user typed. Returns buf. */
char *sl_quote(char buf[SL_QUOTE_CHARS], const char *text);

enum { SL_SHAPE_CHARS = 192 };
/* "[2, 3]", of at most 8 sizes. Returns buf. */
const char *sl_format_shape(char buf[SL_SHAPE_CHARS], int ndim, const int64_t *shape);

/* Insertions, deletions, substitutions and swaps of neighbours (each letter is swapped once at
 * most) between two words, case ignored; words over 63 bytes are "far" (1000). */
int sl_edit_distance(const char *a, const char *b);
/* The entry nearest to `word` in an array of structs of `stride` bytes whose first member is
 * `const char *name`, ended by a NULL name. NULL if none is near enough to be meant. */
const char *sl_nearest(const char *word, const void *table, size_t stride);

/* Prints text with line breaks at blanks so that no line passes `width` columns (a longer word
 * does); the cursor stands at column `at`, further lines start at column `indent`. Ends with a
 * newline. */
void sl_print_wrapped(FILE *f, const char *text, int at, int indent, int width);

#endif
