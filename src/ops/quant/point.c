/* Places where activations are rounded: their ranges, scales and errors. */
#include "ops/quant/quantise.h"

const char *const sl_quant_class_names[] = {[SL_QUANT_POST_NORM] = "post_norm",
                                            [SL_QUANT_ATTENTION_OUT] = "attention_out",
                                            [SL_QUANT_DOWN_IN] = "down_in",
                                            [SL_QUANT_KV] = "kv"};

enum sl_quant_class sl_quant_class_of(sl_scope scope) {
    bool out = scope.part == SL_PART_out || scope.part == SL_PART_shared_out || scope.part == SL_PART_experts_out;
    if (scope.part == SL_PART_kv)
        return SL_QUANT_KV;
    return !out ? SL_QUANT_POST_NORM : scope.half == SL_HALF_ATTN ? SL_QUANT_ATTENTION_OUT : SL_QUANT_DOWN_IN;
}

bool sl_rotates(const sl_program *b, enum sl_quant_class class) {
    return b->quant && b->quant->rotate && (class != SL_QUANT_POST_NORM || !sl_rotation_folds(b->config));
}

/* The scheme's blocks, of rows that come in windows of seq. */
static sl_quantiser blocks_of(const sl_scheme *s, int64_t seq) {
    sl_quantiser q = s->activations;
    int64_t *rows = q.scale == SL_SCALE_E4M3 ? &q.outer_rows : &q.block_rows;
    if (s->range != SL_RANGE_BLOCK)
        *rows = s->range == SL_RANGE_TOKEN ? 1 : s->range == SL_RANGE_WINDOW ? seq : 0;
    return q;
}

sl_quant_point sl_quant_point_at(const sl_program *b, sl_scope scope, int64_t rows, int64_t dim, int64_t seq) {
    const sl_scheme *s = b->quant->scheme;
    sl_quant_point p = {.scope = scope, .class = sl_quant_class_of(scope), .rows = rows, .dim = dim};
    sl_scope_name(scope, p.label);
    if (s)
        p.q = blocks_of(s, seq), p.range = s->range;
    return p;
}

enum sl_cut sl_quant_cut(const sl_quant_point *p) {
    return p->range == SL_RANGE_WINDOW ? SL_CUT_WINDOWS : SL_CUT_ROWS;
}

/* ---- ranges */

static sl_quant_range range_of(const sl_quant_point *p, float lo, float hi) {
    float amax = hi > -lo ? hi : -lo;
    sl_quant_range r = {.lo = lo, .hi = hi, .outer = 1};
    if (p->range == SL_RANGE_AFFINE)
        r.scale = sl_scale_affine(p->q.format, lo, hi, &r.zero);
    else if (p->q.scale == SL_SCALE_E4M3)
        r.outer = sl_scale_outer(p->q.format, amax);
    else
        r.scale = sl_scale_of(p->q.scale, p->q.format, amax, 1, NULL);
    return r;
}

void sl_quant_set_range(const sl_quant_place *p, float lo, float hi) { p->state->range = range_of(p->point, lo, hi); }

float sl_quant_trial_share(int i) { return 1 - (float)i / SL_CLIP_TRIALS; }

sl_quant_range sl_quant_trial_range(const sl_quant_point *p, const sl_seen *s, int i) {
    float share = sl_quant_trial_share(i);
    return range_of(p, s->lo * share, s->hi * share);
}

sl_grid sl_quant_point_grid(const sl_quant_point *p, const sl_quant_range *r) {
    return p->range == SL_RANGE_AFFINE ? sl_grid_affine(p->q.format, r->zero) : sl_grid_symmetric(p->q.format);
}

/* ---- rounding */

int64_t sl_quant_point_scratch(const sl_quant_point *p, int64_t rows) {
    sl_scale_layout s = sl_quant_blocks(&p->q, rows, p->dim);
    return s.down * s.across + s.outers;
}

int sl_quant_point_scales(const sl_quant_point *p, const sl_quant_range *r, const sl_kernels *k, int64_t rows,
                          const float *x, float *scratch) {
    bool given = sl_range_is_static(p->range), second = p->q.scale == SL_SCALE_E4M3;
    sl_scale_layout s = sl_quant_blocks(&p->q, rows, p->dim);
    float *outer = second ? scratch + s.down * s.across : NULL;
    if (given && !second) {
        scratch[0] = r->scale;
        return 0;
    }
    if (sl_quant_amax(k, &p->q, p->label, rows, p->dim, x, p->dim, scratch) < 0)
        return -1;
    if (second && given)
        outer[0] = r->outer;
    else if (second)
        sl_quant_outer(&p->q, rows, p->dim, scratch, outer);
    sl_quant_scales(&p->q, rows, p->dim, scratch, outer, scratch, NULL);
    return 0;
}

int sl_quant_point_round(const sl_quant_point *p, const sl_quant_range *r, const sl_kernels *k, int64_t rows,
                         const float *x, float *scratch, float *y) {
    sl_grid g = sl_quant_point_grid(p, r);
    if (sl_quant_point_scales(p, r, k, rows, x, scratch) < 0)
        return -1;
    return sl_quant_round(k, &p->q, &g, p->label, rows, p->dim, x, p->dim, scratch, y, p->dim);
}

int sl_quant_each_block(const sl_op *op, const sl_exec *x, const sl_span *s, const sl_quant_point *p,
                        int (*fn)(const sl_op *op, const sl_exec *x, const sl_span *s)) {
    sl_blocks b = sl_op_blocks(op);
    if (sl_quant_cut(p) == SL_CUT_WINDOWS)
        return fn(op, x, s);
    for (int64_t i = sl_block_at(b, s->first), end = sl_block_behind(b, s); i < end; i++) {
        sl_span block = *s;
        block.first = sl_block_first(b, i), block.n = sl_block_rows(b, i);
        if (fn(op, x, &block) < 0)
            return -1;
    }
    return 0;
}

/* ---- errors */

size_t sl_quant_errors_bytes(const sl_op *op) { return (size_t)sl_op_blocks(op).count * sizeof(sl_quant_error); }

int sl_quant_fold_errors(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_quant_state *state = sl_op_state(op, x);
    (void)s;
    sl_quant_error_fold(&state->error, (int)sl_op_blocks(op).count, sl_quant_errors(x));
    return 0;
}
