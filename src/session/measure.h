/* Figures of a model over the windows of a data set, as `probe` and `eval` tell them. */
#ifndef SL_SESSION_MEASURE_H
#define SL_SESSION_MEASURE_H

#include "data/dataset.h"
#include "probe/dump.h"

typedef struct {
    int64_t windows;   /* of validation, that there are (sl_val_windows); the model's batch must divide them */
    int64_t skip;      /* behind so many that are left out, or SL_SPREAD */
    unsigned measures; /* bits 1 << sl_measure */
    bool profile;
    sl_dump *dump; /* NULL, or gets each pass */
} sl_measure_options;

/* sl_probe_result() with "loss" (val_loss is the same), "bos" (an id, or null), "windows", "skipped" (null: spread),
 * "top_tokens" (sl_top_tokens_json()) and, if any were asked for,
 * "measures" (sl_detail_result()). NULL with a message. */
json_t *sl_measure(sl_model *m, const sl_dataset *d, const sl_measure_options *o);

typedef struct {
    int64_t windows;  /* of validation; 0: all */
    int64_t skip;     /* as above */
    bool each_window; /* also "window_loss", an array */
    bool cloze;       /* also accuracy, cloze and words (eval/cloze.h): shares, and how many words */
} sl_eval_options;

/* loss, perplexity, bits_per_byte, tokens, windows; of synthetic tasks also loss_trigger, loss_other. NULL with a
 * message. */
json_t *sl_eval(sl_model *m, const sl_dataset *d, const sl_eval_options *o);
/* Such an object in one line of JSON, every number to the bit, to be freed with free(); takes over the reference. NULL
 * of NULL, and when out of memory. */
char *sl_figures_text(json_t *o);

#endif
