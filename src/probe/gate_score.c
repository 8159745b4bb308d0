#include "probe/detail.h"

#include "base/threads.h"

#include <math.h>
#include <string.h>

enum { COLUMNS = 32 }; /* channels of one item; a cut by shape alone */

typedef struct {
    sl_gate_score *g;
    int64_t windows, seq;
    const float *y, *gate;
    sl_gate_sums *parts;
} job;

/* Powers of two: bin b holds 2^(b-8) <= |y| < 2^(b-7), the first and the last all beyond. */
static int bin_of(double y) {
    int exponent;
    if (y == 0)
        return 0;
    if (isinf(y))
        return SL_GATE_BINS - 1;
    frexp(y, &exponent); /* 2^(exponent-1) <= y < 2^exponent */
    int bin = exponent + 7;
    return bin < 0 ? 0 : bin >= SL_GATE_BINS ? SL_GATE_BINS - 1 : bin;
}

double sl_gate_bin_edge(int bin) { return bin == 0 ? 0 : ldexp(1, bin - 8); }

static void item(void *ctx, int64_t i, int thread) {
    (void)thread;
    const job *j = ctx;
    int64_t dim = j->g->dim, first = i * COLUMNS, end = first + COLUMNS < dim ? first + COLUMNS : dim;
    sl_gate_sums *s = &j->parts[i];
    memset(s, 0, sizeof *s);
    for (int64_t t = 0; t < j->windows * j->seq; t++)
        for (int64_t c = first; t % j->seq && c < end; c++) {
            double y = fabs((double)j->y[t * dim + c]), gate = j->gate[t * dim + c];
            s->n++;
            s->y += y, s->gate += gate;
            s->yy += y * y, s->gate_gate += gate * gate, s->y_gate += y * gate;
            j->g->channel_y[c] += y;
            j->g->channel_gate[c] += gate;
            if (isnan(y))
                continue;
            s->bin_count[bin_of(y)]++;
            s->bin_gate[bin_of(y)] += gate;
        }
}

int64_t sl_gate_score_parts(int64_t dim) { return (dim + COLUMNS - 1) / COLUMNS; }

void sl_gate_score_add(sl_gate_score *g, int64_t windows, int64_t seq, const float *y, const float *gate,
                       sl_gate_sums *parts) {
    job j = {g, windows, seq, y, gate, parts};
    int64_t items = sl_gate_score_parts(g->dim);
    sl_parallel(items, item, &j);
    for (int64_t i = 0; i < items; i++) {
        sl_gate_sums *s = &g->sums;
        const sl_gate_sums *p = &parts[i];
        s->n += p->n, s->y += p->y, s->gate += p->gate;
        s->yy += p->yy, s->gate_gate += p->gate_gate, s->y_gate += p->y_gate;
        for (int b = 0; b < SL_GATE_BINS; b++) {
            s->bin_count[b] += p->bin_count[b];
            s->bin_gate[b] += p->bin_gate[b];
        }
    }
}

/* Pearson's correlation from sums. NaN where one side is constant, but for rounding. */
static double pearson(double n, double x, double y, double xx, double yy, double xy) {
    double vx = xx - x * x / n, vy = yy - y * y / n;
    if (!(vx > 1e-12 * xx) || !(vy > 1e-12 * yy))
        return NAN;
    return (xy - x * y / n) / sqrt(vx * vy);
}

double sl_gate_score_elements(const sl_gate_score *g) {
    const sl_gate_sums *s = &g->sums;
    return pearson(s->n, s->y, s->gate, s->yy, s->gate_gate, s->y_gate);
}

double sl_gate_score_channels(const sl_gate_score *g) {
    double x = 0, y = 0, xx = 0, yy = 0, xy = 0, rows = g->sums.n / (double)g->dim;
    for (int64_t c = 0; c < g->dim; c++) {
        double a = g->channel_y[c] / rows, b = g->channel_gate[c] / rows;
        x += a, y += b, xx += a * a, yy += b * b, xy += a * b;
    }
    return pearson((double)g->dim, x, y, xx, yy, xy);
}
