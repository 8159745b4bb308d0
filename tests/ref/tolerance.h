/* How far fp32 results may be from exact ones: one rounding model for every test of the engine. */
#ifndef REF_TOLERANCE_H
#define REF_TOLERANCE_H

#include "config/config.h"

/* Expected relative error of one value. u = 2^-24. A sum of K random terms, added in order, has the
 * relative error u sqrt(K/2) (each partial sum of size sqrt(k) is rounded once, at random: Higham & Mary
 * 2019, SIAM J. Sci. Comput. 41). S such stages one after the other, forward and back, add up as random
 * errors do: u sqrt(S K/2). K: the longest sum; S = 2 (9 layers + 3): norm (2), q/k/v, q.k, p.v, o, up,
 * activation, down of each block; embedding, final norm, head. */
double ref_relative_error(const sl_config *c, int32_t vocab, int64_t tokens);

/* Values of one tensor are compared against REF_MARGIN x relative error x rms of the tensor: 5.5 for the
 * largest of some 10^4 errors, times 6 for what cancellation (softmax gradients, projections of the norm)
 * and unevenly large elements add. */
#define REF_MARGIN 32

/* max |got - want| / (REF_MARGIN relative rms(want)): above 1 the comparison fails. Not a number in got: infinity. */
double ref_ratio(int64_t n, const float *got, const double *want, double relative);

#endif
