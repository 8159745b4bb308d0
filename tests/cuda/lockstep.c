/* Every operation of every variant, on the device beside the CPU: forward and backward from the same inputs, saved
 * values each its own. Buffers lie apart, their padding is NaN on the device, and gradients come from nowhere else than
 * the operation. Runs on a GPU where one is, on the emulation (emu/) anywhere. */
#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "cuda/kind.h"
#include "cuda/runtime.h"
#include "model/model_internal.h"
#include "program/stage.h"
#include "ref/variants.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The same model for both; the device's and the host's memory of each. */
typedef struct {
    const char *name;
    sl_model *cpu, *gpu;
    sl_exec host;
    void **host_buf;
    slc_exec dev;
    void **dev_buf;
    float *dev_loss;
    int64_t rows;
    sl_rng rng;
} pair;

static int failures;
static bool shows; /* every operation, with its error */

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, sl_error());
    exit(1);
}

static void *need(void *p, const char *what) {
    if (!p)
        die(what);
    return p;
}

static size_t element(const sl_buffer *v) { return v->bf16 ? sizeof(sl_bf16) : sizeof(float); }
static size_t bytes_of(const sl_buffer *v) { return (size_t)(v->rows * v->ld) * element(v); }

/* ---- values across */

/* The programs number their buffers each for itself: from, to are the same operand of the same operation. */
static void upload(pair *p, sl_buf from, sl_buf to) {
    if (from == SL_NONE || to == SL_NONE)
        return;
    const sl_buffer *h = &p->cpu->program.buffer[from], *d = &p->gpu->program.buffer[to];
    if (h->rows != d->rows || h->cols != d->cols)
        return; /* each its own business: chunks of the head, packed panels */
    if (h->bf16 != d->bf16)
        die("a buffer is bf16 for one alone");
    char *staged = need(malloc(bytes_of(d)), "memory");
    memset(staged, 0xff, bytes_of(d));
    for (int64_t r = 0; r < h->rows; r++)
        memcpy(staged + (size_t)(r * d->ld) * element(d), (char *)p->host_buf[from] + (size_t)(r * h->ld) * element(h),
               (size_t)h->cols * element(h));
    if (slc_put(p->dev_buf[to], staged, bytes_of(d)))
        die("upload");
    free(staged);
}

static float value(const sl_buffer *v, const void *data, int64_t r, int64_t c) {
    int64_t at = r * v->ld + c;
    if (!v->bf16)
        return ((const float *)data)[at];
    uint32_t bits = (uint32_t)((const sl_bf16 *)data)[at] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

typedef struct {
    double error, most; /* largest difference and largest value */
} distance;

static void add(distance *d, double host, double dev) {
    double e = fabs(host - dev);
    d->error = e <= d->error ? d->error : e; /* keeps NaN out of nothing: a NaN is the largest */
    if (isnan(e))
        d->error = INFINITY;
    d->most = fmax(d->most, fabs(host));
}

static void judge(const pair *p, const sl_op *op, const char *what, distance d, bool bf16, double rounding) {
    /* Relative to the largest value: fp32 sums in another order; bf16 results and operands rounded on either side. */
    double bound = (bf16 ? 0x1p-5 : 0x1p-15) * d.most + 1e-7 + rounding;
    char scope[SL_SCOPE_CHARS];
    bool bad = !(d.error <= bound);
    if (bad || shows)
        printf("%s %s: %s (%s) %s: differs by %.3g of %.3g\n", bad ? "FAIL" : "ok", p->name, op->kind->name,
               sl_scope_name(op->scope, scope), what, d.error, d.most);
    failures += bad;
}

static void compare(pair *p, const sl_op *op, sl_buf on_host, sl_buf on_device, const char *what) {
    if (on_host == SL_NONE)
        return;
    const sl_buffer *h = &p->cpu->program.buffer[on_host], *d = &p->gpu->program.buffer[on_device];
    void *got = need(malloc(bytes_of(d)), "memory");
    if (slc_get(got, p->dev_buf[on_device], bytes_of(d)))
        die("download");
    distance e = {0, 0};
    for (int64_t r = 0; r < h->rows; r++)
        for (int64_t c = 0; c < h->cols; c++)
            add(&e, value(h, p->host_buf[on_host], r, c), value(d, got, r, c));
    judge(p, op, what, e, p->cpu->program.bf16, 0);
    free(got);
}

static void compare_floats(pair *p, const sl_op *op, int64_t n, const float *host, const float *dev, const char *what,
                           double rounding) {
    float *got = need(malloc((size_t)n * sizeof *got), "memory");
    if (slc_get(got, dev, (size_t)n * sizeof *got))
        die("download");
    distance e = {0, 0};
    for (int64_t i = 0; i < n; i++)
        add(&e, host[i], got[i]);
    judge(p, op, what, e, p->cpu->program.bf16, rounding);
    free(got);
}

/* ---- running one operation */

static void run_stages(pair *p, const sl_op *op, const sl_stage *s, int direction) {
    sl_exec x = p->host;
    x.shared = (float *)(void *)((char *)x.shared + op->shared[direction]);
    x.sums = (float *)(void *)((char *)x.sums + op->sums[direction]);
    int64_t chunk = op->kind->chunk ? op->kind->chunk(op) : op->rows;
    for (; s && s->cut == SL_CUT_PARAMS; s++)
        if (sl_stage_run(op, &x, s, 0, op->rows))
            die(p->name);
    for (int64_t row = 0; s && row < op->rows; row += chunk)
        for (const sl_stage *t = s; t->cut != SL_CUT_END; t++)
            if (sl_stage_run(op, &x, t, row, sl_min(chunk, op->rows - row)))
                die(p->name);
}

static const slc_kind *kind_of(const char *name) {
    const slc_kind *lists[] = {slc_rows_kinds, slc_norm_kinds, slc_gate_kinds, slc_attention_kinds, slc_mixer_kinds,
                               slc_rwkv_kinds, slc_depth_kinds, slc_anchor_kinds, slc_product_kinds, slc_moe_kinds};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (const slc_kind *k = lists[i]; k->name; k++)
            if (strcmp(k->name, name) == 0)
                return k;
    return NULL;
}

static void zero_gradients(pair *p) {
    size_t bytes = (size_t)p->cpu->params.floats * sizeof(float);
    memset(p->cpu->params.g, 0, bytes);
    slc_zero(p->dev.stream, p->dev.g, bytes);
}

/* A parameter of one number has a gradient that is one sum over rows, whose terms, |dout| |out| of a row at most in
 * size and each with a rounding of its own, may cancel. */
static double rounding_of_one(const pair *p, const sl_op *op) {
    const sl_buffer *out = &p->cpu->program.buffer[op->out], *dout = &p->cpu->program.buffer[op->dout];
    double sum = 0;
    for (int64_t r = 0; r < out->rows; r++) {
        double a = 0, b = 0;
        for (int64_t c = 0; c < out->cols; c++) {
            a += pow(value(out, p->host_buf[op->out], r, c), 2);
            b += pow(value(dout, p->host_buf[op->dout], r, c), 2);
        }
        sum += a * b;
    }
    return (p->cpu->program.bf16 ? 0x1p-8 : 0x1p-24) * sqrt(sum);
}

static void compare_gradients(pair *p, const sl_op *op, const char *what) {
    for (int i = 0; i < SL_OP_PARAMS; i++) {
        if (op->param[i] == SL_NONE)
            continue;
        const sl_tensor *t = &p->cpu->params.tensor[op->param[i]];
        char name[192];
        snprintf(name, sizeof name, "%s of %s", what, t->name);
        compare_floats(p, op, t->size, p->cpu->params.g + t->offset, p->dev.g + t->offset, name,
                       t->size == 1 && op->out != SL_NONE ? rounding_of_one(p, op) : 0);
    }
}

static void forward(pair *p, int i) {
    const sl_op *host = &p->cpu->program.op[i], *dev = &p->gpu->program.op[i];
    const slc_kind *k = kind_of(dev->kind->name);
    if (!k) {
        printf("FAIL %s: no kind %s\n", p->name, dev->kind->name);
        failures++;
        return;
    }
    for (int j = 0; j < host->inputs; j++)
        upload(p, host->in[j], dev->in[j]);
    zero_gradients(p);
    if (k->forward && k->forward(dev, &p->dev))
        die(p->name);
    run_stages(p, host, host->kind->forward, SL_FORWARD);
    if (slc_sync(p->dev.stream))
        die(p->name);
    compare(p, host, host->out, dev->out, "out");
    upload(p, host->out, dev->out);
    if (host->out != SL_NONE)
        return;
    compare_floats(p, host, p->rows, p->host.token_loss, p->dev_loss, "losses", 0);
    compare(p, host, host->din[0], dev->din[0], "gradient of its input");
    compare_gradients(p, host, "gradient");
}

static void random_values(pair *p, sl_buf v, sl_buf to) {
    const sl_buffer *b = &p->cpu->program.buffer[v];
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t c = 0; c < b->cols; c++) {
            float x = (float)sl_rng_normal(&p->rng);
            if (b->bf16)
                p->host.k->to_bf16(1, &x, (sl_bf16 *)p->host_buf[v] + r * b->ld + c);
            else
                ((float *)p->host_buf[v])[r * b->ld + c] = x;
        }
    upload(p, v, to);
}

static void backward(pair *p, int i) {
    const sl_op *host = &p->cpu->program.op[i], *dev = &p->gpu->program.op[i];
    const slc_kind *k = kind_of(dev->kind->name);
    if (!host->kind->backward || !k || host->dout == SL_NONE)
        return;
    random_values(p, host->dout, dev->dout);
    for (int j = 0; j < host->inputs; j++) {
        upload(p, host->in[j], dev->in[j]);
        if (host->din[j] != SL_NONE && host->din[j] != host->dout)
            random_values(p, host->din[j], dev->din[j]);
    }
    if (host->kind->keeps_out)
        upload(p, host->out, dev->out);
    zero_gradients(p);
    if (k->backward && k->backward(dev, &p->dev))
        die(p->name);
    run_stages(p, host, host->kind->backward, SL_BACKWARD);
    if (slc_sync(p->dev.stream))
        die(p->name);
    for (int j = 0; j < host->inputs; j++)
        if (host->use[j] & SL_INPUT_GRADIENT)
            compare(p, host, host->din[j], dev->din[j], "gradient of an input");
    compare_gradients(p, host, "gradient");
}

/* ---- a variant */

static void open_pair(pair *p, const ref_variant *v, int precision) {
    sl_config c = v->config;
    c.precision = precision;
    c.device = SL_DEVICE_CPU;
    p->name = v->name;
    p->rows = v->batch * v->seq;
    p->rng = sl_rng_make(7, 1, 2);
    p->cpu = need(sl_model_create(&c, v->vocab, v->batch, v->seq, SL_MODEL_TRAINING), v->name);
    c.device = SL_DEVICE_CUDA;
    p->gpu = need(sl_model_create(&c, v->vocab, v->batch, v->seq, SL_MODEL_TRAINING), v->name);
    ref_randomise(&p->cpu->params, 3);
    ref_randomise(&p->gpu->params, 3);
    const sl_program *b = &p->gpu->program;
    size_t floats = (size_t)p->cpu->params.floats * sizeof(float), scratch = 1;
    if (b->ops != p->cpu->program.ops || p->gpu->params.floats != p->cpu->params.floats)
        die("the programs differ");
    p->host = p->cpu->exec;
    p->host_buf = need(calloc(2 * (size_t)p->cpu->program.buffers, sizeof(void *)), "memory");
    p->dev_buf = need(calloc((size_t)b->buffers, sizeof(void *)), "memory");
    for (int i = 0; i < p->cpu->program.buffers; i++)
        p->host_buf[i] = need(sl_alloc(bytes_of(&p->cpu->program.buffer[i]), "a buffer"), "memory");
    p->host.buf = p->host_buf;
    for (int i = 0; i < b->buffers; i++) {
        p->dev_buf[i] = need(slc_alloc(bytes_of(&b->buffer[i])), "memory of the device");
        slc_zero(NULL, p->dev_buf[i], bytes_of(&b->buffer[i]));
    }
    for (int i = 0; i < b->ops; i++) {
        const slc_kind *k = kind_of(b->op[i].kind->name);
        size_t n = k && k->scratch ? k->scratch(&b->op[i], b) : 0;
        scratch = n > scratch ? n : scratch;
    }
    float *w = need(slc_alloc(floats), "w");
    uint16_t *w16 = need(slc_alloc(floats / 2), "w16"), *rounded = need(malloc(floats / 2), "w16");
    p->host.k->to_bf16(p->cpu->params.floats, p->cpu->params.w, rounded);
    p->dev = (slc_exec){.program = b, .info = b->buffer, .buf = p->dev_buf, .w = w, .w16 = w16,
                        .g = need(slc_alloc(floats), "g"), .training = true, .grad_scale = 1, .sms = 4, .apart = true,
                        .scratch = need(slc_alloc(scratch), "scratch"), .scratch_bytes = scratch,
                        .state = need(slc_alloc(b->state_bytes + 1), "state")};
    slc_zero(NULL, p->dev.state, b->state_bytes + 1);
    int32_t *position = need(slc_alloc(sizeof *position), "position");
    slc_zero(NULL, position, sizeof *position);
    p->dev.position = position;
    p->dev.token_loss = p->dev_loss = need(slc_alloc((size_t)p->rows * sizeof(float)), "losses");
    if (slc_put(w, p->cpu->params.w, floats) || slc_put(w16, rounded, floats / 2) || slc_blas_open(&p->dev.blas))
        die(v->name);
    free(rounded);
}

static void close_pair(pair *p) {
    for (int i = 0; i < p->cpu->program.buffers; i++)
        sl_free(p->host_buf[i]);
    for (int i = 0; i < p->gpu->program.buffers; i++)
        slc_free(p->dev_buf[i]);
    void *device[] = {(void *)(uintptr_t)p->dev.w, (void *)(uintptr_t)p->dev.w16, p->dev.g, p->dev.scratch,
                      p->dev.state, p->dev_loss, (void *)(uintptr_t)p->dev.tokens, (void *)(uintptr_t)p->dev.position};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        slc_free(device[i]);
    slc_blas_close(p->dev.blas);
    free(p->host_buf), free(p->dev_buf);
    sl_model_free(p->cpu), sl_model_free(p->gpu);
}

/* Tokens, targets with some left out, rows by token. */
static int32_t *make_batch(pair *p, int32_t vocab) {
    int64_t n = p->rows, at = 0;
    int32_t *batch = need(malloc((size_t)(3 * n) * sizeof *batch), "memory");
    ref_random_tokens(2 * n, vocab, 5, batch);
    for (int64_t i = 3; i < n; i += 7)
        batch[n + i] = -1;
    for (int32_t t = 0; t < vocab; t++)
        for (int64_t r = 0; r < n; r++)
            if (batch[r] == t)
                batch[2 * n + at++] = (int32_t)r;
    int32_t *device = need(slc_alloc((size_t)(3 * n) * sizeof *batch), "tokens");
    if (slc_put(device, batch, (size_t)(3 * n) * sizeof *batch))
        die("tokens");
    p->dev.tokens = device, p->dev.targets = device + n, p->dev.order = device + 2 * n;
    p->host.tokens = batch, p->host.targets = batch + n;
    p->host.training = true, p->host.workers = sl_threads();
    return batch;
}

static void run(const ref_variant *v, int precision) {
    pair p = {0};
    open_pair(&p, v, precision);
    int32_t *batch = make_batch(&p, v->vocab);
    for (int i = 0; i < p.cpu->program.ops; i++)
        forward(&p, i);
    for (int i = p.cpu->program.ops - 1; i >= 0; i--)
        backward(&p, i);
    close_pair(&p);
    free(batch);
}

/* Does the device have all its operations? If not it says what it has. */
static bool taken(const ref_variant *v) {
    sl_config c = v->config;
    c.device = SL_DEVICE_CUDA;
    sl_model *m = sl_model_create(&c, v->vocab, v->batch, v->seq, SL_MODEL_TRAINING);
    if (!m && strncmp(sl_error(), "device: cuda has ", strlen("device: cuda has ")) != 0)
        die(v->name);
    sl_model_free(m);
    return m != NULL;
}

/* lockstep [-v] [--every N] [part of a variant's name [fp32|bf16]]; every N-th of each list */
int main(int argc, char **argv) {
    bool (*const lists[])(int, ref_variant *) = {ref_variant_tiny, ref_variant_middle, ref_variant_moe,
                                                         ref_variant_mixer, ref_variant_across};
    shows = argc > 1 && strcmp(argv[1], "-v") == 0;
    argc -= shows, argv += shows;
    bool some = argc > 2 && strcmp(argv[1], "--every") == 0;
    int every = some ? atoi(argv[2]) : 1;
    argc -= 2 * some, argv += 2 * some;
    if (every < 1)
        return 2;
    ref_variant v;
    int n = 0, refused = 0;
    if (slc_devices() < 0) {
        printf("skipped: %s\n", sl_error());
        return 77;
    }
    sl_threads_set(2);
    /* Without a unit for bf16 the CPU's programs are fp32 whatever is asked for. */
    int last = sl_kernels_select(SL_ISA_AUTO)->bf16_unit ? SL_PRECISION_BF16 : SL_PRECISION_FP32;
    for (size_t l = 0; l < sizeof lists / sizeof *lists; l++)
        for (int i = 0; lists[l](i, &v); i++)
            for (int precision = SL_PRECISION_FP32; precision <= last; precision++) {
                if (i % every != every - 1 || (argc > 1 && !strstr(v.name, argv[1])) ||
                    (argc > 2 && strcmp(argv[2], precision == SL_PRECISION_FP32 ? "fp32" : "bf16") != 0))
                    continue;
                if (!taken(&v)) {
                    refused++;
                    continue;
                }
                run(&v, precision);
                n++;
            }
    printf("%d models, %d failures, %d refused\n", n, failures, refused);
    return failures || !n;
}
