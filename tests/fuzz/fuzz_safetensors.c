/* safetensors files; of what is accepted every byte and every number can be read. */
#include "fuzz.h"
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    sl_st_file *f = sl_st_open_memory(data, n, "fuzz");
    if (!f)
        return 0;
    volatile unsigned sum = 0;
    for (int i = 0; i < sl_st_count(f); i++) {
        const sl_st_tensor *t = sl_st_at(f, i);
        const unsigned char *p = sl_st_data(f, t);
        if (sl_st_find(f, t->name) != t)
            abort();
        for (uint64_t k = 0; k < t->end - t->begin; k++)
            sum += p[k];
        int64_t count = 1; /* fits: the reader has multiplied it by the size of an item */
        for (int d = 0; d < t->ndim; d++)
            count *= t->shape[d];
        float *x = malloc((size_t)count * sizeof *x + 1);
        if (x && sl_st_read_f32(f, t->name, t->ndim, t->shape, x) == 0 && count &&
            x[count - 1] == 7)
            sum++;
        free(x);
    }
    const char *format = sl_st_metadata(f, "format");
    sum += format ? (unsigned)strlen(format) : 0;
    sl_st_close(f);
    return 0;
}
