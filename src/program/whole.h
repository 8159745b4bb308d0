/* For operations not yet cut into stages: one stage of one item. */
#ifndef SL_PROGRAM_WHOLE_H
#define SL_PROGRAM_WHOLE_H

#include "program/op.h"

#define SL_WHOLE(fn)                                                                                                   \
    static int fn##_whole(const sl_op *op, const sl_exec *x, const sl_span *s) {                                       \
        (void)s;                                                                                                       \
        fn(op, x);                                                                                                     \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static const sl_stage fn##_stages[] = {{.cut = SL_CUT_BATCH, .run = fn##_whole}, {0}};

#endif
