/* Whether work over many batches shall end: sl_stop_when() of sinklab.h says who is asked. */
#ifndef SL_BASE_STOP_H
#define SL_BASE_STOP_H

#include "sinklab.h"

/* True after setting the message "interrupted". To be asked between batches, by the thread that called. */
bool sl_stop_asked(void);
/* Whether the pending message is that one. */
bool sl_stop_failed(void);

#endif
