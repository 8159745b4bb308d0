/* Flags whose value is a list with commas. */
#ifndef SL_SESSION_LISTS_H
#define SL_SESSION_LISTS_H

#include "probe/probe.h"

enum { SL_LIST_WORD_CHARS = 64 };

/* The next word of a list, cut to fit; false at its end. An empty word counts. */
bool sl_list_word(const char **list, char word[SL_LIST_WORD_CHARS]);
/* Names of a table (ended by a NULL name, at most 32), or "all", into bits 1 << row. `flag`: for messages, "probe:
 * --what". */
int sl_list_names(const char *flag, const char *list, const sl_measure_info *table, unsigned *bits);
/* Numbers and ranges 0,2,5-7 below n into chosen[n]. */
int sl_list_numbers(const char *flag, const char *list, int64_t n, bool *chosen);
/* Appends a paragraph "title" and one "  name: help" a row to the text of `size` bytes. */
void sl_list_help(char *text, size_t size, const char *title, const sl_measure_info *table);

#endif
