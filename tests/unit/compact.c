/* Compact models, whose linear layers keep their matrices in bf16 alone: the bits of those that round the same values
 * on their way into a product, in the memory that they promise. */
#include "base/err.h"
#include "base/threads.h"
#include "model/model.h"
#include "ref/tolerance.h"
#include "ref/variants.h"
#include "suite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ref_variant v;
    int64_t rows, values; /* of a batch; of its logits */
    int32_t *in;
    float *want, *got;
} fixture;

/* Each of these variants with precision: bf16, under a cap of the kernels' tier. */
static void for_each_model(int isa, void (*fn)(fixture *)) {
    static bool (*const list[])(int, ref_variant *) = {ref_variant_elsewhere, ref_variant_moe, ref_variant_tiny,
                                                       ref_variant_middle, ref_variant_across};
    static const int step[] = {1, 3, 11, 9, 3};
    for (size_t l = 0; l < sizeof list / sizeof *list; l++) {
        fixture f;
        for (int i = 0; list[l](i, &f.v); i += step[l]) {
            f.v.config.precision = SL_PRECISION_BF16, f.v.config.isa = isa;
            f.rows = f.v.batch * f.v.seq, f.values = f.rows * f.v.vocab;
            f.in = calloc((size_t)f.rows, sizeof *f.in);
            f.want = calloc((size_t)f.values, sizeof *f.want), f.got = calloc((size_t)f.values, sizeof *f.got);
            ref_random_tokens(f.rows, f.v.vocab, 11, f.in);
            fn(&f);
            free(f.in), free(f.want), free(f.got);
        }
    }
}

static sl_model *create(const fixture *f, unsigned flags) {
    sl_model *m = sl_model_create(&f->v.config, f->v.vocab, f->v.batch, f->v.seq, flags);
    ck_assert_msg(m != NULL, "%s: %s", f->v.name, sl_error());
    return m;
}

static sl_model *decoder(const fixture *f, bool compact) {
    sl_model *m = compact ? sl_model_create_compact_decoder(&f->v.config, f->v.vocab, f->v.batch, f->v.seq)
                          : sl_model_create_decoder(&f->v.config, f->v.vocab, f->v.batch, f->v.seq);
    ck_assert_msg(m != NULL, "%s: %s", f->v.name, sl_error());
    return m;
}

/* Values of one model into another, tensor by tensor. */
static void copy_values(sl_model *from, sl_model *to) {
    const sl_params *p = sl_model_params(from);
    sl_params *q = sl_model_params(to);
    ck_assert_int_eq(p->count, q->count);
    for (int i = 0; i < p->count; i++) {
        float *x = malloc((size_t)p->tensor[i].size * sizeof *x);
        sl_params_get(p, &p->tensor[i], 0, p->tensor[i].size, x);
        sl_params_set(q, &q->tensor[i], 0, q->tensor[i].size, x);
        free(x);
    }
}

static void same_bits(const fixture *f, const char *what) {
    ck_assert_msg(memcmp(f->want, f->got, (size_t)f->values * sizeof *f->got) == 0, "%s: %s", f->v.name, what);
}

/* Products of bf16 round their matrices anyway. */
static void with_a_unit(fixture *f) {
    sl_model *plain = create(f, 0), *compact = create(f, SL_MODEL_COMPACT);
    ref_randomise(sl_model_params(plain), 3);
    copy_values(plain, compact);
    ck_assert_int_eq(sl_model_logits(plain, f->in, f->want), 0);
    ck_assert_int_eq(sl_model_logits(compact, f->in, f->got), 0);
    same_bits(f, "logits");
    sl_model_free(plain), sl_model_free(compact);
}

START_TEST(bits_of_bf16_products) {
    if (!sl_kernels_select(SL_ISA_AUTO)->bf16_unit) {
        printf("skipped: no bf16 unit on this machine\n");
        return;
    }
    for_each_model(SL_ISA_AUTO, with_a_unit);
}
END_TEST

/* Those of fp32 take the rounded values. */
static void without_a_unit(fixture *f) {
    sl_model *plain = create(f, 0), *compact = create(f, SL_MODEL_COMPACT);
    ref_randomise(sl_model_params(plain), 3);
    copy_values(plain, compact);
    copy_values(compact, plain);
    ck_assert_int_eq(sl_model_logits(plain, f->in, f->want), 0);
    ck_assert_int_eq(sl_model_logits(compact, f->in, f->got), 0);
    same_bits(f, "logits");
    sl_model_free(plain), sl_model_free(compact);
}

START_TEST(bits_of_fp32_products) { for_each_model(SL_ISA_SCALAR, without_a_unit); }
END_TEST

static void decode_all(const fixture *f, sl_model *m, float *logits) {
    int64_t batch = f->v.batch, seq = f->v.seq, vocab = f->v.vocab;
    int32_t *token = malloc((size_t)batch * sizeof *token);
    for (int64_t t = 0; t < seq; t++) {
        for (int64_t b = 0; b < batch; b++)
            token[b] = f->in[b * seq + t];
        ck_assert_int_eq(sl_model_decode(m, token, t, logits + t * batch * vocab), 0);
    }
    free(token);
}

/* Decoders read the rounded values with fp32 sums, in another order in batches of up to four: equal within rounding; on
 * one thread and three to the bit. */
static void decoding(fixture *f) {
    sl_threads_set(3);
    sl_model *plain = decoder(f, false), *compact = decoder(f, true);
    double *exact = malloc((size_t)f->values * sizeof *exact);
    ref_randomise(sl_model_params(plain), 3);
    copy_values(plain, compact);
    copy_values(compact, plain);
    decode_all(f, plain, f->want);
    decode_all(f, compact, f->got);
    for (int64_t i = 0; i < f->values; i++)
        exact[i] = f->want[i];
    double tolerance = REF_FORWARD * ref_relative_error(&f->v.config, f->v.vocab, f->rows);
    for (int64_t i = 0; i < f->values; i += f->v.vocab) {
        double ratio = ref_ratio(f->v.vocab, f->got + i, exact + i, tolerance);
        ck_assert_msg(ratio <= 1, "%s: decoding is off by %.3g times the tolerance", f->v.name, ratio);
    }
    sl_threads_set(1);
    decode_all(f, compact, f->want);
    same_bits(f, "decoding with one thread and with three");
    sl_model_free(plain), sl_model_free(compact);
    free(exact);
}

START_TEST(decoders) { for_each_model(SL_ISA_AUTO, decoding); }
END_TEST

/* Logits of the last position, all before it at once. */
static void prompt_and_last(const fixture *f, sl_model *m, float *logits) {
    int64_t batch = f->v.batch, seq = f->v.seq, n = seq - 1;
    int32_t *prompt = malloc((size_t)(batch * seq) * sizeof *prompt), *last = prompt + batch * n;
    for (int64_t i = 0; i < batch * n; i++)
        prompt[i] = f->in[i / n * seq + i % n];
    for (int64_t b = 0; b < batch; b++)
        last[b] = f->in[b * seq + n];
    ck_assert_int_eq(sl_model_prompt(m, prompt, n), 0);
    ck_assert_int_eq(sl_model_decode(m, last, n, logits), 0);
    free(prompt);
}

/* A prompt goes through products of bf16 where there is a unit: its keys and values err by u sqrt(roundings) = 2^-9
 * sqrt(48), times 1 + the largest score, below 5, times 3 for the worst of many logits. Rounding may send a row to
 * another expert: mixtures are left out. With any number of threads the bits are the same. */
static void prompt(fixture *f) {
    const double bound = 3 * (1 + 5) * 0.0135;
    int64_t n = f->v.batch * f->v.vocab, at = (f->v.seq - 1) * n;
    double error = 0, size = 0;
    if (f->v.seq < 2 || f->v.config.model_experts)
        return;
    sl_threads_set(3);
    sl_model *m = decoder(f, true);
    ck_assert_int_eq(sl_model_init(m, 7), 0);
    decode_all(f, m, f->want);
    prompt_and_last(f, m, f->got);
    for (int64_t i = 0; i < n; i++) {
        double x = f->want[at + i], y = f->got[i];
        error += (x - y) * (x - y), size += x * x;
    }
    ck_assert_msg(error <= bound * bound * size, "%s: the last logits are off by %.3g of their size", f->v.name,
                  sqrt(error / size));
    sl_threads_set(1);
    prompt_and_last(f, m, f->want);
    ck_assert_msg(memcmp(f->want, f->got, (size_t)n * sizeof *f->got) == 0, "%s: one thread and three differ",
                  f->v.name);
    sl_model_free(m);
}

START_TEST(prompts) { for_each_model(SL_ISA_AUTO, prompt); }
END_TEST

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Every matrix of a linear layer has two bytes a value and no other copy; everything else four. */
static void memory(fixture *f) {
    sl_model *plain = create(f, 0), *compact = create(f, SL_MODEL_COMPACT);
    const sl_params *p = sl_model_params(plain), *q = sl_model_params(compact);
    int64_t halves = 0, floats = 0, line = 64, gaps;
    ck_assert_msg(p->halves == 0 && p->w16 == NULL, "%s: a plain model has a block in bf16", f->v.name);
    for (int i = 0; i < q->count; i++) {
        const sl_tensor *t = &q->tensor[i];
        bool expert = strstr(t->name, ".experts.") != NULL;
        bool linear = (ends_with(t->name, "_proj.weight") && !expert) || ends_with(t->name, "_query.weight") ||
                      ends_with(t->name, "expert_gate.weight") || ends_with(t->name, "lm_head.weight");
        ck_assert_msg(t->bf16 == linear, "%s: %s is kept in %s", f->v.name, t->name, t->bf16 ? "bf16" : "fp32");
        *(t->bf16 ? &halves : &floats) += t->size;
    }
    gaps = q->count * line;
    ck_assert_msg(q->halves >= halves && q->halves <= halves + gaps, "%s: %lld halves for %lld values", f->v.name,
                  (long long)q->halves, (long long)halves);
    ck_assert_msg(q->floats >= floats && q->floats <= floats + gaps, "%s: %lld floats for %lld values", f->v.name,
                  (long long)q->floats, (long long)floats);
    ck_assert_int_eq(p->params, q->params);
    sl_model_free(plain), sl_model_free(compact);
}

START_TEST(memory_of_parameters) { for_each_model(SL_ISA_AUTO, memory); }
END_TEST

/* What cannot be compact is plain, and what a compact model cannot do says so. */
START_TEST(refusals) {
    fixture f;
    ck_assert(ref_variant_tiny(1, &f.v));
    f.v.config.precision = SL_PRECISION_FP32;
    sl_model *m = create(&f, SL_MODEL_COMPACT);
    ck_assert(sl_model_params(m)->halves == 0);
    sl_model_free(m);
    f.v.config.precision = SL_PRECISION_BF16;
    ck_assert(sl_model_create(&f.v.config, f.v.vocab, 1, 4, SL_MODEL_COMPACT | SL_MODEL_TRAINING) == NULL);
    ck_assert_msg(strstr(sl_error(), "cannot be trained"), "%s", sl_error());
    m = create(&f, SL_MODEL_COMPACT);
    ck_assert_int_eq(sl_model_init(m, 1), 0);
    ck_assert_int_eq(sl_model_save(m, "/dev/null", &(sl_train_state){0}, 1), -1);
    ck_assert_msg(strstr(sl_error(), "compact"), "%s", sl_error());
    sl_model_free(m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("compact");
    TCase *t = tcase_create("model");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, bits_of_bf16_products);
    tcase_add_test(t, bits_of_fp32_products);
    tcase_add_test(t, decoders);
    tcase_add_test(t, prompts);
    tcase_add_test(t, memory_of_parameters);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    return run_suite(s);
}
