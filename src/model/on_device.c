/* A model whose program runs on a device: what of it comes to the host, and when. */
#include "base/err.h"
#include "base/mem.h"
#include "model/model_internal.h"
#include "program/stage.h"

#include <string.h>

int sl_model_open_device(sl_model *m) {
    if (!m->device)
        return 0;
    m->run = m->device->open(&m->program, m->exec.arena_bytes, &m->params);
    return m->run && (m->fetched = sl_alloc(m->exec.buffers * sizeof *m->fetched, "what is known of buffers")) ? 0 : -1;
}

void sl_model_close_device(sl_model *m) {
    if (m->run)
        m->device->close(m->run);
    for (size_t i = 0; m->run && i < m->exec.buffers; i++)
        sl_free(((void **)m->exec.buf)[i]);
    sl_free(m->fetched);
    m->run = NULL, m->fetched = NULL;
}

int sl_model_forward_on_device(sl_model *m) {
    sl_exec *x = &m->exec;
    memset(m->fetched, 0, x->buffers * sizeof *m->fetched);
    return m->device->forward(m->run, &(sl_device_pass){.tokens = x->tokens, .targets = x->targets,
                                                 .token_loss = x->token_loss, .logits = x->logits,
                                                 .position = x->position, .measuring = x->measuring,
                                                 .state = x->state, .seconds = m->seconds});
}

/* Memory of the host for a buffer, kept until the model goes. */
static bool has_room(const sl_model *m, sl_buf v) {
    const sl_buffer *info = &m->program.buffer[v];
    void **buf = (void **)m->exec.buf;
    size_t bytes = (size_t)(info->rows * info->ld) * (info->bf16 ? sizeof(sl_bf16) : sizeof(float));
    return buf[v] || (buf[v] = sl_alloc(bytes, "what a pass has left on the device"));
}

bool sl_model_fetch(const sl_model *m, sl_buf v) {
    if (m->run && !m->fetched[v])
        m->fetched[v] = has_room(m, v) && m->device->get_buffer(m->run, v, m->exec.buf[v]) == 0;
    return !m->run || m->fetched[v];
}

/* The host makes gate values from what the pass has saved and from packed parameters, which it packs itself. */
bool sl_model_fetch_gate(const sl_model *m, const sl_op *gate) {
    if (!m->run)
        return true;
    for (int i = 0; i < SL_OP_SAVED; i++)
        if (gate->saved[i] != SL_NONE && !has_room(m, gate->saved[i]))
            return false;
    if (!sl_model_fetch(m, gate->saved[0]) || m->device->get_params(m->run, SL_BLOCK_W))
        return false;
    for (const sl_stage *s = gate->kind->forward; s->cut == SL_CUT_PARAMS; s++)
        if (sl_stage_run(gate, &m->exec, s, 0, gate->rows))
            return false;
    return true;
}

/* Those of a quantised model are here between passes. */
int sl_model_fetch_states(const sl_model *m) {
    return m->run && !m->program.quant ? m->device->get_states(m->run, m->exec.state) : 0;
}

int sl_model_read_weights(const sl_model *m) { return m->run ? m->device->get_params(m->run, SL_BLOCK_W) : 0; }
