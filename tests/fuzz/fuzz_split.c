/* A GGUF file as each of two parts of a model, beside a right other one; of what is accepted every tensor can be
 * read. */
#include "fuzz.h"
#include "io/gguf_write.h"
#include "io/tensors.h"

#include <stdio.h>
#include <stdlib.h>

static char path[2][128];
static uint8_t right[2][512];
static size_t right_size[2];

/* Part `no`, with one tensor, as bytes. */
static void make_right(int no) {
    static const float values[8];
    static const int64_t shape[1] = {8};
    sl_gguf_plan g;
    sl_writer w;
    if (sl_gguf_plan_open(&g))
        abort();
    sl_gguf_add_u32(&g, "split.no", (uint32_t)no);
    sl_gguf_add_u32(&g, "split.count", 2);
    sl_gguf_add_u32(&g, "split.tensors.count", 2);
    sl_gguf_add_tensor(&g, no ? "y" : "x", sl_ggml_type_of(0), 1, shape);
    if (sl_writer_open(&w, path[no]) || sl_gguf_put_head(&g, &w) || sl_writer_put(&w, values, sizeof values) ||
        sl_writer_finish(&w, NULL))
        abort();
    sl_gguf_plan_close(&g);
    FILE *f = fopen(path[no], "rb");
    if (!f || (right_size[no] = fread(right[no], 1, sizeof right[no], f)) == 0 || fclose(f))
        abort();
}

static void make_parts(void) {
    bool made;
    const char *folder = sl_fuzz_folder(&made);
    for (int i = 0; made && i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/m-0000%d-of-00002.gguf", folder, i + 1);
        make_right(i);
    }
}

static volatile float sum; /* volatile: the reads must stay */

static void open_both(void) {
    sl_tensors *t = sl_tensors_open(path[0]);
    for (int i = 0; t && i < sl_tensors_count(t); i++) {
        const sl_tensor_view *v = sl_tensors_at(t, i);
        int64_t n = sl_tensor_rows(v) * v->shape[v->ndim - 1];
        float *x = v->floats ? malloc((size_t)n * sizeof *x) : NULL;
        if (sl_tensors_find(t, v->name) != i)
            abort();
        if (x) {
            sl_tensor_read(v, 0, sl_tensor_rows(v), x);
            sum += x[n - 1];
        }
        free(x);
    }
    sl_tensors_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    make_parts();
    for (int no = 0; no < 2; no++) {
        sl_fuzz_put(path[no], data, n);
        sl_fuzz_put(path[1 - no], right[1 - no], right_size[1 - no]);
        open_both();
    }
    return 0;
}
