#include "data/dataset.h"

#include "base/err.h"
#include "data/corpus.h"
#include "data/permute.h"
#include "data/token_cache.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct sl_dataset {
    sl_corpus corpus;
    sl_tokenizer *tokenizer;
    sl_token_store store[2]; /* of texts */
    sl_tokens tokens[2];     /* [SL_TRAIN], [SL_VAL] */
    double bytes_per_token[2];
    uint64_t hash;
    int64_t seq;
    bool bos;
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
        sum += length[sl_tokens_at(tokens, i)];
    free(length);
    return (double)sum / (double)tokens->count;
}

static void measure(sl_dataset *d) {
    uint64_t hash[4];
    for (int s = 0; s < 2; s++) {
        const sl_tokens *t = &d->tokens[s];
        hash[2 * s] = (uint64_t)t->count;
        hash[2 * s + 1] = XXH3_64bits(t->id, (size_t)t->count * (size_t)t->width);
        if (sl_tokenizer_has_text(d->tokenizer))
            d->bytes_per_token[s] = mean_bytes(d->tokenizer, t);
    }
    d->hash = XXH3_64bits(hash, sizeof hash);
}

static int open_all(sl_dataset *d, const sl_config *c) {
    d->seq = c->model_seq;
    d->bos = c->data_bos;
    if (!(d->tokenizer = sl_tokenizer_open(c->data_tokenizer)))
        return sl_fail_prefix("data.tokenizer");
    if (sl_corpus_open(&d->corpus, c->data_corpus))
        return -1;
    for (int s = SL_TRAIN; s <= SL_VAL; s++)
        if (d->corpus.part[s].there && load_part(d, s, c))
            return -1;
    if (!d->corpus.part[SL_VAL].there)
        cut_validation(d, c->data_val_fraction);
    for (int s = SL_TRAIN; s <= SL_VAL; s++)
        if (check_length(d, s))
            return -1;
    measure(d);
    return 0;
}

sl_dataset *sl_dataset_open(const sl_config *c) {
    sl_dataset *d = calloc(1, sizeof *d);
    if (!d) {
        sl_fail("out of memory");
        return NULL;
    }
    if (open_all(d, c)) {
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
    sl_tokenizer_close(d->tokenizer);
    free(d);
}

int32_t sl_dataset_vocab(const sl_dataset *d) { return sl_tokenizer_vocab(d->tokenizer); }

const sl_tokenizer *sl_dataset_tokenizer(const sl_dataset *d) {
    return sl_tokenizer_has_text(d->tokenizer) ? d->tokenizer : NULL;
}

int64_t sl_dataset_tokens(const sl_dataset *d, enum sl_split s) { return d->tokens[s].count; }
double sl_dataset_bytes_per_token(const sl_dataset *d, enum sl_split s) { return d->bytes_per_token[s]; }
uint64_t sl_dataset_hash(const sl_dataset *d) { return d->hash; }

int64_t sl_dataset_windows(const sl_dataset *d, enum sl_split s) {
    int64_t n = d->tokens[s].count;
    return d->bos ? n / d->seq : n > 0 ? (n - 1) / d->seq : 0;
}

static void fill(const sl_dataset *d, enum sl_split s, int64_t window, int32_t *in, int32_t *target) {
    const sl_tokens *t = &d->tokens[s];
    int64_t first = window * d->seq;
    for (int64_t i = 0; i < d->seq; i++)
        target[i] = sl_tokens_at(t, first + i + !d->bos);
    in[0] = d->bos ? sl_tokenizer_bos(d->tokenizer) : sl_tokens_at(t, first);
    memcpy(in + 1, target, (size_t)(d->seq - 1) * sizeof *in);
}

void sl_dataset_train_window(const sl_dataset *d, uint64_t seed, int64_t index, int32_t *in, int32_t *target) {
    int64_t windows = sl_dataset_windows(d, SL_TRAIN);
    fill(d, SL_TRAIN, sl_permute(seed, (uint64_t)(index / windows), windows, index % windows), in, target);
}

void sl_dataset_val_window(const sl_dataset *d, int64_t index, int32_t *in, int32_t *target) {
    fill(d, SL_VAL, index, in, target);
}
