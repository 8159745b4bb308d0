#include "ops/attention/heads.h"
#include "ops/ops.h"
#include "ops/rows.h"

static void rotate(const sl_op *op, const sl_exec *x, sl_buf buf, const sl_span *s, float sign) {
    const sl_rope *o = op->own;
    const sl_buffer *v = &x->info[buf];
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        int64_t at = (x->position + r % op->seq) * (o->head_dim / 2);
        if (v->bf16)
            x->k->rope_bf16(o->heads, o->head_dim, o->cos + at, o->sin + at, sign, sl_bf16_row(x, buf, r));
        else
            x->k->rope(o->heads, o->head_dim, o->cos + at, o->sin + at, sign, sl_buf_data(x, buf) + r * v->ld);
    }
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    rotate(op, x, op->out, s, 1);
    return 0;
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    rotate(op, x, op->dout, s, -1);
    return 0;
}

static const sl_op_kind rope = {.name = "rope",
                                .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
                                .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward})};

void sl_build_rope(sl_program *b, sl_scope scope, sl_buf qkv, const float *cos, const float *sin) {
    sl_op *op = sl_program_op(b, &rope, scope);
    sl_rope *o = sl_program_own(b, op, sizeof *o);
    sl_op_reads(op, op->out = qkv, SL_INPUT_GRADIENT);
    if (o)
        *o = (sl_rope){b->config->model_heads + sl_config_kv_heads(b->config), sl_config_head_dim(b->config), cos, sin};
    if (b->device) /* its own table, which it makes itself: cosine and sine of each pair */
        op->saved[0] = sl_program_lasting(b, b->cache ? b->cache : b->seq, sl_config_head_dim(b->config));
}
