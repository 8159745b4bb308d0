#include "model/match.h"

#include "base/err.h"
#include "model/model.h"

#include <stdlib.h>

static const double tolerance = 0.001;
enum { WIDEST = 1 << 20 }; /* as model.ffn and model.expert_ffn */

const char *sl_match_key(const sl_config *c) { return c->model_experts ? "model.expert_ffn" : "model.ffn"; }

static void set_width(sl_config *c, int64_t ffn) {
    if (c->model_experts)
        c->model_expert_ffn = ffn;
    else
        c->model_ffn = ffn;
}

/* -1 with a message. */
static int64_t count(const sl_config *c, int32_t vocab, int64_t ffn) {
    sl_config with = *c;
    set_width(&with, ffn);
    return sl_model_count_params(&with, vocab);
}

static int64_t count_baseline(const sl_config *c, int32_t vocab) {
    sl_config baseline;
    sl_config_baseline(&baseline, c);
    return sl_model_count_params(&baseline, vocab);
}

/* The least width with at least `want` parameters (more of it are never fewer), WIDEST if there is none. 0 with a
 * message. */
static int64_t bisect(const sl_config *c, int32_t vocab, int64_t want) {
    int64_t lo = 1, hi = WIDEST;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2, n = count(c, vocab, mid);
        if (n < 0)
            return 0;
        if (n < want)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int sl_match_params(sl_config *c, int32_t vocab) {
    if (!c->model_match_params)
        return 0;
    int64_t want = count_baseline(c, vocab), ffn = want < 0 ? 0 : bisect(c, vocab, want);
    int64_t n = ffn ? count(c, vocab, ffn) : -1, below = ffn > 1 ? count(c, vocab, ffn - 1) : n;
    if (n < 0 || below < 0)
        return -1;
    if (llabs(below - want) < llabs(n - want))
        ffn--, n = below;
    double off = (double)llabs(n - want) / (double)want;
    if (off > tolerance)
        return sl_fail_usage("model.match_params: the nearest width, %s=%lld, gives %lld parameters, off by "
                             "%.2f %% from the baseline's %lld (0.1 %% is allowed); use a larger model, or that "
                             "width with model.match_params=false",
                             sl_match_key(c), (long long)ffn, (long long)n, 100 * off, (long long)want);
    set_width(c, ffn);
    return 0;
}

int sl_match_count(const sl_config *c, int32_t vocab, sl_match *match) {
    sl_config matched = *c;
    if (sl_match_params(&matched, vocab))
        return -1;
    *match = (sl_match){.params = sl_model_count_params(&matched, vocab),
                        .baseline = count_baseline(c, vocab),
                        .ffn = c->model_experts ? sl_config_expert_ffn(&matched) : matched.model_ffn};
    return match->params < 0 || match->baseline < 0 ? -1 : 0;
}
