/* Any library with the CBLAS interface (OpenBLAS, BLIS, MKL, the reference one), loaded when it is asked for: the
 * engine links none. */
#ifndef SL_BASE_BLAS_H
#define SL_BASE_BLAS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sl_blas sl_blas;

/* Loads the library that the environment's SINKLAB_BLAS names (a file, or a name for the dynamic linker), else the
 * first there is of those it knows; makes it compute in the calling thread alone, and has it multiply two small
 * matrices. NULL with a message if there is none or its product is wrong. Later calls return the same one. To be called
 * by one thread; the library stays loaded. */
const sl_blas *sl_blas_load(void);

/* Its file, as loaded. */
const char *sl_blas_name(const sl_blas *b);
/* A function of its own, or NULL. */
void *sl_blas_function(const sl_blas *b, const char *name);
/* How many threads a call may use from now on; 1 after loading. Libraries without threads ignore it. */
void sl_blas_set_threads(const sl_blas *b, int n);

/* c[m, n] (+)= op(a)[m, k] op(b)[k, n], row-major with row strides; op transposes where asked to. Sizes are at most
 * INT_MAX. May be called by many threads at once. */
typedef struct {
    int64_t m, n, k;
    bool turn_a, turn_b, add;
    const float *a, *b;
    float *c;
    int64_t lda, ldb, ldc;
} sl_sgemm;
void sl_blas_sgemm(const sl_blas *b, const sl_sgemm *g);

#endif
