/* How far fp32 results may be from exact ones: one rounding model for every test of the engine. */
#ifndef REF_TOLERANCE_H
#define REF_TOLERANCE_H

#include "config/config.h"
#include "program/params.h"

/* Expected relative error of one value. u = 2^-24. A sum of K random terms, added in order, has the
 * relative error u sqrt(K/2) (each partial sum of size sqrt(k) is rounded once, at random: Higham &
 * Mary 2019, SIAM J. Sci. Comput. 41). S such stages one after the other, forward and back, add up
 * as random errors do: u sqrt(S K/2). K: the longest sum; S = 2 (9 layers + 3): norm (2), q/k/v,
 * q.k, p.v, o, up, activation, down of each block; embedding, final norm, head. Anchors have a
 * projection and a norm in front of all, and a mixture in each block. A mixture over depth has a norm, scores and a
 * weighted sum, twice in each block and once behind them. */
double ref_relative_error(const sl_config *c, int32_t vocab, int64_t tokens);

/* Values of one tensor are compared against margin x relative error x rms of the tensor.
 * Forward: 5.5 for the largest of some 10^4 normal errors, times 6 for unevenly large elements and
 * what cancellation adds. Gradients: softmax and the projections of the norms cancel more, by as
 * much as the model is badly conditioned; PyTorch's fp32 gradients of 60 random models of the kind
 * in grad_model were wrong by up to 57 (median 6) in these units, the engine's by up to 30. */
enum { REF_FORWARD = 32, REF_GRADIENT = 128 };

/* max |got - want| / (tolerance rms(want)), tolerance = margin relative: above 1 the comparison
 * fails. Not a number in got: infinity. */
double ref_ratio(int64_t n, const float *got, const double *want, double tolerance);

/* The same for the gradient of tensor t at REF_GRADIENT; both arrays hold the whole table. A tensor of one element
 * has no rms of its own: its gradient is a sum of very many terms of either sign that may come out near 0 by chance.
 * The rms of all such tensors of the table stands for its size. */
double ref_gradient_ratio(const sl_params *table, int t, const float *got, const double *want, double relative);

#endif
