#include "probe/top_tokens.h"

#include "base/mem.h"
#include "base/threads.h"

#include <math.h>
#include <string.h>

typedef struct {
    sl_top_list list[2];
    double sum; /* of the norms of others */
    int64_t count;
} layer_top;

enum { ROWS = 64 }; /* of one item; a cut by shape alone */

struct sl_top_tokens {
    int64_t layers, dim, rows, seq, windows; /* windows: added so far */
    double *norm;                            /* of a pass's rows */
    layer_top layer[];                       /* layers + 1 */
};

sl_top_tokens *sl_top_tokens_create(const sl_model *m) {
    sl_shape s = sl_model_shape(m);
    size_t size = sizeof(sl_top_tokens) + (size_t)(s.layers + 1) * sizeof(layer_top);
    sl_top_tokens *t = sl_alloc(size, "the tokens of largest norm");
    if (!t)
        return NULL;
    memset(t, 0, size);
    t->layers = s.layers, t->dim = s.dim, t->rows = s.batch * s.seq, t->seq = s.seq;
    t->norm = sl_alloc((size_t)t->rows * sizeof *t->norm, "the tokens of largest norm");
    if (t->norm)
        return t;
    sl_free(t);
    return NULL;
}

void sl_top_tokens_free(sl_top_tokens *t) {
    if (t)
        sl_free(t->norm);
    sl_free(t);
}

static void insert(sl_top_list *l, const sl_top_token *row) {
    int at = l->count;
    while (at > 0 && l->row[at - 1].norm < row->norm)
        at--;
    if (at >= SL_TOP_TOKENS)
        return;
    l->count += l->count < SL_TOP_TOKENS;
    memmove(l->row + at + 1, l->row + at, (size_t)(l->count - 1 - at) * sizeof *l->row);
    l->row[at] = *row;
}

typedef struct {
    int64_t rows, dim;
    const float *h;
    double *norm;
} job;

static void norms_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const job *j = ctx;
    for (int64_t r = item * ROWS; r < j->rows && r < (item + 1) * ROWS; r++) {
        double sum = 0;
        for (int64_t i = 0; i < j->dim; i++)
            sum += (double)j->h[r * j->dim + i] * j->h[r * j->dim + i];
        j->norm[r] = sqrt(sum);
    }
}

/* A norm that is not a number is in no list. */
static void add_layer(sl_top_tokens *t, layer_top *l, const int32_t *in) {
    for (int64_t r = 0; r < t->rows; r++) {
        sl_top_token row = {t->norm[r], t->windows + r / t->seq, r % t->seq, in[r]};
        bool first = row.position == 0;
        if (!isnan(row.norm))
            insert(&l->list[first ? SL_TOP_FIRST : SL_TOP_OTHERS], &row);
        l->sum += first ? 0 : row.norm;
        l->count += !first;
    }
}

int sl_top_tokens_add(sl_top_tokens *t, const sl_model *m, const int32_t *in) {
    for (int64_t i = 0; i <= t->layers; i++) {
        job j = {t->rows, t->dim, sl_model_residual(m, (int)i), t->norm};
        if (!j.h)
            return -1;
        sl_parallel((t->rows + ROWS - 1) / ROWS, norms_item, &j);
        add_layer(t, &t->layer[i], in);
    }
    t->windows += t->rows / t->seq;
    return 0;
}

static double largest(const layer_top *l) {
    double norm = -1;
    for (int kind = 0; kind < 2; kind++)
        if (l->list[kind].count > 0)
            norm = fmax(norm, l->list[kind].row[0].norm);
    return norm;
}

int64_t sl_top_tokens_layer(const sl_top_tokens *t) {
    int64_t best = 0;
    for (int64_t i = 1; i <= t->layers; i++)
        if (largest(&t->layer[i]) > largest(&t->layer[best]))
            best = i;
    return best;
}

const sl_top_list *sl_top_tokens_list(const sl_top_tokens *t, int64_t layer, int kind) {
    return &t->layer[layer].list[kind];
}

double sl_top_tokens_mean(const sl_top_tokens *t, int64_t layer) {
    return t->layer[layer].sum / (double)t->layer[layer].count;
}
