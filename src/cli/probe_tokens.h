/* The table of the tokens of largest norm. */
#ifndef SL_CLI_PROBE_TOKENS_H
#define SL_CLI_PROBE_TOKENS_H

#include <jansson.h>

/* The object of sl_top_tokens_json(). */
void sl_top_tokens_print(const json_t *o);

#endif
