/* Sampling a token from logits. */
#ifndef SL_MODEL_SAMPLE_H
#define SL_MODEL_SAMPLE_H

#include "base/rng.h"

#include <stdint.h>

typedef struct {
    double temperature; /* 0: the likeliest token (the lowest id of equals) */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 1: all; the smallest set of likeliest tokens whose probability reaches top_p (Holtzman
                           et al. 2020, arXiv 1904.09751), after top_k */
} sl_sampling;

typedef struct sl_sampler sl_sampler; /* scratch for one vocabulary */
sl_sampler *sl_sampler_create(int32_t vocab);
void sl_sampler_free(sl_sampler *s);
int32_t sl_sample(sl_sampler *s, const sl_sampling *how, const float *logits, sl_rng *rng);

#endif
