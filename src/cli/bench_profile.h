/* Where the time of timed passes went, a row for each kind of operation and direction. */
#ifndef SL_CLI_BENCH_PROFILE_H
#define SL_CLI_BENCH_PROFILE_H

#include "model/model.h"

#include <jansson.h>

typedef struct {
    char name[48];
    double seconds, flops, bytes; /* of one pass */
} sl_bench_row;

enum { SL_BENCH_ROWS = 64 };
typedef struct {
    sl_bench_row row[SL_BENCH_ROWS];
    int rows;
} sl_bench_profile;

/* Of the last `passes` passes of m, for which sl_model_profile(m, true) was in force. */
sl_bench_profile sl_bench_profile_take(const sl_model *m, int64_t passes);
/* Adds to the row "kind direction", which is made if there is none; one too many is left out. */
void sl_bench_profile_add(sl_bench_profile *p, const char *kind, const char *direction, double seconds, double flops,
                          double bytes);
/* Both have the slowest first. An array of {operation, ms, gflops, gbytes_per_s}. */
json_t *sl_bench_profile_json(sl_bench_profile *p);
/* `pass` names one: "step". The share of the roof is the larger of those of peak_gflops and of the bandwidth, in GB/s
 * (Williams et al. 2009). */
void sl_bench_profile_print(sl_bench_profile *p, const char *pass, double peak_gflops, double bandwidth);

#endif
