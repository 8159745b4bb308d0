/* Inside of synthetic corpora: what a kind consists of. */
#ifndef SL_DATA_SYNTHETIC_KIND_H
#define SL_DATA_SYNTHETIC_KIND_H

#include "data/synthetic.h"

typedef struct {
    bool next_token;
    /* Sets s->symbols and s->own from s->config. 0, or -1 with a message; close is called after a failure too. */
    int (*open)(sl_synthetic *s);
    void (*close)(sl_synthetic *s); /* NULL: nothing to do but free s->own */
    void (*draw)(const sl_synthetic *s, sl_rng *r, int64_t n, int32_t *in, int32_t *target, int32_t *start);
    void (*mark)(const sl_synthetic *s, int64_t n, const int32_t *in, uint8_t *mark);
} sl_synthetic_kind;

struct sl_synthetic {
    const sl_synthetic_kind *kind;
    sl_config config;
    int32_t symbols; /* BOS is this id */
    void *own;       /* of the kind; malloc'ed */
};

/* Tokens of a window besides BOS. */
static inline int64_t sl_synthetic_length(const sl_config *c) { return c->model_seq - c->data_bos; }

#define SYNTHETIC(name, help) extern const sl_synthetic_kind sl_synthetic_##name;
#include "tables/synthetic.inc"
#undef SYNTHETIC

#endif
