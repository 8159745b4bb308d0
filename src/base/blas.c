#include "base/blas.h"

#include "base/err.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 }; /* of the CBLAS interface */

struct sl_blas {
    void *handle;
    const char *name;
    void (*sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
                  const float *b, int ldb, float beta, float *c, int ldc);
};

static const char *const known[] = {"libopenblas.so.0", "libblis.so.4", "libblis.so.3", "libmkl_rt.so.2",
                                    "libmkl_rt.so.1", "libcblas.so.3"};
static sl_blas loaded;

const char *sl_blas_name(const sl_blas *b) { return b->name; }

void *sl_blas_function(const sl_blas *b, const char *name) { return dlsym(b->handle, name); }

void sl_blas_sgemm(const sl_blas *b, const sl_sgemm *g) {
    b->sgemm(ROW_MAJOR, g->turn_a ? TRANSPOSED : AS_IT_IS, g->turn_b ? TRANSPOSED : AS_IT_IS, (int)g->m, (int)g->n,
             (int)g->k, 1, g->a, (int)g->lda, g->b, (int)g->ldb, g->add ? 1 : 0, g->c, (int)g->ldc);
}

/* ---- threads */

/* Of the variables that libraries look at as they are loaded: a pool of threads would only stand in the way. */
static void keep_small(void) {
    static const char *const name[] = {"OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "BLIS_NUM_THREADS",
                                       "MKL_NUM_THREADS"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        setenv(name[i], "1", 1);
}

void sl_blas_set_threads(const sl_blas *b, int n) {
    void (*set)(int);
    void (*set_long)(int64_t);
    *(void **)&set = sl_blas_function(b, "openblas_set_num_threads");
    if (!set)
        *(void **)&set = sl_blas_function(b, "MKL_Set_Num_Threads");
    *(void **)&set_long = sl_blas_function(b, "bli_thread_set_num_threads");
    if (set)
        set(n);
    else if (set_long)
        set_long(n);
}

/* ---- loading */

/* [1 2; 3 4; 5 6] times [1 3; 2 4] turned: wrong from a library whose integers are of another size. */
static bool multiplies(const sl_blas *b) {
    const float a[] = {1, 2, 3, 4, 5, 6}, t[] = {1, 3, 2, 4}, want[] = {8, 11, 16, 23, 24, 35};
    float c[] = {1, 1, 1, 1, 1, 1};
    sl_blas_sgemm(b, &(sl_sgemm){.m = 3, .n = 2, .k = 2, .turn_b = true, .add = true, .a = a, .lda = 2, .b = t,
                                 .ldb = 2, .c = c, .ldc = 2});
    for (int i = 0; i < 6; i++)
        if (c[i] != want[i])
            return false;
    return true;
}

/* NULL, or what is wrong with it. */
static const char *try_library(sl_blas *b, const char *name) {
    b->name = name;
    b->handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!b->handle)
        return dlerror();
    *(void **)&b->sgemm = dlsym(b->handle, "cblas_sgemm");
    const char *wrong = !b->sgemm ? "it has no cblas_sgemm" : NULL;
    if (!wrong) {
        sl_blas_set_threads(b, 1);
        wrong = multiplies(b) ? NULL : "its product of two matrices is wrong (are its integers of 64 bits?)";
    }
    if (wrong)
        dlclose(b->handle);
    return wrong;
}

const sl_blas *sl_blas_load(void) {
    const char *named = getenv("SINKLAB_BLAS"), *wrong = NULL;
    sl_blas b;
    if (loaded.handle)
        return &loaded;
    keep_small();
    if (named && *named) {
        if ((wrong = try_library(&b, named))) {
            sl_fail("SINKLAB_BLAS=%s cannot be used: %s", named, wrong);
            return NULL;
        }
    } else {
        size_t i = 0, n = sizeof known / sizeof *known;
        while (i < n && (wrong = try_library(&b, known[i])))
            i++;
        if (i == n) {
            sl_fail("no CBLAS library was found (looked for libopenblas.so.0, libblis, libmkl_rt, libcblas.so.3); "
                    "install one, e.g. libopenblas0, or name its file in SINKLAB_BLAS");
            return NULL;
        }
    }
    loaded = b;
    return &loaded;
}
