#include "ops/mixer/decay.h"

#include <math.h>

/* softplus(z) = max(z, 0) + log(1 + e), e = exp(-|z|), and log(1 + e) without the rounding of 1 + e (W. Kahan: the
 * relative error of e / ((1 + e) - 1) is that of log(1 + e)). */
void sl_softplus(const sl_kernels *k, int64_t n, const float *z, float *scratch, float *y) {
    float *e = scratch, *one = scratch + n;
    for (int64_t j = 0; j < n; j++)
        e[j] = -fabsf(z[j]);
    k->exp(n, e, e);
    for (int64_t j = 0; j < n; j++)
        one[j] = 1 + e[j];
    k->log(n, one, y);
    for (int64_t j = 0; j < n; j++) {
        float rest = one[j] - 1;
        y[j] = (z[j] > 0 ? z[j] : 0) + (rest == 0 ? e[j] : y[j] * e[j] / rest);
    }
}

/* The inverse of softplus: dt + log(1 - exp(-dt)). */
void sl_draw_dt_bias(const sl_tensor *t, sl_rng *rng, float *w) {
    for (int64_t i = 0; i < t->size; i++) {
        double dt = exp(log(1e-3) + sl_rng_uniform(rng) * (log(1e-1) - log(1e-3)));
        w[i] = (float)(dt + log(-expm1(-dt)));
    }
}
