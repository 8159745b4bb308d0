/* What recurrent mixers are made of: convolution, delta, ssd, gate_norm. */
#include "base/err.h"
#include "cuda/convolution.h"
#include "cuda/gate_norm.h"
#include "cuda/kind.h"
#include "cuda/rows.h"
#include "cuda/scan.h"
#include "ops/mixer/convolution.h"
#include "ops/mixer/delta.h"
#include "ops/mixer/gate_norm.h"
#include "ops/mixer/ssd.h"

#include <math.h>

static void *column(const slc_exec *x, sl_buf b, int64_t col) {
    return (char *)x->buf[b] + (size_t)col * (x->info[b].bf16 ? sizeof(sl_bf16) : sizeof(float));
}

/* Columns of a gradient that are not from..to become 0, where it holds nothing yet. */
static void clear_others(const slc_exec *x, sl_buf b, bool add, int64_t from, int64_t to) {
    const sl_buffer *v = &x->info[b];
    if (add)
        return;
    slc_zero_columns(x->stream, v->rows, 0, from, v->ld, v->bf16, x->buf[b]);
    slc_zero_columns(x->stream, v->rows, to, v->cols, v->ld, v->bf16, x->buf[b]);
}

/* ---- convolution */

enum { CONVOLUTION_WEIGHT, CONVOLUTION_BIAS };

static slc_convolution convolution_of(const sl_op *op, const sl_program *b) {
    const sl_convolution *o = sl_convolution_of(op);
    return (slc_convolution){.bf16 = b->buffer[op->out].bf16, .silu = o->silu, .windows = op->rows / op->seq,
                             .seq = op->seq, .channels = o->channels, .width = o->width,
                             .ld = b->buffer[op->out].ld, .ld_before = b->buffer[op->saved[0]].ld};
}
static slc_convolution convolution_at(const sl_op *op, const slc_exec *x) {
    slc_convolution c = convolution_of(op, x->program);
    c.v = column(x, op->out, sl_convolution_of(op)->first), c.before = x->buf[op->saved[0]];
    c.weight = slc_weight(op, x, CONVOLUTION_WEIGHT), c.bias = slc_weight(op, x, CONVOLUTION_BIAS);
    return c;
}

static int convolution_forward(const sl_op *op, const slc_exec *x) {
    slc_convolution c = convolution_at(op, x);
    slc_convolution_forward(x->stream, &c);
    return 0;
}

static int convolution_decode(const sl_op *op, const slc_exec *x) {
    slc_convolution c = convolution_at(op, x);
    slc_convolution_step(x->stream, &c, slc_f32(x, op->saved[0]), x->position);
    return 0;
}

static int convolution_backward(const sl_op *op, const slc_exec *x) {
    slc_convolution c = convolution_at(op, x);
    int64_t first = sl_convolution_of(op)->first;
    slc_convolution_backward(x->stream, &c, column(x, op->dout, first), column(x, op->din[0], first),
                             slc_grad(op, x, CONVOLUTION_WEIGHT), slc_grad(op, x, CONVOLUTION_BIAS), x->scratch);
    return 0;
}

static size_t convolution_scratch(const sl_op *op, const sl_program *b) {
    slc_convolution c = convolution_of(op, b);
    return b->training ? (size_t)slc_convolution_floats(&c, sl_convolution_of(op)->bias) * sizeof(float) : 0;
}

/* ---- delta and ssd */

enum { SCAN_BIAS, SCAN_A_LOG, SCAN_SKIP };

/* What it is without the columns and values of a pass. */
static slc_scan delta_of(const sl_op *op) {
    static const int decays[] = {[SL_DELTA_SOFTPLUS] = SLC_DECAY_SOFTPLUS, [SL_DELTA_NO_DECAY] = SLC_DECAY_NONE,
                                 [SL_DELTA_SIGMOID] = SLC_DECAY_SIGMOID, [SL_DELTA_FIXED] = SLC_DECAY_FIXED};
    const sl_delta *o = sl_delta_of(op);
    slc_scan p = {.rule = o->rule, .unit = o->unit, .scale = 1 / sqrtf((float)o->key_dim),
                  .decay = decays[o->decay], .beta = o->rule ? SLC_BETA_SIGMOID : SLC_BETA_ONE,
                  .most = o->negative ? 2 : 1, .heads = o->heads, .key_heads = o->key_heads,
                  .key_dim = o->key_dim, .value_dim = o->value_dim, .q = o->first};
    p.k = p.q + o->key_heads * o->key_dim;
    p.v = p.k + o->key_heads * o->key_dim;
    p.b = p.v + o->heads * o->value_dim;
    p.a = p.b + (o->rule ? o->heads : 0);
    return p;
}
static slc_scan ssd_of(const sl_op *op) {
    const sl_ssd *o = sl_ssd_of(op);
    slc_scan p = {.scale = 1, .decay = SLC_DECAY_SOFTPLUS, .beta = SLC_BETA_STEP, .heads = o->heads,
                  .key_heads = o->groups, .key_dim = o->state, .value_dim = o->head_dim, .v = o->first};
    p.k = p.v + o->heads * o->head_dim;
    p.q = p.k + o->groups * o->state;
    p.a = p.q + o->groups * o->state;
    return p;
}
static slc_scan scan_of(const sl_op *op) {
    slc_scan p = sl_delta_of(op) ? delta_of(op) : ssd_of(op);
    p.windows = op->rows / op->seq, p.seq = op->seq;
    return p;
}

static int scan_check(const sl_op *op) {
    return scan_of(op).key_dim <= slc_scan_keys()
               ? 0
               : sl_fail("device: cuda has %s for at most %lld; take device: cpu",
                         sl_delta_of(op) ? "model.gdn_opts.key_dim" : "model.mamba2_opts.state",
                         (long long)slc_scan_keys());
}

/* gates: decay and beta of a head of a window, [seq] each; ssd saves them the other way round. */
static slc_scan scan_at(const sl_op *op, const slc_exec *x, float *gates) {
    const sl_buffer *in = &x->info[op->in[0]];
    slc_scan p = scan_of(op);
    bool ssd = p.beta == SLC_BETA_STEP;
    p.bf16 = in->bf16, p.ld = in->ld, p.in = x->buf[op->in[0]];
    p.bias = slc_weight(op, x, SCAN_BIAS), p.a_log = slc_weight(op, x, SCAN_A_LOG);
    p.skip = slc_weight(op, x, SCAN_SKIP);
    p.gate[0] = gates + (ssd ? p.seq : 0), p.gate[1] = gates + (ssd ? 0 : p.seq);
    p.out = x->buf[op->out], p.ld_out = x->info[op->out].ld;
    return p;
}

static int scan_forward(const sl_op *op, const slc_exec *x) {
    slc_scan p = scan_at(op, x, slc_f32(x, op->saved[0]));
    p.states = slc_f32(x, op->saved[1]);
    slc_scan_forward(x->stream, &p);
    return 0;
}

static int scan_decode(const sl_op *op, const slc_exec *x) {
    slc_scan p = scan_at(op, x, x->scratch);
    p.state = slc_f32(x, op->saved[1]), p.position = x->position;
    slc_scan_forward(x->stream, &p);
    return 0;
}
static size_t decode_scratch(const sl_op *op, const sl_program *b) {
    (void)b;
    return (size_t)(op->rows * scan_of(op).heads * 2) * sizeof(float);
}

static int scan_backward(const sl_op *op, const slc_exec *x) {
    slc_scan p = scan_at(op, x, slc_f32(x, op->saved[0]));
    p.states = slc_f32(x, op->saved[1]);
    slc_scan_back b = {.dout = x->buf[op->dout], .din = x->buf[op->din[0]], .add = op->acc[0],
                       .dbias = slc_grad(op, x, SCAN_BIAS), .da_log = slc_grad(op, x, SCAN_A_LOG),
                       .dskip = slc_grad(op, x, SCAN_SKIP), .scratch = x->scratch};
    slc_scan_backward(x->stream, &p, &b);
    bool rule = sl_delta_of(op) != NULL;
    int64_t first = rule ? p.q : p.v;
    int64_t end = rule ? first + sl_delta_columns(sl_delta_of(op)) : p.a + p.heads;
    clear_others(x, op->din[0], op->acc[0], first, end);
    return 0;
}
static size_t scan_scratch(const sl_op *op, const sl_program *b) {
    slc_scan p = scan_of(op);
    return b->training ? (size_t)slc_scan_floats(&p) * sizeof(float) : 0;
}

/* ---- gate_norm */

enum { Y, Z };

static slc_gate_norm gate_norm_of(const sl_op *op, const slc_exec *x) {
    static const int places[] = {[SL_GATE_NORM_AFTER] = SLC_NORM_AFTER_GATE,
                                 [SL_GATE_NORM_BEFORE] = SLC_NORM_BEFORE_GATE, [SL_GATE_NORM_OFF] = SLC_NORM_OFF};
    static const int gates[] = {[SL_GATE_NORM_SILU] = SLC_GATE_BY_SILU, [SL_GATE_NORM_SIGMOID] = SLC_GATE_BY_SIGMOID,
                                [SL_GATE_NORM_OPEN] = SLC_GATE_OPEN};
    const sl_gate_norm *o = sl_gate_norm_of(op);
    slc_gate_norm n = {.bf16 = x->info[op->out].bf16, .place = places[o->place], .gate = gates[o->gate],
                       .rows = op->rows, .dim = op->dim_in, .span = o->span, .shared = o->shared, .eps = o->eps,
                       .y = x->buf[op->in[Y]], .ld_y = x->info[op->in[Y]].ld, .ld = x->info[op->out].ld,
                       .weight = slc_weight(op, x, 0), .rstd = slc_f32(x, op->saved[0])};
    if (op->inputs > Z)
        n.z = column(x, op->in[Z], o->first), n.ld_z = x->info[op->in[Z]].ld;
    return n;
}

static int gate_norm_forward(const sl_op *op, const slc_exec *x) {
    slc_gate_norm n = gate_norm_of(op, x);
    slc_gate_norm_forward(x->stream, &n, x->buf[op->out]);
    return 0;
}

static int gate_norm_backward(const sl_op *op, const slc_exec *x) {
    int64_t first = sl_gate_norm_of(op)->first;
    slc_gate_norm n = gate_norm_of(op, x);
    slc_gate_norm_back b = {.dout = x->buf[op->dout], .dy = x->buf[op->din[Y]], .add_y = op->acc[Y],
                            .dweight = slc_grad(op, x, 0), .scratch = x->scratch};
    if (op->inputs > Z)
        b.dz = column(x, op->din[Z], first), b.add_z = op->acc[Z];
    slc_gate_norm_backward(x->stream, &n, &b);
    if (op->inputs > Z)
        clear_others(x, op->din[Z], op->acc[Z], first, first + op->dim_in);
    return 0;
}

static size_t gate_norm_scratch(const sl_op *op, const sl_program *b) {
    return b->training ? (size_t)slc_gate_norm_floats(op->rows, op->dim_in) * sizeof(float) : 0;
}

const slc_kind slc_mixer_kinds[] = {
    {.name = "convolution", .forward = convolution_forward, .backward = convolution_backward,
     .scratch = convolution_scratch},
    {.name = "cached_convolution", .forward = convolution_decode},
    {.name = "delta", .check = scan_check, .forward = scan_forward, .backward = scan_backward, .scratch = scan_scratch},
    {.name = "cached_delta", .check = scan_check, .forward = scan_decode, .scratch = decode_scratch},
    {.name = "ssd", .check = scan_check, .forward = scan_forward, .backward = scan_backward, .scratch = scan_scratch},
    {.name = "cached_ssd", .check = scan_check, .forward = scan_decode, .scratch = decode_scratch},
    {.name = "gate_norm", .forward = gate_norm_forward, .backward = gate_norm_backward, .scratch = gate_norm_scratch},
    {0}};
