/* Scratch, laid out piece by piece. One function lays a scratch out; with base NULL it only counts, and so tells its
 * size. */
#ifndef SL_PROGRAM_SCRATCH_H
#define SL_PROGRAM_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *base;
    size_t used;
} sl_carver;

/* The next `bytes`, in whole lines of 64; NULL where only counted. */
static inline void *sl_carve(sl_carver *c, int64_t bytes) {
    size_t at = c->used;
    c->used += ((size_t)bytes + 63) / 64 * 64;
    return c->base ? c->base + at : NULL;
}
static inline float *sl_carve_floats(sl_carver *c, int64_t n) { return sl_carve(c, n * (int64_t)sizeof(float)); }

#endif
