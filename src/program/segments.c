/* Where the list of operations is cut into segments, for each direction. */
#include "program/plan.h"

#include "base/err.h"

#include <stdlib.h>

enum {
    LEAST_ROWS = 64, /* of a call: weights come into the cache once for so many */
    MOST_ROWS = 256, /* and their activations leave room for weights there */
    CALL_COST = 16,  /* of a call, in rows */
    WEIGHTS = 2,     /* bytes of weights that a call may read for each byte that it writes */
};

static const sl_stage *stages_of(const sl_op *op, int direction) {
    return direction == SL_FORWARD ? op->kind->forward : op->kind->backward;
}

/* Does a pass of this direction go through the operation's rows once, without waiting for all of them in between? */
static bool by_rows(const sl_op *op, int direction) {
    const sl_stage *s = stages_of(op, direction);
    if (op->kind->chunk)
        return false;
    for (; s && s->cut == SL_CUT_PARAMS; s++)
        ;
    for (; s && s->cut == SL_CUT_ROWS; s++)
        ;
    for (; s && (s->cut == SL_CUT_SUMS || s->cut == SL_CUT_FOLD); s++)
        ;
    return !s || s->cut == SL_CUT_END;
}

static bool has_sums(const sl_op *op, int direction) {
    for (const sl_stage *s = stages_of(op, direction); s && s->cut != SL_CUT_END; s++)
        if (s->cut == SL_CUT_SUMS)
            return true;
    return false;
}

/* ---- what a stage of SUMS reads must stay as it is to the end of its segment */

static bool is_one_of(sl_buf v, const sl_buf *list, int n) {
    for (int i = 0; v != SL_NONE && i < n; i++)
        if (list[i] == v)
            return true;
    return false;
}

static bool sums_read(const sl_op *op, int direction, sl_buf v) {
    if (!has_sums(op, direction))
        return false;
    return is_one_of(v, op->in, op->inputs) || is_one_of(v, op->saved, SL_OP_SAVED) || v == op->temp ||
           (op->temp == SL_NONE && v == op->dout);
}

/* Does `later` write what sums of `earlier` read? */
static bool disturbs(const sl_op *later, const sl_op *earlier, int direction) {
    if (direction == SL_FORWARD)
        return later->out != SL_NONE && sums_read(earlier, direction, later->out);
    for (int i = 0; i < later->inputs; i++)
        for (int pass = 0; pass < 2; pass++) {
            sl_buf v = pass ? later->sum[i] : later->din[i];
            bool writes = pass || v != later->dout || later->use[i] & SL_INPUT_GRADIENT;
            if (v != SL_NONE && writes && sums_read(earlier, direction, v))
                return true;
        }
    return false;
}

static void mark_summed(sl_program *b, const sl_op *op, int direction) {
    for (int v = 0; v < b->buffers; v++)
        b->buffer[v].summed[direction] = b->buffer[v].summed[direction] || sums_read(op, direction, v);
}

/* ---- cutting */

/* Blocks of a call: the fewer, the less rows wait at the end for a worker that has one call more than others or is
 * slow; the more, the less a call costs. */
static int64_t blocks_of_call(sl_blocks all, int threads) {
    double best = 0;
    int64_t chosen = 1;
    for (int64_t n = 1; n == 1 || n * all.size <= MOST_ROWS; n++) {
        double turns = (double)sl_div_up(sl_div_up(all.count, n), threads);
        double cost = (turns + 0.5) * (double)(n * all.size + CALL_COST);
        if (n * all.size < LEAST_ROWS && (n + 1) * all.size <= MOST_ROWS)
            continue;
        if (best == 0 || cost <= best)
            best = cost, chosen = n;
    }
    return chosen;
}

/* What operations read once a call, and what they write for each row. */
typedef struct {
    double weights, row;
} traffic;

static double row_bytes(const sl_program *b, sl_buf v, int64_t rows) {
    const sl_buffer *u = v == SL_NONE ? NULL : &b->buffer[v];
    return u && u->rows == rows ? (double)u->ld * (u->bf16 ? sizeof(sl_bf16) : sizeof(float)) : 0;
}

static void add_traffic(const sl_program *b, int direction, const sl_op *op, traffic *t) {
    double weights = op->flops / (2 * (double)op->rows); /* of a product by rows: each is used once a row */
    t->weights += weights * (b->bf16 ? sizeof(sl_bf16) : sizeof(float));
    if (direction == SL_FORWARD)
        t->row += row_bytes(b, op->out, op->rows);
    for (int i = 0; direction == SL_BACKWARD && i < op->inputs; i++)
        t->row += op->din[i] == op->dout ? 0 : row_bytes(b, op->din[i], op->rows);
}

/* May operation i, the next of the direction, join those from `from` on? */
static bool joins(const sl_program *b, int direction, int from, int i) {
    const sl_op *op = &b->op[i];
    int step = i > from ? 1 : -1;
    if (!by_rows(op, direction) || !by_rows(&b->op[from], direction))
        return false;
    for (int j = from; j != i; j += step)
        if (op->rows != b->op[j].rows || op->seq != b->op[j].seq || disturbs(op, &b->op[j], direction))
            return false;
    return true;
}

/* How many operations from `from` on: as many as may, but no more than pays. It does not where their weights, which
 * each call reads again, are more than what stays in the cache for it: by itself an operation goes through its weights
 * a part at a time, each of which stays for all rows. */
static int length_from(const sl_program *b, int direction, int from, int64_t rows) {
    int step = direction == SL_FORWARD ? 1 : -1, longest = 1, n = 1;
    traffic t = {0, 0};
    add_traffic(b, direction, &b->op[from], &t);
    for (int i = from + step; n < SL_SEGMENT_OPS && i >= 0 && i < b->ops && joins(b, direction, from, i); i += step) {
        add_traffic(b, direction, &b->op[i], &t);
        n++;
        if (t.weights <= WEIGHTS * t.row * (double)rows)
            longest = n;
    }
    return longest;
}

static sl_segment segment_from(const sl_program *b, int direction, int from, int threads) {
    const sl_op *op = &b->op[from];
    int64_t blocks = blocks_of_call(sl_op_blocks(op), threads);
    bool enough = op->rows >= (int64_t)LEAST_ROWS * threads;
    int n = enough ? length_from(b, direction, from, blocks * sl_op_blocks(op).size) : 1;
    int first = direction == SL_FORWARD ? from : from - n + 1;
    return (sl_segment){.first = first, .end = first + n, .blocks = n > 1 ? blocks : 0};
}

static void cut(sl_program *b, int direction, int threads) {
    bool forward = direction == SL_FORWARD;
    int n = 0;
    for (int left = b->ops; left > 0; n++) {
        sl_segment s = segment_from(b, direction, forward ? b->ops - left : left - 1, threads);
        b->segment[direction][n] = s;
        left -= s.end - s.first;
    }
    b->segments[direction] = n;
}

int sl_plan_segments(sl_program *b, int threads) {
    for (int d = 0; d < (b->training ? 2 : 1); d++) {
        if (!(b->segment[d] = calloc((size_t)b->ops + 1, sizeof *b->segment[d])))
            return sl_fail("out of memory while planning segments");
        cut(b, d, threads);
        for (int i = 0; i < b->ops; i++)
            mark_summed(b, &b->op[i], d);
    }
    return 0;
}
