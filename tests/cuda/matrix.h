/* What the tests of kernels share: matrices on both sides, random, as the device has them and in double here; what
 * differs is printed and counted. */
#ifndef SL_TESTS_CUDA_MATRIX_H
#define SL_TESTS_CUDA_MATRIX_H

#include "base/err.h"
#include "base/rng.h"
#include "cuda/runtime.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
static sl_rng rng;
static const char *now; /* what is tested */

static inline void *need(void *p) {
    if (!p) {
        fprintf(stderr, "%s: %s\n", now, *sl_error() ? sl_error() : "out of memory");
        exit(1);
    }
    return p;
}
static inline void done(int rc) { need(rc ? NULL : &failures); }

static inline uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
static inline float from_bf16(uint16_t x) {
    uint32_t u = (uint32_t)x << 16;
    float y;
    memcpy(&y, &u, sizeof y);
    return y;
}

typedef struct {
    int64_t rows, cols, ld;
    bool bf16;
    double *host;
    void *dev;
} matrix;

static inline size_t bytes_of(const matrix *a) { return (size_t)(a->rows * a->ld) * (a->bf16 ? 2 : 4); }

/* host, rounded as the device has it, to there. Padding is NaN. */
static inline void upload(matrix *a) {
    char *staged = need(malloc(bytes_of(a) + 1));
    memset(staged, 0xff, bytes_of(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            float x = (float)a->host[i * a->cols + j];
            uint16_t y = to_bf16(x);
            memcpy(staged + (i * a->ld + j) * (a->bf16 ? 2 : 4), a->bf16 ? (void *)&y : (void *)&x, a->bf16 ? 2 : 4);
            a->host[i * a->cols + j] = (double)(a->bf16 ? from_bf16(y) : x);
        }
    done(slc_put(a->dev, staged, bytes_of(a)));
    free(staged);
}

/* Random, times size; padded: rows of whole 16 bytes of bf16. */
static inline matrix sized(int64_t rows, int64_t cols, bool bf16, bool padded, double size) {
    matrix a = {rows, cols, padded ? (cols + 7) / 8 * 8 : cols, bf16, need(calloc((size_t)(rows * cols), 8)), NULL};
    for (int64_t i = 0; i < rows * cols; i++)
        a.host[i] = size * sl_rng_normal(&rng);
    a.dev = need(slc_alloc(bytes_of(&a)));
    upload(&a);
    return a;
}
static inline matrix make(int64_t rows, int64_t cols, bool bf16) { return sized(rows, cols, bf16, bf16, 1); }
static inline void drop(matrix *a) { free(a->host), slc_free(a->dev); }

static inline void judge(const char *what, double error, double bound, double most) {
    if (!(error <= bound)) {
        printf("FAIL %s: %s differs by %.3g of %.3g\n", now, what, error, most);
        failures++;
    }
}

/* Relative to the largest value. */
static inline void compare(const char *what, const matrix *a, double within) {
    char *got = need(malloc(bytes_of(a) + 1));
    double error = 0, most = 0;
    done(slc_sync(NULL)), done(slc_get(got, a->dev, bytes_of(a)));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            const char *at = got + (i * a->ld + j) * (a->bf16 ? 2 : 4);
            float y = a->bf16 ? from_bf16(*(const uint16_t *)(const void *)at) : *(const float *)(const void *)at;
            double e = fabs((double)y - a->host[i * a->cols + j]);
            error = e <= error ? error : isnan(e) ? HUGE_VAL : e;
            most = fmax(most, fabs(a->host[i * a->cols + j]));
        }
    judge(what, error, within * most + 1e-7, most);
    free(got);
}

static const double IN_F32 = 2e-5, IN_BF16 = 0x1p-8;
static inline double within(const matrix *a) { return a->bf16 ? IN_BF16 : IN_F32; }

#endif
