/* Products over cuBLASLt. The library is large and its version that of the machine, so it is loaded when a device is
 * opened, and the toolkit's headers give types alone. Deterministic: of the ways to split the depth only that is
 * allowed whose parts, in fp32, are summed by a kernel of their own (CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE), and the
 * algorithm is the heuristic's first for the shape, never the winner of a race. */
#include "cuda/product.h"

#include "base/err.h"
#include "cuda/multiply.h"
#include "cuda/runtime.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE = 32 << 20 };

/* ---- the library */

#define FUNCTIONS(DO)                                                                                                  \
    DO(Create) DO(Destroy) DO(Matmul) DO(MatmulAlgoGetHeuristic) DO(MatmulDescCreate) DO(MatmulDescDestroy)            \
    DO(MatmulDescSetAttribute) DO(MatrixLayoutCreate) DO(MatrixLayoutDestroy) DO(MatrixLayoutSetAttribute)             \
    DO(MatmulPreferenceCreate) DO(MatmulPreferenceDestroy) DO(MatmulPreferenceSetAttribute)
typedef struct {
#define DO(name) __typeof__(&cublasLt##name) name;
    FUNCTIONS(DO)
#undef DO
} functions;

/* Loaded once a process: its contexts outlive the device that is closed. */
static functions lt;

static int load(void) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    void *handle = NULL;
    if (lt.Create)
        return 0;
    for (size_t i = 0; i < sizeof names / sizeof *names && !handle; i++)
        handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return sl_fail("device: cuda needs cuBLASLt, and none of libcublasLt.so.13, .12 or libcublasLt.so can be "
                       "loaded; install the CUDA toolkit's libraries, or set LD_LIBRARY_PATH to where they are");
    functions f;
#define DO(name)                                                                                                       \
    if (!(*(void **)&f.name = dlsym(handle, "cublasLt" #name)))                                                        \
        return dlclose(handle), sl_fail("the machine's libcublasLt lacks cublasLt" #name "; install a newer one");
    FUNCTIONS(DO)
#undef DO
    lt = f;
    return 0;
}

/* ---- plans */

/* All that a plan depends on; no gaps, so that keys are compared as bytes. */
typedef struct {
    int64_t m, n, k, lda, ldb, ldy, batch, stride_a, stride_b, stride_y;
    int32_t bf16, y_bf16, ta, tb, add, in_place;
    int32_t align[4]; /* bytes, 16 at most, that a, b, y and add are aligned to */
} key;

typedef struct {
    key of;
    bool used, own;  /* own: the library refuses; by our kernel */
    cublasLtMatmulDesc_t how;
    cublasLtMatrixLayout_t a, b, y; /* of the library's operands */
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
} plan;

struct slc_blas {
    cublasLtHandle_t handle;
    void *workspace;
    plan *table; /* open addressing, at most half full */
    size_t size, count;
};

static int32_t alignment(const void *p) {
    uintptr_t bits = (uintptr_t)p | 16;
    return (int32_t)(bits & -bits);
}

static key key_of(const slc_product *p) {
    key k;
    memset(&k, 0, sizeof k);
    k.m = p->m, k.n = p->n, k.k = p->k, k.lda = p->lda, k.ldb = p->ldb, k.ldy = p->ldy;
    k.batch = p->batch > 1 ? p->batch : 1;
    if (k.batch > 1)
        k.stride_a = p->stride_a, k.stride_b = p->stride_b, k.stride_y = p->stride_y;
    k.bf16 = p->bf16, k.y_bf16 = p->y_bf16, k.ta = p->ta, k.tb = p->tb;
    k.add = p->add != NULL, k.in_place = p->add == p->y;
    const void *const data[] = {p->a, p->b, p->y, p->add};
    for (int i = 0; i < 4; i++)
        k.align[i] = alignment(data[i]);
    return k;
}

static uint64_t hash(const key *k) {
    uint64_t h = 0xcbf29ce484222325u;
    const unsigned char *c = (const unsigned char *)k;
    for (size_t i = 0; i < sizeof *k; i++)
        h = (h ^ c[i]) * 0x100000001b3u;
    return h;
}

/* The plan of this key, or the free slot for it. */
static plan *slot_of(plan *table, size_t size, const key *k) {
    size_t i = hash(k) % size;
    while (table[i].used && memcmp(&table[i].of, k, sizeof *k) != 0)
        i = (i + 1) % size;
    return &table[i];
}

static int grow(slc_blas *b) {
    size_t size = b->size ? 2 * b->size : 256;
    plan *table = calloc(size, sizeof *table);
    if (!table)
        return sl_fail("out of memory for matrix products");
    for (size_t i = 0; i < b->size; i++)
        if (b->table[i].used)
            *slot_of(table, size, &b->table[i].of) = b->table[i];
    free(b->table);
    b->table = table, b->size = size;
    return 0;
}

static bool layout(cublasLtMatrixLayout_t *l, bool bf16, int64_t rows, int64_t cols, int64_t ld, int64_t batch,
                   int64_t stride) {
    int32_t count = (int32_t)batch;
    return !lt.MatrixLayoutCreate(l, bf16 ? CUDA_R_16BF : CUDA_R_32F, (uint64_t)rows, (uint64_t)cols, ld) &&
           (batch == 1 ||
            (!lt.MatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count) &&
             !lt.MatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride)));
}

/* The library's matrices have columns where ours have rows: it is given y^T = b^T a^T. */
static bool describe(plan *p) {
    const key *k = &p->of;
    cublasOperation_t as_it_is = CUBLAS_OP_N, turned = CUBLAS_OP_T;
    return !lt.MatmulDescCreate(&p->how, CUBLAS_COMPUTE_32F, CUDA_R_32F) &&
           !lt.MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSA, k->tb ? &turned : &as_it_is,
                                      sizeof turned) &&
           !lt.MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSB, k->ta ? &turned : &as_it_is,
                                      sizeof turned) &&
           layout(&p->a, k->bf16, k->tb ? k->k : k->n, k->tb ? k->n : k->k, k->ldb, k->batch, k->stride_b) &&
           layout(&p->b, k->bf16, k->ta ? k->m : k->k, k->ta ? k->k : k->m, k->lda, k->batch, k->stride_a) &&
           layout(&p->y, k->y_bf16, k->n, k->m, k->ldy, k->batch, k->stride_y);
}

static bool prefer(cublasLtMatmulPreference_t how, cublasLtMatmulPreferenceAttributes_t what, uint32_t value) {
    return !lt.MatmulPreferenceSetAttribute(how, what, &value, sizeof value);
}

static bool choose(slc_blas *b, plan *p) {
    cublasLtMatmulPreference_t want = NULL;
    cublasLtMatmulHeuristicResult_t best;
    size_t most = WORKSPACE;
    int found = 0;
    const int32_t *align = p->of.align;
    bool ok = !lt.MatmulPreferenceCreate(&want) &&
              !lt.MatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most) &&
              prefer(want, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) &&
              prefer(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)align[1]) &&
              prefer(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)align[0]) &&
              prefer(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)align[p->of.add ? 3 : 2]) &&
              prefer(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)align[2]) &&
              !lt.MatmulAlgoGetHeuristic(b->handle, p->how, p->a, p->b, p->y, p->y, want, 1, &best, &found) &&
              found > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    if (want)
        lt.MatmulPreferenceDestroy(want);
    if (ok)
        p->algo = best.algo, p->workspace = best.workspaceSize;
    return ok;
}

static void forget(plan *p) {
    if (p->how)
        lt.MatmulDescDestroy(p->how);
    cublasLtMatrixLayout_t *const l[] = {&p->a, &p->b, &p->y};
    for (int i = 0; i < 3; i++)
        if (*l[i])
            lt.MatrixLayoutDestroy(*l[i]);
    p->how = NULL, p->a = p->b = p->y = NULL;
}

/* NULL with a message if memory is out. */
static plan *plan_of(slc_blas *b, const key *k) {
    plan *p = slot_of(b->table, b->size, k);
    if (p->used)
        return p;
    if (2 * (b->count + 1) > b->size) {
        if (grow(b))
            return NULL;
        p = slot_of(b->table, b->size, k);
    }
    *p = (plan){.of = *k, .used = true};
    b->count++;
    p->own = k->k == 0 || !describe(p) || !choose(b, p);
    if (p->own)
        forget(p);
    return p;
}

/* ---- products */

int slc_multiply(slc_blas *b, slc_stream s, const slc_product *p) {
    if (p->m <= 0 || p->n <= 0)
        return 0;
    key k = key_of(p);
    plan *how = plan_of(b, &k);
    if (!how)
        return -1;
    float scale = p->scale, keep = p->add ? 1 : 0;
    if (!how->own &&
        lt.Matmul(b->handle, how->how, &scale, p->b, how->a, p->a, how->b, &keep, p->add ? p->add : p->y, how->y, p->y,
                  how->y, &how->algo, b->workspace, how->workspace, s) != CUBLAS_STATUS_SUCCESS)
        return sl_fail("cuBLASLt failed in a product of %lld x %lld x %lld", (long long)p->m, (long long)p->n,
                       (long long)p->k);
    if (how->own)
        slc_multiply_own(s, p);
    return 0;
}

int slc_blas_open(slc_blas **out) {
    slc_blas *b = *out = NULL;
    if (load())
        return -1;
    if (!(b = calloc(1, sizeof *b)))
        return sl_fail("out of memory for matrix products");
    cublasStatus_t s = lt.Create(&b->handle);
    if (s != CUBLAS_STATUS_SUCCESS) {
        free(b);
        return sl_fail("cuBLASLt cannot be started on this GPU (status %d); is its version that of the driver?",
                       (int)s);
    }
    if (!(b->workspace = slc_alloc(WORKSPACE)) || grow(b)) {
        slc_blas_close(b);
        return -1;
    }
    *out = b;
    return 0;
}

void slc_blas_close(slc_blas *b) {
    if (!b)
        return;
    for (size_t i = 0; i < b->size; i++)
        forget(&b->table[i]);
    free(b->table);
    slc_free(b->workspace);
    lt.Destroy(b->handle);
    free(b);
}
