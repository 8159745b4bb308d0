/* A checkpoint under quantisation schemes: transformations and calibration once, then any number of schemes. */
#ifndef SL_QUANT_RUN_H
#define SL_QUANT_RUN_H

#include "ops/quant/quantise.h"
#include "quant/calibrate.h"
#include "quant/evaluate.h"
#include "quant/weights.h"

typedef struct {
    sl_quant_options options; /* the scheme is that of each call */
    sl_clip_options clip;
    int64_t windows, skip; /* of evaluation: 0, or more than there are: all; as of sl_windows */
    const char *export_to; /* a folder for the quantised model (quant/export.h), or NULL */
} sl_quant_plan;

typedef struct sl_quant_run sl_quant_run;

/* Loads the checkpoint folder, evaluates it as it is (fp32), transforms the weights, and calibrates if a scheme of
 * the plan needs it: calibrates says so. NULL with a message. */
sl_quant_run *sl_quant_run_open(const sl_config *c, const char *dir, int32_t vocab, const sl_dataset *d,
                                const sl_quant_plan *plan, bool calibrates);
void sl_quant_run_close(sl_quant_run *r);

/* Error of what is rounded of a class of tensors in a layer (-1: the head). */
typedef struct {
    int layer;
    enum sl_quant_class class;
    sl_quant_error error;
} sl_quant_row;

typedef struct {
    const sl_scheme *scheme;
    sl_interval loss, change; /* over windows; change: from fp32, paired */
    double *window_loss;      /* of each window */
    double clip_ratio;        /* that SL_CLIP_TOKEN found, NaN without */
    sl_quant_row *row;
    int rows;
    sl_quant_error weights;   /* of all rounded matrices */
    double seconds;           /* of the evaluation */
} sl_quant_result;
void sl_quant_result_free(sl_quant_result *x);

/* The scheme's losses and errors. */
int sl_quant_run_scheme(sl_quant_run *r, const sl_scheme *s, sl_quant_result *x);
/* A model of the scheme, calibrated, and its weights; to be freed. */
sl_model *sl_quant_run_model(sl_quant_run *r, const sl_scheme *s, sl_quant_weights **w, double *clip_ratio);
/* The same of a model that was exported, with no fp32 one to compare with. *windows and skip as in a plan;
 * *windows is the number in force after. */
int sl_quant_run_import(const sl_config *c, const char *dir, int32_t vocab, const sl_dataset *d,
                        const sl_quant_options *o, int64_t *windows, int64_t skip, sl_quant_result *x);
/* fp32, before anything was done. */
sl_interval sl_quant_run_reference(const sl_quant_run *r);
int64_t sl_quant_run_windows(const sl_quant_run *r);

#endif
