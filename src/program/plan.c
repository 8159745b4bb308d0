/* What a program needs before it can run: gradient buffers, lifetimes, places in the arena. */
#include "base/err.h"
#include "program/program.h"
#include "program/segments.h"

#include <stdlib.h>

/* ---- gradients */

static sl_buf gradient_buffer(sl_program *b, sl_buf of) {
    sl_buffer v = b->buffer[of];
    sl_buf g = sl_program_buffer(b, v.rows, v.cols);
    if (!b->failed)
        b->buffer[g].bf16 = v.bf16, b->buffer[g].ld = v.ld;
    return g;
}

/* Can the gradient of input i be dout's own buffer: is it the only input that has this value, and has none before it
 * got that buffer? */
static bool may_share(const sl_op *op, int i) {
    for (int j = 0; j < op->inputs; j++) {
        bool wants = j != i && op->use[j] & (SL_INPUT_GRADIENT | SL_INPUT_ADDED);
        if (wants && (op->in[j] == op->in[i] || op->in[j] == op->out || op->din[j] == op->dout))
            return false;
    }
    return true;
}

/* Where the gradient of input i goes. Readers come last first: the first to ask makes the buffer, the others add. The
 * gradient of an added input is dout; nobody reads that any more once this operation is through, so they are one buffer
 * where no other reader has given the input a gradient yet. */
static void assign_input(sl_program *b, sl_op *op, int i, sl_buf *grad) {
    sl_buf v = op->in[i];
    bool added = op->use[i] & SL_INPUT_ADDED;
    if (added && grad[v] == SL_NONE && may_share(op, i)) {
        grad[v] = op->din[i] = op->dout;
        return;
    }
    bool more = grad[v] != SL_NONE && v != op->out;
    if (more && !added && !op->kind->adds) {
        op->sum[i] = grad[v];
        op->din[i] = gradient_buffer(b, v);
        return;
    }
    op->acc[i] = more;
    op->pass[i] = added;
    if (grad[v] == SL_NONE)
        grad[v] = gradient_buffer(b, v);
    op->din[i] = grad[v];
}

/* Added inputs come first within an operation: the schedule passes dout to them before backward. */
static void assign_inputs(sl_program *b, sl_op *op, sl_buf *grad) {
    for (int added = 1; added >= 0; added--)
        for (int i = 0; i < op->inputs && !b->failed; i++)
            if (op->use[i] & (added ? SL_INPUT_ADDED : SL_INPUT_GRADIENT))
                assign_input(b, op, i, grad);
}

static int assign_gradients(sl_program *b) {
    int known = b->buffers;
    sl_buf *grad = malloc((size_t)(known + 1) * sizeof *grad);
    if (!grad)
        return sl_fail("out of memory while planning gradients");
    for (int i = 0; i < known; i++)
        grad[i] = SL_NONE;
    for (int i = b->ops - 1; i >= 0 && !b->failed; i--) {
        sl_op *op = &b->op[i];
        if (op->out != SL_NONE)
            op->dout = grad[op->out];
        assign_inputs(b, op, grad);
    }
    free(grad);
    return b->failed ? -1 : 0;
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
            use(b, op->in[i], time);
    }
    for (int s = 0; s < SL_OP_SAVED; s++)
        use(b, op->saved[s], time);
    if (op->kind->keeps_out)
        use(b, op->out, time);
    use(b, op->dout, time), use(b, op->temp, time);
}

static void lifetimes(sl_program *b) {
    for (int i = 0; i < b->ops; i++) {
        use_forward(b, &b->op[i], i);
        if (b->training)
            use_backward(b, &b->op[i], 2 * b->ops - 1 - i);
    }
    for (int i = 0; i < b->keeps; i++) {
        use(b, b->keep[i], b->ops);
        b->buffer[b->keep[i]].kept = true;
    }
}

/* The segment of each time on the timeline: when it begins, when it ends, which it is. */
typedef struct {
    int begin, end;
    const sl_segment *segment;
} moment;

static void fill_moments(const sl_program *b, int direction, moment *at) {
    for (int i = 0; i < b->segments[direction]; i++) {
        const sl_segment *s = &b->segment[direction][i];
        int begin = direction == SL_FORWARD ? s->first : 2 * b->ops - s->end, end = begin + s->end - s->first;
        for (int t = begin; t < end; t++)
            at[t] = (moment){begin, end - 1, s};
    }
}

/* Rows of a call of the segment that all of its uses are in; 0 if there is none, or somebody else reads it. */
static int64_t local_rows(const sl_program *b, const sl_buffer *v, const moment *at) {
    const sl_segment *s = v->first < 0 || v->kept ? NULL : at[v->first].segment;
    if (!s || s->blocks == 0 || at[v->last].segment != s || v->summed || v->rows != b->op[s->first].rows)
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
static int lifetimes_in_segments(sl_program *b) {
    moment *at = calloc(2 * (size_t)b->ops + 1, sizeof *at);
    b->local = calloc((size_t)b->buffers + 1, sizeof *b->local);
    if (!at || !b->local) {
        free(at);
        return sl_fail("out of memory while planning lifetimes");
    }
    at[b->ops] = (moment){b->ops, b->ops, NULL}; /* of what is kept, if nothing goes back */
    for (int d = 0; d <= b->training; d++)
        fill_moments(b, d, at);
    for (int i = 0; i < b->buffers; i++) {
        sl_buffer *v = &b->buffer[i];
        v->local = local_rows(b, v, at);
        if (!v->local && v->first >= 0)
            v->first = at[v->first].begin, v->last = at[v->last].end;
    }
    list_local(b, at);
    free(at);
    return 0;
}

/* ---- places */

static size_t bytes_of(const sl_buffer *v) {
    size_t element = v->bf16 ? sizeof(sl_bf16) : sizeof(float);
    return (size_t)sl_round_up((v->local ? v->local : v->rows) * v->ld * (int64_t)element, v->local ? 64 : 4096);
}

static int by_size(const void *x, const void *y) {
    const sl_buffer *a = *(const sl_buffer *const *)x, *b = *(const sl_buffer *const *)y;
    size_t s = bytes_of(a), t = bytes_of(b);
    return s != t ? (s < t ? 1 : -1) : (a < b ? -1 : 1);
}

/* Greedy by size: each buffer goes to the lowest place free during its whole life. */
static size_t place(sl_buffer **order, int n) {
    size_t end = 0;
    for (int i = 0; i < n; i++) {
        sl_buffer *v = order[i];
        size_t at = 0;
        for (int moved = 1; moved;) {
            moved = 0;
            for (int j = 0; j < i; j++) {
                const sl_buffer *o = order[j];
                bool alive = o->first <= v->last && v->first <= o->last;
                if (alive && at < o->offset + bytes_of(o) && o->offset < at + bytes_of(v)) {
                    at = o->offset + bytes_of(o);
                    moved = 1;
                }
            }
        }
        v->offset = at;
        if (at + bytes_of(v) > end)
            end = at + bytes_of(v);
    }
    return end;
}

/* Places all buffers that are local, or all that are not. */
static size_t place_all(sl_program *b, sl_buffer **order, bool local) {
    int n = 0;
    for (int i = 0; i < b->buffers; i++)
        if ((b->buffer[i].local > 0) == local)
            order[n++] = &b->buffer[i];
    qsort(order, (size_t)n, sizeof(sl_buffer *), by_size);
    return place(order, n);
}

static void place_states(sl_program *b) {
    for (int i = 0; i < b->ops; i++) {
        b->op[i].state = b->state_bytes;
        b->state_bytes += (size_t)sl_round_up((int64_t)b->op[i].state_bytes, 64);
    }
}

/* Of a segment's operations one behind the other: between its stages an operation's is not to be touched. */
static void place_shared(sl_program *b) {
    for (int d = 0; d <= b->training; d++)
        for (int i = 0; i < b->segments[d]; i++) {
            size_t shared = 0, sums = 0;
            for (int k = b->segment[d][i].first; k < b->segment[d][i].end; k++) {
                sl_op *op = &b->op[k];
                op->shared[d] = shared, op->sums[d] = sums;
                shared += (size_t)sl_round_up((int64_t)op->shared_bytes, 64);
                sums += (size_t)sl_round_up((int64_t)op->sums_bytes, 64);
            }
            b->shared_bytes = shared > b->shared_bytes ? shared : b->shared_bytes;
            b->sums_bytes = sums > b->sums_bytes ? sums : b->sums_bytes;
        }
}

static size_t place_buffers(sl_program *b) {
    sl_buffer **order = malloc((size_t)(b->buffers + 1) * sizeof *order);
    if (!order) {
        sl_fail("out of memory while planning buffers");
        b->failed = true;
        return 0;
    }
    b->local_bytes = place_all(b, order, true);
    size_t bytes = place_all(b, order, false);
    free(order);
    return bytes;
}

size_t sl_program_plan(sl_program *b, int threads) {
    if (b->failed || (b->training && assign_gradients(b)) || sl_segments_cut(b, threads)) {
        b->failed = true;
        return 0;
    }
    lifetimes(b);
    if (lifetimes_in_segments(b)) {
        b->failed = true;
        return 0;
    }
    place_states(b);
    place_shared(b);
    return place_buffers(b);
}
