/* What a program needs before it can run: gradient buffers, and, once segments and lifetimes are known, places. */
#include "program/plan.h"

#include "base/err.h"

#include <limits.h>
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

/* Of a segment's operations one behind the other: between its stages an operation's is not to be touched. Scratch of
 * sums is not worth more memory than so much to take them all at once. */
enum { SUMS_AT_ONCE = 16 << 20 };

static size_t place_one(size_t *at, size_t bytes) {
    size_t place = *at;
    *at += (size_t)sl_round_up((int64_t)bytes, 64);
    return place;
}

static void place_shared_of(sl_program *b, int direction, sl_segment *s) {
    size_t shared = 0, sums = 0, most = 0;
    for (int k = s->first; k < s->end; k++) {
        sl_op *op = &b->op[k];
        op->shared[direction] = place_one(&shared, op->shared_bytes);
        op->sums[direction] = place_one(&sums, op->sums_bytes);
        most = op->sums_bytes > most ? op->sums_bytes : most;
    }
    s->sums_apart = sums > SUMS_AT_ONCE;
    for (int k = s->first; s->sums_apart && k < s->end; k++)
        b->op[k].sums[direction] = 0;
    sums = s->sums_apart ? most : sums;
    b->shared_bytes = shared > b->shared_bytes ? shared : b->shared_bytes;
    b->sums_bytes = sums > b->sums_bytes ? sums : b->sums_bytes;
}

static void place_shared(sl_program *b) {
    for (int d = 0; d <= b->training; d++)
        for (int i = 0; i < b->segments[d]; i++)
            place_shared_of(b, d, &b->segment[d][i]);
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
    b->failed = b->failed || (b->training && assign_gradients(b)) ||
                sl_plan_segments(b, b->device ? INT_MAX : threads) || sl_plan_lifetimes(b);
    if (b->failed)
        return 0;
    place_states(b);
    place_shared(b);
    return place_buffers(b);
}
