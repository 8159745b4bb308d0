/* Sampling a token from logits. */
#include "base/err.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    double p;
    int32_t id;
} candidate;

struct sl_sampler {
    int32_t vocab;
    candidate *c;
    sl_rng rng;
};

sl_sampler *sl_sampler_create(int32_t vocab, uint64_t seed) {
    sl_sampler *s = calloc(1, sizeof *s);
    if (s)
        *s = (sl_sampler){vocab, malloc((size_t)vocab * sizeof *s->c), sl_rng_make(seed, SL_STREAM_SAMPLE, 0)};
    if (!s || !s->c) {
        sl_sampler_free(s);
        sl_fail("out of memory for sampling");
        return NULL;
    }
    return s;
}

void sl_sampler_free(sl_sampler *s) {
    if (s)
        free(s->c);
    free(s);
}

/* Likeliest first; equal ones by id, so that the order is one and the same everywhere. */
static int by_probability(const void *x, const void *y) {
    const candidate *a = x, *b = y;
    return a->p != b->p ? (a->p < b->p ? 1 : -1) : (a->id > b->id) - (a->id < b->id);
}

static int32_t argmax(const float *logits, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

int32_t sl_sample(sl_sampler *s, const sl_sampling *how, const float *logits) {
    int32_t best = argmax(logits, s->vocab), n = s->vocab;
    if (how->temperature == 0)
        return best;
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        s->c[i] = (candidate){exp(((double)logits[i] - logits[best]) / how->temperature), i};
    if (how->top_k > 0 || how->top_p < 1)
        qsort(s->c, (size_t)n, sizeof *s->c, by_probability);
    if (how->top_k > 0 && how->top_k < n)
        n = (int32_t)how->top_k;
    for (int32_t i = 0; i < n; i++)
        sum += s->c[i].p;
    if (how->top_p < 1) {
        double wanted = how->top_p * sum;
        sum = 0;
        int32_t kept = 0;
        do
            sum += s->c[kept++].p;
        while (kept < n && sum < wanted);
        n = kept;
    }
    double at = sl_rng_uniform(&s->rng) * sum;
    for (int32_t i = 0; i < n; i++)
        if ((at -= s->c[i].p) < 0)
            return s->c[i].id;
    return s->c[n - 1].id;
}
