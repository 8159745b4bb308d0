/* The schedule: runs a program's operations, forward in their order and backward in the reverse one, and is alone in
 * knowing threads. Of a segment's operations a worker takes some rows through all, then others; a stage of any other
 * operation is cut into calls as it may be and by the number of threads. Neither changes a bit. */
#ifndef SL_PROGRAM_SCHEDULE_H
#define SL_PROGRAM_SCHEDULE_H

#include "program/program.h"

/* Seconds of an operation; weights and other sums over rows apart from the rest of backward. */
enum { SL_TIME_FORWARD = SL_FORWARD, SL_TIME_BACKWARD = SL_BACKWARD, SL_TIME_SUMS, SL_TIMES };

/* Each runs the whole list. seconds: NULL, or time is added to seconds[SL_TIMES * op + SL_TIME_*]. Return 0, or -1
 * with the message of the first call that failed, counted in operations, stages and rows; what is computed then means
 * nothing. */
int sl_schedule_forward(const sl_program *b, const sl_exec *x, double *seconds);
int sl_schedule_backward(const sl_program *b, const sl_exec *x, double *seconds);

#endif
