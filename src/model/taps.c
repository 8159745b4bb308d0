/* Taps beyond those of sinklab.h, found by the places of the operations that read or write them: a variant that
 * appends operations of its own needs nothing here. */
#include "model/model_internal.h"
#include "ops/rows.h"

#include <string.h>

static const sl_op *norm_op(const sl_model *m, int layer, int which) {
    if (layer == m->config.model_layers)
        return which == 0 ? sl_program_find(&m->program, SL_NO_LAYER, SL_HALF_NONE, SL_PART_norm) : NULL;
    return sl_program_find(&m->program, layer, which == 0 ? SL_HALF_ATTN : SL_HALF_FFN, SL_PART_norm);
}

sl_buf sl_model_qkv_buffer(const sl_model *m, int layer) {
    return sl_program_find(&m->program, layer, SL_HALF_ATTN, SL_PART_qkv)->out;
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
        op = sl_program_find(&m->program, layer, SL_HALF_ATTN, SL_PART_core);
        return op ? op->out : SL_NONE;
    case SL_TAP_OUT_IN:
        return input_of(sl_program_find(&m->program, layer, SL_HALF_ATTN, SL_PART_out));
    case SL_TAP_DOWN_IN:
        return input_of(sl_program_find(&m->program, layer, SL_HALF_FFN, SL_PART_out));
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
        op = sl_program_find(&m->program, layer, tap == SL_TAP_OUT_IN ? SL_HALF_ATTN : SL_HALF_FFN, SL_PART_out);
    return op ? m->params.w + m->params.tensor[op->param[0]].offset : NULL;
}
