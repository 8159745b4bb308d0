/* Which operations rows go through together (sl_segment), decided before buffers get their places. */
#ifndef SL_PROGRAM_SEGMENTS_H
#define SL_PROGRAM_SEGMENTS_H

#include "program/program.h"

/* Cuts the list for both directions, for so many threads, once gradients have their buffers. Returns 0, or -1 with a
 * message. Neither the threads nor the cut change a bit of the results. */
int sl_segments_cut(sl_program *b, int threads);

/* Does a pass of this direction go through the operation's rows once, without waiting for all of them in between? */
bool sl_op_by_rows(const sl_op *op, int direction);

#endif
