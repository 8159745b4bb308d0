/* Building JSON results: a figure that cannot be told is null. */
#ifndef SL_PROBE_PUT_H
#define SL_PROBE_PUT_H

#include <jansson.h>
#include <math.h>
#include <stdint.h>

static inline json_t *real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* All return 0, or -1 when out of memory; the value is taken over. */
static inline int put(json_t *o, const char *key, json_t *value) { return json_object_set_new(o, key, value); }

static inline int put_floats(json_t *o, const char *key, int64_t n, const float *x) {
    json_t *a = json_array();
    int rc = 0;
    for (int64_t j = 0; j < n; j++)
        rc |= json_array_append_new(a, real(x[j]));
    return put(o, key, a) | rc;
}

static inline int put_doubles(json_t *o, const char *key, int64_t n, const double *x) {
    json_t *a = json_array();
    int rc = 0;
    for (int64_t j = 0; j < n; j++)
        rc |= json_array_append_new(a, real(x[j]));
    return put(o, key, a) | rc;
}

#endif
