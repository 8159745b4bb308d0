/* A program that embeds sinklab, on its public header alone: trains a tiny model on tokens of its
 * own, saves and reloads it, and looks at the residual stream.  embed FOLDER (for checkpoints) */
#include <sinklab.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 17, BATCH = 4, SEQ = 32, TOKENS = BATCH * SEQ, STEPS = 20 };

static const char config[] = "model: {layers: 2, dim: 32, heads: 2, ffn: 64, norm: gated_norm}\n"
                             "train: {steps: 20, warmup: 2, lr: 1e-2}\n";

static void must(int ok, const char *what) {
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, sl_error());
    exit(1);
}

/* Windows that count up from where they start: each token tells the next. */
static void make_tokens(int32_t *in, int32_t *target) {
    for (int i = 0; i < TOKENS; i++) {
        in[i] = (5 * (i / SEQ) + i % SEQ) % VOCAB;
        target[i] = (in[i] + 1) % VOCAB;
    }
}

/* Returns the model's loss after the steps. */
static double train(const int32_t *in, const int32_t *target, const char *folder) {
    sl_config *c = sl_config_create();
    must(c && sl_config_parse(c, config, sizeof config - 1, "embed.c") == 0, "configuration");
    sl_model *m = sl_model_create(c, VOCAB, BATCH, SEQ, SL_MODEL_TRAINING);
    sl_optim *o = sl_optim_create(m);
    must(sl_model_init(m, 1) == 0 && o, "model");

    sl_step_result first = {0}, r = {0};
    for (int64_t step = 0; step < STEPS; step++) {
        must(sl_train_step(o, in, target, 1, step, NULL, NULL, &r) == 0 && !r.skipped, "step");
        first = step ? first : r;
    }
    printf("loss %.4f -> %.4f, gradient norm %.3f, learning rate %.2g\n", first.loss, r.loss,
           r.grad_norm, r.lr);
    /* At the start all tokens are about as likely; then much of "one more" is learnt. */
    must(fabs(first.loss - log(VOCAB)) < 0.2 && r.loss < 0.5 * first.loss,
         "the loss must fall from ln(VOCAB)");
    must(r.grad_norm > 0 && r.lr > 0 && r.lr < 1e-2, "gradient norm and learning rate");

    double loss;
    sl_train_state state = {STEPS, STEPS * TOKENS, 0, r.loss, NAN, 0, 0};
    must(sl_model_forward(m, in, target, &loss, NULL) == 0, "forward");
    must(sl_model_save(m, folder, &state, 1) == 0, "save");
    sl_optim_free(o);
    sl_model_free(m);
    sl_config_free(c);
    return loss;
}

/* max |h| over the whole residual stream. */
static float largest(const sl_model *m) {
    sl_shape s = sl_model_shape(m);
    float max = 0;
    for (int layer = 0; layer <= s.layers; layer++) {
        const float *h = sl_model_residual(m, layer);
        must(h != NULL, "residual tap");
        for (int64_t i = 0; i < s.batch * s.seq * s.dim; i++)
            max = fmaxf(max, fabsf(h[i]));
    }
    return max;
}

/* The other taps have what they say: finite, gates between 0 and 1. */
static void look_at_taps(const sl_model *m) {
    sl_shape s = sl_model_shape(m);
    size_t n = (size_t)(s.batch * s.seq * s.dim);
    float *gate = malloc(n * sizeof *gate);
    for (int layer = 0; layer < s.layers; layer++) {
        sl_qkv_tap t = sl_model_qkv(m, layer);
        const float *w = sl_model_norm_weight(m, layer, 1),
                    *out = sl_model_norm_output(m, layer, 1);
        must(t.q && w && out && gate && sl_model_norm_gate(m, layer, 1, gate), "taps");
        must(fabs(t.scale - 1 / sqrt((double)s.head_dim)) < 1e-6, "scale of the scores");
        for (int64_t row = 0; row < s.batch * s.seq; row++)
            must(isfinite(t.q[row * t.ld] + t.k[row * t.ld] + t.v[row * t.ld]), "q, k, v");
        for (size_t i = 0; i < n; i++)
            must(isfinite(out[i]) && gate[i] > 0 && gate[i] < 1, "norm output and gate");
    }
    free(gate);
}

static void measure(const int32_t *in, const int32_t *target, const char *folder,
                    double trained_loss) {
    char dir[SL_DIR_CHARS];
    int32_t vocab = 0;
    double loss;
    sl_train_state state;
    sl_config *c = sl_config_create();
    must(c && sl_checkpoint_open(folder, dir, c, &vocab) == 0 && vocab == VOCAB, "open");
    sl_model *m = sl_model_create(c, vocab, BATCH, SEQ, SL_MODEL_TAPS);
    must(sl_model_load(m, dir, &state) == 0 && state.step == STEPS, "load");
    must(sl_model_forward(m, in, target, &loss, NULL) == 0, "forward");
    printf("loss from %s: %.17g\n", dir, loss);
    must(loss == trained_loss, "the loss must be the same to the bit");

    sl_probe *p = sl_probe_create(m);
    must(sl_probe_add(p, m) == 0, "probe");
    char *json = sl_probe_json(p, m, false), *max = json ? strstr(json, "\"max\":") : NULL;
    must(max != NULL, "probe");
    printf("max |h| %.9g; probe: %.40s...\n", (double)largest(m), json);
    must(strtof(max + strlen("\"max\":"), NULL) == largest(m), "the probe's max must be the tap's");
    look_at_taps(m);
    free(json);
    sl_probe_free(p);
    sl_model_free(m);
    sl_config_free(c);
}

int main(int argc, char **argv) {
    int32_t in[TOKENS], target[TOKENS];
    must(argc == 2, "usage: embed FOLDER");
    printf("sinklab %s, %d threads\n", sl_version(), sl_threads_set(2));
    make_tokens(in, target);
    double loss = train(in, target, argv[1]);
    measure(in, target, argv[1], loss);
    return 0;
}
