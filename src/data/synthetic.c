#include "data/synthetic_kind.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    const sl_synthetic_kind *kind;
} kinds[] = {
#define SYNTHETIC(name, help) {#name, &sl_synthetic_##name},
#include "tables/synthetic.inc"
#undef SYNTHETIC
};

static const sl_synthetic_kind *find(const char *corpus) {
    for (size_t i = 0; sl_synthetic_named(corpus) && i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(corpus + sizeof SL_SYNTHETIC_PREFIX - 1, kinds[i].name) == 0)
            return kinds[i].kind;
    return NULL;
}

sl_synthetic *sl_synthetic_open(const sl_config *c) {
    const sl_synthetic_kind *kind = find(c->data_corpus);
    sl_synthetic *s = kind ? calloc(1, sizeof *s) : NULL;
    if (!s) {
        kind ? sl_fail("out of memory") : sl_fail_usage("data.corpus: no synthetic corpus of that name");
        return NULL;
    }
    s->kind = kind;
    s->config = *c;
    if (kind->open(s)) {
        sl_synthetic_close(s);
        return NULL;
    }
    return s;
}

void sl_synthetic_close(sl_synthetic *s) {
    if (!s)
        return;
    if (s->kind->close)
        s->kind->close(s);
    free(s->own);
    free(s);
}

int32_t sl_synthetic_symbols(const sl_synthetic *s) { return s->symbols; }
bool sl_synthetic_next_token(const sl_synthetic *s) { return s->kind->next_token; }

void sl_synthetic_draw(const sl_synthetic *s, sl_rng *r, int64_t n, int32_t *in, int32_t *target, int32_t *start) {
    s->kind->draw(s, r, n, in, target, start);
}

void sl_synthetic_mark(const sl_synthetic *s, int64_t n, const int32_t *in, uint8_t *mark) {
    s->kind->mark(s, n, in, mark);
}
