#include "ref/tolerance.h"

#include <math.h>

static double larger(double a, int64_t b) { return a > (double)b ? a : (double)b; }

double ref_relative_error(const sl_config *c, int32_t vocab, int64_t tokens) {
    double longest = larger((double)vocab, tokens);
    longest = larger(longest, c->model_dim);
    longest = larger(longest, c->model_ffn);
    if (c->model_experts)
        longest = larger(longest, sl_config_expert_ffn(c));
    longest = larger(longest, c->model_heads * sl_config_head_dim(c));
    double anchored = c->model_anchors == SL_ANCHORS_NONE ? 0 : 1;
    double mixture = c->model_residual == SL_RESIDUAL_PLAIN ? 0 : 3, layers = (double)c->model_layers;
    double stages = 2 * ((9 + anchored + 2 * mixture) * layers + 3 + 2 * anchored + mixture);
    return 0x1p-24 * sqrt(stages * longest / 2);
}

double ref_ratio(int64_t n, const float *got, const double *want, double tolerance) {
    double sum = 0, worst = 0;
    for (int64_t i = 0; i < n; i++)
        sum += want[i] * want[i];
    tolerance *= sqrt(sum / (double)n);
    for (int64_t i = 0; i < n; i++) {
        double error = fabs(got[i] - want[i]);
        if (error == 0)
            continue;
        if (!(error <= worst * tolerance)) /* also where error is not a number */
            worst = isnan(error) ? INFINITY : error / tolerance;
    }
    return worst;
}

static double scalars_rms(const sl_params *table, const double *want) {
    double sum = 0, n = 0;
    for (int i = 0; i < table->count; i++)
        if (table->tensor[i].size == 1) {
            sum += want[table->tensor[i].offset] * want[table->tensor[i].offset];
            n++;
        }
    return sqrt(sum / n);
}

double ref_gradient_ratio(const sl_params *table, int t, const float *got, const double *want, double relative) {
    int64_t at = table->tensor[t].offset;
    if (table->tensor[t].size > 1)
        return ref_ratio(table->tensor[t].size, got + at, want + at, REF_GRADIENT * relative);
    double ratio = fabs(got[at] - want[at]) / (REF_GRADIENT * relative * scalars_rms(table, want));
    return isnan(ratio) ? INFINITY : ratio;
}
