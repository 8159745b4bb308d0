/* What `sinklab quantize` prints. */
#ifndef SL_CLI_QUANTIZE_REPORT_H
#define SL_CLI_QUANTIZE_REPORT_H

#include "quant/run.h"

#include <jansson.h>

typedef struct {
    sl_config config;
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    sl_quant_plan plan;
    bool calibrates;
    double bytes_per_token; /* 0: unknown */
    sl_interval reference;
    int64_t windows;
    json_t *results;
} sl_quant_report;

void sl_quant_report_begin(sl_quant_report *t, sl_interval reference, int64_t windows);
int sl_quant_report_add(sl_quant_report *t, const sl_quant_result *x);
int sl_quant_report_print(sl_quant_report *t, bool grid, bool json);
void sl_quant_report_free(sl_quant_report *t);

#endif
