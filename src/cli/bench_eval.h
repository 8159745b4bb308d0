/* Speed of evaluation: one forward pass in fp32, bf16 and on the int8 unit. */
#ifndef SL_CLI_BENCH_EVAL_H
#define SL_CLI_BENCH_EVAL_H

#include "cli/args.h"

#include <jansson.h>

/* Of the model *c with these overrides, medians over `steps` alternating passes. Prints (unless json) and returns an
 * array of {precision, scheme, tokens_per_s, ms, ratio to bf16, or to fp32 where there is no unit for bf16, profile
 * if asked for}; NULL with a message. */
json_t *sl_bench_eval(const sl_args *args, sl_config *c, int64_t vocab, int64_t steps, bool profile, bool json);

#endif
