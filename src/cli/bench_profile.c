#include "cli/bench_profile.h"

#include "base/cpu.h"
#include "base/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sl_bench_profile_add(sl_bench_profile *p, const char *kind, const char *direction, double seconds, double flops,
                          double bytes) {
    char name[sizeof p->row[0].name];
    snprintf(name, sizeof name, "%s%s%s", kind, *direction ? " " : "", direction);
    int i = 0;
    while (i < p->rows && strcmp(p->row[i].name, name) != 0)
        i++;
    if (i == SL_BENCH_ROWS)
        return;
    if (i == p->rows)
        p->rows++, p->row[i] = (sl_bench_row){0}, memcpy(p->row[i].name, name, sizeof name);
    p->row[i].seconds += seconds;
    p->row[i].flops += flops;
    p->row[i].bytes += bytes;
}

sl_bench_profile sl_bench_profile_take(const sl_model *m, int64_t passes) {
    sl_bench_profile p = {.rows = 0};
    double per = 1.0 / (double)passes;
    for (int i = 0, ops = sl_model_profile_ops(m); i < ops; i++) {
        sl_op_profile o = sl_model_profile_op(m, i);
        sl_bench_profile_add(&p, o.kind, "forward", o.forward.seconds * per, o.forward.flops, o.forward.bytes);
        sl_bench_profile_add(&p, o.kind, "backward", o.backward.seconds * per, o.backward.flops, o.backward.bytes);
        sl_bench_profile_add(&p, o.kind, "weights", o.weights.seconds * per, o.weights.flops, o.weights.bytes);
    }
    return p;
}

static int by_seconds(const void *x, const void *y) {
    const sl_bench_row *a = x, *b = y;
    return (a->seconds < b->seconds) - (a->seconds > b->seconds);
}

static double giga(double n, double seconds) { return seconds > 0 ? n / seconds / 1e9 : 0; }

json_t *sl_bench_profile_json(sl_bench_profile *p) {
    json_t *list = json_array();
    qsort(p->row, (size_t)p->rows, sizeof *p->row, by_seconds);
    for (const sl_bench_row *r = p->row; r < p->row + p->rows; r++)
        json_array_append_new(list,
                              json_pack("{s:s, s:f, s:f, s:f}", "operation", r->name, "ms", 1e3 * r->seconds, "gflops",
                                        giga(r->flops, r->seconds), "gbytes_per_s", giga(r->bytes, r->seconds)));
    return list;
}

void sl_bench_profile_print(sl_bench_profile *p, const char *pass, double peak_gflops, double bandwidth) {
    double total = 0;
    qsort(p->row, (size_t)p->rows, sizeof *p->row, by_seconds);
    for (int i = 0; i < p->rows; i++)
        total += p->row[i].seconds;
    printf("\n  %-26s %6s/%-4s %5s %10s %9s %9s\n", "operation", "ms", pass, "share", "GFLOP/s", "GB/s", "of roof");
    for (const sl_bench_row *r = p->row; r < p->row + p->rows; r++) {
        double gflops = giga(r->flops, r->seconds), gb = giga(r->bytes, r->seconds);
        double roof = gflops / peak_gflops > gb / bandwidth ? gflops / peak_gflops : gb / bandwidth;
        if (r->seconds >= 2e-6) /* else there is nothing to do in this direction */
            printf("  %-26s %9.3f %6.1f%% %10.1f %9.1f %8.0f%%\n", r->name, 1e3 * r->seconds, 100 * r->seconds / total,
                   gflops, gb, 100 * roof);
    }
    printf("  roof: %.0f GFLOP/s, %.1f GB/s, as measured\n", peak_gflops, bandwidth);
}
