/* What operations cost: time measured, arithmetic and memory counted. */
#include "model/model_internal.h"
#include "ops/mixer/mixer.h"

#include <stdlib.h>

void sl_model_profile(sl_model *m, bool on) {
    free(m->seconds);
    m->seconds = on ? calloc(2 * (size_t)m->program.ops, sizeof *m->seconds) : NULL;
}

int sl_model_profile_ops(const sl_model *m) { return m->program.ops; }

static double buffer_bytes(const sl_model *m, sl_buf b) {
    if (b == SL_NONE)
        return 0;
    const sl_buffer *v = &m->program.buffer[b];
    return (double)(v->rows * v->cols) * (v->bf16 ? sizeof(sl_bf16) : sizeof(float));
}

sl_op_profile sl_model_profile_op(const sl_model *m, int i) {
    const sl_op *op = &m->program.op[i];
    double in = buffer_bytes(m, op->in[0]), out = buffer_bytes(m, op->out), saved = 0, params = 0;
    for (int j = 0; j < SL_OP_SAVED; j++)
        saved += buffer_bytes(m, op->saved[j]);
    for (int j = 0; j < SL_OP_PARAMS && op->flops > 0; j++)
        params += op->param[j] == SL_NONE ? 0 : (double)(op->dim_in * op->dim_out) * sizeof(float);
    bool head = op->out == SL_NONE; /* its forward does the backward too */
    sl_op_profile p = {.kind = op->kind->name, .scope = op->scope};
    p.forward_flops = op->flops * (head && m->program.training ? 3 : 1);
    p.backward_flops = head ? 0 : op->flops * 2;
    p.forward_bytes = in + buffer_bytes(m, op->in[1]) + out + saved + params;
    p.backward_bytes = buffer_bytes(m, op->din[0]) * (op->acc[0] ? 2 : 1) + buffer_bytes(m, op->dout) +
                       (op->use[0] & SL_INPUT_KEPT ? in : 0) + (op->kind->keeps_out ? out : 0) + saved + 3 * params;
    if (m->seconds)
        p.forward_s = m->seconds[2 * i], p.backward_s = m->seconds[2 * i + 1];
    return p;
}

double sl_model_flops_per_token(const sl_model *m) {
    const sl_config *c = &m->config;
    double matrices = 0;
    for (int i = 0; i < m->params.count; i++)
        if (m->params.tensor[i].ndim > 1)
            matrices += (double)m->params.tensor[i].size;
    if (c->model_experts)
        matrices -= (double)(c->model_layers * (c->model_experts - c->model_experts_per_token)) * 3 *
                    (double)c->model_dim * (double)sl_config_expert_ffn(c);
    if (!c->model_tie_embeddings)
        matrices -= (double)m->vocab * (double)c->model_dim;
    double mixers = 0;
    for (int64_t i = 0; i < c->model_layers; i++)
        mixers += sl_mixer_of(c, i)->flops(c, m->program.seq);
    return 6 * matrices + mixers;
}
