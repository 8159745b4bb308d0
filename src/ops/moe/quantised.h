#ifndef SL_OPS_MOE_QUANTISED_H
#define SL_OPS_MOE_QUANTISED_H

#include "ops/moe/moe.h"
#include "ops/ops.h"

/* As sl_build_moe(), in a quantised model: inference, fp32, in three operations, between which stands what rounds,
 * rotates or observes the inputs of the experts and those of their down projections. */
sl_buf sl_build_moe_quantised(sl_program *b, sl_scope scope, sl_buf x, sl_buf residual, const sl_moe_params *p);
/* What one of the three is about; NULL of any other operation. in[1] of the second and third is the first one's route.
 */
const sl_moe *sl_moe_part_of(const sl_op *op);

#endif
