/* GGUF files; of what is accepted every key, every byte and every number can be read. */
#include "fuzz.h"
#include "io/gguf.h"

#include <stdlib.h>

/* Keys are known to the seeds alone: mutants keep most of them. */
static unsigned read_keys(const sl_gguf *f) {
    static const char *const list[] = {"key.strings", "key.numbers", "key.reals", "key.bools"};
    static const enum sl_gguf_type kind[] = {SL_GGUF_STRING, SL_GGUF_I64, SL_GGUF_F64, SL_GGUF_BOOL};
    unsigned sum = 0;
    for (int i = 0; i < 4; i++) {
        sl_gguf_array a = {.at = NULL};
        for (int k = 0; k < 4; k++) {
            if (sl_gguf_elements(f, list[i], kind[k], &a) || !a.at)
                continue;
            if (kind[k] == SL_GGUF_STRING) {
                while (a.n > 0) {
                    sl_gguf_string s = sl_gguf_next(&a);
                    sum += s.n ? (unsigned char)s.p[s.n - 1] : 0;
                }
            }
            for (int64_t e = 0; e < a.n; e++)
                sum += kind[k] == SL_GGUF_F64 ? sl_gguf_real_at(&a, e) > 1 : sl_gguf_whole_at(&a, e) > 1;
        }
    }
    sl_gguf_string s = {NULL, 0};
    sum += sl_gguf_text(f, "key.string", &s) == 0 && s.n ? (unsigned char)s.p[s.n - 1] : 0;
    int64_t v = 0;
    double r = 0;
    bool b = false;
    sum +=
        (unsigned)(sl_gguf_whole(f, "key.u64", &v) + sl_gguf_real(f, "key.f64", &r) + sl_gguf_bool(f, "key.bool", &b));
    return sum + (v > 1) + (r > 1) + b;
}

static volatile unsigned sum; /* volatile: the reads must stay */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    sl_gguf *f = sl_gguf_open_memory(data, n, "fuzz");
    if (!f)
        return 0;
    sum += read_keys(f);
    for (int i = 0; i < sl_gguf_count(f); i++) {
        const sl_gguf_tensor *t = sl_gguf_at(f, i);
        const unsigned char *p = sl_gguf_data(f, t);
        if (sl_gguf_find(f, t->name) != t)
            abort();
        for (uint64_t k = 0; k < t->end - t->begin; k++)
            sum += p[k];
        int64_t row = t->shape[t->ndim - 1];
        float *x = malloc((size_t)row * sizeof *x);
        if (x && t->type->floats) {
            t->type->floats(p, row, x);
            sum += x[row - 1] == 7;
        }
        free(x);
    }
    sl_gguf_close(f);
    return 0;
}
