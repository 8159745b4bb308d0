/* What a forward pass leaves for probes. */
#include "base/err.h"
#include "model/model_internal.h"
#include "ops/attention/attention.h"
#include "ops/attention/extra.h"
#include "ops/depth.h"
#include "ops/mixer/gate_norm.h"
#include "ops/mixer/mixer.h"
#include "ops/rows.h"

#include <string.h>

/* ---- those of sinklab.h */

int sl_model_check_taps(const sl_model *m) {
    if (!m)
        return sl_model_fail_null("a tap");
    if (!m->taps)
        return sl_fail("the model keeps no taps; create it with them");
    if (!m->tapped)
        return sl_fail("taps hold a forward pass, and the model has done none since its last step");
    return 0;
}

/* Is there a layer of that number, of `layers`, and can its taps be read? */
static bool has_tap(const sl_model *m, int layer, int64_t layers) {
    if (sl_model_check_taps(m))
        return false;
    if (layer >= 0 && layer < layers)
        return true;
    sl_fail("no such tap of layer %d, of %lld", layer, (long long)layers);
    return false;
}

/* NULL with a message if there is no such norm. */
static const sl_norm_tap *norm_tap(const sl_model *m, int layer, int which) {
    if (!m)
        sl_model_fail_null("a norm");
    else if (layer < 0 || layer > m->config.model_layers || which < 0 || which > 1 ||
             m->layer[layer].norm[which].out == SL_NONE)
        sl_fail("layer %d has no norm %d", layer, which);
    else
        return &m->layer[layer].norm[which];
    return NULL;
}

const float *sl_model_residual(const sl_model *m, int layer) {
    if (!has_tap(m, layer, m ? m->config.model_layers + 1 : 0))
        return NULL;
    sl_buf h = m->layer[layer].residual;
    return sl_model_fetch(m, h) ? sl_buf_data(&m->exec, h) : NULL;
}

const float *sl_model_mid(const sl_model *m, int layer) {
    sl_buf h = m->layer[layer].mid;
    return h != SL_NONE && sl_model_fetch(m, h) ? sl_buf_data(&m->exec, h) : NULL;
}

static const sl_op *attention_op(const sl_model *m, int layer) {
    return sl_program_find(&m->program, layer, SL_HALF_ATTN, SL_PART_core);
}

sl_qkv_tap sl_model_qkv(const sl_model *m, int layer) {
    if (!has_tap(m, layer, m ? m->config.model_layers : 0))
        return (sl_qkv_tap){0};
    const sl_mixer *mixer = sl_mixer_of(&m->config, layer);
    if (!mixer->attends) {
        sl_fail("layer %d has no queries and keys: its mixer is %s", layer, mixer->name);
        return (sl_qkv_tap){0};
    }
    int64_t hd = sl_config_head_dim(&m->config), q = m->config.model_heads * hd,
            kv = sl_config_kv_heads(&m->config) * hd;
    sl_buf qkv = sl_model_qkv_buffer(m, layer);
    if (!sl_model_fetch(m, qkv))
        return (sl_qkv_tap){0};
    const float *p = sl_read_rows(&m->exec, qkv, 0, m->program.buffer[qkv].rows, m->tap);
    return (sl_qkv_tap){p, p + q, p + q + kv, q + 2 * kv, sl_attention_of(attention_op(m, layer))->attend.scale};
}

bool sl_model_attends(const sl_model *m, int layer) { return sl_mixer_of(&m->config, layer)->attends; }

sl_attention_tap sl_model_attention(const sl_model *m, int layer) {
    const sl_attention *a = sl_attention_of(attention_op(m, layer));
    return (sl_attention_tap){a->kernels, a->attend, a->window, a->cap, a->extra != NULL};
}

float sl_model_attention_extra(const sl_model *m, int layer, int64_t head, const float *q) {
    const sl_op *op = attention_op(m, layer);
    const sl_extra_kind *extra = sl_attention_of(op)->extra;
    if (!extra || sl_model_read_weights(m))
        return 0;
    sl_extra e = sl_extra_of_head(op, &m->exec, 0, head, false);
    return extra->logit(&e, q);
}

const float *sl_model_norm_weight(const sl_model *m, int layer, int which) {
    const sl_norm_tap *n = norm_tap(m, layer, which);
    if (!n || n->weight == SL_NONE || sl_model_read_weights(m))
        return NULL;
    const float *w = m->params.w + m->params.tensor[n->weight].offset;
    if (!m->config.norm_zero_centred)
        return w;
    float *gain = m->gain + (2 * layer + which) * m->config.model_dim;
    for (int64_t j = 0; j < m->config.model_dim; j++)
        gain[j] = 1 + w[j];
    return gain;
}

const float *sl_model_norm_output(const sl_model *m, int layer, int which) {
    const sl_norm_tap *n = norm_tap(m, layer, which);
    if (!n || sl_model_check_taps(m) || !sl_model_fetch(m, n->out))
        return NULL;
    return sl_read_rows(&m->exec, n->out, 0, m->program.buffer[n->out].rows, m->tap);
}

bool sl_model_norm_gate(const sl_model *m, int layer, int which, float *dst) {
    const sl_norm_tap *n = norm_tap(m, layer, which);
    if (!n || n->gate_op == SL_NONE || sl_model_check_taps(m) ||
        !sl_model_fetch_gate(m, &m->program.op[n->gate_op]))
        return false;
    sl_gate_values(&m->program.op[n->gate_op], &m->exec, dst);
    return true;
}

/* ---- those of model.h, found by the places of the operations that read or write them: a variant that appends
 * operations of its own needs nothing here */

static const sl_op *norm_op(const sl_model *m, int layer, int which) {
    if (layer == m->config.model_layers)
        return which == 0 ? sl_program_find(&m->program, SL_NO_LAYER, SL_HALF_NONE, SL_PART_norm) : NULL;
    bool output = m->config.model_norm_place == SL_PLACE_OUTPUT;
    return sl_program_find(&m->program, layer, which == 0 ? SL_HALF_ATTN : SL_HALF_FFN,
                           output ? SL_PART_out_norm : SL_PART_norm);
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
    return m && m->part_taps && layer >= 0 && layer <= m->config.model_layers;
}

/* ---- attention over depth */

static const sl_op *mixture_op(const sl_model *m, int layer, int which) {
    if (layer == m->config.model_layers)
        return which == 0 ? sl_program_find(&m->program, SL_NO_LAYER, SL_HALF_NONE, SL_PART_mix) : NULL;
    return sl_program_find(&m->program, layer, which == 0 ? SL_HALF_ATTN : SL_HALF_FFN, SL_PART_mix);
}

static void keep_mixtures(sl_model *m) {
    for (int i = 0; i < m->program.ops; i++) {
        const sl_op *op = &m->program.op[i];
        const sl_depth *depth = sl_depth_of(op);
        if (!depth)
            continue;
        const sl_buf read[] = {depth->bank, depth->apart[0], depth->apart[1], op->saved[0], op->out};
        for (size_t k = 0; k < sizeof read / sizeof *read; k++)
            if (read[k] != SL_NONE)
                sl_program_keep(&m->program, read[k]);
    }
}

int64_t sl_model_depth_sources(const sl_model *m, int layer, int which) {
    const sl_op *op = has_taps(m, layer) ? mixture_op(m, layer, which) : NULL;
    return op ? sl_depth_sources(sl_depth_of(op)) : 0;
}

sl_depth_tap sl_model_depth(const sl_model *m, int layer, int which) {
    const sl_op *op = has_taps(m, layer) && m->tapped ? mixture_op(m, layer, which) : NULL;
    const sl_depth *depth = sl_depth_of(op);
    if (!op || !sl_model_fetch(m, depth->bank) || !sl_model_fetch(m, op->saved[0]) || !sl_model_fetch(m, op->out))
        return (sl_depth_tap){0};
    for (int i = 0; i < SL_DEPTH_APART; i++)
        if (depth->apart[i] != SL_NONE && !sl_model_fetch(m, depth->apart[i]))
            return (sl_depth_tap){0};
    return (sl_depth_tap){.sources = sl_depth_sources(depth), .banked = depth->n,
                          .bank = sl_buf_data(&m->exec, depth->bank),
                          .apart = {sl_buf_data(&m->exec, depth->apart[0]), sl_buf_data(&m->exec, depth->apart[1])},
                          .ld = m->program.buffer[depth->bank].ld, .weight = sl_buf_data(&m->exec, op->saved[0]),
                          .mixture = sl_buf_data(&m->exec, op->out)};
}

/* ---- anchors */

static const sl_op *anchored_op(const sl_model *m, int layer, bool gate) {
    const sl_op *op = has_taps(m, layer) ? sl_program_find(&m->program, layer, SL_HALF_ATTN,
                                                           gate ? SL_PART_anchor_gate : SL_PART_anchor_qkv)
                                         : NULL;
    return op && sl_anchor_mixture_of(op) ? op : NULL;
}

static void keep_anchors(sl_model *m) {
    for (int i = 0; i < m->program.ops; i++) {
        const sl_op *op = &m->program.op[i];
        if (!sl_anchor_mixture_of(op))
            continue;
        const sl_buf read[] = {op->saved[0], op->in[1], op->in[2]};
        for (size_t k = 0; k < sizeof read / sizeof *read; k++)
            if (read[k] != SL_NONE)
                sl_program_keep(&m->program, read[k]);
    }
}

const sl_anchor_layout *sl_model_anchored(const sl_model *m, int layer, bool gate) {
    const sl_op *op = anchored_op(m, layer, gate);
    return op ? &sl_anchor_mixture_of(op)->at : NULL;
}

bool sl_model_anchored_row(const sl_model *m, int layer, bool gate, int64_t row, float *const coef[2],
                           float *const mixed[2]) {
    const sl_op *op = m->tapped ? anchored_op(m, layer, gate) : NULL;
    if (!op || sl_model_read_weights(m) || !sl_model_fetch(m, op->saved[0]) || !sl_model_fetch(m, op->in[1]) ||
        (op->in[2] != SL_NONE && !sl_model_fetch(m, op->in[2])))
        return false;
    sl_anchor_mixture_row(op, &m->exec, row, coef, mixed);
    return true;
}

/* ---- recurrent mixers */

static const sl_op *recurrent_op(const sl_model *m, int layer) {
    bool is = has_taps(m, layer) && layer < m->config.model_layers && sl_mixer_of(&m->config, layer)->recurrence;
    return is ? sl_program_find(&m->program, layer, SL_HALF_ATTN, SL_PART_core) : NULL;
}

bool sl_model_recurrence(const sl_model *m, int layer, sl_recurrence_sizes *sizes) {
    const sl_op *op = recurrent_op(m, layer);
    if (op)
        *sizes = sl_mixer_of(&m->config, layer)->recurrence->sizes(op);
    return op != NULL;
}

int sl_model_fetch_recurrence(const sl_model *m, int layer) {
    const sl_op *op = recurrent_op(m, layer);
    if (!op || sl_model_check_taps(m))
        return sl_fail("layer %d has no state", layer);
    for (int i = 0; i < op->inputs; i++)
        if (!sl_model_fetch(m, op->in[i]))
            return -1;
    return op->saved[0] == SL_NONE || sl_model_fetch(m, op->saved[0]) ? sl_model_read_weights(m) : -1;
}

void sl_model_recurrence_head(const sl_model *m, int layer, int64_t window, int64_t head, sl_recurrence_head *to) {
    sl_mixer_of(&m->config, layer)->recurrence->head(recurrent_op(m, layer), &m->exec, window, head, to);
}

const sl_gate_norm *sl_model_gate_norm(const sl_model *m, int layer, const float **weight, float *dst) {
    const sl_op *op = sl_program_find(&m->program, layer, SL_HALF_ATTN, SL_PART_gate);
    const sl_gate_norm *how = sl_gate_norm_of(op);
    if (how)
        *weight = how->place == SL_GATE_NORM_OFF ? NULL : sl_weight(op, &m->exec, 0);
    if (how && dst)
        sl_gate_norm_values(op, &m->exec, dst);
    return how;
}

static void keep_recurrence(sl_model *m, int layer) {
    const sl_op *op = recurrent_op(m, layer);
    if (!op)
        return;
    for (int i = 0; i < op->inputs; i++)
        sl_program_keep(&m->program, op->in[i]);
    if (op->saved[0] != SL_NONE)
        sl_program_keep(&m->program, op->saved[0]);
}

void sl_model_keep_taps(sl_model *m) {
    keep_mixtures(m);
    keep_anchors(m);
    for (int layer = 0; layer < m->config.model_layers; layer++)
        keep_recurrence(m, layer);
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
    if (b == SL_NONE || !sl_model_fetch(m, b))
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
    if (!op || sl_model_read_weights(m))
        return NULL;
    const sl_tensor *t = &m->params.tensor[op->param[0]];
    if (!t->bf16)
        return m->params.w + t->offset;
    sl_params_get(&m->params, t, 0, t->size, m->projection);
    return m->projection;
}
