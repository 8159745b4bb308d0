#include "model/model_internal.h"

struct sl_quant_point *sl_model_quant_point(const sl_model *m, int i) {
    for (int op = 0; op < m->program.ops; op++)
        for (int k = 0; k < 2; k++)
            if (m->program.op[op].point[k] && i-- == 0)
                return m->program.op[op].point[k];
    return NULL;
}

const sl_op *sl_model_int_linear(const sl_model *m, int i) {
    for (int op = 0; op < m->program.ops; op++)
        if (m->program.op[op].integers && i-- == 0)
            return &m->program.op[op];
    return NULL;
}

const sl_kernels *sl_model_kernels(const sl_model *m) { return m->program.kernels; }
