/* Quantised models against PyTorch (make_quant_model.py): logits under every scheme, on every kernel tier, with integer
 * products in fp32 and on the int8 unit. */
#include "base/err.h"
#include "base/threads.h"
#include "io/safetensors.h"
#include "model/model.h"
#include "ops/quant/quantise.h"
#include "quant/weights.h"
#include "ref/tolerance.h"
#include "simd/kernels.h"
#include "unit/suite.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    bool head, embedding, kv, windows; /* are there schemes with a scale for a window */
} kind;
static const kind kinds[] = {
    {"dense", false, false, false, true}, {"gated", true, true, true, true}, {"experts", false, false, false, false},
    {"gated_experts", false, false, false, false}};

typedef struct {
    const kind *kind;
    sl_config config;
    sl_st_file *file;
    int32_t vocab;
    int64_t rows, values;
    float *logits;
    double *want, worst;
} golden;

static const void *data_of(const golden *g, const char *scheme, const char *name, enum sl_dtype dtype, int64_t values) {
    char full[160];
    snprintf(full, sizeof full, "%s.%s", scheme, name);
    const sl_st_tensor *t = sl_st_find(g->file, full);
    ck_assert_msg(t && t->dtype == dtype, "%s: no tensor %s", g->kind->name, full);
    ck_assert_int_eq((int64_t)(t->end - t->begin), values * sl_dtype_size(dtype));
    return sl_st_data(g->file, t);
}

static golden open_case(const kind *k) {
    golden g = {.kind = k};
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.yaml", QUANT_MODEL_DIR, k->name);
    sl_config_defaults(&g.config);
    ck_assert_msg(sl_config_read(&g.config, path) == 0, "%s", sl_error());
    snprintf(path, sizeof path, "%s/%s.safetensors", QUANT_MODEL_DIR, k->name);
    ck_assert_msg((g.file = sl_st_open(path)) != NULL, "%s", sl_error());
    g.vocab = (int32_t)sl_st_find(g.file, "w.model.embed_tokens.weight")->shape[0];
    g.rows = g.config.train_batch * g.config.model_seq;
    g.values = g.rows * g.vocab;
    g.logits = calloc((size_t)g.values, sizeof *g.logits);
    g.want = calloc((size_t)g.values, sizeof *g.want);
    return g;
}

static void close_case(golden *g) {
    printf("quant_model: %s, worst error / tolerance %.3f\n", g->kind->name, g->worst);
    sl_st_close(g->file);
    free(g->logits), free(g->want);
}

/* A model of the scheme with the case's weights and ranges. */
static sl_model *create(const golden *g, const sl_scheme *s, bool real) {
    sl_quant_options o = {.scheme = s, .head = g->kind->head, .embedding = g->kind->embedding,
                          .kv = g->kind->kv && s->range != SL_RANGE_NONE, .smooth = -1, .real = real};
    sl_model *m = sl_model_create_quantised(&g->config, g->vocab, g->config.train_batch, g->config.model_seq, &o);
    ck_assert_msg(m != NULL, "%s", sl_error());
    sl_params *p = sl_model_params(m);
    for (int i = 0; i < p->count; i++) {
        char name[160];
        snprintf(name, sizeof name, "w.%s", p->tensor[i].name);
        ck_assert_msg(
            sl_st_read_f32(g->file, name, p->tensor[i].ndim, p->tensor[i].shape, p->w + p->tensor[i].offset) == 0, "%s",
            sl_error());
    }
    sl_quant_weights *w = sl_quant_weights_new(p, &o);
    ck_assert_msg(w && sl_quant_weights_round(w, sl_model_kernels(m), p) == 0 && sl_quant_weights_apply(w, m) == 0,
                  "%s", sl_error());
    sl_quant_weights_free(w);
    sl_quant_place q;
    for (int i = 0; sl_model_quant_place(m, i, &q); i++)
        if (sl_range_is_static(q.point->range)) {
            const float *range = data_of(g, s->name, q.point->label, SL_F32, 2);
            sl_quant_set_range(&q, range[0], range[1]);
        }
    return m;
}

static void check(golden *g, const sl_scheme *s, bool real) {
    double relative = ref_relative_error(&g->config, g->vocab, g->rows);
    const float *want = data_of(g, s->name, "logits", SL_F32, g->values);
    sl_model *m = create(g, s, real);
    for (int64_t i = 0; i < g->values; i++)
        g->want[i] = want[i];
    ck_assert_msg(sl_model_logits(m, data_of(g, s->name, "tokens", SL_I32, g->rows), g->logits) == 0, "%s", sl_error());
    double ratio = ref_ratio(g->values, g->logits, g->want, REF_FORWARD * relative);
    g->worst = ratio > g->worst ? ratio : g->worst;
    ck_assert_msg(ratio <= 1, "%s: %s%s on %s: error is %.3g times the tolerance", g->kind->name, s->name,
                  real ? " real" : "", sl_model_kernels(m)->tier, ratio);
    sl_model_free(m);
}

static void check_schemes(golden *g) {
    for (int i = 0; i < sl_schemes(); i++) {
        const sl_scheme *s = sl_scheme_at(i);
        if (s->range == SL_RANGE_WINDOW && !g->kind->windows)
            continue;
        check(g, s, false);
        if (sl_scheme_is_integer(s))
            check(g, s, true);
    }
}

START_TEST(schemes) {
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        golden g = open_case(&kinds[k]);
        for (int isa = SL_ISA_SCALAR; isa <= SL_ISA_AVX512; isa++) {
            if (!sl_kernels_tier((enum sl_isa)isa))
                continue;
            g.config.isa = isa;
            check_schemes(&g);
        }
        g.config.isa = SL_ISA_AUTO;
        check_schemes(&g);
        close_case(&g);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("quant_model");
    TCase *t = tcase_create("quant_model");
    tcase_set_timeout(t, 0);
    sl_threads_set(2);
    tcase_add_test(t, schemes);
    suite_add_tcase(s, t);
    return run_suite(s);
}
