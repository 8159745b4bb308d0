#include "simd/reduce.h"
#include "simd/tier.h"
#include "simd/vec_math.h"

SL_VEC vf exp_term(vf acc, int64_t i, int c, const float *x, float max) {
    return v_add(acc, v_head(v_exp(v_sub(v_load_n(x + i, c), v_set1(max))), c, v_zero()));
}

/* x := e^(x - max), returns its sum */
SL_VEC vf exp_store_term(vf acc, int64_t i, int c, float *x, float max) {
    vf e = v_exp(v_sub(v_load_n(x + i, c), v_set1(max)));
    v_store_n(x + i, e, c);
    return v_add(acc, v_head(e, c, v_zero()));
}

SL_VEC void scale_at(int64_t i, int c, float a, float *x) {
    v_store_n(x + i, v_mul(v_load_n(x + i, c), v_set1(a)), c);
}

void SL_FN(xent)(int64_t rows, int64_t v, float *logits, int64_t ld, const int32_t *target,
                 float scale, int grad, float *loss) {
    for (int64_t i = 0; i < rows; i++, logits += ld) {
        if (target[i] < 0) {
            loss[i] = 0.0f;
            if (grad)
                memset(logits, 0, (size_t)v * sizeof *logits);
            continue;
        }
        float max = row_max(v, logits), gap = max - logits[target[i]];
        vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        if (grad)
            V_REDUCE(acc, v, exp_store_term, logits, max);
        else
            V_REDUCE(acc, v, exp_term, logits, max);
        float sum = v_fold_add(acc), log_sum;
        v_store_n(&log_sum, v_log(v_set1(sum)), 1);
        loss[i] = log_sum + gap;
        if (grad) {
            float a = scale / sum;
            V_EACH(v, scale_at, a, logits);
            logits[target[i]] -= scale;
        }
    }
}
