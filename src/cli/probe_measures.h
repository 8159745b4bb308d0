/* The tables of the measures that `probe --measures` adds. */
#ifndef SL_CLI_PROBE_MEASURES_H
#define SL_CLI_PROBE_MEASURES_H

#include <jansson.h>

/* The object of sl_detail_result(). */
void sl_measures_print(const json_t *o);

#endif
