/* Scores z become cap tanh(z / cap) before they become weights (Gemma 2, arXiv 2408.00118). */
#include "ops/attention/attention.h"

static const sl_attention *of(const sl_op *op) { return op->own; }

/* Columns of row i that are seen, of n. */
typedef struct {
    int64_t from, n;
} run;

static run seen(sl_band band, int64_t i, int64_t n) {
    int64_t from = sl_max(0, band.lo + i), to = sl_min(n, band.hi + i);
    return (run){from, sl_max(0, to - from)};
}

void sl_attention_cap(const sl_op *op, const sl_kernels *k, sl_band band, int64_t rows, int64_t n, float *s,
                      int64_t lds) {
    sl_softcap cap = of(op)->cap;
    for (int64_t i = 0; cap.in > 0 && i < rows; i++) {
        run r = seen(band, i, n);
        k->softcap_fwd(r.n, cap.in, cap.out, s + i * lds + r.from);
    }
}

void sl_attention_cap_back(const sl_op *op, const sl_kernels *k, sl_band band, int64_t rows, int64_t n, const float *s,
                           float *dp, int64_t lds, const float *delta, bool by_column) {
    sl_softcap cap = of(op)->cap;
    for (int64_t i = 0; cap.in > 0 && i < rows; i++) {
        run r = seen(band, i, n);
        int64_t at = i * lds + r.from;
        k->softcap_bwd(r.n, cap.out, s + at, delta + (by_column ? r.from : i), by_column, dp + at);
    }
}
