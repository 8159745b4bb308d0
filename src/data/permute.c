#include "data/permute.h"

#include "base/rng.h"

/* Four rounds make a Feistel network a strong pseudo-random permutation (Luby and Rackoff 1988) for
 * halves that are not tiny; windows may be few, so some more. */
enum { ROUNDS = 8 };

int64_t sl_permute(uint64_t seed, uint64_t epoch, int64_t n, int64_t i) {
    int half = 1;
    while (half < 31 && (1ull << (2 * half)) < (uint64_t)n)
        half++;
    uint32_t mask = (uint32_t)((1ull << half) - 1);
    const sl_rng r = sl_rng_make(seed, SL_STREAM_SHUFFLE, epoch);
    uint64_t x = (uint64_t)i;
    do {
        uint32_t left = (uint32_t)(x >> half), right = (uint32_t)x & mask;
        for (uint32_t round = 0; round < ROUNDS; round++) {
            uint32_t ctr[4] = {right, round, (uint32_t)r.sub, (uint32_t)(r.sub >> 32)}, out[4];
            sl_philox(r.key, ctr, out);
            uint32_t mixed = left ^ (out[0] & mask);
            left = right;
            right = mixed;
        }
        x = (uint64_t)left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}
