/* The training pass of tests. */
#ifndef SL_TESTS_GRADIENTS_H
#define SL_TESTS_GRADIENTS_H

#include "base/err.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>

/* The loss; gradients of loss * scale are added. */
static inline double forward_backward(sl_model *m, const int32_t *in, const int32_t *target, float scale) {
    double loss;
    if (sl_model_forward_backward(m, in, target, scale, &loss)) {
        fprintf(stderr, "a training pass failed: %s\n", sl_error());
        exit(EXIT_FAILURE);
    }
    return loss;
}

#endif
