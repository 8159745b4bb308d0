/* The schedule: runs a program's operations, forward in their order and backward in the reverse one, and is alone in
 * knowing threads. A stage is cut into calls as it may be and by the number of threads, which changes no bit. */
#ifndef SL_PROGRAM_SCHEDULE_H
#define SL_PROGRAM_SCHEDULE_H

#include "program/program.h"

/* Each runs the whole list. seconds: NULL, or time is added to seconds[2 * op + backward]. Return 0, or -1 with the
 * message of the first call that failed, counted in operations, stages and rows; what is computed then means nothing.
 * */
int sl_schedule_forward(const sl_program *b, const sl_exec *x, double *seconds);
int sl_schedule_backward(const sl_program *b, const sl_exec *x, double *seconds);

#endif
