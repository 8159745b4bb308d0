#include "model/model_internal.h"

#include "base/cpu.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"
#include "model/match.h"
#include "ops/mixer/mixer.h"
#include "ops/moe/moe.h"
#include "ops/ops.h"
#include "program/exec.h"
#include "program/schedule.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sl_model_fail_null(const char *what) {
    return sl_fail("%s: the model is NULL; was its creation checked?", what);
}

/* ---- creation */

static bool rope_table(sl_model *m, bool windowed, int64_t positions) {
    size_t bytes = (size_t)(positions * (sl_config_rope_dims(&m->config) / 2)) * sizeof(float);
    sl_rotary *t = &m->rotary[windowed];
    if (!(t->cos = sl_alloc(bytes, "rotary tables")) || !(t->sin = sl_alloc(bytes, "rotary tables")))
        return false;
    sl_rope_table(&m->config, windowed, positions, t->cos, t->sin);
    return true;
}

static bool rope_tables(sl_model *m, int64_t positions) {
    const sl_config *c = &m->config;
    return (c->model_rope_base == 0 || rope_table(m, false, positions)) &&
           (c->model_rope_base_window == 0 || rope_table(m, true, positions));
}

/* Values of the largest matrix that sl_model_projection shows. */
static int64_t largest_projection(const sl_model *m) {
    int64_t most = 0;
    for (int64_t i = 0; i < m->config.model_layers; i++)
        for (int tap = SL_TAP_OUT_IN; tap <= SL_TAP_DOWN_IN; tap++)
            most = sl_max(most, m->config.model_dim * sl_model_tap_width(m, (int)i, (enum sl_tap)tap));
    return most;
}

/* What taps are converted into. */
static bool allocate_taps(sl_model *m) {
    const sl_program *b = &m->program;
    if (b->bf16 && b->keeps) {
        int64_t qkv = (m->config.model_heads + 2 * sl_config_kv_heads(&m->config)) * sl_config_head_dim(&m->config);
        int64_t wide = sl_max(qkv, m->config.model_dim);
        if (!(m->tap = sl_alloc((size_t)(b->batch * b->seq * wide) * sizeof(float), "taps")))
            return false;
    }
    if (b->compact && b->keeps && !(m->projection = sl_alloc((size_t)largest_projection(m) * sizeof(float), "taps")))
        return false;
    size_t gains = (size_t)(2 * (m->config.model_layers + 1) * m->config.model_dim) * sizeof(float);
    return !m->config.norm_zero_centred || (m->gain = sl_alloc(gains, "norm weights"));
}

static bool allocate(sl_model *m, bool training) {
    if (sl_exec_open(&m->exec, &m->program, &m->params) ||
        sl_params_allocate(&m->params, m->config.train_optimizer, training))
        return false;
    m->threads = m->exec.workers;
    return allocate_taps(m) && sl_model_open_device(m) == 0;
}

/* NULL: the CPU, or none that is there. */
static const sl_device *device_of(const sl_config *c) {
    const sl_device *d;
    return sl_device_of(c, &d) ? NULL : d;
}

int sl_model_precision(const sl_config *c) {
    bool unit = sl_kernels_select((enum sl_isa)c->isa)->bf16_unit || device_of(c);
    return c->precision != SL_PRECISION_FP32 && unit ? SL_PRECISION_BF16 : SL_PRECISION_FP32;
}

const char *sl_model_place(const sl_config *c) {
    const sl_device *d = device_of(c);
    return d ? d->name() : sl_kernels_select((enum sl_isa)c->isa)->tier;
}

double sl_model_peak_gflops(const sl_config *c) {
    const sl_device *d = device_of(c);
    bool bf16 = sl_model_precision(c) == SL_PRECISION_BF16;
    return d ? d->gflops(bf16) : sl_measured_peak_gflops(bf16);
}

double sl_model_bandwidth(const sl_config *c) {
    const sl_device *d = device_of(c);
    return d ? d->bandwidth() : sl_measure_bandwidth(0.2);
}

/* Returns 0, or -1 with a message: its device is not there. */
static int check_device(const sl_config *c) {
    const sl_device *d;
    if (sl_device_of(c, &d))
        return -1;
    return d && c->gemm == SL_GEMM_BLAS
               ? sl_fail_usage("gemm: blas is a library of the CPU's; leave it out with device: %s", d->key)
               : 0;
}

static int check_sizes(const sl_config *c, int32_t vocab, int64_t batch, int64_t seq) {
    /* As in sl_config_check: sizes in bytes stay within 63 bits. */
    const int64_t most = (int64_t)1 << 26;
    if (vocab < 1 || batch < 1 || seq < 1 || batch > most / seq)
        return sl_fail("a model for %d tokens and %lld windows of %lld positions: all must be at "
                       "least 1, and a batch at most %lld positions",
                       vocab, (long long)batch, (long long)seq, (long long)most);
    if (c->model_learned_positions > 0 && seq > c->model_learned_positions)
        return sl_fail_usage("windows of %lld positions: the model has model.learned_positions = %lld, and none behind "
                             "them",
                             (long long)seq, (long long)c->model_learned_positions);
    return sl_config_check(c);
}

/* What a model is made for. */
typedef struct {
    int64_t batch, seq, cache; /* cache > 0: a decoder */
    unsigned flags;            /* SL_MODEL_* */
    bool prompt;               /* of a decoder (prompt.c) */
    const sl_quant_options *quant;
} purpose;

/* Does a compact model of this configuration keep matrices in bf16? A device and a library of others read fp32. */
static bool keeps_bf16(const sl_config *c) {
    return (c->precision == SL_PRECISION_BF16 || sl_model_precision(c) == SL_PRECISION_BF16) && !device_of(c) &&
           c->gemm == SL_GEMM_OWN;
}

/* The parameter table and the program of *c, without memory for their values. */
static sl_model *compile(const sl_config *c, int32_t vocab, const purpose *p) {
    bool taps = p->flags & (SL_MODEL_TRAINING | SL_MODEL_TAPS);
    sl_model *m = calloc(1, sizeof *m);
    layer_tap *layer = calloc((size_t)c->model_layers + 1, sizeof *layer);
    if (!m || !layer) {
        free(m), free(layer);
        sl_fail("out of memory for the model");
        return NULL;
    }
    const sl_device *device = device_of(c);
    m->config = m->given = *c;
    m->device = device;
    m->vocab = vocab;
    m->taps = taps;
    m->part_taps = taps && !(p->flags & (SL_MODEL_TRAINING | SL_MODEL_NO_PART_TAPS));
    m->layer = layer;
    for (int64_t i = 0; i <= c->model_layers; i++) {
        layer[i].mid = SL_NONE;
        for (int w = 0; w < 2; w++)
            layer[i].norm[w] = (sl_norm_tap){SL_NONE, SL_NONE, SL_NONE};
    }
    m->program = (sl_program){.config = &m->config, .kernels = sl_kernels_select((enum sl_isa)c->isa),
                              .params = &m->params, .batch = p->batch, .seq = p->seq, .layer = SL_NO_LAYER,
                              .training = p->flags & SL_MODEL_TRAINING, .cache = p->cache,
                              .device = device};
    if (p->quant) {
        m->quant = *p->quant;
        m->program.quant = &m->quant;
    }
    /* One position at a time gains nothing from bf16 products; what is rounded to other formats is fp32 before. */
    m->program.bf16 = !p->cache && !p->quant && sl_model_precision(c) == SL_PRECISION_BF16;
    m->program.compact = p->flags & SL_MODEL_COMPACT && keeps_bf16(c);
    m->params.kernels = m->program.kernels;
    bool ok = rope_tables(m, p->cache ? p->cache : p->seq);
    if (ok)
        sl_model_build(m, p->prompt ? SL_KEEP_QKV : taps ? SL_KEEP_TAPS : SL_KEEP_NONE);
    if (!ok || m->program.failed) {
        sl_model_free(m);
        return NULL;
    }
    return m;
}

int64_t sl_model_count_params(const sl_config *c, int32_t vocab) {
    sl_model *m = compile(c, vocab, &(purpose){.batch = 1, .seq = 1});
    int64_t n = m ? m->params.params : -1;
    sl_model_free(m);
    return n;
}

sl_model *sl_model_compile_prompt(const sl_model *d, int64_t seq) {
    return compile(&d->config, d->vocab, &(purpose){.batch = d->program.batch, .seq = seq, .prompt = true,
                                                    .flags = d->program.compact ? SL_MODEL_COMPACT : 0});
}

static sl_model *create(const sl_config *c, int32_t vocab, purpose p) {
    sl_config config = *c;
    if (check_device(c) || check_sizes(c, vocab, p.batch, p.cache ? p.cache : p.seq) || sl_match_params(&config, vocab))
        return NULL;
    sl_model *m = compile(&config, vocab, &p);
    if (!m)
        return NULL;
    m->given = *c;
    if (!allocate(m, p.flags & SL_MODEL_TRAINING)) {
        sl_model_free(m);
        return NULL;
    }
    return m;
}

sl_model *sl_model_create(const sl_config *c, int32_t vocab, int64_t batch, int64_t seq, unsigned flags) {
    if (flags & SL_MODEL_TRAINING && flags & SL_MODEL_COMPACT) {
        sl_fail("a compact model cannot be trained; leave out one of SL_MODEL_TRAINING and SL_MODEL_COMPACT");
        return NULL;
    }
    return create(c, vocab, (purpose){.batch = batch, .seq = seq, .flags = flags});
}

static sl_model *create_decoder(const sl_config *c, int32_t vocab, int64_t batch, int64_t cache, unsigned flags) {
    if (cache < 1) {
        sl_fail("a decoder needs room for at least one position, not %lld", (long long)cache);
        return NULL;
    }
    return create(c, vocab, (purpose){.batch = batch, .seq = 1, .cache = cache, .flags = flags});
}

sl_model *sl_model_create_decoder(const sl_config *c, int32_t vocab, int64_t batch, int64_t cache) {
    return create_decoder(c, vocab, batch, cache, 0);
}

sl_model *sl_model_create_compact_decoder(const sl_config *c, int32_t vocab, int64_t batch, int64_t cache) {
    return create_decoder(c, vocab, batch, cache, SL_MODEL_COMPACT);
}

sl_model *sl_model_create_quantised(const sl_config *c, int32_t vocab, int64_t batch, int64_t seq,
                                    const sl_quant_options *o) {
    return create(c, vocab, (purpose){.batch = batch, .seq = seq, .quant = o});
}

void sl_model_free(sl_model *m) {
    if (!m)
        return;
    for (int i = 0; i < 2; i++)
        sl_free(m->rotary[i].cos), sl_free(m->rotary[i].sin);
    sl_free(m->tap), sl_free(m->projection), sl_free(m->gain);
    sl_model_close_device(m);
    sl_exec_close(&m->exec);
    sl_program_free(&m->program);
    sl_params_free(&m->params);
    free(m->seconds);
    free(m->layer);
    free(m);
}

int sl_model_init(sl_model *m, uint64_t seed) {
    if (!m)
        return sl_model_fail_null("sl_model_init");
    sl_params_init(&m->params, seed);
    return sl_model_params_written(m);
}

int sl_model_take(sl_model *m, const sl_model *from) {
    if (!m || !from)
        return sl_model_fail_null("sl_model_take");
    if (sl_model_read_params(from) || sl_params_take(&m->params, &from->params))
        return -1;
    m->tapped = false;
    return sl_model_params_written(m);
}

sl_params *sl_model_params(sl_model *m) { return &m->params; }

int sl_model_read_params(const sl_model *m) {
    return m->run ? m->device->get_params(m->run, SL_BLOCK_W | SL_BLOCK_G | SL_BLOCK_M | SL_BLOCK_V) : 0;
}

int sl_model_params_written(sl_model *m) {
    return m->run ? m->device->put_params(m->run, SL_BLOCK_W | SL_BLOCK_M | SL_BLOCK_V) : 0;
}

const sl_device *sl_model_device(const sl_model *m) { return m->device; }
sl_device_run *sl_model_device_run(const sl_model *m) { return m->run; }
const sl_config *sl_model_config(const sl_model *m) { return &m->config; }
const sl_config *sl_model_config_given(const sl_model *m) { return &m->given; }
int64_t sl_model_activation_bytes(const sl_model *m) { return (int64_t)m->exec.arena_bytes; }

sl_shape sl_model_shape(const sl_model *m) {
    if (!m)
        return (sl_shape){0};
    const sl_config *c = &m->config;
    return (sl_shape){.layers = c->model_layers,
                      .dim = c->model_dim,
                      .heads = c->model_heads,
                      .kv_heads = sl_config_kv_heads(c),
                      .head_dim = sl_config_head_dim(c),
                      .vocab = m->vocab,
                      .batch = m->program.batch,
                      .seq = m->program.seq};
}

/* ---- running */

int sl_model_check_pass(const sl_model *m, bool decoder, const int32_t *in, const int32_t *target,
                        int64_t passes) {
    if (!m)
        return sl_model_fail_null("a pass");
    if (decoder != (m->program.cache > 0))
        return sl_fail(decoder ? "only a model of sl_model_create_decoder decodes"
                               : "a decoder runs through sl_model_decode only");
    if (sl_threads() > m->threads)
        return sl_fail("the model was made for %d threads and there are %d; call sl_threads_set "
                       "before it is made",
                       m->threads, sl_threads());
    if (m->params.state_missing)
        return sl_fail(
            "the checkpoint was trained without model.sink_nullify and holds no channel means; eval, probe and "
            "generate measure them, nothing else does");
    for (int64_t i = 0, n = passes * m->program.batch * m->program.seq; i < n; i++) {
        if (in[i] < 0 || in[i] >= m->vocab)
            return sl_fail("token %d at place %lld is outside the vocabulary of %d", in[i],
                           (long long)i, m->vocab);
        if (target && target[i] >= m->vocab)
            return sl_fail("target %d at place %lld is outside the vocabulary of %d", target[i],
                           (long long)i, m->vocab);
    }
    return 0;
}

/* Mean over rows with a target, summed in order in double. */
static double mean_loss(const sl_model *m) {
    double sum = 0;
    int64_t count = 0, rows = m->program.batch * m->program.seq;
    for (int64_t r = 0; r < rows; r++)
        if (m->exec.targets[r] >= 0)
            sum += m->exec.token_loss[r], count++;
    return count ? sum / (double)count : 0;
}

static int forward(sl_model *m, const int32_t *in, const int32_t *target, bool training) {
    m->exec.tokens = in;
    m->exec.targets = target;
    m->exec.training = training;
    m->exec.workers = sl_threads();
    m->tapped = false;
    if (m->run ? sl_model_forward_on_device(m) : sl_schedule_forward(&m->program, &m->exec, m->seconds))
        return -1;
    m->tapped = m->taps;
    return 0;
}

int sl_model_forward(sl_model *m, const int32_t *in, const int32_t *target, double *loss,
                     float *token_loss) {
    if (sl_model_check_pass(m, false, in, target, 1))
        return -1;
    if (!target && (loss || token_loss))
        return sl_fail("sl_model_forward: a loss needs targets");
    if (forward(m, in, target, false))
        return -1;
    if (token_loss)
        memcpy(token_loss, m->exec.token_loss, (size_t)(m->program.batch * m->program.seq) * sizeof(float));
    if (loss)
        *loss = mean_loss(m);
    return 0;
}

static int forward_backward_on_device(sl_model *m, const int32_t *in, const int32_t *target, double *loss) {
    m->exec.targets = target;
    m->tapped = false;
    sl_device_pass p = {.tokens = in, .targets = target, .token_loss = m->exec.token_loss, .seconds = m->seconds};
    if (m->device->forward_backward(m->run, &p, m->exec.grad_scale))
        return -1;
    *loss = mean_loss(m);
    return 0;
}

int sl_model_forward_backward(sl_model *m, const int32_t *in, const int32_t *target, float scale, double *loss) {
    m->exec.grad_scale = scale;
    if (m->run)
        return forward_backward_on_device(m, in, target, loss);
    if (forward(m, in, target, true))
        return -1;
    *loss = mean_loss(m);
    m->tapped = false; /* gradients take their places */
    return sl_schedule_backward(&m->program, &m->exec, m->seconds);
}

static int forward_logits(sl_model *m, const int32_t *in, float *logits) {
    m->exec.logits = logits;
    int rc = forward(m, in, NULL, false);
    m->exec.logits = NULL;
    return rc;
}

int sl_model_logits(sl_model *m, const int32_t *in, float *logits) {
    if (sl_model_check_pass(m, false, in, NULL, 1))
        return -1;
    return forward_logits(m, in, logits);
}

int sl_model_decode(sl_model *m, const int32_t *token, int64_t position, float *logits) {
    if (sl_model_check_pass(m, true, token, NULL, 1))
        return -1;
    if (position < 0 || position > m->decoded || position >= m->program.cache)
        return sl_fail("cannot decode position %lld: %lld are decoded, of %lld",
                       (long long)position, (long long)m->decoded, (long long)m->program.cache);
    for (int64_t i = 0; position > 0 && position < m->decoded && i < m->config.model_layers; i++)
        if (!sl_mixer_of(&m->config, i)->rewinds)
            return sl_fail("cannot go back to position %lld: mixer %s of layer %lld keeps the state of position %lld "
                           "alone; begin again at 0",
                           (long long)position, sl_mixer_of(&m->config, i)->name, (long long)i, (long long)m->decoded);
    if (position > 0 && position < m->decoded && m->config.model_ffn_shift)
        return sl_fail("cannot go back to position %lld: model.ffn_shift keeps what position %lld read alone; begin "
                       "again at 0",
                       (long long)position, (long long)m->decoded);
    m->exec.position = position;
    if (forward_logits(m, token, logits))
        return -1;
    m->decoded = position + 1;
    return 0;
}

/* ---- what steps leave behind: running means of channels, loads and biases of experts */

void sl_model_end_step(sl_model *m, bool applied) {
    if (m->run) {
        m->device->end_step(m->run, applied);
        return;
    }
    for (int i = 0; i < m->program.ops; i++)
        if (m->program.op[i].kind->end_step)
            m->program.op[i].kind->end_step(&m->program.op[i], &m->exec, applied);
}

void sl_model_measure_states(sl_model *m, bool on) {
    sl_params *p = &m->params;
    sl_model_end_step(m, !on);
    if (on)
        sl_model_read_params(m);
    for (int i = 0; on && i < p->count; i++)
        if (p->tensor[i].state)
            memset(p->w + p->tensor[i].offset, 0, (size_t)p->tensor[i].size * sizeof *p->w);
    m->exec.measuring = on;
    if (on) {
        p->state_missing = false;
        sl_model_params_written(m);
    }
}

bool sl_model_states_missing(const sl_model *m) { return m->params.state_missing; }

double sl_model_router_loss(const sl_model *m) {
    double sum = 0;
    sl_model_fetch_states(m);
    for (int i = 0; i < m->program.ops; i++)
        if (sl_moe_of(&m->program.op[i]))
            sum += sl_moe_state_of(&m->program.op[i], &m->exec)->extra;
    return sum;
}

bool sl_model_expert_load(const sl_model *m, int i, sl_expert_load *load) {
    if (i == 0 && m->config.model_experts && sl_model_fetch_states(m))
        return false;
    for (int op = 0; op < m->program.ops; op++) {
        const sl_moe *e = sl_moe_of(&m->program.op[op]);
        if (!e || i-- > 0)
            continue;
        const sl_moe_load *last = &sl_moe_state_of(&m->program.op[op], &m->exec)->last;
        double passes = last->passes ? (double)last->passes : 1;
        *load = (sl_expert_load){.experts = e->experts, .choices = last->choices, .dropped = last->dropped,
                                 .count = last->count, .aux_loss = last->aux / passes, .z_loss = last->z / passes};
        return true;
    }
    return false;
}
