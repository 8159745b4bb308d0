#ifndef SL_OPS_MOE_QUANTISED_H
#define SL_OPS_MOE_QUANTISED_H

#include "program/program.h"

/* Turns the mixture that was just built into that of a quantised model. */
void sl_quantise_moe(sl_program *b, sl_op *op);

#endif
