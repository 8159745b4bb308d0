/* Yardsticks of the benchmarks: other people's code for the same work. n is a multiple of 16. */
#ifndef SL_TESTS_KERN_YARD_H
#define SL_TESTS_KERN_YARD_H

#include <stdint.h>

void yard_sleef_exp_avx2(int64_t n, const float *x, float *y);
void yard_sleef_exp_avx512(int64_t n, const float *x, float *y);

#endif
