#include "io/gguf_write.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

enum { VERSION = 3, ALIGNMENT = 32 };

static int open_part(sl_gguf_part *p) {
    *p = (sl_gguf_part){NULL, 0, NULL};
    p->stream = open_memstream(&p->bytes, &p->n);
    return p->stream ? 0 : sl_fail("out of memory for a GGUF file");
}

static void close_part(sl_gguf_part *p) {
    if (p->stream)
        fclose(p->stream);
    free(p->bytes);
}

int sl_gguf_plan_open(sl_gguf_plan *g) {
    *g = (sl_gguf_plan){.keys = 0};
    return open_part(&g->key) || open_part(&g->tensor) ? -1 : 0;
}

void sl_gguf_plan_close(sl_gguf_plan *g) {
    close_part(&g->key);
    close_part(&g->tensor);
}

/* ---------------------------------------------------------------- key-values */

static void add(sl_gguf_part *p, const void *v, size_t n) { fwrite(v, 1, n, p->stream); }
static void add32(sl_gguf_part *p, uint32_t v) { add(p, &v, sizeof v); }
static void add64(sl_gguf_part *p, uint64_t v) { add(p, &v, sizeof v); }

static void add_string(sl_gguf_part *p, const char *s, size_t n) {
    add64(p, n);
    add(p, s, n);
}

static void add_key(sl_gguf_plan *g, const char *key, enum sl_gguf_type type) {
    add_string(&g->key, key, strlen(key));
    add32(&g->key, type);
    g->keys++;
}

void sl_gguf_add_u32(sl_gguf_plan *g, const char *key, uint32_t v) {
    add_key(g, key, SL_GGUF_U32);
    add32(&g->key, v);
}

void sl_gguf_add_f32(sl_gguf_plan *g, const char *key, float v) {
    add_key(g, key, SL_GGUF_F32);
    add(&g->key, &v, sizeof v);
}

void sl_gguf_add_bool(sl_gguf_plan *g, const char *key, bool v) {
    add_key(g, key, SL_GGUF_BOOL);
    add(&g->key, &(unsigned char){v}, 1);
}

void sl_gguf_add_text(sl_gguf_plan *g, const char *key, const char *text) {
    add_key(g, key, SL_GGUF_STRING);
    add_string(&g->key, text, strlen(text));
}

void sl_gguf_add_array(sl_gguf_plan *g, const char *key, enum sl_gguf_type type, uint64_t n) {
    add_key(g, key, SL_GGUF_ARRAY);
    add32(&g->key, type);
    add64(&g->key, n);
}

void sl_gguf_add_element(sl_gguf_plan *g, const char *p, size_t n) { add_string(&g->key, p, n); }
void sl_gguf_add_whole(sl_gguf_plan *g, int32_t v) { add(&g->key, &v, sizeof v); }

/* ---------------------------------------------------------------- tensors */

void sl_gguf_add_tensor(sl_gguf_plan *g, const char *name, const sl_ggml_type *type, int ndim, const int64_t *shape) {
    uint64_t bytes = (uint64_t)type->bytes;
    add_string(&g->tensor, name, strlen(name));
    add32(&g->tensor, (uint32_t)ndim);
    for (int i = ndim - 1; i >= 0; i--) {
        add64(&g->tensor, (uint64_t)shape[i]);
        bytes *= (uint64_t)shape[i];
    }
    add32(&g->tensor, type->id);
    add64(&g->tensor, g->data);
    g->data += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    g->tensors++;
}

int sl_gguf_put_padding(sl_writer *w) {
    static const char zeros[ALIGNMENT];
    return sl_writer_put(w, zeros, (ALIGNMENT - w->size % ALIGNMENT) % ALIGNMENT);
}

int sl_gguf_put_head(sl_gguf_plan *g, sl_writer *w) {
    const uint32_t version = VERSION;
    if (fflush(g->key.stream) || fflush(g->tensor.stream) || ferror(g->key.stream) || ferror(g->tensor.stream)) {
        sl_fail("%s: out of memory for its keys", w->path);
        return sl_writer_abandon(w);
    }
    return sl_writer_put(w, "GGUF", 4) || sl_writer_put(w, &version, sizeof version) ||
                   sl_writer_put(w, &g->tensors, sizeof g->tensors) || sl_writer_put(w, &g->keys, sizeof g->keys) ||
                   sl_writer_put(w, g->key.bytes, g->key.n) || sl_writer_put(w, g->tensor.bytes, g->tensor.n) ||
                   sl_gguf_put_padding(w)
               ? -1
               : 0;
}
