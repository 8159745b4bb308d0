/* Whole models on the device beside the CPU: losses, gradients, logits, taps, decoding, steps of every optimizer; the
 * same bits again, recorded or not, resumed or not. Runs on a GPU where one is, on the emulation (emu/) anywhere. */
#include "base/err.h"
#include "base/threads.h"
#include "cuda/runtime.h"
#include "model/model.h"
#include "ref/variants.h"
#include "train/train.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failures, checks;

static void check(bool ok, const char *model, const char *what, double got, double bound) {
    checks++;
    failures += !ok;
    if (!ok)
        printf("FAIL %s: %s: %.6g, at most %.6g%s%s\n", model, what, got, bound, *sl_error() ? "; " : "", sl_error());
}

static void need(bool ok, const char *what) {
    if (ok)
        return;
    printf("%s: %s\n", what, sl_error());
    exit(1);
}

/* ---- a model on both */

typedef struct {
    const ref_variant *v;
    const char *name;
    bool bf16;
    sl_model *on[2]; /* the CPU, the device */
    sl_model *exact; /* bf16: the same in fp32 on the CPU, else NULL */
    int64_t rows;
    int32_t *token, *target;
} pair;

static sl_model *make(const ref_variant *v, int device, bool bf16, unsigned flags, int optimizer) {
    sl_config c = v->config;
    c.device = device;
    c.precision = bf16 ? SL_PRECISION_BF16 : SL_PRECISION_FP32;
    c.train_optimizer = optimizer;
    c.train_lr = 1e-3, c.train_warmup = 0, c.train_steps = 1000;
    sl_model *m = sl_model_create(&c, v->vocab, v->batch, v->seq, flags);
    need(m, v->name);
    ref_randomise(sl_model_params(m), 3);
    need(sl_model_params_written(m) == 0, v->name);
    return m;
}

/* Can both compute in bf16? Without a unit for it the CPU's models are fp32 whatever is asked for. */
static bool both(bool bf16) { return bf16 && sl_kernels_select(SL_ISA_AUTO)->bf16_unit; }

static pair open_pair(const ref_variant *v, bool bf16, unsigned flags, int optimizer) {
    pair p = {.v = v, .name = v->name, .bf16 = bf16, .rows = v->batch * v->seq};
    p.on[0] = make(v, SL_DEVICE_CPU, bf16, flags, optimizer);
    p.on[1] = make(v, SL_DEVICE_CUDA, bf16, flags, optimizer);
    p.exact = bf16 ? make(v, SL_DEVICE_CPU, false, flags, optimizer) : NULL;
    p.token = malloc((size_t)p.rows * sizeof *p.token);
    p.target = malloc((size_t)p.rows * sizeof *p.target);
    need(p.token && p.target, "memory");
    ref_random_tokens(p.rows, v->vocab, 5, p.token);
    ref_random_tokens(p.rows, v->vocab, 6, p.target);
    for (int64_t i = 3; i < p.rows; i += 7)
        p.target[i] = -1;
    return p;
}

static void close_pair(pair *p) {
    sl_model_free(p->on[0]), sl_model_free(p->on[1]), sl_model_free(p->exact);
    free(p->token), free(p->target);
}

/* |got - want| / |want|, as vectors. */
static double apart(int64_t n, const float *want, const float *got) {
    double d = 0, w = 0;
    for (int64_t i = 0; i < n; i++)
        d += ((double)got[i] - want[i]) * ((double)got[i] - want[i]), w += (double)want[i] * want[i];
    return w > 0 ? sqrt(d / w) : sqrt(d);
}

/* fp32: sums in other orders through a dozen layers. bf16: activations are rounded at each of them on either side, and
 * by how much that moves a figure of this model, its distance from fp32 on the CPU says: of two independent errors of
 * that size the difference is 1.4 times it. In models of a few dozen numbers one error may by chance be twice the
 * other, which makes 2.3 (seen in one of 1,700 checks). */
static double bound(double from_exact) { return 1e-4 + 3 * from_exact; }

/* Vectors of the CPU, of the device, and (bf16) of fp32. */
static void compare(const pair *p, const char *what, int64_t n, const float *want, const float *got,
                    const float *exact) {
    double most = bound(exact ? apart(n, exact, want) : 0), d = want && got ? apart(n, want, got) : INFINITY;
    check(d <= most, p->name, what, d, most);
}

/* The i-th of the models of a pair; NULL: none. */
static sl_model *model_of(const pair *p, int i) { return i < 2 ? p->on[i] : p->exact; }

static void compare_losses(pair *p) {
    double loss[3];
    float *token_loss[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3 && model_of(p, i); i++) {
        token_loss[i] = calloc((size_t)p->rows, sizeof(float));
        need(sl_model_forward(model_of(p, i), p->token, p->target, &loss[i], token_loss[i]) == 0, p->name);
    }
    double most = (1 + fabs(loss[0])) * (p->bf16 ? 2e-2 : 1e-5);
    check(fabs(loss[0] - loss[1]) <= most, p->name, "loss", fabs(loss[0] - loss[1]), most);
    compare(p, "losses of tokens", p->rows, token_loss[0], token_loss[1], token_loss[2]);
    for (int i = 0; i < 3; i++)
        free(token_loss[i]);
}

static void compare_gradients(pair *p) {
    const float *g[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3 && model_of(p, i); i++) {
        double loss;
        need(sl_model_forward_backward(model_of(p, i), p->token, p->target, 0.5f, &loss) == 0, p->name);
        need(sl_model_read_params(model_of(p, i)) == 0, p->name);
        g[i] = sl_model_params(model_of(p, i))->g;
    }
    compare(p, "gradient", sl_model_params(p->on[0])->floats, g[0], g[1], g[2]);
}

static void compare_logits(pair *p) {
    int64_t n = p->rows * p->v->vocab;
    float *logits[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3 && model_of(p, i); i++) {
        logits[i] = malloc((size_t)n * sizeof(float));
        need(sl_model_logits(model_of(p, i), p->token, logits[i]) == 0, p->name);
    }
    compare(p, "logits", n, logits[0], logits[1], logits[2]);
    for (int i = 0; i < 3; i++)
        free(logits[i]);
}

static void compare_gates(pair *p, int layer, int which, float *const gate[3], int64_t n) {
    bool there[3] = {false, false, false};
    for (int i = 0; i < 3 && model_of(p, i); i++)
        there[i] = sl_model_norm_gate(model_of(p, i), layer, which, gate[i]);
    check(there[0] == there[1], p->name, "a gate is there", there[1], there[0]);
    if (there[0])
        compare(p, "gate", n, gate[0], gate[1], p->exact ? gate[2] : NULL);
}

static void compare_qkv(pair *p, int layer) {
    const float *q[3] = {NULL, NULL, NULL};
    int64_t n = 0;
    for (int i = 0; i < 3 && model_of(p, i); i++) {
        sl_qkv_tap t = sl_model_qkv(model_of(p, i), layer);
        q[i] = t.q, n = p->rows * t.ld;
    }
    compare(p, "queries, keys and values", n, q[0], q[1], q[2]);
}

static void compare_taps(pair *p) {
    sl_shape s = sl_model_shape(p->on[0]);
    int64_t n = p->rows * s.dim;
    float *gate[3];
    for (int i = 0; i < 3; i++)
        gate[i] = malloc((size_t)n * sizeof(float));
    for (int layer = 0; layer <= s.layers; layer++) {
        compare(p, "residual", n, sl_model_residual(p->on[0], layer), sl_model_residual(p->on[1], layer),
                p->exact ? sl_model_residual(p->exact, layer) : NULL);
        for (int w = 0; w < (layer == s.layers ? 1 : 2); w++) {
            const float *want = sl_model_norm_output(p->on[0], layer, w);
            if (want)
                compare(p, "norm's output", n, want, sl_model_norm_output(p->on[1], layer, w),
                        p->exact ? sl_model_norm_output(p->exact, layer, w) : NULL);
            compare_gates(p, layer, w, gate, n);
        }
        if (layer < s.layers && sl_model_attends(p->on[0], layer))
            compare_qkv(p, layer);
    }
    for (int i = 0; i < 3; i++)
        free(gate[i]);
}

static void models(const ref_variant *v, bool bf16) {
    pair p = open_pair(v, both(bf16), SL_MODEL_TRAINING, SL_OPTIM_adamw);
    compare_losses(&p);
    compare_taps(&p);
    ref_random_tokens(p.rows, v->vocab, 7, p.token); /* the taps are now those of another pass */
    compare_losses(&p);
    compare_taps(&p);
    compare_gradients(&p);
    compare_logits(&p);
    close_pair(&p);
}

/* ---- steps */

static int steps_of(sl_model *m, const pair *p, int64_t from, int64_t to, double *loss) {
    sl_optim *o = sl_optim_create(m);
    need(o, p->name);
    sl_step_result r = {0};
    for (int64_t s = from; s < to; s++) {
        need(sl_train_step(o, p->token, p->target, 1, s, NULL, NULL, &r) == 0, p->name);
        loss[s] = r.loss;
    }
    sl_optim_free(o);
    return r.skipped;
}

static void training(const ref_variant *v, bool bf16, int optimizer) {
    enum { STEPS = 50 };
    double loss[2][STEPS], most = 0;
    pair p = open_pair(v, both(bf16), SL_MODEL_TRAINING, optimizer);
    for (int i = 0; i < 2; i++)
        steps_of(p.on[i], &p, 0, STEPS, loss[i]);
    for (int s = 0; s < STEPS; s++)
        most = fmax(most, fabs(loss[0][s] - loss[1][s]));
    /* Differences grow from step to step: ten times the bound of one pass. */
    check(most <= (bf16 ? 0.2 : 1e-3), p.name, "losses of 50 steps", most, bf16 ? 0.2 : 1e-3);
    check(loss[1][STEPS - 1] < loss[1][0], p.name, "the last loss, below the first", loss[1][STEPS - 1], loss[1][0]);
    close_pair(&p);
}

static bool same_params(sl_model *a, sl_model *b) {
    need(sl_model_read_params(a) == 0 && sl_model_read_params(b) == 0, "parameters");
    const sl_params *p = sl_model_params(a), *q = sl_model_params(b);
    size_t n = (size_t)p->floats * sizeof(float);
    return memcmp(p->w, q->w, n) == 0 && memcmp(p->m, q->m, n) == 0 && (!p->v || memcmp(p->v, q->v, n) == 0);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

/* Two runs; and one that was saved and loaded on the way: the same bits. */
static void again(const ref_variant *v, bool bf16) {
    enum { HALF = 4, STEPS = 9 };
    double loss[3][STEPS];
    char dir[] = "/tmp/sinklab-test-XXXXXX", found[SL_DIR_CHARS];
    need(mkdtemp(dir) != NULL, "a folder in /tmp");
    pair p = open_pair(v, bf16, SL_MODEL_TRAINING, SL_OPTIM_adamw);
    sl_model *one = p.on[1], *two = make(v, SL_DEVICE_CUDA, bf16, SL_MODEL_TRAINING, SL_OPTIM_adamw);
    sl_model *resumed = make(v, SL_DEVICE_CUDA, bf16, SL_MODEL_TRAINING, SL_OPTIM_adamw);
    steps_of(one, &p, 0, STEPS, loss[0]);
    steps_of(two, &p, 0, HALF, loss[1]);
    sl_train_state state = {.step = HALF, .loss_mean = NAN, .best_val_loss = NAN};
    sl_config *c = sl_config_create();
    int32_t vocab;
    need(sl_model_save(two, dir, &state, 1) == 0 && sl_checkpoint_open(dir, found, c, &vocab) == 0 &&
             sl_model_load(resumed, found, &state) == 0, "checkpoint");
    steps_of(two, &p, HALF, STEPS, loss[1]);
    steps_of(resumed, &p, HALF, STEPS, loss[2]);
    check(memcmp(loss[0], loss[1], sizeof loss[0]) == 0, p.name, "two runs have the same losses", 0, 0);
    check(same_params(one, two), p.name, "two runs have the same bits", 0, 0);
    check(same_params(two, resumed), p.name, "a resumed run has the same bits", 0, 0);
    sl_config_free(c);
    sl_model_free(two), sl_model_free(resumed);
    close_pair(&p);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static bool never(void *ctx, double loss, double norm) { return (void)ctx, (void)loss, (void)norm, false; }

/* Steps that are not applied leave parameters and moments as they were. */
static void skipping(const ref_variant *v) {
    pair p = open_pair(v, false, SL_MODEL_TRAINING, SL_OPTIM_adamw);
    sl_model *m = p.on[1], *other = make(v, SL_DEVICE_CUDA, false, SL_MODEL_TRAINING, SL_OPTIM_adamw);
    sl_optim *o = sl_optim_create(m);
    sl_step_result r;
    need(o && sl_train_step(o, p.token, p.target, 1, 0, never, NULL, &r) == 0, p.name);
    check(r.skipped && same_params(m, other), p.name, "a refused step changes nothing", r.loss, 0);
    sl_step_around low = {.most_loss = r.loss / 2};
    need(sl_train_step_in_run(o, p.token, p.target, 1, 0, &low, &r) == 0, p.name);
    check(r.skipped && same_params(m, other), p.name, "a spike changes nothing", r.loss, 0);
    sl_model_params(m)->w[3] = sl_model_params(other)->w[3] = NAN;
    need(sl_model_params_written(m) == 0 && sl_model_params_written(other) == 0, p.name);
    for (int64_t i = 0; i < p.rows; i++)
        p.token[i] = 0; /* the row that holds the NaN */
    need(sl_train_step(o, p.token, p.target, 1, 0, NULL, NULL, &r) == 0, p.name);
    check(r.skipped && same_params(m, other), p.name, "what is not a number changes nothing", r.loss, 0);
    sl_optim_free(o);
    sl_model_free(other);
    close_pair(&p);
}

/* A checkpoint of the device goes on elsewhere: with the same weights, and losses that differ as those of one pass do.
 * */
static void elsewhere(const ref_variant *v) {
    enum { HALF = 5, STEPS = 10 };
    double loss[2][STEPS];
    char dir[] = "/tmp/sinklab-test-XXXXXX", found[SL_DIR_CHARS];
    need(mkdtemp(dir) != NULL, "a folder in /tmp");
    pair p = open_pair(v, false, SL_MODEL_TRAINING, SL_OPTIM_adamw);
    steps_of(p.on[1], &p, 0, HALF, loss[1]);
    sl_train_state state = {.step = HALF, .loss_mean = NAN, .best_val_loss = NAN};
    sl_config *c = sl_config_create();
    int32_t vocab;
    need(sl_model_save(p.on[1], dir, &state, 1) == 0 && sl_checkpoint_open(dir, found, c, &vocab) == 0 &&
             sl_model_load(p.on[0], found, &state) == 0, "checkpoint");
    check(same_params(p.on[0], p.on[1]), p.name, "the CPU has what the device has saved", 0, 0);
    double most = 0;
    for (int i = 0; i < 2; i++)
        steps_of(p.on[i], &p, HALF, STEPS, loss[i]);
    for (int s = HALF; s < STEPS; s++)
        most = fmax(most, fabs(loss[0][s] - loss[1][s]));
    check(most <= 1e-4, p.name, "losses after going on elsewhere", most, 1e-4);
    sl_config_free(c);
    close_pair(&p);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The emulation can lose its device: a step then fails with one line, and so does all that follows. */
static void lost(const ref_variant *v) {
    const sl_device *d;
    sl_config c = v->config;
    c.device = SL_DEVICE_CUDA;
    need(sl_device_of(&c, &d) == 0 && d, "device");
    if (strcmp(d->name(), "emulated") != 0)
        return;
    pair p = open_pair(v, false, SL_MODEL_TRAINING, SL_OPTIM_adamw);
    sl_optim *o = sl_optim_create(p.on[1]);
    sl_step_result r;
    need(o && sl_train_step(o, p.token, p.target, 1, 0, NULL, NULL, &r) == 0, p.name);
    setenv("SINKLAB_EMU_LOST", "1", 1);
    check(sl_train_step(o, p.token, p.target, 1, 1, NULL, NULL, &r) == -1 && strstr(sl_error(), "on the GPU"), p.name,
          "a step on a lost device fails", 0, 0);
    check(sl_model_forward(p.on[1], p.token, p.target, NULL, NULL) == -1, p.name, "so does a pass", 0, 0);
    unsetenv("SINKLAB_EMU_LOST");
    sl_optim_free(o);
    close_pair(&p);
}

/* Positions one by one, against all at once. */
static void decoding(const ref_variant *v) {
    pair p = open_pair(v, false, 0, SL_OPTIM_adamw);
    sl_config c = v->config;
    c.device = SL_DEVICE_CUDA;
    sl_model *d = sl_model_create_decoder(&c, v->vocab, v->batch, v->seq);
    need(d, v->name);
    ref_randomise(sl_model_params(d), 3);
    need(sl_model_params_written(d) == 0, v->name);
    size_t row = (size_t)v->vocab;
    float *all = malloc((size_t)p.rows * row * sizeof *all), *one = malloc((size_t)v->batch * row * sizeof *one);
    int32_t *token = malloc((size_t)v->batch * sizeof *token);
    need(all && one && token && sl_model_logits(p.on[1], p.token, all) == 0, v->name);
    double most = 0;
    for (int64_t t = 0; t < v->seq; t++) {
        for (int64_t b = 0; b < v->batch; b++)
            token[b] = p.token[b * v->seq + t];
        need(sl_model_decode(d, token, t, one) == 0, v->name);
        for (int64_t b = 0; b < v->batch; b++)
            most = fmax(most, apart(v->vocab, all + (size_t)(b * v->seq + t) * row, one + (size_t)b * row));
    }
    check(most <= 1e-4, p.name, "decoding", most, 1e-4);
    free(all), free(one), free(token);
    sl_model_free(d);
    close_pair(&p);
}

/* ---- which */

/* Every n-th of a list. */
static void each(bool (*list)(int, ref_variant *), int n, const char *only) {
    ref_variant v;
    for (int i = 0; list(i, &v); i++) {
        if (i % n || (only && !strstr(v.name, only)))
            continue;
        for (int bf16 = 0; bf16 < 2; bf16++)
            models(&v, bf16);
        again(&v, i / n % 2);
        if (!v.config.model_experts && v.config.model_sink_nullify == 0)
            decoding(&v);
    }
}

/* Options that the device has no kernels for are refused before anything runs; the others give what they should. So
 * many of a list do at least, if not `only` some are wanted. */
static void options(bool (*list)(int, ref_variant *), const char *only, int least_run, int least_refused) {
    int run = 0, refused = 0;
    ref_variant v;
    for (int i = 0; list(i, &v) && v.config.model_dim < 20; i++) {
        sl_config c = v.config;
        if (only && !strstr(v.name, only))
            continue;
        c.device = SL_DEVICE_CUDA;
        sl_model *m = sl_model_create(&c, v.vocab, v.batch, v.seq, SL_MODEL_TRAINING);
        sl_model_free(m);
        if (m) {
            models(&v, i % 2), decoding(&v);
            run++;
        } else {
            check(strncmp(sl_error(), "device: cuda has ", 17) == 0, v.name, "is refused by name", 0, 0);
            refused++;
        }
    }
    check(only || (run >= least_run && refused >= least_refused), "options", "run and refused", run, refused);
}

/* Sizes that the tensor cores take, at which operations also do part of their neighbours' work. */
static void fitting(int every) {
    for (int i = every > 6 ? 2 : 0; i < 6; i += every > 6 ? 6 : 1) {
        ref_variant v = {.vocab = 61, .batch = 2, .seq = 72};
        sl_config_defaults(&v.config);
        v.config.model_layers = 2, v.config.model_ffn = 96, v.config.model_seq = 72;
        v.config.model_dim = i == 5 ? 264 : 64 * (i % 2 + 1), v.config.model_heads = 2;
        v.config.model_head_dim = i == 5 ? 128 : 0;
        v.config.model_kv_heads = i % 3 == 2 ? 1 : 0;
        need(sl_config_override(&v.config, i > 1 ? "model.norm=gated_norm" : "model.norm=rmsnorm") == 0, "a norm");
        v.config.norm_rank = i == 4 ? 40 : 16;
        snprintf(v.name, sizeof v.name, "fitting %d", i);
        models(&v, true);
        again(&v, true);
    }
}

/* models [--every N] [part of a variant's name]; every N-th of each list */
int main(int argc, char **argv) {
    bool some = argc > 2 && strcmp(argv[1], "--every") == 0;
    int every = some ? atoi(argv[2]) : 0;
    argc -= 2 * some, argv += 2 * some;
    if (some && every < 1)
        return 2;
    const char *only = argc > 1 ? argv[1] : NULL;
    every = every ? every : only ? 1 : 5;
    ref_variant v;
    if (slc_devices() < 0) {
        printf("skipped: %s\n", sl_error());
        return 77;
    }
    sl_threads_set(2);
    each(ref_variant_tiny, every, only);
    each(ref_variant_moe, every, only);
    each(ref_variant_mixer, every, only);
    ref_variant_tiny(1, &v);
    for (int optimizer = 0; !only && optimizer < 3; optimizer++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            training(&v, bf16, optimizer);
    if (!only)
        skipping(&v), elsewhere(&v), lost(&v);
    options(ref_variant_elsewhere, only, 5, 9), options(ref_variant_across, only, 12, 5);
    if (!only || strcmp(only, "fitting") == 0)
        fitting(every);
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
