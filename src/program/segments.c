#include "program/segments.h"

#include "base/err.h"

#include <stdlib.h>

enum {
    LEAST_ROWS = 64, /* of a call: weights come into the cache once for so many */
    MOST_ROWS = 256, /* and their activations leave room for weights there */
    CALL_COST = 16,  /* of a call, in rows */
};

static const sl_stage *stages_of(const sl_op *op, int direction) {
    return direction == SL_FORWARD ? op->kind->forward : op->kind->backward;
}

bool sl_op_by_rows(const sl_op *op, int direction) {
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
        b->buffer[v].summed = b->buffer[v].summed || sums_read(op, direction, v);
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

/* May operation i, the next of the direction, join those from `from` on? */
static bool joins(const sl_program *b, int direction, int from, int i) {
    const sl_op *op = &b->op[i];
    int step = i > from ? 1 : -1;
    if (!sl_op_by_rows(op, direction) || !sl_op_by_rows(&b->op[from], direction))
        return false;
    for (int j = from; j != i; j += step)
        if (op->rows != b->op[j].rows || op->seq != b->op[j].seq || disturbs(op, &b->op[j], direction))
            return false;
    return true;
}

static void cut(sl_program *b, int direction, int threads) {
    sl_segment *s = b->segment[direction];
    int forward = direction == SL_FORWARD, n = 0;
    for (int k = 0; k < b->ops; n++) {
        int from = forward ? k : b->ops - 1 - k, ops = 1, step = forward ? 1 : -1;
        const sl_op *op = &b->op[from];
        bool enough = op->rows >= (int64_t)LEAST_ROWS * threads;
        while (enough && k + ops < b->ops && joins(b, direction, from, from + step * ops))
            ops++;
        s[n].first = forward ? from : from - ops + 1;
        s[n].end = s[n].first + ops;
        s[n].blocks = ops > 1 ? blocks_of_call(sl_op_blocks(op), threads) : 0;
        k += ops;
    }
    b->segments[direction] = n;
}

int sl_segments_cut(sl_program *b, int threads) {
    for (int d = 0; d < (b->training ? 2 : 1); d++) {
        if (!(b->segment[d] = calloc((size_t)b->ops + 1, sizeof *b->segment[d])))
            return sl_fail("out of memory while planning segments");
        cut(b, d, threads);
        for (int i = 0; i < b->ops; i++)
            mark_summed(b, &b->op[i], d);
    }
    return 0;
}
