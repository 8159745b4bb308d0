/* Taps beyond those of sinklab.h, found by the labels of the operations that read or write them: a variant that
 * appends operations of its own needs nothing here. */
#include "model/model_internal.h"
#include "ops/rowwise.h"

#include <stdio.h>
#include <string.h>

/* The first operation whose label is `label`, or continues it after a dot; NULL if there is none. */
static const sl_op *find_op(const sl_model *m, const char *label) {
    size_t n = strlen(label);
    for (int i = 0; i < m->program.ops; i++) {
        const sl_op *op = &m->program.op[i];
        if (strncmp(op->label, label, n) == 0 && (op->label[n] == 0 || op->label[n] == '.'))
            return op;
    }
    return NULL;
}

static const sl_op *block_op(const sl_model *m, int layer, const char *part) {
    char label[sizeof((sl_op *)0)->label];
    snprintf(label, sizeof label, "layers.%d.%s", layer, part);
    return find_op(m, label);
}

static const sl_op *norm_op(const sl_model *m, int layer, int which) {
    if (layer == m->config.model_layers)
        return which == 0 ? find_op(m, "norm") : NULL;
    return block_op(m, layer, which == 0 ? "attn.norm" : "ffn.norm");
}

static sl_buf input_of(const sl_op *op) { return op ? op->in[0] : SL_NONE; }

static sl_buf gate_input(const sl_model *m, int layer, int which) {
    int gate = m->layer[layer].norm[which].gate_op;
    return gate == SL_NONE ? SL_NONE : m->program.op[gate].in[0];
}

static sl_buf find_tap(const sl_model *m, int layer, enum sl_tap tap) {
    const sl_op *op;
    switch (tap) {
    case SL_TAP_ATTN_NORM_IN:
    case SL_TAP_FFN_NORM_IN:
        return input_of(norm_op(m, layer, tap - SL_TAP_ATTN_NORM_IN));
    case SL_TAP_ATTN_GATE_IN:
    case SL_TAP_FFN_GATE_IN:
        return gate_input(m, layer, tap - SL_TAP_ATTN_GATE_IN);
    case SL_TAP_CORE:
        op = block_op(m, layer, "attn.core");
        return op ? op->out : SL_NONE;
    case SL_TAP_OUT_IN:
        return input_of(block_op(m, layer, "attn.out"));
    case SL_TAP_DOWN_IN:
        return input_of(block_op(m, layer, "ffn.out"));
    default:
        return SL_NONE;
    }
}

static bool has_taps(const sl_model *m, int layer) {
    return m && m->taps && !m->program.training && layer >= 0 && layer <= m->config.model_layers;
}

void sl_model_keep_taps(sl_model *m) {
    for (int layer = 0; layer <= m->config.model_layers; layer++)
        for (int tap = 0; tap < SL_TAPS; tap++) {
            sl_buf b = find_tap(m, layer, tap);
            if (b != SL_NONE)
                sl_program_keep(&m->program, b);
        }
}

int64_t sl_model_tap_width(const sl_model *m, int layer, enum sl_tap tap) {
    sl_buf b = has_taps(m, layer) ? find_tap(m, layer, tap) : SL_NONE;
    return b == SL_NONE ? 0 : m->program.buffer[b].cols;
}

bool sl_model_tap(const sl_model *m, int layer, enum sl_tap tap, float *dst) {
    sl_buf b = has_taps(m, layer) && m->tapped ? find_tap(m, layer, tap) : SL_NONE;
    if (b == SL_NONE)
        return false;
    const sl_buffer *info = &m->program.buffer[b];
    const float *x = sl_read_rows(&m->exec, b, 0, info->rows, dst);
    if (x != dst)
        memcpy(dst, x, (size_t)(info->rows * info->cols) * sizeof *dst);
    return true;
}

const float *sl_model_projection(const sl_model *m, int layer, enum sl_tap tap) {
    const sl_op *op = NULL;
    if (has_taps(m, layer) && (tap == SL_TAP_OUT_IN || tap == SL_TAP_DOWN_IN))
        op = block_op(m, layer, tap == SL_TAP_OUT_IN ? "attn.out" : "ffn.out");
    return op ? m->params.w + m->params.tensor[op->param[0]].offset : NULL;
}
