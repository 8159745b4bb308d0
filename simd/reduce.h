/* Reductions over a row with four accumulators, so that the latency of an operation is hidden. */
#ifndef SL_SIMD_REDUCE_H
#define SL_SIMD_REDUCE_H

#include "simd/vec.h"

/* acc = at(acc, i, count, ...) for each vector of [0, n), cycling through acc[0..3]; at must leave
 * the lanes of acc past count as they are (v_head). */
#define V_REDUCE(acc, n, at, ...)                                                                  \
    do {                                                                                           \
        int64_t i_ = 0;                                                                            \
        for (; i_ + 4 * VL <= (n); i_ += 4 * VL) {                                                 \
            (acc)[0] = at((acc)[0], i_, VL, __VA_ARGS__);                                          \
            (acc)[1] = at((acc)[1], i_ + VL, VL, __VA_ARGS__);                                     \
            (acc)[2] = at((acc)[2], i_ + 2 * VL, VL, __VA_ARGS__);                                 \
            (acc)[3] = at((acc)[3], i_ + 3 * VL, VL, __VA_ARGS__);                                 \
        }                                                                                          \
        for (; i_ + VL <= (n); i_ += VL)                                                           \
            (acc)[0] = at((acc)[0], i_, VL, __VA_ARGS__);                                          \
        if (i_ < (n))                                                                              \
            (acc)[1] = at((acc)[1], i_, (int)((n) - i_), __VA_ARGS__);                             \
    } while (0)

SL_VEC float v_fold_add(const vf acc[4]) {
    return v_reduce_add(v_add(v_add(acc[0], acc[1]), v_add(acc[2], acc[3])));
}
SL_VEC float v_fold_max(const vf acc[4]) {
    return v_reduce_max(v_max(v_max(acc[0], acc[1]), v_max(acc[2], acc[3])));
}

SL_VEC vf add_term(vf acc, int64_t i, int c, const float *x) {
    return v_add(acc, v_load_n(x + i, c));
}
SL_VEC float row_sum(int64_t n, const float *x) {
    vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    V_REDUCE(acc, n, add_term, x);
    return v_fold_add(acc);
}

SL_VEC vf dot_term(vf acc, int64_t i, int c, const float *x, const float *y) {
    return v_muladd(v_load_n(x + i, c), v_load_n(y + i, c), acc);
}
SL_VEC float row_dot(int64_t n, const float *x, const float *y) {
    vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    V_REDUCE(acc, n, dot_term, x, y);
    return v_fold_add(acc);
}

SL_VEC vf max_term(vf acc, int64_t i, int c, const float *x) {
    return v_max(v_head(v_load_n(x + i, c), c, acc), acc);
}
/* -inf for n = 0; a NaN may be passed over. */
SL_VEC float row_max(int64_t n, const float *x) {
    vf low = v_set1(-__builtin_inff()), acc[4] = {low, low, low, low};
    V_REDUCE(acc, n, max_term, x);
    return v_fold_max(acc);
}

#endif
