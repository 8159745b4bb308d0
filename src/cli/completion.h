/* What `sinklab completion` and `sinklab man` share, and the shells: each writes its script from the tables of verbs,
 * flags and keys, so that what is added there is completed. */
#ifndef SL_CLI_COMPLETION_H
#define SL_CLI_COMPLETION_H

#include "cli/args.h"

#include <stdio.h>

typedef void sl_completion_fn(FILE *f);
sl_completion_fn sl_completion_bash, sl_completion_fish, sl_completion_zsh;

/* Whether operands of the verb are files. */
bool sl_completion_files(const sl_verb_spec *spec);
/* Writes text with a backslash before each character of `special`. */
void sl_completion_escape(FILE *f, const char *text, const char *special);
/* A line of a shell's `case` for each key that has named values: "        model.norm) HEADrmsnorm layernormTAIL ;;". */
void sl_completion_key_cases(FILE *f, const char *head, const char *tail);
/* All keys as words "model.norm=", lines of `width` columns behind `indent` blanks. */
void sl_completion_keys(FILE *f, int indent, int width);

#endif
