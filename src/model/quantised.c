#include "model/model_internal.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"

sl_quant_point *sl_model_quant_point(const sl_model *m, int i) {
    for (int op = 0; op < m->program.ops; op++)
        for (int k = 0; k < 2; k++)
            if (m->program.op[op].point[k] && i-- == 0)
                return m->program.op[op].point[k];
    return NULL;
}

sl_quant_point *sl_model_point_before(const sl_model *m, sl_scope scope) {
    sl_quant_point *p;
    for (int i = 0; (p = sl_model_quant_point(m, i)); i++)
        if (sl_scope_same(p->scope, scope))
            return p;
    return NULL;
}

const sl_rotation *sl_model_rotation_before(const sl_model *m, sl_scope scope) {
    for (int op = 0; op < m->program.ops; op++)
        for (int k = 0; k < 2; k++) {
            const sl_rotation *r = m->program.op[op].rotation[k];
            if (r && sl_scope_same(sl_rotation_scope(r), sl_scope_as(scope, SL_ROLE_ROTATE)))
                return r;
        }
    return NULL;
}

const sl_op *sl_model_int_linear(const sl_model *m, int i) {
    for (int op = 0; op < m->program.ops; op++)
        if (m->program.op[op].integers && i-- == 0)
            return &m->program.op[op];
    return NULL;
}

const sl_kernels *sl_model_kernels(const sl_model *m) { return m->program.kernels; }
