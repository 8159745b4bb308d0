#include "model/model_internal.h"
#include "ops/quant/linear_int.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"

bool sl_model_quant_place(const sl_model *m, int i, sl_quant_place *p) {
    for (int op = 0; op < m->program.ops; op++)
        if (sl_quant_place_of(&m->program.op[op], &m->exec, p) && i-- == 0)
            return true;
    return false;
}

bool sl_model_place_before(const sl_model *m, sl_scope scope, sl_quant_place *p) {
    for (int i = 0; sl_model_quant_place(m, i, p); i++)
        if (sl_scope_same(p->point->scope, scope))
            return true;
    return false;
}

const sl_rotation *sl_model_rotation_before(const sl_model *m, sl_scope scope) {
    for (int i = 0; i < m->program.ops; i++) {
        const sl_op *op = &m->program.op[i];
        const sl_kv_quantiser *kv = sl_kv_quantiser_of(op);
        const sl_rotation *r = kv ? kv->rotation : sl_rotation_of(op);
        if (r && sl_scope_same(r->scope, sl_scope_as(scope, SL_ROLE_ROTATE)))
            return r;
    }
    return NULL;
}

const sl_op *sl_model_int_linear(const sl_model *m, int i) {
    for (int op = 0; op < m->program.ops; op++)
        if (sl_linear_int_point(&m->program.op[op]) && i-- == 0)
            return &m->program.op[op];
    return NULL;
}

const sl_kernels *sl_model_kernels(const sl_model *m) { return m->program.kernels; }
