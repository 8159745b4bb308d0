/* A checkpoint under quantisation schemes, as `quantize` tells it. */
#ifndef SL_SESSION_QUANTIZE_H
#define SL_SESSION_QUANTIZE_H

#include "quant/run.h"

#include <jansson.h>

typedef struct {
    sl_config config;
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    sl_quant_plan plan;
    bool several; /* results of --grid, or of a list of schemes */
    bool calibrates, each_window;
    double bytes_per_token; /* 0: unknown */
    sl_interval reference;
    int64_t windows;
    json_t *results;
} sl_quant_report;

/* Evaluates the checkpoint (or a model that was exported) at path under the schemes. *t is to be freed, after a
 * failure too. */
int sl_quantize(const char *path, const sl_quantize_options *o, const sl_open_options *keys, sl_quant_report *t);
void sl_quant_report_free(sl_quant_report *t);
/* The object that `quantize --json` prints; NULL with a message. */
json_t *sl_quant_report_json(const sl_quant_report *t);
/* Appends a paragraph with the names that `keep` takes. */
void sl_quantize_keep_help(char *text, size_t size);
const char *sl_quant_report_rotation(const sl_quant_report *t); /* "folded", "online"; NULL: none */

#endif
