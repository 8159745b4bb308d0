/* Quantised models: integer products on either unit are the same bits, a window's result is its own, nothing that is
 * not finite passes, and what calibration learns. Values: golden quant_model. */
#include "base/err.h"
#include "base/threads.h"
#include "model/model.h"
#include "ops/quant/quantise.h"
#include "quant/calibrate.h"
#include "quant/evaluate.h"
#include "quant/keep.h"
#include "quant/layers.h"
#include "quant/weights.h"
#include "ref/variants.h"
#include "suite.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ref_variant v;
    int64_t rows, values;
    int32_t *in;
    float *logits, *other;
} fixture;

static void setup(fixture *f) {
    f->rows = f->v.batch * f->v.seq;
    f->values = f->rows * f->v.vocab;
    f->in = calloc((size_t)f->rows, sizeof *f->in);
    f->logits = calloc((size_t)f->values, sizeof *f->logits);
    f->other = calloc((size_t)f->values, sizeof *f->other);
    ref_random_tokens(f->rows, f->v.vocab, 11, f->in);
}

static void teardown(fixture *f) { free(f->in), free(f->logits), free(f->other); }

/* The model of a middle size whose name begins so; its sums are longer than exact ones in fp32 at a time. */
static void find(fixture *f, const char *name) {
    int i = 0;
    do
        ck_assert_msg(ref_variant_middle(i++, &f->v), "no variant %s", name);
    while (strncmp(f->v.name, name, strlen(name)) != 0);
    f->v.config.model_ffn = 900;
    setup(f);
}

static sl_model *create(const fixture *f, const sl_quant_options *o, int64_t batch) {
    sl_model *m = sl_model_create_quantised(&f->v.config, f->v.vocab, batch, f->v.seq, o);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ref_randomise(sl_model_params(m), 3);
    if (!o->scheme)
        return m;
    sl_quant_weights *w = sl_quant_weights_new(sl_model_params(m), o);
    ck_assert_msg(w && sl_quant_weights_round(w, sl_model_kernels(m), sl_model_params(m)) == 0, "%s", sl_error());
    ck_assert(sl_quant_weights_apply(w, m) == 0);
    sl_quant_weights_free(w);
    sl_quant_place p;
    for (int i = 0; sl_model_quant_place(m, i, &p); i++)
        if (sl_range_is_static(p.point->range))
            sl_quant_set_range(&p, -1.5f, 2.5f);
    return m;
}

static void run(const fixture *f, const sl_quant_options *o, float *logits) {
    sl_model *m = create(f, o, f->v.batch);
    ck_assert_msg(sl_model_logits(m, f->in, logits) == 0, "%s", sl_error());
    sl_model_free(m);
}

/* The matrices of the blocks' layers are zero. */
static void run_without_matrices(const fixture *f, const sl_quant_options *o, float *logits) {
    sl_model *m = sl_model_create_quantised(&f->v.config, f->v.vocab, f->v.batch, f->v.seq, o);
    ck_assert_msg(m != NULL, "%s", sl_error());
    sl_params *p = sl_model_params(m);
    ref_randomise(p, 3);
    for (int i = 0; i < p->count; i++)
        if (p->tensor[i].place.part && p->tensor[i].place.layer != SL_NO_LAYER)
            memset(p->w + p->tensor[i].offset, 0, (size_t)p->tensor[i].size * sizeof *p->w);
    sl_quant_weights *w = o->scheme ? sl_quant_weights_new(p, o) : NULL;
    ck_assert(!w || (sl_quant_weights_round(w, sl_model_kernels(m), p) == 0 && sl_quant_weights_apply(w, m) == 0));
    ck_assert_msg(sl_model_logits(m, f->in, logits) == 0, "%s", sl_error());
    if (w)
        sl_quant_weights_free(w);
    sl_model_free(m);
}

/* Every integer scheme, on every tier and what it has for int8: the same bits as exact fp32 products. */
START_TEST(real_is_fake) {
    fixture f;
    find(&f, "rmsnorm");
    for (int i = 0; i < sl_schemes(); i++)
        for (int isa = SL_ISA_AUTO; isa <= SL_ISA_AVX512; isa++) {
            sl_quant_options o = {.scheme = sl_scheme_at(i), .smooth = -1};
            if (!sl_scheme_is_integer(o.scheme) || (isa != SL_ISA_AUTO && !sl_kernels_tier((enum sl_isa)isa)))
                continue;
            f.v.config.isa = isa;
            run(&f, &o, f.logits);
            o.real = true;
            run(&f, &o, f.other);
            ck_assert_msg(memcmp(f.logits, f.other, (size_t)f.values * sizeof *f.logits) == 0, "%s, isa %s",
                          o.scheme->name, sl_choices_isa[isa].name);
        }
    teardown(&f);
}
END_TEST

/* Each scheme, flags and rotation on: other threads and other windows in the batch change no bit of a window. */
START_TEST(windows_and_threads) {
    static const char *const names[] = {"rmsnorm", "gated_norm", "dyt"};
    for (int i = 0; i < sl_schemes(); i++) {
        fixture f;
        find(&f, names[i % 3]);
        bool rounds = sl_scheme_at(i)->range != SL_RANGE_NONE;
        sl_quant_options o = {.scheme = sl_scheme_at(i),
                              .smooth = -1,
                              .head = i % 2,
                              .embedding = i % 2,
                              .kv = rounds && i % 3,
                              .rotate = i % 5 == 0};
        f.v.config.model_tie_embeddings = false;
        sl_threads_set(1);
        run(&f, &o, f.logits);
        sl_threads_set(3);
        sl_model *m = create(&f, &o, 1);
        for (int64_t w = 0; w < f.v.batch; w++)
            ck_assert(sl_model_logits(m, f.in + w * f.v.seq, f.other + w * f.v.seq * f.v.vocab) == 0);
        sl_model_free(m);
        ck_assert_msg(memcmp(f.logits, f.other, (size_t)f.values * sizeof *f.logits) == 0, "%s", o.scheme->name);
        teardown(&f);
    }
}
END_TEST

/* Mixtures too, but for the bits of products whose rows are cut otherwise: there are none. */
START_TEST(mixtures) {
    fixture f;
    for (int i = 0; ref_variant_moe(i, &f.v); i++) {
        sl_quant_options o = {.scheme = sl_scheme_find(i % 2 ? "w8a8-channel-window" : "nvfp4-token"), .smooth = -1,
                              .rotate = i % 3 == 0};
        setup(&f);
        sl_threads_set(1);
        run(&f, &o, f.logits);
        sl_threads_set(2);
        sl_model *m = create(&f, &o, 1);
        for (int64_t w = 0; w < f.v.batch; w++)
            ck_assert(sl_model_logits(m, f.in + w * f.v.seq, f.other + w * f.v.seq * f.v.vocab) == 0);
        sl_model_free(m);
        ck_assert_msg(memcmp(f.logits, f.other, (size_t)f.values * sizeof *f.logits) == 0, "%s", f.v.name);
        teardown(&f);
    }
}
END_TEST

/* Options of models from elsewhere: products of either kind are the same bits. With matrices of zeros, which every
 * scheme has exactly, what is left is that of the plain model: biases above all. */
START_TEST(elsewhere) {
    fixture f;
    for (int i = 0; ref_variant_elsewhere(i, &f.v); i++) {
        sl_quant_options o = {.scheme = sl_scheme_find(i % 2 ? "w8a8-channel-token" : "w8a8-channel-window"),
                              .smooth = -1, .rotate = i % 3 == 0};
        setup(&f);
        run(&f, &o, f.logits);
        o.real = true;
        run(&f, &o, f.other);
        ck_assert_msg(memcmp(f.logits, f.other, (size_t)f.values * sizeof *f.logits) == 0, "%s", f.v.name);
        o.rotate = false;
        run_without_matrices(&f, &o, f.logits);
        run_without_matrices(&f, &(sl_quant_options){.smooth = -1}, f.other);
        ck_assert_msg(memcmp(f.logits, f.other, (size_t)f.values * sizeof *f.logits) == 0, "%s: biases", f.v.name);
        teardown(&f);
    }
}
END_TEST

/* What is not finite is refused by name: in a matrix, and in what a layer reads. */
START_TEST(not_finite) {
    static const char *const schemes[] = {"w8a8-channel-token", "w8a8-tensor-static", "nvfp4-static", "mxfp4"};
    for (size_t k = 0; k < sizeof schemes / sizeof *schemes; k++) {
        fixture f;
        find(&f, "rmsnorm");
        sl_quant_options o = {.scheme = sl_scheme_find(schemes[k]), .smooth = -1};
        sl_model *m = create(&f, &o, f.v.batch);
        sl_params *p = sl_model_params(m);
        const sl_tensor *t = p->tensor + sl_params_find(p, "model.layers.1.post_attention_layernorm.weight");
        p->w[t->offset + 3] = k % 2 ? NAN : INFINITY;
        ck_assert(sl_model_forward(m, f.in, NULL, NULL, NULL) < 0);
        ck_assert_msg(strstr(sl_error(), "cannot quantise layers.1.ffn.in: it has a NaN or an infinity"), "%s",
                      sl_error());
        t = p->tensor + sl_params_find(p, "model.layers.0.self_attn.k_proj.weight");
        p->w[t->offset] = NAN;
        sl_quant_weights *w = sl_quant_weights_new(p, &o);
        ck_assert(sl_quant_weights_round(w, sl_model_kernels(m), p) < 0);
        ck_assert_msg(strstr(sl_error(), "model.layers.0.self_attn.k_proj.weight"), "%s", sl_error());
        sl_quant_weights_free(w);
        sl_model_free(m);
        teardown(&f);
    }
}
END_TEST

/* Which matrices are rounded: those of the layers, head and embeddings by flag, and never a router, a gate's or a
 * norm's. */
START_TEST(rounded_matrices) {
    fixture f;
    find(&f, "gated_norm");
    sl_quant_options o = {.scheme = sl_scheme_find("mxfp4"), .smooth = -1};
    for (int flags = 0; flags < 2; flags++) {
        o.head = o.embedding = flags;
        f.v.config.model_tie_embeddings = false;
        sl_model *m = create(&f, &o, f.v.batch);
        const sl_params *p = sl_model_params(m);
        sl_quant_weights *w = sl_quant_weights_new(p, &o);
        ck_assert_int_eq(w->count, 2 * 7 + (flags ? 2 : 0));
        for (int i = 0; i < w->count; i++) {
            const char *name = p->tensor[w->matrix[i].tensor].name;
            ck_assert_msg(strstr(name, "_proj.weight") ||
                              (flags && (strstr(name, "lm_head") || strstr(name, "embed_tokens"))),
                          "%s", name);
        }
        sl_quant_weights_free(w);
        sl_model_free(m);
    }
    o.head = true, o.embedding = false;
    f.v.config.model_tie_embeddings = true;
    ck_assert(sl_quant_weights_check(&f.v.config, &o) < 0);
    ck_assert_msg(strstr(sl_error(), "model.tie_embeddings"), "%s", sl_error());
    teardown(&f);
}
END_TEST

static int kinds(void) {
    char name[SL_SCOPE_CHARS];
    int n = 0;
    while (sl_keep_name(n, name))
        n++;
    return n;
}

/* Without one kind its matrices, and the places before it, are not rounded; all others are. */
static void check_kept(const fixture *f, sl_quant_options o, int kind) {
    sl_model *all = create(f, &o, f->v.batch);
    sl_keep_add(&o, kind);
    sl_model *m = create(f, &o, f->v.batch);
    const sl_params *p = sl_model_params(m);
    sl_quant_weights *w = sl_quant_weights_new(p, &o);
    sl_scope kept = sl_block_layer_scope(sl_rounded_layer(kind), 0);
    for (int i = 0; i < p->count; i++) {
        int64_t block;
        const sl_block_layer *l = sl_block_layer_of(&p->tensor[i], &block);
        bool its = l && l->half == kept.half && l->part == kept.part;
        ck_assert_msg(!l || !l->linear || (sl_quant_matrix_of(w, i) != NULL) != its, "%s", p->tensor[i].name);
    }
    for (int i = 0; sl_rounded_layer(i); i++) {
        sl_quant_place place;
        sl_scope scope = sl_block_layer_scope(sl_rounded_layer(i), 1);
        bool there = sl_model_place_before(all, scope, &place);
        ck_assert_int_eq(sl_model_place_before(m, scope, &place), there && i != kind);
    }
    sl_quant_weights_free(w);
    sl_model_free(m), sl_model_free(all);
}

/* With all kinds kept it is the plain model, rotated or not, to the bit. */
START_TEST(kept_layers) {
    static const char *const schemes[] = {"w4a4-channel-token", "nvfp4-token", "w8a8-tensor-static"};
    fixture f;
    find(&f, "gated_norm");
    ck_assert(sl_config_override(&f.v.config, "model.attention_opts.gate=elementwise") == 0);
    for (size_t k = 0; k < sizeof schemes / sizeof *schemes; k++) {
        sl_quant_options o = {.scheme = sl_scheme_find(schemes[k]), .smooth = -1, .rotate = k == 1};
        for (int i = 0; i < kinds(); i++)
            check_kept(&f, o, i);
        run(&f, &o, f.logits);
        for (int i = 0; i < kinds(); i++)
            sl_keep_add(&o, i);
        run(&f, &o, f.other);
        ck_assert(memcmp(f.logits, f.other, (size_t)f.values * sizeof *f.logits) != 0);
        o.scheme = NULL;
        run(&f, &o, f.logits);
        ck_assert_msg(memcmp(f.logits, f.other, (size_t)f.values * sizeof *f.logits) == 0, "%s", schemes[k]);
    }
    teardown(&f);
}
END_TEST

START_TEST(names_of_kept_layers) {
    char name[SL_SCOPE_CHARS];
    for (int i = 0; i < kinds(); i++) {
        sl_quant_options o = {.smooth = -1}, read = {.smooth = -1};
        sl_keep_add(&o, i);
        json_t *names = sl_keep_json(&o);
        ck_assert_int_eq(json_array_size(names), 1);
        ck_assert_str_eq(json_string_value(json_array_get(names, 0)), sl_keep_name(i, name));
        ck_assert(sl_keep_read(names, &read) && memcmp(o.keep, read.keep, sizeof o.keep) == 0);
        json_decref(names);
    }
    static const char *const damaged[] = {"[\"attn\"]", "[3]", "{\"attn.qkv\": 1}", "\"attn.qkv\""};
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        json_t *x = json_loads(damaged[i], JSON_DECODE_ANY, NULL);
        ck_assert_msg(x && !sl_keep_read(x, &(sl_quant_options){.smooth = -1}), "%s", damaged[i]);
        json_decref(x);
    }
    ck_assert(sl_keep_read(NULL, &(sl_quant_options){.smooth = -1}));
}
END_TEST

/* ---- calibration */

START_TEST(quantiles) {
    enum { N = 1000, DIM = 4 };
    float x[N];
    sl_seen *s = sl_seen_new(DIM, N / DIM);
    for (int i = 0; i < N; i++)
        x[i] = (float)((i * 37) % N) - 200; /* -200 .. 799, each once */
    sl_seen_add(s, N / DIM, x, DIM);
    ck_assert(s->rows == N / DIM && s->lo == -200 && s->hi == 799);
    /* Bins are at most 1/128 wide. */
    for (double p = 0.01; p < 1; p += 0.07) {
        double want = p * N - 200;
        ck_assert_double_eq_tol(sl_seen_quantile(s, p, false), want, 1 + fabs(want) / 128);
        want = p * N <= 400 ? p * N / 2 : p * N - 200; /* magnitudes up to 200 are there twice */
        ck_assert_double_eq_tol(sl_seen_quantile(s, p, true), want, 1 + want / 128);
    }
    ck_assert(sl_seen_quantile(s, 1, true) >= 799 && sl_seen_quantile(s, 1, true) <= 799 * 129 / 128.0);
    for (int j = 0; j < DIM; j++) {
        float most = 0;
        for (int i = j; i < N; i += DIM)
            most = fmaxf(most, fabsf(x[i]));
        ck_assert(s->channel[j] == most);
    }
    ck_assert(s->row_lo[0] == fminf(fminf(x[0], x[1]), fminf(x[2], x[3])));
    sl_seen_free(s);
}
END_TEST

/* t quantiles of tables, and the interval of a sample by hand. */
START_TEST(intervals) {
    static const struct {
        int64_t df;
        double t;
    } table[] = {{1, 12.7062}, {2, 4.30265}, {3, 3.18245}, {4, 2.77645}, {9, 2.26216}, {30, 2.04227}, {127, 1.97882},
                 {1000, 1.96234}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        ck_assert_double_eq_tol(sl_student_quantile(0.95, table[i].df), table[i].t, 1e-5 * table[i].t);
    double x[] = {3, 5, 10}, y[] = {1, 2, 4};
    sl_interval v = sl_mean_interval(3, x, y); /* 2, 3, 6: mean 11/3, variance 13/3 */
    ck_assert_double_eq_tol(v.mean, 11.0 / 3, 1e-12);
    ck_assert_double_eq_tol(v.half, 4.30265 * sqrt(13.0 / 3 / 3), 1e-4);
    ck_assert(isnan(sl_mean_interval(1, x, NULL).half));
}
END_TEST

/* Errors of a row are those of its formula. */
START_TEST(errors) {
    float x[] = {3, 4, 0, 0}, y[] = {3, 3, 1, 0};
    sl_quant_error e = {0};
    sl_quant_error_add(&e, 2, 2, x, 2, y, 2);
    ck_assert_double_eq_tol(sl_quant_error_relative(&e), sqrt(2.0 / 25), 1e-12);
    ck_assert_double_eq_tol(sl_quant_error_cosine(&e), 21 / (5 * sqrt(19)), 1e-12);
    ck_assert(e.max == 1);
}
END_TEST

START_TEST(schemes) {
    char text[SL_SCHEME_HELP];
    for (int i = 0; i < sl_schemes(); i++) {
        ck_assert_ptr_eq(sl_scheme_find(sl_scheme_at(i)->name), sl_scheme_at(i));
        sl_scheme_describe(sl_scheme_at(i), text);
        ck_assert(strlen(text) < SL_SCHEME_HELP - 1);
    }
    ck_assert(sl_scheme_find("w8a8-chanel-token") == NULL);
    ck_assert_msg(strstr(sl_error(), "did you mean w8a8-channel-token?"), "%s", sl_error());
}
END_TEST

int main(void) {
    Suite *s = suite_create("quantised");
    TCase *t = tcase_create("quantised");
    tcase_set_timeout(t, 0);
    sl_threads_set(2);
    tcase_add_test(t, real_is_fake);
    tcase_add_test(t, windows_and_threads);
    tcase_add_test(t, mixtures);
    tcase_add_test(t, elsewhere);
    tcase_add_test(t, not_finite);
    tcase_add_test(t, rounded_matrices);
    tcase_add_test(t, kept_layers);
    tcase_add_test(t, names_of_kept_layers);
    tcase_add_test(t, quantiles);
    tcase_add_test(t, intervals);
    tcase_add_test(t, errors);
    tcase_add_test(t, schemes);
    suite_add_tcase(s, t);
    return run_suite(s);
}
