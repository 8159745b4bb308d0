#include "ops/quant/linear_int.h"

#include "base/err.h"
#include "base/mem.h"
#include "formats/format.h"
#include "ops/product/gemm_grouped.h"
#include "ops/product/gemm_int8.h"
#include "ops/product/layer.h"
#include "ops/quant/rotate.h"
#include "program/scratch.h"

#include <stdlib.h>
#include <string.h>

/* saved: codes of the activations; a scale for each row. */
enum { CODES, SCALES };
enum { TILE = 32, COLS = SL_GROUPED_COLS }; /* rows and columns of an fp32 product at a time */

typedef struct {
    sl_quant_point point;
    const sl_kernels *k;
    int64_t n, depth;
    float *scale;   /* [n] of the weights */
    int32_t *sum;   /* of each row's codes; 0 where products are fp32, which subtract the zero point first */
    int8_t *panels; /* codes packed for the int8 unit, */
    char *packed;   /* or as numbers for fp32 products, one part of the depth after the other; */
    int8_t *given;  /* or (a device's program) rows of sl_int8_kpad(depth) */
} own;

static const own *of(const sl_op *op) { return op->own; }

bool sl_linear_is_int(const sl_program *b, sl_scope scope) {
    return b->quant && !b->quant->observe && b->quant->scheme && sl_scheme_is_integer(b->quant->scheme) &&
           !sl_quant_keeps(b->quant, scope);
}

/* ---- activations */

static uint8_t *codes_at(const sl_op *op, const sl_exec *x, int64_t row) {
    return (uint8_t *)sl_buf_data(x, op->saved[CODES]) + row * sl_int8_ld(op->dim_in);
}

static float *scales_at(const sl_op *op, const sl_exec *x, int64_t row) {
    return sl_buf_data(x, op->saved[SCALES]) + row;
}

static const float *input_at(const sl_op *op, const sl_exec *x, int64_t row) {
    return sl_buf_data(x, op->in[0]) + row * op->dim_in;
}

/* Codes without a sign are what the products take: those of symmetric formats are stored with 128. */
static sl_grid grid_of(const sl_op *op, const sl_exec *x) {
    const sl_quant_state *state = sl_op_state(op, x);
    sl_grid g = sl_quant_point_grid(&of(op)->point, &state->range);
    if (of(op)->point.range != SL_RANGE_AFFINE)
        g.zero = 128;
    return g;
}

/* Scales and codes of rows: whole windows where a scale is taken over one. */
static int take_codes_of_block(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const sl_quant_point *p = &of(op)->point;
    const sl_quant_state *state = sl_op_state(op, x);
    const float *in = input_at(op, x, s->first);
    sl_grid g = grid_of(op, x);
    uint8_t *code = codes_at(op, x, s->first);
    float *rows = scales_at(op, x, s->first), *scales = sl_worker_scratch(x, s->worker);
    int64_t d = p->dim, ldc = sl_int8_ld(d), block = p->q.block_rows ? p->q.block_rows : s->n;
    if (p->range == SL_RANGE_TOKEN)
        return sl_quant_codes_by_row(x->k, &p->q, &g, p->label, s->n, d, in, d, rows, code, ldc);
    if (sl_quant_point_scales(p, &state->range, x->k, s->n, in, scales) < 0 ||
        sl_quant_codes(x->k, &p->q, &g, p->label, s->n, d, in, d, scales, code, ldc) < 0)
        return -1;
    for (int64_t i = 0; i < s->n; i++)
        rows[i] = scales[i / block];
    return 0;
}

static int take_codes(const sl_op *op, const sl_exec *x, const sl_span *s) {
    return sl_quant_each_block(op, x, s, &of(op)->point, take_codes_of_block);
}

/* What rounding changes, a part for each block of rows. */
static int sum_errors(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_quantiser q = of(op)->point.q;
    sl_grid g = grid_of(op, x);
    sl_blocks b = sl_op_blocks(op);
    int64_t d = op->dim_in;
    float *rounded = sl_worker_scratch(x, s->worker);
    q.block_rows = 1;
    for (int64_t i = sl_block_at(b, s->first), end = sl_block_behind(b, s); i < end; i++) {
        sl_quant_error e = {0};
        for (int64_t r = sl_block_first(b, i), last = r + sl_block_rows(b, i); r < last; r++) {
            sl_quant_values(x->k, &q, &g, 1, d, codes_at(op, x, r), sl_int8_ld(d), scales_at(op, x, r), rounded, d);
            sl_quant_error_add(&e, 1, d, input_at(op, x, r), d, rounded, d);
        }
        sl_quant_errors(x)[i] = e;
    }
    return 0;
}

/* ---- products in fp32 */

static int64_t part_depth(const own *o, int64_t k0) { return sl_min(SL_GEMM_KC, o->depth - k0); }

static size_t part_bytes(const own *o, int64_t k0) {
    return sl_grouped_bytes(o->k, false, o->n, part_depth(o, k0));
}

typedef struct {
    float *numbers, *packed, *c; /* [TILE, KC] of a part, their packed form, [TILE, COLS] of the product */
    int32_t *sums;               /* [TILE, n] */
} scratch;

static scratch scratch_at(const own *o, sl_carver *at) {
    scratch s = {.numbers = sl_carve_floats(at, TILE * SL_GEMM_KC)};
    s.packed = sl_carve(at, (int64_t)sl_grouped_rows_bytes(o->k, false, TILE, SL_GEMM_KC));
    s.c = sl_carve_floats(at, TILE * COLS);
    s.sums = sl_carve(at, TILE * o->n * (int64_t)sizeof(int32_t));
    return s;
}

/* Adds the products of one part of the depth, which are integers below 2^24, for columns from..to-1. */
static void add_part(const own *o, const sl_grouped_rows *a, const char *operand, int64_t from, int64_t to,
                     scratch *s) {
    for (int64_t j = from; j < to; j += COLS) {
        int64_t cols = sl_min(COLS, to - j);
        sl_grouped_product(a, operand, j, cols, s->c, COLS, false);
        for (int64_t i = 0; i < a->rows; i++)
            for (int64_t c = 0; c < cols; c++)
                s->sums[i * o->n + j + c] += (int32_t)s->c[i * COLS + c];
    }
}

static void product_tile(const sl_op *op, const sl_exec *x, int64_t row, int64_t rows, int64_t from, int64_t to,
                         scratch *s) {
    const own *o = of(op);
    int zero = grid_of(op, x).zero;
    const char *operand = o->packed;
    const float *residual = sl_buf_data(x, op->in[1]);
    int64_t at = row * o->n + from;
    memset(s->sums, 0, (size_t)(rows * o->n) * sizeof *s->sums);
    for (int64_t k0 = 0; k0 < o->depth; operand += part_bytes(o, k0), k0 += SL_GEMM_KC) {
        int64_t kc = part_depth(o, k0);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < kc; k++)
                s->numbers[i * kc + k] = (float)(codes_at(op, x, row + i)[k0 + k] - zero);
        sl_grouped_rows a = sl_grouped_take_rows(x->k, false, rows, kc, s->numbers, kc, s->packed);
        add_part(o, &a, operand, from, to, s);
    }
    x->k->scale_int32(rows, to - from, s->sums + from, o->n, 0, o->sum + from, scales_at(op, x, row), 1,
                      o->scale + from, 1, residual ? residual + at : NULL, sl_buf_data(x, op->out) + at, o->n);
    for (int64_t i = 0; sl_layer_bias(op, x) && i < rows; i++)
        x->k->add(to - from, sl_layer_bias(op, x) + from, sl_buf_data(x, op->out) + at + i * o->n);
}

static int product(const sl_op *op, const sl_exec *x, const sl_span *span) {
    const own *o = of(op);
    int64_t blocks = sl_div_up(o->n, COLS), from = span->part * blocks / span->parts * COLS,
            to = sl_min((span->part + 1) * blocks / span->parts * COLS, o->n);
    scratch s = scratch_at(o, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
    for (int64_t r = span->first, end = r + span->n; r < end && from < to; r += TILE)
        product_tile(op, x, r, sl_min(TILE, end - r), from, to, &s);
    return 0;
}

static sl_split product_split(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.unit = 1, .least = TILE, .most = 4 * TILE, .parts = 1, .parts_most = sl_div_up(of(op)->n, COLS)};
}

/* ---- products on the int8 unit */

static sl_gemm_int8_args unit_args(const sl_op *op, const sl_exec *x) {
    const own *o = of(op);
    return (sl_gemm_int8_args){.k = x->k,
                               .m = op->rows,
                               .n = o->n,
                               .depth = o->depth,
                               .a = codes_at(op, x, 0),
                               .lda = sl_int8_ld(o->depth),
                               .zero = grid_of(op, x).zero,
                               .scale_a = scales_at(op, x, 0),
                               .step_a = 1,
                               .b = o->panels,
                               .sum = o->sum,
                               .scale_b = o->scale,
                               .step_b = 1,
                               .plus = sl_buf_data(x, op->in[1]),
                               .bias = sl_layer_bias(op, x),
                               .y = sl_buf_data(x, op->out),
                               .ldy = o->n};
}

static int unit_product(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_gemm_int8_args g = unit_args(op, x);
    sl_gemm_int8_rows(&g, s, sl_worker_scratch(x, s->worker));
    return 0;
}

static sl_split unit_split(const sl_op *op, const sl_exec *x) {
    sl_gemm_int8_args g = unit_args(op, x);
    return sl_gemm_int8_rows_split(&g);
}

/* ---- kinds: by the unit, by what a scale needs, and whether errors are asked for */

static void destroy(void *p) {
    own *o = p;
    if (!o)
        return;
    sl_free(o->scale), sl_free(o->sum), sl_free(o->panels), sl_free(o->packed), sl_free(o->given);
    free(o);
}

#define CODES_OF(what) {.cut = SL_CUT_##what, .run = take_codes}
#define ERRORS {.cut = SL_CUT_ROWS, .run = sum_errors}
#define FOLD {.cut = SL_CUT_FOLD, .run = sl_quant_fold_errors}
#define FP32 {.cut = SL_CUT_ROWS, .run = product, .split = product_split}
#define UNIT {.cut = SL_CUT_ROWS, .run = unit_product, .split = unit_split}
#define KIND(name_, ...) {.name = name_, .forward = SL_STAGES(__VA_ARGS__), .destroy = destroy}
static const sl_op_kind kinds[2][2][2] = {
    {{KIND("linear_int", CODES_OF(ROWS), FP32), KIND("linear_int", CODES_OF(ROWS), ERRORS, FP32, FOLD)},
     {KIND("linear_int", CODES_OF(WINDOWS), FP32), KIND("linear_int", CODES_OF(WINDOWS), ERRORS, FP32, FOLD)}},
    {{KIND("linear_int8", CODES_OF(ROWS), UNIT), KIND("linear_int8", CODES_OF(ROWS), ERRORS, UNIT, FOLD)},
     {KIND("linear_int8", CODES_OF(WINDOWS), UNIT), KIND("linear_int8", CODES_OF(WINDOWS), ERRORS, UNIT, FOLD)}}};

const sl_quant_point *sl_linear_int_point(const sl_op *op) {
    const sl_op_kind *all = &kinds[0][0][0];
    return op->kind >= all && op->kind < all + sizeof kinds / sizeof *all ? &of(op)->point : NULL;
}

/* ---- weights */

static size_t packed_bytes(const own *o) {
    size_t bytes = 0;
    for (int64_t k0 = 0; k0 < o->depth; k0 += SL_GEMM_KC)
        bytes += part_bytes(o, k0);
    return bytes;
}

static bool allocate(own *o, const sl_program *b) {
    o->scale = sl_alloc((size_t)o->n * sizeof *o->scale, "integer weights");
    o->sum = sl_alloc((size_t)sl_round_up(o->n, SL_INT8_NR) * sizeof *o->sum, "integer weights");
    if (b->device)
        o->given = sl_alloc((size_t)(o->n * sl_int8_kpad(o->depth)), "integer weights");
    else if (b->quant->real)
        o->panels = sl_alloc_shared((size_t)sl_int8_panels_size(o->n, o->depth), "integer weights");
    else
        o->packed = sl_alloc_shared(packed_bytes(o), "integer weights");
    return o->scale && o->sum && (o->panels || o->packed || o->given);
}

static void pack_unit(const own *o, const sl_kernels *k, const int8_t *code) {
    sl_gemm_int8_pack_args p = {
        .k = k, .n = o->n, .depth = o->depth, .w = code, .ldw = o->depth, .panels = o->panels, .sum = o->sum};
    sl_gemm_int8_pack(&p, &(sl_span){.n = sl_gemm_int8_pack_split(&p).items});
}

static int pack_numbers(const own *o, const sl_kernels *k, const int8_t *code) {
    float *number = malloc((size_t)(o->n * o->depth) * sizeof *number);
    char *operand = o->packed;
    if (!number)
        return sl_fail("out of memory for integer weights");
    for (int64_t i = 0; i < o->n * o->depth; i++)
        number[i] = code[i];
    for (int64_t k0 = 0; k0 < o->depth; operand += part_bytes(o, k0), k0 += SL_GEMM_KC)
        for (int64_t panel = 0; panel < sl_grouped_panels(k, false, o->n); panel++)
            sl_grouped_pack(k, false, o->n, part_depth(o, k0), (sl_mat){number + k0, o->depth, 1}, panel, operand);
    free(number);
    return 0;
}

static void pad_rows(const own *o, const int8_t *code) {
    for (int64_t i = 0; i < o->n; i++) {
        const int8_t *row = code + i * o->depth;
        memcpy(o->given + i * sl_int8_kpad(o->depth), row, (size_t)o->depth);
        o->sum[i] = 0;
        for (int64_t k = 0; k < o->depth; k++)
            o->sum[i] += row[k];
    }
}

int sl_linear_int_weights(const sl_op *op, const sl_kernels *k, const int8_t *code, const float *scale) {
    const own *o = of(op);
    memcpy(o->scale, scale, (size_t)o->n * sizeof *scale);
    if (o->packed)
        return pack_numbers(o, k, code);
    if (o->panels)
        pack_unit(o, k, code);
    else
        pad_rows(o, code);
    return 0;
}

sl_int_weights sl_linear_int_given(const sl_op *op) {
    const own *o = of(op);
    return (sl_int_weights){o->n, o->depth, sl_int8_kpad(o->depth), o->given, o->scale, o->sum};
}

/* ---- building */

static size_t worker_bytes(const sl_op *op, const own *o) {
    int64_t rows = sl_quant_cut(&o->point) == SL_CUT_WINDOWS ? op->seq : sl_op_blocks(op).span;
    int64_t bytes = sl_max(sl_quant_point_scratch(&o->point, rows), o->depth) * (int64_t)sizeof(float);
    sl_carver fp32 = {0};
    scratch_at(o, &fp32);
    return (size_t)sl_max(bytes, o->panels ? (int64_t)sl_gemm_int8_scratch_bytes() : (int64_t)fp32.used);
}

sl_buf sl_build_linear_int(sl_program *b, sl_scope scope, sl_buf in, int64_t dim_in, int64_t dim_out, int weight,
                           int bias, sl_buf residual) {
    bool real = b->quant->real;
    if (sl_rotates(b, sl_quant_class_of(scope)))
        in = sl_build_rotate(b, sl_scope_as(scope, SL_ROLE_ROTATE), in, dim_in);
    sl_op *op = sl_program_op(b, &kinds[real][0][0], scope);
    own *o = sl_program_own(b, op, sizeof *o);
    if (!o)
        return in;
    o->point = sl_quant_point_at(b, scope, op->rows, dim_in, op->seq);
    o->k = b->kernels;
    o->n = dim_out;
    o->depth = dim_in;
    b->failed = b->failed || !allocate(o, b);
    op->kind = &kinds[real][sl_quant_cut(&o->point) == SL_CUT_WINDOWS][b->quant->errors];
    sl_op_reads(op, in, 0);
    sl_op_reads(op, residual, 0);
    op->dim_in = dim_in;
    op->dim_out = dim_out;
    op->param[SL_LAYER_WEIGHT] = weight;
    op->param[SL_LAYER_BIAS] = bias;
    op->flops = 2.0 * (double)op->rows * (double)dim_in * (double)dim_out;
    op->saved[CODES] = sl_program_buffer(b, op->rows, sl_int8_ld(dim_in) / (int64_t)sizeof(float));
    op->saved[SCALES] = sl_program_buffer(b, op->rows, 1);
    op->worker_bytes = worker_bytes(op, o);
    op->shared_bytes = sl_quant_errors_bytes(op);
    op->state_bytes = sizeof(sl_quant_state);
    return op->out = sl_program_buffer(b, op->rows, dim_out);
}
