/* Figures of a model over the windows of a data set, as `probe` and `eval` tell them. */
#ifndef SL_SESSION_MEASURE_H
#define SL_SESSION_MEASURE_H

#include "data/dataset.h"
#include "probe/dump.h"

typedef struct {
    int64_t windows;   /* the first val ones; all, if fewer. The model's batch must divide them */
    int64_t skip;      /* behind so many that are left out */
    unsigned measures; /* bits 1 << sl_measure */
    bool profile;
    sl_dump *dump; /* NULL, or gets each pass */
} sl_measure_options;

/* The first `windows` val windows behind `skip` others, all if there are fewer; -1 with a message: there are none. */
int64_t sl_measure_windows(const sl_dataset *d, int64_t windows, int64_t skip);
/* sl_probe_result() with "loss" (val_loss is the same), "bos" (an id, or null), "windows", "skipped",
 * "top_tokens" (sl_top_tokens_json()) and, if any were asked for,
 * "measures" (sl_detail_result()). NULL with a message. */
json_t *sl_measure(sl_model *m, const sl_dataset *d, const sl_measure_options *o);
/* loss, perplexity, bits_per_byte, tokens, windows; of synthetic tasks also loss_trigger, loss_other. windows: 0 is
 * all. each_window: also "window_loss", an array. NULL with a message. */
json_t *sl_eval(sl_model *m, const sl_dataset *d, int64_t windows, bool each_window);
/* Such an object in one line of JSON, every number to the bit, to be freed with free(); takes over the reference. NULL
 * of NULL, and when out of memory. */
char *sl_figures_text(json_t *o);

#endif
