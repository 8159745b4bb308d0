#include "data/dataset.h"

#include "base/err.h"
#include "base/rng.h"
#include "data/corpus.h"
#include "data/permute.h"
#include "data/synthetic.h"
#include "data/token_cache.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Of a synthetic corpus: training windows before they would begin again, and those that validation has. */
static const int64_t synthetic_windows[] = {(int64_t)1 << 40, 4096};
/* Windows of validation: of no seed of training, and of numbers that training never comes to. */
static const uint64_t val_sub = (uint64_t)1 << 63;

struct sl_dataset {
    sl_synthetic *synthetic; /* or NULL, and then: */
    sl_corpus corpus;
    sl_tokenizer *tokenizer; /* a synthetic corpus has one too */
    sl_token_store store[2]; /* of texts */
    int32_t *own;            /* of sl_dataset_of_tokens() */
    sl_tokens tokens[2];     /* [SL_TRAIN], [SL_VAL] */
    double bytes_per_token[2];
    uint64_t hash;
    int64_t seq;
    bool bos, bos_first;
    int32_t first_token; /* -1: the window's own */
};

static const char *const split_name[] = {"training", "validation"};

/* Every id of a bin must be one of the tokenizer's. */
static int check_ids(const sl_dataset *d, const sl_part *p, const char *spec) {
    int64_t at, largest = sl_tokens_largest(&p->bin.tokens, &at);
    if (largest < sl_tokenizer_vocab(d->tokenizer))
        return 0;
    return sl_fail_usage("%s: token %lld at place %lld is beyond the vocabulary (%d) of data.tokenizer=%s; set "
                         "data.tokenizer to the one that made the bin, or to ids:VOCABULARY:BOS "
                         "(GPT-2: ids:50257:50256)", p->path, (long long)largest, (long long)at,
                         sl_tokenizer_vocab(d->tokenizer), spec);
}

static int load_part(sl_dataset *d, int s, const sl_config *c) {
    const sl_part *p = &d->corpus.part[s];
    if (d->corpus.is_bin) {
        d->tokens[s] = p->bin.tokens;
        return check_ids(d, p, c->data_tokenizer);
    }
    /* Bytes are made faster than they are read from a disk. */
    const char *folder = strcmp(c->data_tokenizer, "bytes") ? d->corpus.folder : NULL;
    if (sl_tokenize_cached(&d->store[s], d->tokenizer, p->text, p->n, folder))
        return sl_fail_prefix("%s", p->path);
    d->tokens[s] = d->store[s].tokens;
    return 0;
}

/* The last `fraction` of the training tokens becomes the validation part. */
static void cut_validation(sl_dataset *d, double fraction) {
    sl_tokens *train = &d->tokens[SL_TRAIN], *val = &d->tokens[SL_VAL];
    int64_t kept = train->count - (int64_t)((double)train->count * fraction);
    *val = (sl_tokens){(const char *)train->id + kept * train->width, train->width, train->count - kept};
    train->count = kept;
}

static int check_length(const sl_dataset *d, int s) {
    const sl_part *own = &d->corpus.part[s];
    const char *path = own->there ? own->path : d->corpus.part[SL_TRAIN].path;
    if (sl_dataset_windows(d, s) >= 1)
        return 0;
    return sl_fail_usage("%s: the %s part has %lld tokens, not enough for one window of model.seq=%lld; %slower "
                         "model.seq or use more text", path, split_name[s], (long long)d->tokens[s].count,
                         (long long)d->seq,
                         own->there ? "" : s == SL_VAL ? "raise data.val_fraction, " : "lower data.val_fraction, ");
}

static double mean_bytes(const sl_tokenizer *t, const sl_tokens *tokens) {
    int32_t vocab = sl_tokenizer_vocab(t);
    size_t *length = calloc((size_t)vocab, sizeof *length), sum = 0;
    if (!length)
        return 0;
    for (int32_t id = 0; id < vocab; id++)
        if (!sl_tokenizer_piece(t, id, &length[id]))
            length[id] = 0;
    for (int64_t i = 0; i < tokens->count; i++)
        sum += sl_tokens_at(tokens, i) < vocab ? length[sl_tokens_at(tokens, i)] : 0;
    free(length);
    return tokens->count ? (double)sum / (double)tokens->count : 0;
}

static uint64_t hash_tokens(const sl_dataset *d) {
    uint64_t hash[4];
    for (int s = 0; s < 2; s++) {
        const sl_tokens *t = &d->tokens[s];
        hash[2 * s] = (uint64_t)t->count;
        hash[2 * s + 1] = XXH3_64bits(t->id, (size_t)t->count * (size_t)t->width);
    }
    return XXH3_64bits(hash, sizeof hash);
}

static void measure(sl_dataset *d) {
    for (int s = 0; s < 2; s++)
        if (sl_tokenizer_has_text(d->tokenizer))
            d->bytes_per_token[s] = mean_bytes(d->tokenizer, &d->tokens[s]);
    d->hash = hash_tokens(d);
}

static int open_corpus(sl_dataset *d, const sl_config *c) {
    if (sl_corpus_open(&d->corpus, c->data_corpus))
        return -1;
    for (int s = SL_TRAIN; s <= SL_VAL; s++)
        if (d->corpus.part[s].there && load_part(d, s, c))
            return -1;
    if (!d->corpus.part[SL_VAL].there)
        cut_validation(d, c->data_val_fraction);
    bool whole = !d->corpus.part[SL_VAL].there && c->data_val_fraction == 1;
    for (int s = whole ? SL_VAL : SL_TRAIN; s <= SL_VAL; s++)
        if (check_length(d, s))
            return -1;
    measure(d);
    return 0;
}

/* ---- Synthetic corpora ------------------------------------------------------------------------- */

static sl_tokenizer *synthetic_tokenizer(const sl_synthetic *s) {
    char spec[64];
    snprintf(spec, sizeof spec, "ids:%d", sl_synthetic_symbols(s) + 1);
    return sl_tokenizer_open(spec);
}

/* Any option shows in some of these sequences. */
static int hash_synthetic(sl_dataset *d) {
    enum { SEQUENCES = 64, TOKENS = 257 };
    int32_t (*x)[2][TOKENS] = calloc(SEQUENCES, sizeof *x), start;
    if (!x)
        return sl_fail("out of memory");
    for (int i = 0; i < SEQUENCES; i++) {
        sl_rng r = sl_rng_make(0, SL_STREAM_SYNTHETIC, val_sub + (uint64_t)i);
        sl_synthetic_draw(d->synthetic, &r, TOKENS, x[i][0], x[i][1], &start);
    }
    d->hash = XXH3_64bits(x, SEQUENCES * sizeof *x);
    free(x);
    return 0;
}

static int open_all(sl_dataset *d, const sl_config *c) {
    bool text = !sl_synthetic_named(c->data_corpus);
    if ((!text && !(d->synthetic = sl_synthetic_open(c))) ||
        !(d->tokenizer = text ? sl_dataset_open_tokenizer(c) : synthetic_tokenizer(d->synthetic)) ||
        sl_dataset_first_token(c, d->tokenizer, &d->first_token))
        return -1;
    return text ? open_corpus(d, c) : hash_synthetic(d);
}

int sl_dataset_first_token(const sl_config *c, const sl_tokenizer *t, int32_t *id) {
    *id = -1;
    if (strcmp(c->data_first_token, "own") == 0)
        return 0;
    return sl_tokenizer_find(t, c->data_first_token, id) ? sl_fail_prefix("data.first_token") : 0;
}

sl_tokenizer *sl_dataset_open_tokenizer(const sl_config *c) {
    if (sl_synthetic_named(c->data_corpus)) {
        sl_synthetic *s = sl_synthetic_open(c);
        sl_tokenizer *t = s ? synthetic_tokenizer(s) : NULL;
        sl_synthetic_close(s);
        return t;
    }
    sl_tokenizer *t = sl_tokenizer_open(c->data_tokenizer);
    if (!t) {
        sl_fail_prefix("data.tokenizer");
        return NULL;
    }
    if ((!sl_bos_is_own(c) && sl_tokenizer_set_bos(t, c->data_bos_token) && sl_fail_prefix("data.bos_token")) ||
        (c->data_bos && sl_tokenizer_bos(t) < 0 &&
         sl_fail_usage("data.bos: %s has no BOS; set data.bos=false, or name one of its tokens with data.bos_token",
                       c->data_tokenizer))) {
        sl_tokenizer_close(t);
        return NULL;
    }
    return t;
}

/* ---- Opening and closing ----------------------------------------------------------------------- */

static sl_dataset *make(const sl_config *c) {
    sl_dataset *d = calloc(1, sizeof *d);
    if (d)
        *d = (sl_dataset){.seq = c->model_seq, .bos = c->data_bos, .bos_first = c->data_bos_place == SL_BOS_FIRST,
                            .first_token = -1};
    else
        sl_fail("out of memory");
    return d;
}

sl_dataset *sl_dataset_open(const sl_config *c) {
    sl_dataset *d = make(c);
    if (d && open_all(d, c)) {
        sl_dataset_close(d);
        return NULL;
    }
    return d;
}

static int take_tokens(sl_dataset *d, const sl_config *c, const int32_t *tokens, int64_t n) {
    int64_t least = d->seq + !d->bos;
    if (n < least)
        return sl_fail_usage("%lld tokens are not enough for one window of model.seq=%lld, which takes %lld; lower it "
                             "or give more text",
                             (long long)n, (long long)d->seq, (long long)least);
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0)
            return sl_fail("token %d at place %lld is no token", tokens[i], (long long)i);
    if (!(d->own = malloc((size_t)n * sizeof *d->own)))
        return sl_fail("out of memory for %lld tokens", (long long)n);
    memcpy(d->own, tokens, (size_t)n * sizeof *tokens);
    d->tokens[SL_VAL] = (sl_tokens){d->own, sizeof *d->own, n};
    if (!(d->tokenizer = sl_dataset_open_tokenizer(c)) || sl_dataset_first_token(c, d->tokenizer, &d->first_token))
        return -1;
    measure(d);
    return 0;
}

sl_dataset *sl_dataset_of_tokens(const sl_config *c, const int32_t *tokens, int64_t n) {
    sl_dataset *d = make(c);
    if (d && take_tokens(d, c, tokens, n)) {
        sl_dataset_close(d);
        return NULL;
    }
    return d;
}

void sl_dataset_close(sl_dataset *d) {
    if (!d)
        return;
    for (int s = 0; s < 2; s++)
        sl_token_store_free(&d->store[s]);
    sl_corpus_close(&d->corpus);
    sl_synthetic_close(d->synthetic);
    sl_tokenizer_close(d->tokenizer);
    free(d->own);
    free(d);
}

int32_t sl_dataset_vocab(const sl_dataset *d) { return sl_tokenizer_vocab(d->tokenizer); }

const sl_tokenizer *sl_dataset_tokenizer(const sl_dataset *d) {
    return sl_tokenizer_has_text(d->tokenizer) ? d->tokenizer : NULL;
}

int64_t sl_dataset_seq(const sl_dataset *d) { return d->seq; }
int32_t sl_dataset_bos(const sl_dataset *d) { return d->bos ? sl_tokenizer_bos(d->tokenizer) : -1; }

int64_t sl_dataset_tokens(const sl_dataset *d, enum sl_split s) {
    return d->synthetic ? synthetic_windows[s] * d->seq : d->tokens[s].count;
}

double sl_dataset_bytes_per_token(const sl_dataset *d, enum sl_split s) { return d->bytes_per_token[s]; }
uint64_t sl_dataset_hash(const sl_dataset *d) { return d->hash; }

int sl_dataset_check(const sl_dataset *d) {
    return d->synthetic || hash_tokens(d) == d->hash ? 0
                                                     : sl_fail("the tokens of the text changed while it was in use: "
                                                               "another program writes to its file; put it back");
}

int64_t sl_dataset_windows(const sl_dataset *d, enum sl_split s) {
    int64_t n = d->tokens[s].count;
    if (d->synthetic)
        return synthetic_windows[s];
    return d->bos ? n / d->seq : n > 0 ? (n - 1) / d->seq : 0;
}

/* ---- Windows ----------------------------------------------------------------------------------- */

/* n tokens of window number `window` of a text and the ones that follow them; *start: the first. */
static void read_text(const sl_dataset *d, enum sl_split s, int64_t window, int64_t n, int32_t *in, int32_t *target,
                      int32_t *start) {
    const sl_tokens *t = &d->tokens[s];
    int64_t first = window * d->seq;
    for (int64_t i = 0; i < n; i++)
        target[i] = sl_tokens_at(t, first + i + 1);
    *start = sl_tokens_at(t, first);
    in[0] = *start;
    memcpy(in + 1, target, (size_t)(n - 1) * sizeof *in);
}

/* Puts BOS between the n tokens: at `place`, 0 .. n. Where answers are next tokens, the one that BOS comes between is
 * wanted after BOS, and before it none is; else BOS gets the answer of a start. */
static void insert_bos(const sl_dataset *d, int64_t n, int64_t place, int32_t start, int32_t *in, int32_t *target) {
    memmove(in + place + 1, in + place, (size_t)(n - place) * sizeof *in);
    memmove(target + place + 1, target + place, (size_t)(n - place) * sizeof *target);
    in[place] = sl_tokenizer_bos(d->tokenizer);
    target[place] = start;
    if (place > 0 && (!d->synthetic || sl_synthetic_next_token(d->synthetic))) {
        target[place] = target[place - 1];
        target[place - 1] = -1;
    }
}

/* BOS, where windows have one. seed and sub: of the random numbers of this window. */
static void place_bos(const sl_dataset *d, uint64_t seed, uint64_t sub, int32_t start, int32_t *in, int32_t *target) {
    int64_t place = 0;
    if (!d->bos)
        return;
    if (!d->bos_first) {
        sl_rng r = sl_rng_make(seed, SL_STREAM_BOS, sub);
        place = (int64_t)sl_rng_below(&r, (uint64_t)d->seq);
    }
    insert_bos(d, d->seq - 1, place, start, in, target);
}

/* window: of the text; seed and sub: of the random numbers of this window, where there are any. */
static void fill(const sl_dataset *d, enum sl_split s, int64_t window, uint64_t seed, uint64_t sub, int32_t *in,
                 int32_t *target) {
    int64_t n = d->seq - d->bos;
    int32_t start;
    if (d->synthetic) {
        sl_rng r = sl_rng_make(seed, SL_STREAM_SYNTHETIC, sub);
        sl_synthetic_draw(d->synthetic, &r, n, in, target, &start);
    } else
        read_text(d, s, window, n, in, target, &start);
    place_bos(d, seed, sub, start, in, target);
    if (d->first_token >= 0)
        in[0] = d->first_token;
}

void sl_dataset_train_window(const sl_dataset *d, uint64_t seed, int64_t index, int32_t *in, int32_t *target) {
    int64_t windows = sl_dataset_windows(d, SL_TRAIN), window = 0;
    if (!d->synthetic)
        window = sl_permute(seed, (uint64_t)(index / windows), windows, index % windows);
    fill(d, SL_TRAIN, window, seed, (uint64_t)index, in, target);
}

void sl_dataset_val_window(const sl_dataset *d, int64_t index, int32_t *in, int32_t *target) {
    fill(d, SL_VAL, index, 0, val_sub + (uint64_t)index, in, target);
}

bool sl_dataset_has_marks(const sl_dataset *d) { return d->synthetic != NULL; }

void sl_dataset_mark(const sl_dataset *d, const int32_t *in, uint8_t *mark) {
    sl_synthetic_mark(d->synthetic, d->seq, in, mark);
}
