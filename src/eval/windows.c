#include "eval/windows.h"

#include "base/err.h"
#include "base/stop.h"

#include <stdlib.h>

typedef struct {
    int32_t *in, *target;
    uint8_t *mark;
    int64_t batch, seq;
} rows;

int64_t sl_val_windows(const sl_dataset *d, int64_t wanted, int64_t skip) {
    int64_t have = sl_dataset_windows(d, SL_VAL), left = skip == SL_SPREAD ? have : have - skip;
    if (have < 1)
        return sl_fail("the text has no validation window of %lld tokens; raise data.val_fraction or lower model.seq",
                       (long long)sl_dataset_seq(d));
    if (left < 1)
        return sl_fail_usage("%lld windows left out leave none of the %lld of the text; leave out fewer",
                             (long long)skip, (long long)have);
    return wanted == 0 || wanted > left ? left : wanted;
}

int64_t sl_val_window(const sl_dataset *d, const sl_windows *w, int64_t i) {
    int64_t have = sl_dataset_windows(d, SL_VAL), windows = w->windows < have ? w->windows : have;
    return w->skip == SL_SPREAD ? i % windows * have / windows : (w->skip + i) % have;
}

static void read_window(const rows *r, const sl_model *m, const sl_dataset *d, const sl_windows *w, int64_t index,
                        int64_t place) {
    int32_t *in = r->in + place * r->seq, *target = r->target + place * r->seq;
    if (w->split == SL_TRAIN)
        sl_dataset_train_window(d, (uint64_t)sl_model_config(m)->seed, w->skip + index, in, target);
    else
        sl_dataset_val_window(d, sl_val_window(d, w, index), in, target);
    if (r->mark)
        sl_dataset_mark(d, in, r->mark + place * r->seq);
}

static sl_batch read_batch(const rows *r, const sl_model *m, const sl_dataset *d, const sl_windows *w, int64_t first) {
    int64_t left = w->windows - first, n = left < r->batch ? left : r->batch;
    int64_t filled = w->fill == SL_FILL_WINDOWS ? r->batch : n;
    for (int64_t i = 0; i < filled; i++)
        read_window(r, m, d, w, first + i, i);
    for (int64_t i = filled * r->seq; i < r->batch * r->seq; i++)
        r->in[i] = 0, r->target[i] = -1;
    return (sl_batch){.first = first, .n = n, .in = r->in, .target = r->target, .mark = r->mark};
}

int sl_each_batch(sl_model *m, const sl_dataset *d, sl_windows w, sl_batch_fn fn, void *ctx) {
    rows r = {.batch = sl_model_shape(m).batch, .seq = sl_model_shape(m).seq};
    size_t n = (size_t)(r.batch * r.seq);
    bool marks = sl_dataset_has_marks(d);
    r.in = malloc(n * sizeof *r.in);
    r.target = malloc(n * sizeof *r.target);
    r.mark = marks ? calloc(n, 1) : NULL;
    int rc = r.in && r.target && (r.mark || !marks) ? 0 : sl_fail("out of memory for a batch of windows");
    for (int64_t first = 0; rc == 0 && first < w.windows; first += r.batch) {
        sl_batch b = read_batch(&r, m, d, &w, first);
        rc = sl_stop_asked() ? -1 : fn(ctx, m, &b);
    }
    free(r.in), free(r.target), free(r.mark);
    return rc;
}
