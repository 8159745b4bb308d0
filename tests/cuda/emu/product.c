/* The products of product.h where no GPU is: plain loops, sums in double. */
#include "cuda/product.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

struct slc_blas {
    int unused;
};

static float from_bf16(uint16_t x) {
    uint32_t u = (uint32_t)x << 16;
    float y;
    memcpy(&y, &u, sizeof y);
    return y;
}

static uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static float get(const void *p, bool bf16, int64_t i) {
    return bf16 ? from_bf16(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void multiply(const slc_product *p, int64_t batch) {
    int64_t a0 = batch * p->stride_a, b0 = batch * p->stride_b, y0 = batch * p->stride_y;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < p->k; k++)
                sum += (double)get(p->a, p->bf16, a0 + (p->ta ? k * p->lda + i : i * p->lda + k)) *
                       (double)get(p->b, p->bf16, b0 + (p->tb ? j * p->ldb + k : k * p->ldb + j));
            int64_t at = y0 + i * p->ldy + j;
            float y = (float)((double)p->scale * sum + (p->add ? (double)get(p->add, p->y_bf16, at) : 0));
            if (p->y_bf16)
                ((uint16_t *)p->y)[at] = to_bf16(y);
            else
                ((float *)p->y)[at] = y;
        }
}

int slc_multiply(slc_blas *b, slc_stream s, const slc_product *p) {
    (void)b, (void)s;
    for (int64_t i = 0; i < (p->batch > 1 ? p->batch : 1); i++)
        multiply(p, i);
    return 0;
}

int slc_blas_open(slc_blas **b) {
    return (*b = calloc(1, sizeof **b)) ? 0 : sl_fail("out of memory for matrix products");
}
void slc_blas_close(slc_blas *b) { free(b); }
