/* What `sinklab quantize` prints. */
#ifndef SL_CLI_QUANTIZE_REPORT_H
#define SL_CLI_QUANTIZE_REPORT_H

#include "session/quantize.h"

int sl_quant_report_print(const sl_quant_report *t, bool json);

#endif
