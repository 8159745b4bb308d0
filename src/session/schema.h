/* The figures of a probe as a table; sl_measure_schema() of sinklab.h makes a JSON schema (draft 2020-12) of it. */
#ifndef SL_SESSION_SCHEMA_H
#define SL_SESSION_SCHEMA_H

/* The i-th figure of a probe that the verb prints, in their order: its name, and what it is in *help; NULL past the
 * last. */
const char *sl_measure_figure(int i, const char **help);

#endif
