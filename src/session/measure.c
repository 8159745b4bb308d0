#include "session/measure.h"

#include "base/err.h"
#include "base/mem.h"
#include "eval/cloze.h"
#include "eval/evaluate.h"
#include "eval/windows.h"
#include "session/lists.h"
#include "session/tokens.h"

#include <math.h>

enum { MAX_BATCH = 16 };

typedef struct {
    sl_model *model;
    const sl_dataset *data;
    const sl_measure_options *o;
    sl_probe *probe;
    sl_top_tokens *top;
    sl_detail *detail; /* NULL: no measures were asked for */
    double loss;
} pass;

int64_t sl_measure_batch(int64_t windows) {
    int64_t batch = windows < MAX_BATCH ? windows : MAX_BATCH;
    while (batch > 1 && windows % batch)
        batch--;
    return batch;
}

/* A batch is as many windows as divide those asked for: none is in part. */
static int add_probe(void *ctx, sl_model *m, const sl_batch *b) {
    pass *p = ctx;
    double loss = 0;
    if (sl_model_forward(m, b->in, b->target, &loss, NULL) || sl_probe_add_marked(p->probe, m, b->mark) ||
        sl_top_tokens_add(p->top, m, b->in))
        return -1;
    p->loss += loss * (double)b->n / (double)p->o->windows;
    return p->o->dump ? sl_dump_add(p->o->dump, m, b->in) : 0;
}

static int add_detail(void *ctx, sl_model *m, const sl_batch *b) {
    pass *p = ctx;
    return sl_model_forward(m, b->in, b->target, NULL, NULL) ? -1 : sl_detail_add(p->detail, m);
}

static sl_windows windows_of(const pass *p) {
    return (sl_windows){SL_VAL, p->o->windows, SL_FILL_NO_LOSS, p->o->skip};
}

static int each(pass *p, sl_batch_fn add) { return sl_each_batch(p->model, p->data, windows_of(p), add, p); }

/* The measures need the sink dimensions, so they take a pass of their own. */
static int measure_detail(pass *p) {
    int64_t layers = sl_model_shape(p->model).layers, dim = sl_model_shape(p->model).dim;
    double *scratch = sl_alloc((size_t)(2 * dim) * sizeof *scratch, "the measures");
    sl_sink_dims *sinks = sl_alloc(((size_t)layers + 1) * sizeof *sinks, "the measures");
    for (int64_t i = 0; scratch && sinks && i <= layers; i++)
        sinks[i] = sl_probe_sink_dims(p->probe, i, scratch);
    if (scratch && sinks)
        p->detail = sl_detail_create(p->model, p->o->measures, p->o->windows, sinks);
    sl_free(scratch);
    sl_free(sinks);
    return p->detail ? each(p, add_detail) : -1;
}

static json_t *real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* All figures as one object; NULL with a message. */
static json_t *result(const pass *p) {
    json_t *o = sl_probe_result(p->probe, p->model, p->o->profile);
    json_t *measures = o && p->detail ? sl_detail_result(p->detail) : NULL;
    sl_windows w = windows_of(p);
    json_t *top = o ? sl_top_tokens_json(p->top, p->data, &w) : NULL;
    if (!o || (p->detail && !measures) || !top) {
        json_decref(o);
        json_decref(measures);
        json_decref(top);
        return NULL;
    }
    int32_t bos = sl_dataset_bos(p->data);
    json_object_set_new(o, "val_loss", real(p->loss));
    json_object_set_new(o, "loss", real(p->loss));
    json_object_set_new(o, "bos", bos < 0 ? json_null() : json_integer(bos));
    json_object_set_new(o, "windows", json_integer(p->o->windows));
    json_object_set_new(o, "skipped", p->o->skip == SL_SPREAD ? json_null() : json_integer(p->o->skip));
    json_object_set_new(o, "top_tokens", top);
    if (measures)
        json_object_set_new(o, "measures", measures);
    return o;
}

static int check(const sl_model *m, const sl_dataset *d) {
    if (!m)
        return sl_fail("cannot measure a model that is NULL; was its creation checked?");
    return sl_model_shape(m).seq == sl_dataset_seq(d)
               ? 0
               : sl_fail("the model has windows of %lld positions and the text is cut in windows of %lld (model.seq)",
                         (long long)sl_model_shape(m).seq, (long long)sl_dataset_seq(d));
}

json_t *sl_measure(sl_model *m, const sl_dataset *d, const sl_measure_options *o) {
    pass p = {.model = m, .data = d, .o = o};
    if (check(m, d) || sl_measure_states(m, d))
        return NULL;
    p.probe = sl_probe_create(m);
    p.top = sl_top_tokens_create(m);
    bool done = p.probe && p.top && each(&p, add_probe) == 0 && (!o->measures || measure_detail(&p) == 0);
    json_t *figures = done ? result(&p) : NULL;
    sl_detail_free(p.detail);
    sl_top_tokens_free(p.top);
    sl_probe_free(p.probe);
    return figures;
}

static json_t *loss_json(const sl_dataset *d, const sl_losses *l, int64_t windows) {
    double bytes = sl_dataset_bytes_per_token(d, SL_VAL);
    json_t *o = json_pack("{s:f, s:o, s:o, s:I, s:I}", "loss", l->all, "perplexity", real(exp(l->all)),
                          "bits_per_byte", real(l->all / log(2) / bytes), "tokens",
                          (json_int_t)(windows * sl_dataset_seq(d)), "windows", (json_int_t)windows);
    if (!o) {
        sl_fail("out of memory for the result");
        return NULL;
    }
    if (sl_dataset_has_marks(d)) {
        json_object_set_new(o, "loss_trigger", real(l->trigger));
        json_object_set_new(o, "loss_other", real(l->other));
    }
    return o;
}

static json_t *share(int64_t part, int64_t of) { return of ? json_real((double)part / (double)of) : json_null(); }

static int put_cloze(json_t *o, sl_model *m, const sl_dataset *d, int64_t windows, int64_t skip) {
    sl_cloze c;
    if (sl_cloze_windows(m, d, windows, skip, &c))
        return -1;
    json_object_set_new(o, "accuracy", share(c.tokens_right, c.tokens));
    json_object_set_new(o, "cloze", share(c.words_right, c.words));
    json_object_set_new(o, "words", json_integer(c.words));
    return 0;
}

static json_t *eval(sl_model *m, const sl_dataset *d, int64_t windows, const sl_eval_options *how, double *of_window) {
    sl_losses l;
    if (sl_evaluate(m, d, windows, how->skip, &l, of_window))
        return NULL;
    if (!isfinite(l.all)) {
        sl_fail("the loss is not a number; the checkpoint is broken or was diverging");
        return NULL;
    }
    json_t *o = loss_json(d, &l, windows), *list = o && how->each_window ? json_array() : NULL;
    for (int64_t i = 0; list && i < windows; i++)
        json_array_append_new(list, real(of_window[i]));
    if (list)
        json_object_set_new(o, "window_loss", list);
    if (!o || !how->cloze || put_cloze(o, m, d, windows, how->skip) == 0)
        return o;
    json_decref(o);
    return NULL;
}

json_t *sl_eval(sl_model *m, const sl_dataset *d, const sl_eval_options *o) {
    int64_t windows;
    if (check(m, d) || (windows = sl_val_windows(d, o->windows, o->skip)) < 0 || sl_measure_states(m, d))
        return NULL;
    double *of_window = sl_alloc((size_t)windows * sizeof *of_window, "the losses of windows");
    json_t *figures = of_window ? eval(m, d, windows, o, of_window) : NULL;
    sl_free(of_window);
    return figures;
}

/* ---- those of sinklab.h */

char *sl_figures_text(json_t *o) {
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    if (o && !text)
        sl_fail("out of memory for the figures' text");
    json_decref(o);
    return text;
}

char *sl_measure_json(sl_model *m, const sl_dataset *d, int64_t windows, const char *measures, bool profile) {
    sl_measure_options o = {.windows = sl_val_windows(d, windows, SL_SPREAD), .skip = SL_SPREAD, .profile = profile};
    int64_t batch = sl_model_shape(m).batch;
    if (o.windows < 1 || (measures && sl_list_names("measures", measures, sl_measure_table, &o.measures)))
        return NULL;
    if (batch > 0 && o.windows % batch) {
        sl_fail("%lld windows are not whole batches of %lld; make the model for a batch that divides them",
                (long long)o.windows, (long long)batch);
        return NULL;
    }
    return sl_figures_text(sl_measure(m, d, &o));
}

char *sl_eval_json(sl_model *m, const sl_dataset *d, int64_t windows, bool cloze) {
    if (windows < 0) {
        sl_fail_usage("cannot measure %lld windows; 0 is all", (long long)windows);
        return NULL;
    }
    return sl_figures_text(sl_eval(m, d, &(sl_eval_options){.windows = windows, .skip = SL_SPREAD, .cloze = cloze}));
}
