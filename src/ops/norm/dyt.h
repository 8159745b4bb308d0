/* What DyT and Derf share. */
#ifndef SL_OPS_NORM_DYT_H
#define SL_OPS_NORM_DYT_H

#include "ops/norm/rows.h"

/* Declares <prefix>.alpha, which starts at norm_opts.alpha_<site>, and <prefix>.bias unless norm_opts.beta is off. */
void sl_dyt_params(sl_program *b, const char *prefix, enum sl_norm_site site, int param[SL_NORM_PARAMS]);

#endif
