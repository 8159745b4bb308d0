/* One stage of an operation: cutting it into calls, and running them. */
#ifndef SL_PROGRAM_STAGE_H
#define SL_PROGRAM_STAGE_H

#include "program/program.h"

#include <pthread.h>

/* The message of the call that failed first in an order that does not depend on threads: the one of lowest rank. */
typedef struct {
    pthread_mutex_t lock;
    int64_t rank; /* INT64_MAX: none failed */
    char message[2048];
} sl_failure;
void sl_failure_open(sl_failure *f);
void sl_failure_note(sl_failure *f, int64_t rank); /* takes sl_error(); from any thread */
int sl_failure_close(sl_failure *f);               /* 0, or -1 with the message */

/* The calls of a stage about `rows` rows from row0 on, cut as it may be and by the number of threads, to their end.
 * Returns 0, or -1 with the message of the first that failed. */
int sl_stage_run(const sl_op *op, const sl_exec *x, const sl_stage *stage, int64_t row0, int64_t rows);

#endif
