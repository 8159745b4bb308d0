/* Kinds of linear layers that a quantised model keeps in fp32, weights and inputs (sl_quant_options.keep), by the names
 * that operations print: "attn.qkv". Every rounded layer of the blocks is of such a kind, whatever its mixer. */
#ifndef SL_QUANT_KEEP_H
#define SL_QUANT_KEEP_H

#include "formats/options.h"

#include <jansson.h>

/* The name of the i-th kind, of all mixers and feed-forwards, each once; NULL past the last. */
const char *sl_keep_name(int i, char name[SL_SCOPE_CHARS]);
/* Keeps the i-th kind; is it kept? */
void sl_keep_add(sl_quant_options *o, int i);
bool sl_keep_has(const sl_quant_options *o, int i);
/* The names of those that are kept, as an array; NULL when out of memory. */
json_t *sl_keep_json(const sl_quant_options *o);
/* The reverse: false of anything that is not an array of names. NULL: nothing is kept. */
bool sl_keep_read(const json_t *names, sl_quant_options *o);

#endif
