/* The measures that `probe --measures` adds: their list, and their tables. */
#ifndef SL_CLI_PROBE_MEASURES_H
#define SL_CLI_PROBE_MEASURES_H

#include <jansson.h>

/* Bits 1 << sl_measure of a comma-separated list of names, or "all". */
int sl_measures_parse(const char *list, unsigned *measures);
/* One line a measure after `about`, into text[size]. */
void sl_measures_about(char *text, size_t size, const char *about);
/* The object of sl_detail_result() as tables. */
void sl_measures_print(const json_t *o);

#endif
