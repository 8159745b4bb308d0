/* Mean up to a trigger (arXiv 2603.11487). There a token is a vector, a value with a flag at the trigger, and a
 * regression asks for the mean of the vectors from the first to the trigger at the trigger, for 0 elsewhere. Here a
 * token is a level, or at the trigger levels + level; the answer is the mean level, rounded (halves up), and
 * elsewhere a token of its own that stands for nothing. Everywhere but at one place attention has nothing to add. */
#include "data/synthetic_kind.h"

#include <string.h>

static int open_mean(sl_synthetic *s) {
    s->symbols = 2 * (int32_t)s->config.synthetic_symbols + 1;
    return 0;
}

static void draw(const sl_synthetic *s, sl_rng *r, int64_t n, int32_t *in, int32_t *target, int32_t *start) {
    int64_t levels = s->config.synthetic_symbols, sum = 0;
    int64_t trigger = n > 1 ? 1 + (int64_t)sl_rng_below(r, (uint64_t)n - 1) : 0; /* two values at least */
    for (int64_t i = 0; i < n; i++) {
        in[i] = (int32_t)sl_rng_below(r, (uint64_t)levels);
        target[i] = s->symbols - 1;
        sum += i <= trigger ? in[i] : 0;
    }
    in[trigger] += (int32_t)levels;
    target[trigger] = (int32_t)((2 * sum + trigger + 1) / (2 * (trigger + 1)));
    *start = s->symbols - 1;
}

static void mark(const sl_synthetic *s, int64_t n, const int32_t *in, uint8_t *mark) {
    int64_t levels = s->config.synthetic_symbols;
    for (int64_t i = 0; i < n; i++)
        mark[i] = in[i] >= levels && in[i] < 2 * levels;
}

const sl_synthetic_kind sl_synthetic_mean = {false, open_mean, NULL, draw, mark};
