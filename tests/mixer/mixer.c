/* A mixer is a row of the table and its files: the toy of mean.c, which nothing in src knows, trains, decodes, is
 * probed, saved, resumed and quantised, alone and in patterns with softmax. So do all others that do not attend. */
#include "ops/mixer/mixer.h"

#include "base/threads.h"
#include "checkpoint/hf_config.h"
#include "cli/verbs.h"
#include "gradients.h"
#include "probe/detail.h"
#include "probe/dump.h"
#include "quant/transform.h"
#include "ref/model.h"
#include "ref/tolerance.h"
#include "ref/variants.h"
#include "scratch.h"
#include "suite.h"
#include "train/train.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>

/* What tests are run with, one after the other: Check's _i. At the tiny size there are more heads than one, and sizes
 * that no vector divides. Keys of few channels are now and then so short that normalising makes errors large. */
enum { SIZES = 6 };
static const struct {
    const char *name, *sizes[SIZES];
} subjects[] = {{"mean", {NULL}},
                {"mamba2", {"model.mamba2_opts.expand=3", "model.mamba2_opts.head_dim=4", "model.mamba2_opts.state=5",
                            "model.mamba2_opts.groups=2"}},
                {"gdn", {"model.gdn_opts.heads=4", "model.gdn_opts.key_heads=2", "model.gdn_opts.key_dim=5",
                         "model.gdn_opts.value_dim=9"}},
                {"deltanet", {"model.gdn_opts.negative=true", "model.gdn_opts.gate=sigmoid", "model.gdn_opts.key_dim=9",
                              "model.gdn_opts.norm=false", "model.gdn_opts.conv=1"}},
                {"gla", {"model.gdn_opts.unit=all", "model.gdn_opts.key_dim=7", "model.gdn_opts.gate=none",
                         "model.gdn_opts.key_heads=1"}},
                {"retnet", {"model.gdn_opts.gate=none", "model.gdn_opts.norm=false", "model.gdn_opts.conv=2",
                            "model.gdn_opts.key_dim=9"}},
                {"rwkv7", {"model.rwkv7_opts.head_dim=4", "model.rwkv7_opts.decay_rank=3",
                           "model.rwkv7_opts.rate_rank=5", "model.rwkv7_opts.value_rank=2",
                           "model.rwkv7_opts.gate_rank=7", "model.ffn_shift=true"}}};
enum { SUBJECTS = sizeof subjects / sizeof *subjects, RETNET = SUBJECTS - 2 };

/* The text with the subject's name for its @s, until the next call. */
static const char *named(int subject, const char *text) {
    static char buf[256];
    size_t n = 0;
    for (; *text && n + 32 < sizeof buf; text++)
        n += (size_t)snprintf(buf + n, sizeof buf - n, "%.*s", *text == '@' ? 32 : 1,
                              *text == '@' ? subjects[subject].name : text);
    return buf;
}

/* A tiny model of three layers, so that a pattern of two does not end with them. NULL ends the overrides. */
static ref_variant variant(int subject, const char *const *overrides) {
    ref_variant v;
    ck_assert(ref_variant_tiny(1, &v));
    v.config.model_layers = 3;
    v.config.model_rope_base = 100;
    v.batch = v.config.train_batch = 2;
    for (int i = 0; i < SIZES && subjects[subject].sizes[i]; i++)
        ck_assert_msg(sl_config_override(&v.config, subjects[subject].sizes[i]) == 0, "%s", sl_error());
    for (; *overrides; overrides++)
        ck_assert_msg(sl_config_override(&v.config, named(subject, *overrides)) == 0, "%s", sl_error());
    ck_assert_msg(sl_config_check(&v.config) == 0, "%s", sl_error());
    return v;
}

static sl_model *create(const ref_variant *v, bool training, bool taps) {
    sl_model *m = sl_model_create(&v->config, v->vocab, v->batch, v->seq,
                                  (training ? SL_MODEL_TRAINING : 0) | (taps ? SL_MODEL_TAPS : 0));
    ck_assert_msg(m != NULL, "%s", sl_error());
    ref_randomise(sl_model_params(m), 7);
    return m;
}

static const char *const patterns[][6] = {
    {"model.mixer=@", NULL},
    {"model.mixer=[@, softmax]", NULL},
    {"model.mixer=[softmax, @, @]", "model.norm_place=post", NULL},
    {"model.mixer=[@, softmax]", "model.norm_place=sandwich", "model.ffn=0", NULL},
    {"model.mixer=[@, @, softmax]", "model.experts=3", "model.expert_ffn=5", NULL},
    /* Small rows, which a norm of keys and a mixer's own would make large with their errors, stay small. */
    {"model.mixer=[@, softmax]", "model.residual=oasis", "model.attention=softmax1", "model.norm_opts.eps=0.1", NULL},
    {"model.mixer=[softmax, @]", "model.residual=oasis", "model.attention=softmax1", "model.residual_opts.form=states",
     "model.norm_opts.eps=0.1", NULL}};
enum { PATTERNS = sizeof patterns / sizeof *patterns };

/* ---- the configuration */

START_TEST(patterns_are_read_and_written) {
    static const struct {
        const char *value, *written, *layers; /* of seven layers: m or s */
    } cases[] = {{"mean", "mean", "mmmmmmm"},
                 {"[mean, softmax]", "[mean, softmax]", "msmsmsm"},
                 {"[mean, softmax, mean, softmax]", "[mean, softmax]", "msmsmsm"},
                 {"[mean, mean]", "mean", "mmmmmmm"},
                 {"[mean, mean, softmax]", "[mean, mean, softmax]", "mmsmmsm"},
                 {"[mean, softmax, mean]", "[mean, softmax, mean]", "msmmsmm"}};
    sl_config c, back;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256], *dump = NULL;
        size_t n = 0;
        sl_config_defaults(&c), sl_config_defaults(&back);
        uint64_t standard = sl_config_hash(&c);
        snprintf(text, sizeof text, "model.mixer=%s", cases[i].value);
        ck_assert_msg(sl_config_override(&c, text) == 0, "%s", sl_error());
        for (int64_t layer = 0; layer < 7; layer++)
            ck_assert_int_eq(*sl_mixer_of(&c, layer)->name, cases[i].layers[layer]);
        FILE *f = open_memstream(&dump, &n);
        ck_assert_int_eq(sl_config_dump(&c, f), 0);
        fclose(f);
        snprintf(text, sizeof text, "\n  mixer: %s\n", cases[i].written);
        ck_assert_msg(strstr(dump, text) != NULL, "%s in %s", text, dump);
        ck_assert_int_eq(sl_config_parse(&back, dump, n, "dump"), 0);
        ck_assert_mem_eq(&c, &back, sizeof c);
        ck_assert_uint_ne(sl_config_hash(&c), standard);
        free(dump);
    }
    ck_assert_int_ne(sl_config_override(&c, "model.mixer=[mean, maen]"), 0);
    ck_error("model.mixer: unknown value \"maen\"; did you mean mean? It is one or a list of softmax, ");
}
END_TEST

/* ---- passes */

/* Every element of every tensor, on every tier in fp32. */
START_TEST(gradients_are_those_of_the_reference) {
    for (int i = 0; i < PATTERNS; i++) {
        ref_variant v = variant(_i, patterns[i]);
        int64_t n = v.batch * v.seq;
        int32_t *in = calloc((size_t)n, sizeof *in), *target = calloc((size_t)n, sizeof *target);
        ref_random_tokens(n, v.vocab, 1, in), ref_random_tokens(n, v.vocab, 2, target);
        double relative = ref_relative_error(&v.config, v.vocab, n);
        sl_model *m = create(&v, true, false);
        sl_params *p = sl_model_params(m);
        ref_c *w = ref_from_float(p->floats, p->w);
        ref_model ref = {.config = &v.config, .table = p, .w = w, .vocab = v.vocab, .batch = v.batch, .seq = v.seq};
        double loss = creal(ref_model_loss(&ref, in, target, NULL, NULL));
        double *want = calloc((size_t)p->floats, sizeof *want);
        for (int t = 0; t < p->count; t++)
            for (int64_t k = p->tensor[t].offset; k < p->tensor[t].offset + p->tensor[t].size; k++) {
                ref_c held = w[k];
                w[k] += I * REF_STEP;
                want[k] = cimag(ref_model_objective(&ref, in, target)) / REF_STEP;
                w[k] = held;
            }
        for (int isa = SL_ISA_SCALAR; isa <= SL_ISA_AVX512; isa++) {
            if (!sl_kernels_tier((enum sl_isa)isa))
                continue;
            v.config.isa = isa;
            v.config.precision = SL_PRECISION_FP32;
            sl_model *tier = create(&v, true, false);
            ck_assert_double_eq_tol(forward_backward(tier, in, target, 1), loss, REF_FORWARD * relative * (1 + loss));
            for (int t = 0; t < p->count; t++) {
                double ratio = ref_gradient_ratio(p, t, sl_model_params(tier)->g, want, relative);
                ck_assert_msg(ratio <= 1, "%s, %s: gradient of %s: error is %.3g times the tolerance", patterns[i][0],
                              patterns[i][1] ? patterns[i][1] : "", p->tensor[t].name, ratio);
            }
            sl_model_free(tier);
        }
        sl_model_free(m);
        free(in), free(target), free(w), free(want);
    }
}
END_TEST

/* A larger one, in both precisions: the same bits for any number of threads; bf16 near fp32. */
START_TEST(threads_and_bf16) {
    double loss[2];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        ref_variant v = variant(_i, (const char *const[]){"model.mixer=[@, softmax]", "model.dim=72", "model.heads=2",
                                                      "model.kv_heads=1", "model.head_dim=20", "model.seq=100", NULL});
        v.seq = v.config.model_seq, v.batch = 3;
        v.config.precision = bf16 ? SL_PRECISION_BF16 : SL_PRECISION_FP32;
        int64_t n = v.batch * v.seq;
        int32_t *in = calloc((size_t)n, sizeof *in);
        float *g = NULL;
        ref_random_tokens(n, v.vocab, 3, in);
        for (int threads = 1; threads <= 3; threads += 2) {
            sl_threads_set(threads);
            sl_model *m = create(&v, true, false);
            const sl_params *p = sl_model_params(m);
            loss[bf16] = forward_backward(m, in, in, 1);
            if (g)
                ck_assert_mem_eq(g, p->g, (size_t)p->floats * sizeof *g);
            else
                memcpy(g = malloc((size_t)p->floats * sizeof *g), p->g, (size_t)p->floats * sizeof *g);
            sl_model_free(m);
        }
        free(g), free(in);
    }
    ck_assert_double_eq_tol(loss[0], loss[1], 0.05 * loss[0]);
}
END_TEST

static float *decoded(sl_model *m, const ref_variant *v, const int32_t *in, int64_t to) {
    float *logits = malloc((size_t)(v->batch * v->vocab) * sizeof *logits);
    int32_t token[8];
    for (int64_t t = 0; t <= to; t++) {
        for (int64_t b = 0; b < v->batch; b++)
            token[b] = in[b * v->seq + t];
        ck_assert_msg(sl_model_decode(m, token, t, logits) == 0, "%s", sl_error());
    }
    return logits;
}

START_TEST(decoding_is_the_full_pass) {
    for (int i = 0; i < PATTERNS; i++) {
        ref_variant v = variant(_i, patterns[i]);
        int64_t n = v.batch * v.seq;
        int32_t *in = calloc((size_t)n, sizeof *in);
        float *all = malloc((size_t)(n * v.vocab) * sizeof *all);
        double want[64], tolerance = REF_FORWARD * ref_relative_error(&v.config, v.vocab, n);
        ref_random_tokens(n, v.vocab, 4, in);
        sl_model *full = create(&v, false, false), *m = sl_model_create_decoder(&v.config, v.vocab, v.batch, v.seq);
        ck_assert_msg(m != NULL, "%s", sl_error());
        ref_randomise(sl_model_params(m), 7);
        ck_assert_int_eq(sl_model_logits(full, in, all), 0);
        for (int again = 0; again < 2; again++) /* position 0 forgets all */
            for (int64_t t = 0; t < v.seq; t++) {
                float *got = decoded(m, &v, in, t);
                for (int64_t b = 0; b < v.batch; b++) {
                    for (int64_t j = 0; j < v.vocab; j++)
                        want[j] = all[(b * v.seq + t) * v.vocab + j];
                    ck_assert_double_le(ref_ratio(v.vocab, got + b * v.vocab, want, tolerance), 1);
                }
                free(got);
            }
        float *logits = decoded(m, &v, in, 3);
        ck_assert_int_eq(sl_model_decode(m, in, 2, logits), -1);
        ck_error(named(_i, "cannot go back to position 2: mixer @ of layer"));
        ck_error("keeps the state of position 4 alone; begin again at 0");
        free(logits), free(all), free(in);
        sl_model_free(full), sl_model_free(m);
    }
}
END_TEST

/* Of heads up to the last whose decay is below 1 in fp32. */
START_TEST(decays_of_retnet_are_exact) {
    enum { HEADS = 20, T = 4 };
    float v[T * 6], decay[T], weight[T], length[T];
    int32_t in[T] = {1, 2, 3, 4};
    ref_variant r = variant(RETNET, patterns[0]);
    r.config.gdn_heads = HEADS, r.config.gdn_key_dim = r.config.gdn_value_dim = 2;
    r.batch = 1, r.seq = r.config.model_seq = T;
    sl_model *m = create(&r, false, true);
    ck_assert_int_eq(sl_model_forward(m, in, NULL, NULL, NULL), 0);
    for (int h = 0; h < HEADS; h++) {
        sl_model_recurrence_head(m, 0, 0, h, &(sl_recurrence_head){.q = v, .k = v + 2 * T, .v = v + 4 * T,
                                                                .decay = decay, .weight = weight,
                                                                .length = length});
        for (int t = 0; t < T; t++)
            ck_assert(decay[t] < 1 && (double)decay[t] == 1 - ldexp(1, -5 - h) && weight[t] == 1);
    }
    sl_model_free(m);
}
END_TEST

static int64_t decoder_bytes(const ref_variant *v, int64_t window) {
    ref_variant wide = *v;
    wide.config.model_seq = window;
    sl_model *m = sl_model_create_decoder(&wide.config, v->vocab, v->batch, window);
    ck_assert_msg(m != NULL, "%s", sl_error());
    int64_t bytes = sl_model_activation_bytes(m);
    sl_model_free(m);
    return bytes;
}

/* All that a decoder keeps of earlier positions, and works in: a state does not grow with the window. Keys and values
 * do, by 2 floats for each channel of theirs. */
START_TEST(a_state_does_not_grow_with_the_window) {
    const int64_t windows[] = {64, 1024, 16384};
    ref_variant v = variant(_i, patterns[0]), mixed = variant(_i, patterns[1]);
    int64_t channels = sl_config_kv_heads(&mixed.config) * sl_config_head_dim(&mixed.config), attending = 0;
    for (int64_t i = 0; i < mixed.config.model_layers; i++)
        attending += sl_mixer_of(&mixed.config, i)->attends;
    ck_assert_int_gt(attending, 0);
    for (int i = 1; i < 3; i++) {
        ck_assert_int_eq(decoder_bytes(&v, windows[i]), decoder_bytes(&v, windows[0]));
        ck_assert_int_ge(decoder_bytes(&mixed, windows[i]) - decoder_bytes(&mixed, windows[0]),
                         (windows[i] - windows[0]) * mixed.batch * attending * 2 * channels * (int64_t)sizeof(float));
    }
}
END_TEST

/* What a token costs: 6 FLOP a parameter in matrices, and what each mixer says. */
START_TEST(flops_are_counted_by_layer) {
    ref_variant v = variant(0, patterns[1]);
    sl_model *m = create(&v, true, false);
    const sl_config *c = &v.config;
    const sl_params *p = sl_model_params(m);
    double matrices = 0, mixers = 6.0 * (double)(2 * c->model_dim + v.seq * c->model_heads * sl_config_head_dim(c));
    for (int i = 0; i < p->count; i++)
        if (p->tensor[i].ndim > 1 && strcmp(p->tensor[i].name, "model.embed_tokens.weight"))
            matrices += (double)p->tensor[i].size;
    ck_assert_msg(!c->model_tie_embeddings, "the variant has a head of its own");
    ck_assert_double_eq(sl_model_flops_per_token(m), 6 * matrices + mixers);
    sl_model_free(m);
}
END_TEST

/* ---- training */

/* Steps from `first` to `end` on windows of a rule that wants the tokens before. The last loss. */
static double train(sl_optim *o, const ref_variant *v, int64_t first, int64_t end) {
    int32_t in[64], target[64];
    sl_step_result r = {0};
    for (int64_t step = first; step < end; step++) {
        for (int64_t i = 0; i < v->batch * v->seq; i++) {
            in[i] = (int32_t)((step + i) * 3 % v->vocab);
            target[i] = (int32_t)((step + i + 1) * 3 % v->vocab);
        }
        ck_assert_msg(sl_train_step(o, in, target, 1, step, NULL, NULL, &r) == 0, "%s", sl_error());
    }
    return r.loss;
}

static const sl_tensor *tensor(const sl_params *p, const char *name) {
    int i = sl_params_find(p, name);
    ck_assert_msg(i >= 0, "no tensor %s", name);
    return &p->tensor[i];
}

static void same_block(const sl_params *a, const sl_params *b, const float *x, const float *y, int moments) {
    ck_assert_int_eq(a->count, b->count);
    for (int i = 0; i < a->count; i++)
        if (a->tensor[i].moments >= moments)
            ck_assert_msg(memcmp(x + a->tensor[i].offset, y + a->tensor[i].offset,
                                 (size_t)a->tensor[i].size * sizeof *x) == 0, "%s differs", a->tensor[i].name);
}

/* A tensor of three dimensions is drawn by its own function, and is no matrix to Muon. */
START_TEST(tensors_of_more_dimensions) {
    ref_variant v = variant(0, (const char *const[]){"model.mixer=@", "train.optimizer=muon", NULL});
    sl_model *m = sl_model_create(&v.config, v.vocab, v.batch, v.seq, SL_MODEL_TRAINING);
    ck_assert_int_eq(sl_model_init(m, 1), 0);
    const sl_params *p = sl_model_params(m);
    const sl_tensor *mix = tensor(p, "model.layers.2.mean.mix");
    ck_assert(mix->ndim == 3 && mix->shape[1] == 1 && mix->shape[2] == 2 && mix->shape[3] == 1);
    ck_assert_int_eq(mix->moments, 2);
    ck_assert_int_eq(tensor(p, "model.layers.2.mean.v_proj.weight")->moments, 1);
    for (int64_t k = 0; k < mix->size; k++)
        ck_assert(k % 2 ? p->w[mix->offset + k] == 1 : p->w[mix->offset + k] < 1);
    ck_assert(p->w[mix->offset] != p->w[mix->offset + 2]);
    sl_model_free(m);
}
END_TEST

/* With each optimizer; stopped half-way, the rest has the same bits. */
START_TEST(trains_and_resumes) {
    static const char *const optimizers[] = {"train.optimizer=adamw", "train.optimizer=muon"};
    for (int i = 0; i < 2; i++) {
        ref_variant v = variant(_i, (const char *const[]){"model.mixer=[@, softmax]", "train.lr=0.02", "train.warmup=0",
                                                      "train.steps=60", optimizers[i], NULL});
        char dir[SL_DIR_CHARS];
        sl_config read;
        int32_t vocab;
        sl_model *m = sl_model_create(&v.config, v.vocab, v.batch, v.seq, SL_MODEL_TRAINING);
        sl_model *other = sl_model_create(&v.config, v.vocab, v.batch, v.seq, SL_MODEL_TRAINING);
        ck_assert_int_eq(sl_model_init(m, 1), 0);
        sl_params *p = sl_model_params(m), *q = sl_model_params(other);
        sl_optim *o = sl_optim_create(m), *after = sl_optim_create(other);
        double begin = train(o, &v, 0, 1);
        train(o, &v, 1, 30);
        ck_assert_msg(sl_model_save(m, in_scratch(optimizers[i]), &(sl_train_state){.step = 30}, 1) == 0, "%s",
                      sl_error());
        double loss = train(o, &v, 30, 60);
        ck_assert_msg(loss < begin / 2, "from %.3f to %.3f", begin, loss);
        ck_assert_msg(sl_checkpoint_open(in_scratch(optimizers[i]), dir, &read, &vocab) == 0, "%s", sl_error());
        ck_assert_mem_eq(&read.model_mixer, &v.config.model_mixer, sizeof read.model_mixer);
        ck_assert_msg(sl_model_load(other, dir, &(sl_train_state){0}) == 0, "%s", sl_error());
        ck_assert_double_eq(train(after, &v, 30, 60), loss);
        same_block(p, q, p->w, q->w, 0), same_block(p, q, p->m, q->m, 1), same_block(p, q, p->v, q->v, 2);
        sl_optim_free(o), sl_optim_free(after);
        sl_model_free(m), sl_model_free(other);
    }
}
END_TEST

/* ---- probes */

static json_t *probed(int subject, const ref_variant *v, json_t **measures) {
    int64_t n = v->batch * v->seq;
    int32_t *in = calloc((size_t)n, sizeof *in);
    uint8_t *mark = calloc((size_t)n, 1);
    sl_sink_dims sinks[4] = {{1, {2}, {6}}, {1, {2}, {6}}, {1, {2}, {6}}, {1, {2}, {6}}};
    ref_random_tokens(n, v->vocab, 5, in);
    mark[3] = 1;
    sl_model *m = create(v, false, true);
    sl_probe *p = sl_probe_create(m);
    sl_detail *d = sl_detail_create(m, (1u << SL_MEASURES) - 1, v->batch, sinks);
    ck_assert_msg(p && d, "%s", sl_error());
    ck_assert_int_eq(sl_model_forward(m, in, NULL, NULL, NULL), 0);
    ck_assert_msg(sl_probe_add_marked(p, m, mark) == 0 && sl_detail_add(d, m) == 0, "%s", sl_error());
    json_t *o = sl_probe_result(p, m, true);
    *measures = sl_detail_result(d);
    ck_assert_msg(o && *measures, "%s", sl_error());
    for (int i = 0; i < v->config.model_layers; i++)
        if (!sl_model_attends(m, i)) {
            ck_assert_ptr_null(sl_model_qkv(m, i).q);
            ck_error(named(subject, "has no queries and keys: its mixer is @"));
        }
    sl_detail_free(d), sl_probe_free(p), sl_model_free(m);
    free(in), free(mark);
    return o;
}

static const json_t *in_layer(const json_t *layers, size_t i, const char *key) {
    return json_object_get(json_array_get(layers, i), key);
}

/* A figure is null where a reason stands beside it, and nowhere else. */
static void null_with_a_reason(const char *name, const json_t *o, const json_t *why) {
    ck_assert_msg(json_is_null(json_object_get(o, name)) == json_is_string(json_object_get(why, name)), "%s", name);
}

static void check_recurrence(int subject, const json_t *layers, size_t i, bool attends) {
    static const char *const figures[] = {"share", "head", "gate", "norm_in", "alignment"},
                             *const of_heads[] = {"half_life", "weight", "below_eps"};
    const json_t *layer = json_array_get(layers, i), *why = json_object_get(layer, "why"), *h;
    size_t n;
    bool keeps = !attends && strcmp(subjects[subject].name, "mean") != 0;
    ck_assert_int_eq(json_is_array(json_object_get(layer, "head")), keeps);
    ck_assert_int_eq(json_is_array(json_object_get(layer, "share")), keeps || attends);
    for (size_t f = 0; f < sizeof figures / sizeof *figures; f++)
        null_with_a_reason(figures[f], layer, why);
    json_array_foreach(json_object_get(layer, "head"), n, h) {
        double att0 = json_number_value(json_object_get(h, "att0"));
        ck_assert(att0 > 0 && att0 < 1 && json_number_value(json_object_get(h, "stable_rank")) >= 1 - 1e-6);
        ck_assert(json_is_real(json_object_get(h, "rms")) && json_is_real(json_object_get(h, "state_token0")));
        for (size_t f = 0; f < sizeof of_heads / sizeof *of_heads; f++)
            null_with_a_reason(of_heads[f], h, why);
    }
}

/* Of a layer without attention: no figure of it, its name, and all else. */
static void check_layer(int subject, const json_t *layers, const json_t *measures, size_t i, bool attends) {
    const json_t *x, *contribution = json_object_get(measures, "contribution"),
                     *outliers = json_object_get(measures, "outliers");
    size_t h;
    json_array_foreach(in_layer(layers, i, "att0"), h, x)
        ck_assert_int_eq(json_is_number(x), attends);
    json_array_foreach(in_layer(contribution, i, "head"), h, x)
        ck_assert_int_eq(json_is_number(x), attends);
    ck_assert_int_eq(json_is_number(in_layer(layers, i, "value_norm_ratio")), attends);
    ck_assert_int_eq(json_is_object(in_layer(outliers, i, "q")), attends);
    ck_assert(json_is_object(in_layer(outliers, i, "attention_output")));
    ck_assert(json_is_number(in_layer(layers, i, "m2")));
    check_recurrence(subject, json_object_get(measures, "recurrence"), i, attends);
    const char *mixer = json_string_value(in_layer(layers, i, "mixer"));
    ck_assert_int_eq(mixer == NULL, attends);
    ck_assert(!mixer || strcmp(mixer, subjects[subject].name) == 0);
}

START_TEST(probes_ask_the_mixer) {
    static const char *const figures[] = {"att0", "sink_rate", "attention_entropy", "value_norm_ratio"};
    json_t *measures;
    for (int i = 0; i < PATTERNS; i++) {
        ref_variant v = variant(_i, patterns[i]);
        v.seq = v.config.model_seq = 12; /* more than the tokens whose share is told */
        json_t *o = probed(_i, &v, &measures), *layers = json_object_get(o, "layers");
        int attending = 0;
        double sum = 0;
        for (int64_t layer = 0; layer < v.config.model_layers; layer++) {
            bool attends = sl_mixer_of(&v.config, layer)->attends;
            check_layer(_i, layers, measures, (size_t)layer, attends);
            attending += attends;
            const json_t *heads = in_layer(layers, (size_t)layer, "att0");
            for (size_t h = 0; attends && h < json_array_size(heads); h++)
                sum += json_number_value(json_array_get(heads, h)) / (double)json_array_size(heads);
        }
        for (size_t f = 0; f < sizeof figures / sizeof *figures; f++)
            ck_assert_int_eq(json_is_number(json_object_get(o, figures[f])), attending > 0);
        ck_assert_int_eq(json_is_number(json_object_get(o, "att0_trigger")), attending > 0);
        if (attending)
            ck_assert_double_eq_tol(json_number_value(json_object_get(o, "att0")), sum / attending, 1e-12);
        json_decref(o), json_decref(measures);
    }
}
END_TEST

/* A row s of the state before position t, of its channel c, becomes that behind it; o there but for skip v. */
static double head_step(const sl_recurrence_sizes *of, const sl_recurrence_head *h, int64_t t, int64_t c, double *s) {
    int64_t n = of->key_dim, at = t * n;
    double had = 0, v = h->v[t * of->value_dim + c], o = 0;
    for (int64_t j = 0; j < n; j++)
        had += of->channels ? s[j] * h->read[at + j] : (s[j] *= h->decay[t]) * h->k[at + j];
    for (int64_t j = 0; j < n; j++) {
        if (of->channels)
            s[j] = s[j] * h->fade[at + j] - had * h->erase[at + j] + v * h->k[at + j];
        else
            s[j] += h->weight[t] * (v - (of->rule ? had : 0)) * h->k[at + j];
        o += s[j] * h->q[at + j];
    }
    return o;
}

/* The largest difference of S q + skip v from what the block's core gave, by the largest of that. */
static double error_of_heads(const sl_model *m, int layer, const ref_variant *v) {
    sl_recurrence_sizes of;
    if (!sl_model_recurrence(m, layer, &of))
        return 0;
    int64_t width = sl_model_tap_width(m, layer, SL_TAP_CORE), n = v->seq;
    float *core = calloc((size_t)(v->batch * n * width), sizeof *core);
    float *f = calloc((size_t)(n * (5 * of.key_dim + of.value_dim + 3)), sizeof *f);
    double *s = calloc((size_t)of.key_dim, sizeof *s), worst = 0, most = 0;
    sl_recurrence_head h = {.q = f, .k = f + n * of.key_dim, .v = f + 2 * n * of.key_dim};
    h.decay = h.v + n * of.value_dim, h.weight = h.decay + n, h.length = h.weight + n;
    h.fade = h.length + n, h.read = h.fade + n * of.key_dim, h.erase = h.read + n * of.key_dim;
    ck_assert(width == of.heads * of.value_dim && sl_model_tap(m, layer, SL_TAP_CORE, core));
    ck_assert_msg(sl_model_fetch_recurrence(m, layer) == 0, "%s", sl_error());
    for (int64_t i = 0; i < v->batch * of.heads * of.value_dim; i++) {
        int64_t window = i / width, c = i % of.value_dim;
        sl_model_recurrence_head(m, layer, window, i % width / of.value_dim, &h);
        memset(s, 0, (size_t)of.key_dim * sizeof *s);
        for (int64_t t = 0; t < n; t++) {
            double o = head_step(&of, &h, t, c, s) + h.skip * h.v[t * of.value_dim + c];
            double got = core[(window * n + t) * width + i % width];
            worst = fmax(worst, fabs(o - got)), most = fmax(most, fabs(got));
        }
    }
    free(core), free(f), free(s);
    return worst / most;
}

/* What probes see of a mixer with a state is what it computes: to some roundings of fp32, or one of bf16. */
START_TEST(heads_give_the_output) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        ref_variant v = variant(_i, patterns[0]);
        v.config.precision = bf16 ? SL_PRECISION_BF16 : SL_PRECISION_FP32;
        int32_t *in = calloc((size_t)(v.batch * v.seq), sizeof *in);
        ref_random_tokens(v.batch * v.seq, v.vocab, 5, in);
        sl_model *m = create(&v, false, true);
        ck_assert_int_eq(sl_model_forward(m, in, NULL, NULL, NULL), 0);
        for (int i = 0; i < v.config.model_layers; i++) {
            double error = error_of_heads(m, i, &v);
            ck_assert_msg(error <= (bf16 ? 0x1p-8 : 1e-5), "%s, layer %d: %g", subjects[_i].name, i, error);
        }
        sl_model_free(m);
        free(in);
    }
}
END_TEST

/* What there is nothing of is refused, in one line. */
START_TEST(keys_and_values_are_missed) {
    const sl_quant_options o = {.smooth = -1, .kv = true};
    ref_variant v = variant(_i, patterns[0]), mixed = variant(_i, patterns[1]);
    ck_assert_int_eq(sl_transform_check(&mixed.config, &o), 0);
    ck_assert_int_eq(sl_transform_check(&v.config, &o), -1);
    ck_error(named(_i, "--kv rounds keys and values, and no block of this checkpoint has any: its mixer is @; leave it "
                       "out"));
}
END_TEST

/* ---- the command line */

/* What the verb writes to standard output, to be freed. */
static char *said(int (*verb)(int, char **), const char *const *args) {
    char *argv[16] = {0};
    int argc = 0, out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    size_t n;
    for (; args[argc]; argc++)
        argv[argc] = strdup(args[argc]);
    fflush(stdout), fflush(stderr);
    int fd = open(in_scratch("said"), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    ck_assert(fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0 && dup2(fd, STDERR_FILENO) >= 0);
    int rc = verb(argc, argv);
    fflush(stdout), fflush(stderr);
    dup2(out, STDOUT_FILENO), dup2(err, STDERR_FILENO);
    close(fd), close(out), close(err);
    ck_assert_msg(rc == 0, "%s: %s", args[0], sl_error());
    char *text = (char *)get_file(in_scratch("said"), &n);
    text[n] = '\0';
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    return text;
}

static const char config[] = "model: {layers: 3, dim: 32, heads: 2, ffn: 48, seq: 32, mixer: softmax}\n"
                             "data: {corpus: synthetic:copy, synthetic: {symbols: 8}}\n"
                             "train: {steps: 4, batch: 4, warmup: 0, eval_every: 0, eval_windows: 4, probe_every: 2}\n"
                             "threads: 2\nprecision: fp32\n";

static char *train_run(int subject) {
    char *run = strdup(in_scratch(named(subject, "run-@"))), *yaml = strdup(in_scratch("mixer.yaml")), *mixer;
    mixer = strdup(named(subject, "model.mixer=[@, softmax]"));
    put_file(yaml, config, sizeof config - 1);
    const char *args[6 + SIZES] = {"train", yaml, "--out", run, mixer};
    for (int i = 0; i < SIZES; i++)
        args[5 + i] = subjects[subject].sizes[i];
    free(said(sl_verb_train, args));
    free(yaml), free(mixer);
    return run;
}

static bool exists(const char *folder, const char *file) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    return access(path, F_OK) == 0;
}

static void check_probe_verb(int subject, const char *run) {
    char *acts = strdup(in_scratch(named(subject, "acts-@")));
    const char *const args[] = {"probe", run,  "--windows", "2",   "--measures", "all",
                                "--dump", acts, "--what",    "all", NULL};
    char *text = said(sl_verb_probe, args);
    const char *told = named(subject, "without attention: 0 (@), 2 (@); figures, measures and dumps of queries, keys, "
                                      "values and attention leave these blocks out\n");
    ck_assert_msg(strstr(text, told) != NULL, "%s", text);
    ck_assert(exists(acts, "q.001.npy") && exists(acts, "attention.001.npy"));
    ck_assert(exists(acts, "attention_output.000.npy"));
    ck_assert(!exists(acts, "q.000.npy") && !exists(acts, "attention.002.npy"));
    ck_assert(exists(acts, "att0.npy") && exists(acts, "contribution.npy"));
    free(text), free(acts);
}

static double quantised(const char *checkpoint, const char *const *flags) {
    const char *args[16] = {"quantize", checkpoint, "--json", "--windows", "4"};
    for (int i = 5; *flags; flags++)
        args[i++] = *flags;
    char *text = said(sl_verb_quantize, args);
    json_t *o = json_loads(text, 0, NULL);
    double loss = json_number_value(json_object_get(json_object_get(o, "loss"), "value"));
    double fp32 = json_number_value(json_object_get(json_object_get(o, "fp32"), "loss"));
    ck_assert_msg(!(fp32 > 0) || fabs(loss - fp32) < 1e-3, "%s", text); /* no transformation changes the function */
    ck_assert_msg(loss > 0, "%s", text);
    json_decref(o);
    free(text);
    return loss;
}

static void check_quantize_verb(int subject, const char *run) {
    static const char *const transforms[][4] = {
        {"--calibration", "4"}, {"--calibration", "4", "--smooth", "0.5"}, {"--calibration", "4", "--migrate"},
        {"--calibration", "4", "--rotate"}};
    for (size_t i = 0; i < sizeof transforms / sizeof *transforms; i++) {
        char name[64], *folder;
        snprintf(name, sizeof name, "export-%s-%zu", subjects[subject].name, i);
        folder = strdup(in_scratch(name));
        const char *flags[9] = {"--scheme", "w8a8-channel-static", "--export", folder};
        for (int k = 0; k < 4 && transforms[i][k]; k++)
            flags[4 + k] = transforms[i][k];
        double loss = quantised(run, flags);
        ck_assert_double_eq(quantised(folder, (const char *const[]){NULL}), loss);
        free(folder);
    }
}

START_TEST(verbs_take_a_model_with_other_mixers) {
    char *run = train_run(_i), text[SL_DIR_CHARS + 16], dir[SL_DIR_CHARS];
    sl_config c;
    int32_t vocab;
    size_t n;
    ck_assert_int_eq(sl_checkpoint_open(run, dir, &c, &vocab), 0);
    snprintf(text, sizeof text, "%s/config.json", dir);
    char *hf = (char *)get_file(text, &n);
    hf[n] = '\0';
    ck_assert_msg(strstr(hf, "SinklabForCausalLM") != NULL, "%s", hf); /* not a Llama to others */
    check_probe_verb(_i, run);
    check_quantize_verb(_i, run);
    free(hf), free(run);
}
END_TEST

int main(void) {
    Suite *s = suite_create("mixer");
    TCase *t = tcase_create("mixer");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_set_timeout(t, 0);
    tcase_add_test(t, patterns_are_read_and_written);
    tcase_add_loop_test(t, gradients_are_those_of_the_reference, 0, SUBJECTS);
    tcase_add_loop_test(t, threads_and_bf16, 0, SUBJECTS);
    tcase_add_loop_test(t, decoding_is_the_full_pass, 0, SUBJECTS);
    tcase_add_loop_test(t, a_state_does_not_grow_with_the_window, 0, SUBJECTS);
    tcase_add_test(t, decays_of_retnet_are_exact);
    tcase_add_test(t, flops_are_counted_by_layer);
    tcase_add_test(t, tensors_of_more_dimensions);
    tcase_add_loop_test(t, trains_and_resumes, 0, SUBJECTS);
    tcase_add_loop_test(t, probes_ask_the_mixer, 0, SUBJECTS);
    tcase_add_loop_test(t, heads_give_the_output, 0, SUBJECTS);
    tcase_add_loop_test(t, keys_and_values_are_missed, 0, SUBJECTS);
    tcase_add_loop_test(t, verbs_take_a_model_with_other_mixers, 0, SUBJECTS);
    suite_add_tcase(s, t);
    return run_suite(s);
}
