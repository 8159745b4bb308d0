/* The verbs of the command line, and their table (verbs.c). argv[0] is the verb. Each returns 0, or -1
 * after sl_fail(). */
#ifndef SL_CLI_VERBS_H
#define SL_CLI_VERBS_H

#include "cli/args.h"

typedef struct {
    const char *name; /* first, for sl_nearest() */
    const char *help; /* a line of `sinklab help` */
    sl_verb_fn *run;
} sl_verb;
extern const sl_verb sl_verbs[]; /* ended by a NULL name */

sl_verb_fn sl_verb_bench, sl_verb_completion, sl_verb_config, sl_verb_doctor, sl_verb_eval, sl_verb_export,
    sl_verb_generate, sl_verb_logits, sl_verb_man, sl_verb_models, sl_verb_new_study, sl_verb_probe,
    sl_verb_quantize, sl_verb_report, sl_verb_tokenize, sl_verb_train, sl_verb_watch;

#endif
