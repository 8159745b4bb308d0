#ifndef SL_OPS_MOE_QUANTISED_H
#define SL_OPS_MOE_QUANTISED_H

#include "program/program.h"

/* As sl_build_moe(), in a quantised model: inference, fp32, in three operations, between which stands what rounds,
 * rotates or observes the inputs of the experts and those of their down projections. */
sl_buf sl_build_moe_quantised(sl_program *b, sl_scope scope, sl_buf x, sl_buf residual, int router, int bias,
                              int experts);

#endif
