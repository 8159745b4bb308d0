/* Null evidence: what the queries of a token leave unused, the mean over heads of 1 - sum_j p_j, which of softmax1 is
 * the weight of its zero (OASIS, arXiv 2605.17887). One column of psi [rows, layers] for each layer, in place. */
#include "ops/attention/attention.h"
#include "ops/ops.h"

static const sl_evidence *of(const sl_op *op) { return op->own; }

static float *column(const sl_op *op, const sl_exec *x, sl_buf psi, int64_t row) {
    return sl_buf_data(x, psi) + row * op->dim_out + of(op)->layer;
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const float *nulls = sl_buf_data(x, op->saved[SL_EVIDENCE_NULLS]);
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        float sum = 0;
        for (int64_t h = 0; nulls && h < of(op)->heads; h++)
            sum += nulls[(r / op->seq * of(op)->heads + h) * op->seq + r % op->seq];
        *column(op, x, op->out, r) = sum / (float)of(op)->heads;
    }
    return 0;
}

/* The gradient of each head's, for the attention's own backward. */
static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    float *dnull = sl_buf_data(x, op->saved[SL_EVIDENCE_DNULL]);
    for (int64_t r = s->first; dnull && r < s->first + s->n; r++)
        dnull[r] = *column(op, x, op->dout, r) / (float)of(op)->heads;
    return 0;
}

static const sl_op_kind null_evidence = {.name = "null_evidence", .adds = true,
                                         .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
                                         .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward})};

void sl_build_null_evidence(sl_program *b, sl_scope scope, bool attends, sl_buf psi) {
    const sl_op *core = sl_program_find(b, scope.layer, SL_HALF_ATTN, SL_PART_core);
    sl_buf nulls = attends ? core->saved[SL_ATTENTION_NULLS] : SL_NONE;
    sl_buf dnull = attends ? core->saved[SL_ATTENTION_DNULL] : SL_NONE;
    sl_op *op = sl_program_op(b, &null_evidence, scope);
    sl_evidence *own = sl_program_own(b, op, sizeof *own);
    if (own)
        *own = (sl_evidence){scope.layer, b->config->model_heads};
    sl_op_reads(op, psi, SL_INPUT_GRADIENT);
    op->saved[SL_EVIDENCE_NULLS] = nulls;
    op->saved[SL_EVIDENCE_DNULL] = dnull;
    op->dim_in = op->dim_out = b->config->model_layers;
    op->out = psi;
}
