/* Calibration: what activations are like on windows of the training text, and the ranges of static scales from it. */
#ifndef SL_QUANT_CALIBRATE_H
#define SL_QUANT_CALIBRATE_H

#include "data/dataset.h"
#include "model/model.h"
#include "formats/options.h"
#include "formats/seen.h"

/* How a range follows. */
enum sl_clip {
    SL_CLIP_ABSMAX,     /* all that was seen */
    SL_CLIP_PERCENTILE, /* a share of it */
    SL_CLIP_MSE,        /* the share of the whole range, of SL_CLIP_TRIALS even ones, whose squared error is least */
    SL_CLIP_TOKEN,      /* token-wise clipping (Outlier Suppression, arXiv 2209.13325), its coarse search: the
                         * quantile of the
                         * tokens' own largest and least values, one for all places, at which the logits are nearest to
                         * the unquantised model's */
    SL_CLIPS
};
typedef struct {
    const char *name, *help;
} sl_clip_info;
extern const sl_clip_info sl_clip_table[SL_CLIPS + 1]; /* ended by a NULL name */

typedef struct {
    enum sl_clip clip;
    double percentile; /* of |x|, or of the two sides together where there is a zero point */
    int64_t windows;   /* the first ones of the training order */
} sl_clip_options;

typedef struct sl_calibration sl_calibration;

/* Runs a model that observes over the windows. The dataset's training text must have so many. NULL with a message. */
sl_calibration *sl_calibrate(sl_model *observer, const sl_dataset *d, int64_t windows);
void sl_calibration_free(sl_calibration *c);
/* What was seen where the layer of this place reads; NULL if nothing was. */
const sl_seen *sl_calibration_at(const sl_calibration *c, sl_scope scope);

/* Sets the ranges of m's static points. observer: a model with the same scheme that observes; plain: the unquantised
 * one, of the same batches. They are needed for SL_CLIP_MSE and SL_CLIP_TOKEN, and may be NULL for the others.
 * *ratio: the quantile that SL_CLIP_TOKEN found. */
int sl_calibration_apply(const sl_calibration *c, const sl_clip_options *o, const sl_dataset *d, sl_model *m,
                         sl_model *observer, sl_model *plain, double *ratio);

/* Is there enough training text? */
int sl_calibration_check(const sl_dataset *d, int64_t windows);

#endif
