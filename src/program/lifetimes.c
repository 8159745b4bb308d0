/* When buffers are in use, and which of them nobody needs to have as a whole. */
#include "program/plan.h"

#include "base/err.h"

#include <stdlib.h>

/* ---- moments of the timeline */

/* The segment that one is in: when it begins, when it ends, which it is. */
typedef struct {
    int begin, end;
    sl_segment *segment;
} moment;

static void fill_moments(const sl_program *b, int direction, moment *at) {
    for (int i = 0; i < b->segments[direction]; i++) {
        sl_segment *s = &b->segment[direction][i];
        int begin = direction == SL_FORWARD ? s->first : 2 * b->ops - s->end, end = begin + s->end - s->first;
        for (int t = begin; t < end; t++)
            at[t] = (moment){begin, end - 1, s};
    }
}

static int backward_time(const sl_program *b, int op) { return 2 * b->ops - 1 - op; }

/* ---- values that are computed again: out of an operation whose forward is cheap need not lie in memory between the
 * directions. It then has a buffer for each, and readers going back are given the second. */

static bool only_writer(const sl_program *b, int i) {
    for (int j = 0; j < b->ops; j++)
        if (j != i && b->op[j].out == b->op[i].out)
            return false;
    return true;
}

/* Its inputs are there going back, since it reads them itself. */
static bool inputs_kept(const sl_op *op) {
    for (int i = 0; i < op->inputs; i++)
        if (op->in[i] != SL_NONE && !(op->use[i] & SL_INPUT_KEPT))
            return false;
    return true;
}

static int split_values(sl_program *b) {
    /* in fp32, which is bound by arithmetic, it costs 1 % of a step */
    bool pays = b->training && b->bf16 && !b->device;
    for (int i = 0; pays && i < b->ops; i++) {
        const sl_op *op = &b->op[i];
        bool may = op->kind->again && !op->kind->keeps_out && !b->buffer[op->out].kept;
        if (!may || !inputs_kept(op) || !only_writer(b, i))
            continue;
        sl_buffer of = b->buffer[op->out];
        sl_buf back = sl_program_buffer(b, of.rows, of.cols);
        if (b->failed)
            return -1;
        b->buffer[back].bf16 = of.bf16, b->buffer[back].ld = of.ld, b->buffer[back].id = op->out;
        b->buffer[back].summed[SL_BACKWARD] = of.summed[SL_BACKWARD];
        b->buffer[op->out].summed[SL_BACKWARD] = false;
        b->buffer[op->out].back = back;
    }
    return 0;
}

/* The buffer of a value going back. */
static sl_buf back_of(const sl_program *b, sl_buf v) {
    return v == SL_NONE || b->buffer[v].back == SL_NONE ? v : b->buffer[v].back;
}

/* ---- lifetimes */

static void use(sl_program *b, sl_buf v, int time) {
    if (v == SL_NONE)
        return;
    sl_buffer *u = &b->buffer[v];
    if (u->first < 0 || time < u->first)
        u->first = time;
    if (time > u->last)
        u->last = time;
}

static void use_forward(sl_program *b, const sl_op *op, int time) {
    for (int i = 0; i < op->inputs; i++)
        use(b, op->in[i], time);
    for (int s = 0; s < SL_OP_SAVED; s++)
        use(b, op->saved[s], time);
    use(b, op->out, time);
    if (op->out == SL_NONE) /* the loss writes its input's gradient with its value */
        use(b, op->din[0], time);
}

static void use_backward(sl_program *b, const sl_op *op, int time) {
    for (int i = 0; i < op->inputs; i++) {
        use(b, op->din[i], time), use(b, op->sum[i], time);
        if (op->use[i] & SL_INPUT_KEPT)
            use(b, back_of(b, op->in[i]), time);
    }
    for (int s = 0; s < SL_OP_SAVED; s++)
        use(b, op->saved[s], time);
    if (op->kind->keeps_out)
        use(b, op->out, time);
    use(b, op->dout, time), use(b, op->temp, time);
    if (b->device) /* who has written dout may leave it rounded there (cuda/kind.h) */
        use(b, op->temp, time - 1);
}

static void lifetimes(sl_program *b) {
    for (int i = 0; i < b->ops; i++) {
        use_forward(b, &b->op[i], i);
        if (b->training)
            use_backward(b, &b->op[i], backward_time(b, i));
    }
    for (int i = 0; i < b->keeps; i++) {
        use(b, b->keep[i], b->ops);
        if (b->training && b->buffer[b->keep[i]].lasting)
            use(b, b->keep[i], backward_time(b, 0));
    }
}

/* Values are computed again at the beginning of the segment that reads them first, which reads the inputs then. Later
 * operations come first, as their inputs may be such values too. */
static void compute_again(sl_program *b, const moment *at) {
    for (int i = b->ops - 1; i >= 0; i--) {
        const sl_op *op = &b->op[i];
        sl_buf v = op->out == SL_NONE ? SL_NONE : b->buffer[op->out].back;
        if (v == SL_NONE || b->buffer[v].first < 0)
            continue;
        int time = at[b->buffer[v].first].begin;
        use(b, v, time);
        for (int k = 0; k < op->inputs; k++)
            use(b, back_of(b, op->in[k]), time);
        for (int k = 0; k < SL_OP_SAVED; k++)
            use(b, op->saved[k], time);
    }
}

/* Operations that each segment computes again, in their order. */
static void list_again(sl_program *b, const moment *at) {
    int n = 0;
    for (int k = 0; k < b->segments[SL_BACKWARD]; k++) {
        sl_segment *s = &b->segment[SL_BACKWARD][k];
        s->again = n;
        for (int i = 0; i < b->ops; i++) {
            sl_buf v = b->op[i].out == SL_NONE ? SL_NONE : b->buffer[b->op[i].out].back;
            if (v != SL_NONE && b->buffer[v].first >= 0 && at[b->buffer[v].first].segment == s)
                b->again[n++] = i;
        }
        s->again_end = n;
    }
}

/* Rows of a call of the segment that all of its uses are in; 0 if there is none, or somebody else reads it. */
static int64_t local_rows(const sl_program *b, const sl_buffer *v, const moment *at) {
    const sl_segment *s = v->first < 0 || v->kept ? NULL : at[v->first].segment;
    if (!s || s->blocks == 0 || at[v->last].segment != s || v->summed[SL_FORWARD] || v->summed[SL_BACKWARD])
        return 0;
    if (v->rows != b->op[s->first].rows)
        return 0;
    return sl_min(s->blocks * sl_op_blocks(&b->op[s->first]).size, v->rows);
}

static void list_local(sl_program *b, const moment *at) {
    int n = 0;
    for (int d = 0; d <= b->training; d++)
        for (int i = 0; i < b->segments[d]; i++) {
            sl_segment *s = &b->segment[d][i];
            s->local = n;
            for (int v = 0; v < b->buffers; v++)
                if (b->buffer[v].local && at[b->buffer[v].first].segment == s)
                    b->local[n++] = v;
            s->local_end = n;
        }
}

/* Buffers that are not local are in use from the beginning of their first segment to the end of their last one, since
 * each worker is elsewhere in them. */
static void extend(sl_program *b, const moment *at) {
    for (int i = 0; i < b->buffers; i++) {
        sl_buffer *v = &b->buffer[i];
        v->local = local_rows(b, v, at);
        if (!v->local && v->first >= 0)
            v->first = at[v->first].begin, v->last = at[v->last].end;
    }
}

int sl_plan_lifetimes(sl_program *b) {
    for (int i = 0; i < b->keeps; i++)
        b->buffer[b->keep[i]].kept = true;
    if (split_values(b))
        return -1;
    moment *at = calloc(2 * (size_t)b->ops + 1, sizeof *at);
    b->local = calloc((size_t)b->buffers + 1, sizeof *b->local);
    b->again = calloc((size_t)b->ops + 1, sizeof *b->again);
    if (!at || !b->local || !b->again) {
        free(at);
        return sl_fail("out of memory while planning lifetimes");
    }
    at[b->ops] = (moment){b->ops, b->ops, NULL}; /* of what is kept, if nothing goes back */
    for (int d = 0; d <= b->training; d++)
        fill_moments(b, d, at);
    lifetimes(b);
    compute_again(b, at);
    list_again(b, at);
    extend(b, at);
    list_local(b, at);
    free(at);
    return 0;
}
