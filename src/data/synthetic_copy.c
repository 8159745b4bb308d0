/* Copying of random symbols: once behind a separator (copy), or block after block (block, which scores induction
 * heads; a block as long as the window never comes again and leaves attention nothing to do). */
#include "base/err.h"
#include "data/synthetic_kind.h"

#include <string.h>

/* ---- copy: x_1 .. x_m SEP x_1 .. x_m; the answers from SEP on count */

static int open_copy(sl_synthetic *s) {
    s->symbols = (int32_t)s->config.synthetic_symbols + 1; /* the last one is SEP */
    return sl_synthetic_length(&s->config) >= 2
               ? 0
               : sl_fail_usage("model.seq = %lld is too short for %s; at least %d", (long long)s->config.model_seq,
                               s->config.data_corpus, 2 + s->config.data_bos);
}

static void draw_copy(const sl_synthetic *s, sl_rng *r, int64_t n, int32_t *in, int32_t *target, int32_t *start) {
    int64_t m = n / 2; /* where n is odd, all of the copy is there and the last answer is left out */
    for (int64_t i = 0; i < m; i++) {
        in[i] = (int32_t)sl_rng_below(r, (uint64_t)s->symbols - 1);
        target[i] = -1;
    }
    in[m] = s->symbols - 1;
    for (int64_t i = m; i < n; i++) {
        target[i] = i < 2 * m ? in[i - m] : -1;
        if (i + 1 < n)
            in[i + 1] = target[i];
    }
    *start = -1;
}

static void mark_copy(const sl_synthetic *s, int64_t n, const int32_t *in, uint8_t *mark) {
    bool behind = false;
    for (int64_t i = 0; i < n; i++)
        mark[i] = behind = behind || in[i] == s->symbols - 1;
}

const sl_synthetic_kind sl_synthetic_copy = {true, open_copy, NULL, draw_copy, mark_copy};

/* ---- block: x_1 .. x_p x_1 .. x_p ... */

static int64_t period(const sl_config *c) {
    int64_t n = sl_synthetic_length(c);
    return c->synthetic_block ? c->synthetic_block : (n + 1) / 2;
}

static int open_block(sl_synthetic *s) {
    s->symbols = (int32_t)s->config.synthetic_symbols;
    return 0;
}

static void draw_block(const sl_synthetic *s, sl_rng *r, int64_t n, int32_t *in, int32_t *target, int32_t *start) {
    int64_t p = period(&s->config);
    for (int64_t i = 0; i <= n; i++) {
        int32_t x = i < p ? (int32_t)sl_rng_below(r, (uint64_t)s->symbols) : in[i - p];
        if (i < n)
            in[i] = x;
        if (i > 0)
            target[i - 1] = x;
    }
    *start = in[0];
}

/* Known are the answers that follow p tokens. */
static void mark_block(const sl_synthetic *s, int64_t n, const int32_t *in, uint8_t *mark) {
    int64_t p = period(&s->config), seen = 0;
    for (int64_t i = 0; i < n; i++) {
        seen += in[i] < s->symbols;
        mark[i] = seen >= p;
    }
}

const sl_synthetic_kind sl_synthetic_block = {true, open_block, NULL, draw_block, mark_block};
