/* model.safetensors.index.json beside two files; of what is accepted every tensor can be read. */
#include "fuzz.h"
#include "io/safetensors.h"
#include "io/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;

static const char *in_folder(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void make_files(void) {
    static const float values[4];
    bool made;
    folder = sl_fuzz_folder(&made);
    for (int i = 0; made && i < 2; i++) {
        sl_st_entry e = {.meta = {.dtype = SL_F32, .ndim = 2, .shape = {2, 2}}, .data = values};
        strcpy(e.meta.name, i ? "y" : "x");
        if (sl_st_write(in_folder(i ? "b.safetensors" : "a.safetensors"), &e, 1, NULL, NULL, 0))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    make_files();
    sl_fuzz_put(in_folder("model.safetensors.index.json"), data, n);
    sl_tensors *t = sl_tensors_open(folder);
    for (int i = 0; t && i < sl_tensors_count(t); i++) {
        const sl_tensor_view *v = sl_tensors_at(t, i);
        float x[4];
        if (sl_tensors_find(t, v->name) != i)
            abort();
        sl_tensor_read(v, 0, sl_tensor_rows(v), x);
    }
    sl_tensors_close(t);
    return 0;
}
