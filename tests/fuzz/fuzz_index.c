/* model.safetensors.index.json beside two files; of what is accepted every tensor can be read. */
#include "fuzz.h"
#include "io/safetensors.h"
#include "io/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[] = "/tmp/sinklab-fuzz-XXXXXX", path[128];

static const char *in_folder(const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void remove_all(void) {
    static const char *const names[] = {"a.safetensors", "b.safetensors", "model.safetensors.index.json", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        remove(in_folder(names[i]));
}

/* Once. What is random in the folder's name does not tell whether it was made: it may hold any letter. */
static void make_folder(void) {
    static const float values[4];
    static bool made;
    if (made)
        return;
    made = true;
    if (!mkdtemp(folder) || atexit(remove_all))
        abort();
    for (int i = 0; i < 2; i++) {
        sl_st_entry e = {.meta = {.dtype = SL_F32, .ndim = 2, .shape = {2, 2}}, .data = values};
        strcpy(e.meta.name, i ? "y" : "x");
        if (sl_st_write(in_folder(i ? "b.safetensors" : "a.safetensors"), &e, 1, NULL, NULL, 0))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    make_folder();
    remove(in_folder("model.safetensors.index.json")); /* some file systems write to the disk at a truncation */
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f))
        abort();
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
