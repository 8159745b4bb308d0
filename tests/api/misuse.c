/* Wrong calls fail with a message and leave everything usable. */
#include <sinklab.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 11, BATCH = 2, SEQ = 8, TOKENS = BATCH * SEQ, LAYERS = 2 };

static int failed;

static void expect(bool ok, const char *call, const char *message) {
    if (ok && strstr(sl_error(), message))
        return;
    printf("%s: %s; the message is \"%s\", expected \"%s\" in it\n", call,
           ok ? "failed" : "did not fail", sl_error(), message);
    failed = 1;
}

/* `call` must fail with `message`; the message of another call is put in between. */
#define FAILS(call, message)                                                                       \
    (sl_config_override(config, "no.such=1"), expect((call) != 0, #call, message))
#define IS_NULL(call, message)                                                                     \
    (sl_config_override(config, "no.such=1"), expect(!(call), #call, message))
#define WORKS(call) ((call) ? (void)0 : (printf("%s: %s\n", #call, sl_error()), exit(1)))

static sl_config *config;
static int32_t in[TOKENS], target[TOKENS];
static float out[TOKENS * 64];
static double loss;
static sl_step_result step;
static sl_train_state state;

static void null_objects(void) {
    char dir[SL_DIR_CHARS];
    int32_t vocab;
    FAILS(sl_model_init(NULL, 1), "NULL");
    FAILS(sl_model_forward(NULL, in, target, &loss, NULL), "NULL");
    FAILS(sl_model_logits(NULL, in, out), "NULL");
    FAILS(sl_model_decode(NULL, in, 0, out), "NULL");
    FAILS(sl_model_save(NULL, ".", &state, 1), "NULL");
    FAILS(sl_model_load(NULL, ".", NULL), "NULL");
    FAILS(sl_train_step(NULL, in, target, 1, 0, NULL, NULL, &step), "NULL");
    FAILS(sl_probe_add(NULL, NULL), "NULL");
    FAILS(sl_probe_reset(NULL), "NULL");
    IS_NULL(sl_optim_create(NULL), "training");
    IS_NULL(sl_probe_create(NULL), "NULL");
    IS_NULL(sl_probe_json(NULL, NULL, false), "NULL");
    IS_NULL(sl_model_residual(NULL, 0), "NULL");
    IS_NULL(sl_model_qkv(NULL, 0).q, "NULL");
    IS_NULL(sl_model_norm_weight(NULL, 0, 0), "NULL");
    IS_NULL(sl_model_norm_output(NULL, 0, 0), "NULL");
    IS_NULL(sl_model_norm_gate(NULL, 0, 0, out), "NULL");
    IS_NULL(sl_model_shape(NULL).vocab, "no.such");
    FAILS(sl_checkpoint_open("no/such/folder", dir, config, &vocab), "no/such/folder");
    sl_model_free(NULL);
    sl_optim_free(NULL);
    sl_probe_free(NULL);
    sl_config_free(NULL);
}

static void sizes(void) {
    IS_NULL(sl_model_create(config, 0, BATCH, SEQ, 0), "at least 1");
    IS_NULL(sl_model_create(config, VOCAB, -1, SEQ, 0), "at least 1");
    IS_NULL(sl_model_create(config, VOCAB, INT64_MAX, INT64_MAX, 0), "at most");
    IS_NULL(sl_model_create_decoder(config, VOCAB, 1, 0), "at least one");
    WORKS(sl_config_override(config, "model.heads=3") == 0);
    IS_NULL(sl_model_create(config, VOCAB, BATCH, SEQ, 0), "model.heads");
    WORKS(sl_config_override(config, "model.heads=2") == 0);
}

static void tokens(sl_model *m, sl_optim *o) {
    double before, after;
    WORKS(sl_model_forward(m, in, target, &before, NULL) == 0);
    in[3] = VOCAB;
    FAILS(sl_model_forward(m, in, target, &loss, NULL), "token 11 at place 3");
    FAILS(sl_model_logits(m, in, out), "token 11 at place 3");
    in[3] = -1;
    FAILS(sl_train_step(o, in, target, 1, 0, NULL, NULL, &step), "token -1 at place 3");
    in[3] = 3;
    target[TOKENS - 1] = VOCAB;
    FAILS(sl_train_step(o, in, target, 1, 0, NULL, NULL, &step), "target 11 at place 15");
    FAILS(sl_model_forward(m, in, target, &loss, NULL), "target 11 at place 15");
    target[TOKENS - 1] = TOKENS % VOCAB;
    FAILS(sl_train_step(o, in, target, 0, 0, NULL, NULL, &step), "0 batches");
    FAILS(sl_model_forward(m, in, NULL, &loss, NULL), "targets");
    WORKS(sl_model_forward(m, in, NULL, NULL, NULL) == 0);
    WORKS(sl_model_forward(m, in, target, &after, NULL) == 0 && before == after);
}

static void taps(sl_model *m, sl_optim *o, sl_model *plain) {
    sl_model *fresh = sl_model_create(config, VOCAB, BATCH, SEQ, SL_MODEL_TAPS);
    IS_NULL(sl_model_residual(fresh, 0), "none since");
    WORKS(sl_model_forward(m, in, target, NULL, NULL) == 0 && sl_model_residual(m, LAYERS));
    IS_NULL(sl_model_residual(m, LAYERS + 1), "layer 3, of 3");
    IS_NULL(sl_model_residual(m, -1), "layer -1");
    IS_NULL(sl_model_qkv(m, LAYERS).q, "layer 2, of 2");
    IS_NULL(sl_model_norm_output(m, LAYERS, 1), "no norm 1");
    IS_NULL(sl_model_norm_weight(m, 0, 2), "no norm 2");
    WORKS(sl_model_norm_output(m, LAYERS, 0) && !sl_model_norm_gate(m, 0, 0, out));
    WORKS(sl_train_step(o, in, target, 1, 0, NULL, NULL, &step) == 0);
    IS_NULL(sl_model_residual(m, 0), "none since");
    WORKS(sl_model_forward(plain, in, target, NULL, NULL) == 0 &&
          sl_model_norm_weight(plain, 0, 0));
    IS_NULL(sl_model_residual(plain, 0), "no taps");
    IS_NULL(sl_optim_create(plain), "training");

    sl_probe *p = sl_probe_create(m);
    WORKS(p);
    FAILS(sl_probe_add(p, m), "none since");
    FAILS(sl_probe_add(p, fresh), "another model");
    IS_NULL(sl_probe_json(p, fresh, false), "another model");
    sl_probe_free(p);
    sl_model_free(fresh);
}

static void decoder(sl_model *m) {
    sl_model *d = sl_model_create_decoder(config, VOCAB, 1, 2);
    WORKS(d);
    FAILS(sl_model_forward(d, in, target, &loss, NULL), "sl_model_decode only");
    FAILS(sl_model_logits(d, in, out), "sl_model_decode only");
    FAILS(sl_model_decode(m, in, 0, out), "sl_model_create_decoder");
    FAILS(sl_model_decode(d, in, 1, out), "position 1");
    WORKS(sl_model_decode(d, in, 0, out) == 0 && sl_model_decode(d, in, 1, out) == 0);
    FAILS(sl_model_decode(d, in, 2, out), "position 2");
    WORKS(sl_model_decode(d, in, 0, out) == 0);
    sl_model_free(d);
}

static void threads(sl_model *m) {
    sl_probe *p = sl_probe_create(m);
    WORKS(sl_model_forward(m, in, target, &loss, NULL) == 0);
    sl_threads_set(3);
    FAILS(sl_model_forward(m, in, target, &loss, NULL), "made for 1 threads");
    FAILS(sl_probe_add(p, m), "made for 1 threads");
    sl_threads_set(1);
    WORKS(sl_probe_add(p, m) == 0);
    sl_probe_free(p);
}

int main(int argc, char **argv) {
    (void)argc, (void)argv;
    config = sl_config_create();
    WORKS(sl_config_override(config, "model.layers=2") == 0 &&
          sl_config_override(config, "model.dim=16") == 0 &&
          sl_config_override(config, "model.heads=2") == 0 &&
          sl_config_override(config, "model.ffn=24") == 0);
    for (int i = 0; i < TOKENS; i++)
        in[i] = i % VOCAB, target[i] = (i + 1) % VOCAB;
    null_objects();
    sizes();
    sl_model *m = sl_model_create(config, VOCAB, BATCH, SEQ, SL_MODEL_TRAINING);
    sl_model *plain = sl_model_create(config, VOCAB, BATCH, SEQ, 0);
    sl_optim *o = sl_optim_create(m);
    WORKS(o && plain && sl_model_init(m, 1) == 0);
    tokens(m, o);
    taps(m, o, plain);
    decoder(m);
    threads(m);
    sl_optim_free(o);
    sl_model_free(m);
    sl_model_free(plain);
    sl_config_free(config);
    return failed;
}
