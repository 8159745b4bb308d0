/* A CBLAS library of one function, plain and strict about its arguments, for tests where none is installed. The
 * environment's FAKE_BLAS makes it give zeros: "wrong" always, "later" after the first product. */
#include <stdlib.h>
#include <string.h>

__attribute__((visibility("default"))) void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k,
                                                        float alpha, const float *a, int lda, const float *b, int ldb,
                                                        float beta, float *c, int ldc);

static int calls;

static void must(int ok) {
    if (!ok)
        abort();
}

void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) {
    const char *mode = getenv("FAKE_BLAS");
    int wrong = mode && (strcmp(mode, "wrong") == 0 || (strcmp(mode, "later") == 0 && __atomic_load_n(&calls, 0) > 0));
    int turn_a = trans_a == 112, turn_b = trans_b == 112;
    __atomic_fetch_add(&calls, 1, 0);
    must(order == 101 && (turn_a || trans_a == 111) && (turn_b || trans_b == 111));
    must(m > 0 && n > 0 && k > 0 && lda >= (turn_a ? m : k) && ldb >= (turn_b ? k : n) && ldc >= n);
    must(alpha == 1 && (beta == 0 || beta == 1));
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float sum = beta == 0 ? 0 : c[(long)i * ldc + j];
            for (int p = 0; p < k; p++)
                sum += (turn_a ? a[(long)p * lda + i] : a[(long)i * lda + p]) *
                       (turn_b ? b[(long)j * ldb + p] : b[(long)p * ldb + j]);
            c[(long)i * ldc + j] = wrong ? 0 : sum;
        }
}
