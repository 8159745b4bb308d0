/* Bigram-Backcopy (arXiv 2410.13835). With P the frequencies of characters and P(b|a) those of neighbours in a
 * text: the first character comes from P without the triggers; after a trigger comes, with probability
 * data.synthetic.copy_probability, the character before it, else and after any other P(.|last). */
#include "base/err.h"
#include "data/corpus.h"
#include "data/dataset.h"
#include "data/synthetic_kind.h"

#include <stdlib.h>
#include <string.h>

enum { BYTES = 256 };

typedef struct {
    int64_t one[BYTES], two[BYTES][BYTES];
} counts;

/* Sums of counts, so that a number below the last one picks a symbol. */
typedef struct {
    bool trigger[BYTES];
    int64_t first[BYTES], any[BYTES];
    int64_t after[BYTES][BYTES]; /* that of a symbol that nothing follows ends in 0 */
} tables;

static const struct {
    unsigned char a, b;
    int32_t n;
} pairs[] = {
#define CHAR(a, n)
#define PAIR(a, b, n) {a, b, n},
#include "data/char_pairs.inc"
#undef PAIR
#undef CHAR
};

static void built_in(counts *c) {
#define CHAR(a, n) c->one[a] = n;
#define PAIR(a, b, n)
#include "data/char_pairs.inc"
#undef PAIR
#undef CHAR
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        c->two[pairs[i].a][pairs[i].b] = pairs[i].n;
}

/* Documents apart: no pair across a boundary line. */
static void count_text(counts *c, const char *text, size_t n) {
    for (size_t at = 0, after; at < n; at = after) {
        size_t end = sl_document_end(text, n, at, &after);
        for (size_t i = at; i < end; i++) {
            unsigned char a = (unsigned char)text[i];
            c->one[a]++;
            if (i + 1 < end)
                c->two[a][(unsigned char)text[i + 1]]++;
        }
    }
}

static int count_corpus(counts *c, const char *name) {
    sl_corpus corpus;
    int rc = sl_corpus_open(&corpus, name) ? sl_fail_prefix("data.synthetic.text") : 0;
    if (rc == 0 && corpus.is_bin)
        rc = sl_fail_usage("data.synthetic.text: %s holds tokens; a text is needed", corpus.part[SL_TRAIN].path);
    for (int s = SL_TRAIN; rc == 0 && s <= SL_VAL; s++)
        if (corpus.part[s].there)
            count_text(c, corpus.part[s].text, corpus.part[s].n);
    sl_corpus_close(&corpus);
    return rc;
}

/* Marks the k most frequent symbols, the lowest of equals. */
static void choose_triggers(tables *t, int64_t k, int32_t symbols, const int64_t *one) {
    for (; k > 0; k--) {
        int32_t best = -1;
        for (int32_t a = 0; a < symbols; a++)
            if (!t->trigger[a] && (best < 0 || one[a] > one[best]))
                best = a;
        t->trigger[best] = true;
    }
}

static int make_tables(sl_synthetic *s, const counts *c) {
    int32_t byte[BYTES], n = 0;
    int64_t one[BYTES], k = s->config.synthetic_triggers;
    tables *t = s->own;
    for (int32_t a = 0; a < BYTES; a++)
        if (c->one[a])
            one[n] = c->one[a], byte[n++] = a;
    if (n <= k)
        return sl_fail_usage("data.synthetic.triggers = %lld, but the text has only %d different characters",
                             (long long)k, n);
    choose_triggers(t, k, n, one);
    int64_t first = 0, any = 0;
    for (int32_t a = 0; a < n; a++) {
        int64_t sum = 0;
        t->first[a] = first += t->trigger[a] ? 0 : one[a];
        t->any[a] = any += one[a];
        for (int32_t b = 0; b < n; b++)
            t->after[a][b] = sum += c->two[byte[a]][byte[b]];
    }
    s->symbols = n;
    return 0;
}

static int open_backcopy(sl_synthetic *s) {
    counts *c = calloc(1, sizeof *c);
    s->own = calloc(1, sizeof(tables));
    int rc = c && s->own ? 0 : sl_fail("out of memory");
    if (rc == 0 && strcmp(s->config.synthetic_text, "built-in") == 0)
        built_in(c);
    else if (rc == 0)
        rc = count_corpus(c, s->config.synthetic_text);
    if (rc == 0)
        rc = make_tables(s, c);
    free(c);
    return rc;
}

static int32_t pick(const int64_t *sums, int32_t n, sl_rng *r) {
    int64_t x = (int64_t)sl_rng_below(r, (uint64_t)sums[n - 1]);
    int32_t lo = 0, hi = n - 1;
    while (lo < hi) {
        int32_t mid = (lo + hi) / 2;
        if (x < sums[mid])
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static bool copies(double probability, sl_rng *r) { return probability >= 1 || sl_rng_uniform(r) < probability; }

static int32_t next(const sl_synthetic *s, sl_rng *r, int32_t last, int32_t before) {
    const tables *t = s->own;
    if (before >= 0 && t->trigger[last] && copies(s->config.synthetic_copy_probability, r))
        return before;
    return pick(t->after[last][s->symbols - 1] ? t->after[last] : t->any, s->symbols, r);
}

static void draw(const sl_synthetic *s, sl_rng *r, int64_t n, int32_t *in, int32_t *target, int32_t *start) {
    const tables *t = s->own;
    *start = in[0] = pick(t->first, s->symbols, r);
    for (int64_t i = 0; i < n; i++) {
        target[i] = next(s, r, in[i], i ? in[i - 1] : -1);
        if (i + 1 < n)
            in[i + 1] = target[i];
    }
}

static void mark(const sl_synthetic *s, int64_t n, const int32_t *in, uint8_t *mark) {
    const tables *t = s->own;
    for (int64_t i = 0; i < n; i++)
        mark[i] = in[i] < s->symbols && t->trigger[in[i]];
}

const sl_synthetic_kind sl_synthetic_backcopy = {true, open_backcopy, NULL, draw, mark};
