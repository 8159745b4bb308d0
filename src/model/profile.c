/* What operations cost: time measured, arithmetic and memory counted. */
#include "model/model_internal.h"
#include "ops/mixer/mixer.h"
#include "program/schedule.h"

#include <stdlib.h>

void sl_model_profile(sl_model *m, bool on) {
    free(m->seconds);
    m->seconds = on ? calloc(SL_TIMES * (size_t)m->program.ops, sizeof *m->seconds) : NULL;
}

double *sl_model_seconds(const sl_model *m) { return m->seconds; }

int sl_model_profile_ops(const sl_model *m) { return m->program.ops; }

static double buffer_bytes(const sl_model *m, sl_buf b) {
    if (b == SL_NONE)
        return 0;
    const sl_buffer *v = &m->program.buffer[b];
    return (double)(v->rows * v->cols) * (v->bf16 ? sizeof(sl_bf16) : sizeof(float));
}

/* Does a stage of its own sum over the rows? */
static bool has_sums(const sl_op *op) {
    for (const sl_stage *s = op->kind->backward; s && s->cut != SL_CUT_END; s++)
        if (s->cut == SL_CUT_SUMS)
            return true;
    return false;
}

static void backward_costs(const sl_model *m, const sl_op *op, double saved, double params, sl_op_profile *p) {
    double in = op->use[0] & SL_INPUT_KEPT ? buffer_bytes(m, op->in[0]) : 0, dout = buffer_bytes(m, op->dout);
    bool apart = has_sums(op);
    p->backward.flops = op->flops * (apart ? 1 : 2);
    p->backward.bytes = buffer_bytes(m, op->din[0]) * (op->acc[0] ? 2 : 1) + dout + saved +
                        (op->kind->keeps_out ? buffer_bytes(m, op->out) : 0) + (apart ? params : in + 3 * params);
    if (apart)
        p->weights.flops = op->flops, p->weights.bytes = in + dout + 2 * params;
}

sl_op_profile sl_model_profile_op(const sl_model *m, int i) {
    const sl_op *op = &m->program.op[i];
    sl_op_profile p = {.kind = op->kind->name, .scope = op->scope};
    double saved = 0, params = 0;
    for (int j = 0; j < SL_OP_SAVED; j++)
        saved += buffer_bytes(m, op->saved[j]);
    for (int j = 0; j < SL_OP_PARAMS && op->flops > 0; j++)
        params += op->param[j] == SL_NONE ? 0 : (double)(op->dim_in * op->dim_out) * sizeof(float);
    bool head = op->out == SL_NONE; /* its forward does the backward too */
    p.forward.flops = op->flops * (head && m->program.training ? 3 : 1);
    p.forward.bytes = buffer_bytes(m, op->in[0]) + buffer_bytes(m, op->in[1]) + buffer_bytes(m, op->out) + saved +
                      params;
    if (!head)
        backward_costs(m, op, saved, params, &p);
    if (m->seconds) {
        p.forward.seconds = m->seconds[SL_TIMES * i + SL_TIME_FORWARD];
        p.backward.seconds = m->seconds[SL_TIMES * i + SL_TIME_BACKWARD];
        p.weights.seconds = m->seconds[SL_TIMES * i + SL_TIME_SUMS];
    }
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
