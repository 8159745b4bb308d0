/* Numbers that carry a bound of their error, for references of kernels whose errors run from row to row. */
#ifndef SL_TESTS_KERN_BOUNDED_H
#define SL_TESTS_KERN_BOUNDED_H

#include "kern.h"
#include "ref.h"

static inline double at(const k_buf *b, int64_t i) { return (double)((const float *)b->init)[i]; }

/* A number and the largest error that what was computed may have. */
typedef struct {
    double v, e;
} num;

/* a x + b y, two products and a sum, each rounded. a and b are exact. */
static inline num combine(double a, num x, double b, num y) {
    num r = {a * x.v + b * y.v, fabs(a) * x.e + fabs(b) * y.e};
    r.e += 1.01 * U * (fabs(a * x.v) + fabs(b * y.v) + fabs(r.v)) + 3 * TINY;
    return r;
}

/* A sum of products in any order, onto a start. */
typedef struct {
    double v, e, size;
    int64_t n;
} total;
static inline void add(total *s, double a, num x) {
    s->v += a * x.v;
    s->e += fabs(a) * x.e;
    s->size += fabs(a * x.v);
    s->n++;
}
static inline num sum_of(const total *s) {
    return (num){s->v, s->e + (double)(s->n + 3) * (1.01 * U * (s->size + s->e) + TINY)};
}
static inline void want(k_buf *b, int64_t i, num x) { k_want(b, i, x.v, isfinite(x.v) ? x.e : 0); }

/* x y, rounded. */
static inline num product(num x, num y) {
    num r = {x.v * y.v, fabs(x.v) * y.e + fabs(y.v) * x.e + x.e * y.e};
    r.e += 1.01 * U * (fabs(r.v) + r.e) + TINY;
    return r;
}

#endif
