#include "ops/ops.h"

#include <math.h>

int sl_build_matrix(sl_program *b, sl_scope place, const char *prefix, const char *name, int64_t out, int64_t in,
                    unsigned how) {
    const sl_config *c = b->config;
    double std = c->model_init_std / (how & SL_MATRIX_OUTPUT ? sqrt(2.0 * (double)c->model_layers) : 1);
    return sl_program_param(b, prefix, &(sl_param_spec){.name = name, .rows = out, .cols = in, .init = SL_INIT_NORMAL,
                                                        .start = std, .decay = SL_DECAY_MATRIX, .place = place,
                                                        .join = how & SL_MATRIX_JOINED,
                                                        .linear = how & SL_MATRIX_LINEAR});
}

int sl_build_bias(sl_program *b, const char *prefix, const char *name, int64_t out, bool joined) {
    return sl_program_param(b, prefix, &(sl_param_spec){.name = name, .rows = out, .init = SL_INIT_ZEROS,
                                                        .decay = SL_DECAY_NONE, .join = joined});
}
