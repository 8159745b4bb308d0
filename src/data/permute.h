/* A pseudo-random permutation that is computed, not stored: position -> element, each in any order. */
#ifndef SL_DATA_PERMUTE_H
#define SL_DATA_PERMUTE_H

#include <stdint.h>

/* P_{seed,epoch}(i) in [0, n), a bijection of 0..n-1; 0 <= i < n <= 2^62. A balanced Feistel network over
 * Philox on the smallest even number of bits that hold n - 1; results beyond n are sent through again
 * (cycle walking; under four rounds on average). */
int64_t sl_permute(uint64_t seed, uint64_t epoch, int64_t n, int64_t i);

#endif
