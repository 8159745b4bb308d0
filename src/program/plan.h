/* The steps of sl_program_plan(), once gradients have their buffers. */
#ifndef SL_PROGRAM_PLAN_H
#define SL_PROGRAM_PLAN_H

#include "program/program.h"

/* Which operations rows go through together (sl_segment), for so many threads. Returns 0, or -1 with a message. Neither
 * the threads nor the cut change a bit of the results. */
int sl_plan_segments(sl_program *b, int threads);

/* When buffers are in use, which are local to a segment, and which values are computed again going back. Returns 0, or
 * -1 with a message. */
int sl_plan_lifetimes(sl_program *b);

#endif
