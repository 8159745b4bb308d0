/* Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers:
 * as easy as 1, 2, 3"). A number is a pure function of (seed, stream, counter), so that any thread
 * can compute any number and nothing has to be saved for a resume but integers. */
#ifndef SL_BASE_RNG_H
#define SL_BASE_RNG_H

#include <stdint.h>

/* One stream per purpose; streams never share numbers. Append only: the values are part of the
 * promise "same seed, same bits". */
enum sl_stream {
    SL_STREAM_INIT = 1,     /* parameter initialisation; `sub` = index of a hash of the tensor name */
    SL_STREAM_SHUFFLE = 2,  /* order of training windows; `sub` = epoch */
    SL_STREAM_SAMPLE = 3,   /* text generation */
    SL_STREAM_SYNTHETIC = 4,/* synthetic corpora; `sub` = window */
    SL_STREAM_TEST = 5,     /* tests and benchmarks */
    SL_STREAM_BOS = 6,      /* place of BOS in a window; `sub` = window */
    SL_STREAM_ROTATE = 7,   /* signs of rotations; `sub` = hash of the place's name */
    SL_STREAM_NULLIFY = 8,  /* channels of model.sink_nullify_channels=random; `sub` = hash of the norm's name */
};

typedef struct {
    uint32_t key[2]; /* seed mixed with the stream */
    uint64_t sub;    /* sub-stream, upper half of the counter */
    uint64_t at;     /* next counter */
    uint32_t out[4];
    int left; /* unused words in out */
} sl_rng;

/* The raw bijection: out = Philox4x32-10(key, ctr). Checked against Random123's known answers. */
void sl_philox(const uint32_t key[2], const uint32_t ctr[4], uint32_t out[4]);

sl_rng sl_rng_make(uint64_t seed, enum sl_stream stream, uint64_t sub);
uint32_t sl_rng_u32(sl_rng *r);
uint64_t sl_rng_u64(sl_rng *r);
double sl_rng_uniform(sl_rng *r);            /* [0, 1), 53 bits */
uint64_t sl_rng_below(sl_rng *r, uint64_t n); /* unbiased in [0, n), n > 0 */
double sl_rng_normal(sl_rng *r);             /* N(0, 1), Box-Muller, one value a call */
uint64_t sl_hash64(const void *p, uint64_t n); /* FNV-1a, for sub-stream numbers from names */

#endif
