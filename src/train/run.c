/* Training runs: steps with evaluation, probes, checkpoints, guard and log; and `sinklab train`, which does them all.
 * */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/stop.h"
#include "base/threads.h"
#include "checkpoint/checkpoint.h"
#include "eval/evaluate.h"
#include "eval/windows.h"
#include "model/match.h"
#include "probe/probe.h"
#include "simd/kernels.h"
#include "train/rundir.h"
#include "train/train.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PROBE_WINDOWS = 16,  /* validation windows of a probe, rounded up to whole batches */
    GUARD_WARMUP = 20,   /* steps before a spike can be told from a start */
    GUARD_MAX_SKIPS = 20 /* skipped steps in a row that end the run */
};

typedef struct sl_run run;
struct sl_run {
    sl_config config;
    sl_dataset *data;
    sl_model *model;
    sl_optim *optim;
    sl_probe *probe;
    sl_rundir dir;
    sl_train_state state;
    int32_t *in, *target;  /* accumulate * batch * seq, */
    int64_t filled;        /* of this step; -1: of none */
    int64_t skips_in_row;
    double peak_gflops;
    sl_losses val;         /* last ones; NaN before */
    bool (*stop)(void);    /* of sl_step_around */
    sl_step_result last;   /* of the last step, */
    bool behind;           /* which is done, but not what follows it */
    bool left_off;         /* the last step was broken off by `stop` */
    bool ended;            /* by a failure: no step follows */
    const char *ended_by;  /* "guard" or "failure"; NULL: it was not */
    int64_t saved;         /* step of the last checkpoint; -1: none yet */
    double rate;           /* tokens/s, smoothed; 0 before the first step */
    sl_progress progress;
};

/* Signals that end a run with a checkpoint. A second one ends it at once; but a closed pipe signals at each write. */
static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGPIPE};
enum { SIGNALS = sizeof signals / sizeof *signals };
static volatile sig_atomic_t interrupted;
static void on_signal(int s) {
    if (interrupted && s != SIGPIPE && interrupted != SIGPIPE) {
        signal(s, SIG_DFL);
        raise(s);
    }
    interrupted = s;
}

static bool stop_wanted(void) { return interrupted != 0; }

/* What was ignored before stays so: `nohup` ignores SIGHUP. */
static void catch_signals(struct sigaction old[SIGNALS]) {
    struct sigaction act = {.sa_handler = on_signal};
    interrupted = 0;
    for (int i = 0; i < SIGNALS; i++) {
        sigaction(signals[i], NULL, &old[i]);
        if (old[i].sa_handler != SIG_IGN || signals[i] != SIGHUP)
            sigaction(signals[i], &act, NULL);
    }
}

static void release_signals(const struct sigaction old[SIGNALS]) {
    for (int i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &old[i], NULL);
    if (interrupted == SIGPIPE)
        signal(SIGPIPE, SIG_IGN); /* what is still to be said has nowhere to go either */
}

static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* ---- opening */

static int64_t step_tokens(const sl_config *c) { return c->train_accumulate * c->train_batch * c->model_seq; }

/* Finds the weights of train.init and how many tokens their model has, which may be more than the tokenizer's: others
 * fill up their embeddings to a round number. */
static int find_init(const sl_config *c, const char *path, char dir[SL_DIR_CHARS], int32_t *vocab) {
    char difference[SL_DIFFERENCE_CHARS];
    sl_config its;
    int32_t tokens = *vocab;
    if (sl_checkpoint_open(path, dir, &its, vocab))
        return sl_fail_prefix("train.init");
    if (sl_config_other_model(difference, &its, c))
        return sl_fail_usage("train.init: %s is another model, %s; give it with --init, or the same keys",
                             c->train_init, difference);
    return tokens <= *vocab ? 0
                            : sl_fail_usage("train.init: %s has %d tokens, data.tokenizer=%s has %d", c->train_init,
                                            *vocab, c->data_tokenizer, tokens);
}

/* from: the run's own checkpoint where it goes on, else train.init. */
static int open_model(run *r, const char *from) {
    const sl_config *c = &r->config;
    char init[SL_DIR_CHARS];
    if (!(r->data = sl_dataset_open(c)))
        return -1;
    if (sl_dataset_windows(r->data, SL_TRAIN) == 0)
        return sl_fail_usage("data.val_fraction=1 leaves nothing to train on; lower it");
    int32_t vocab = sl_dataset_vocab(r->data);
    if (sl_config_init(c) && find_init(c, from, init, &vocab))
        return -1;
    if (!(r->model = sl_model_create(c, vocab, c->train_batch, c->model_seq, SL_MODEL_TRAINING | SL_MODEL_TAPS)))
        return -1;
    if (sl_config_init(c) ? sl_model_load(r->model, init, NULL) : sl_model_init(r->model, (uint64_t)c->seed))
        return -1;
    if (!(r->optim = sl_optim_create(r->model)) || !(r->probe = sl_probe_create(r->model)))
        return -1;
    r->in = malloc((size_t)step_tokens(c) * sizeof *r->in);
    r->target = malloc((size_t)step_tokens(c) * sizeof *r->target);
    if (!r->in || !r->target)
        return sl_fail("out of memory for a batch of %lld tokens", (long long)step_tokens(c));
    return 0;
}

/* The configuration that the run in `out` was started with, and the checkpoint to go on from: none yet if dir is "". */
static int find_run(const char *out, sl_config *saved, char dir[4096]) {
    char path[4200];
    int32_t vocab;
    snprintf(path, sizeof path, "%s/DONE", out);
    if (access(path, F_OK) == 0)
        return sl_fail_usage("%s is a checkpoint; --resume wants the run folder that it is in", out);
    *dir = 0;
    if (!sl_checkpoint_none(out))
        return sl_checkpoint_resolve(out, dir) ? -1 : sl_checkpoint_config(dir, saved, &vocab);
    snprintf(path, sizeof path, "%s/config.yaml", out);
    sl_config_defaults(saved);
    return sl_config_read(saved, path);
}

/* Before anything else is done: whether the run may start, or go on from `dir` ("" if there is no checkpoint yet). It
 * may go on with another number of threads, another tier and other cadences; all else decides the result, train.steps
 * too, through the learning rate. */
static int check_folder(const sl_config *c, const sl_run_options *o, char dir[4096]) {
    char difference[SL_DIFFERENCE_CHARS];
    sl_config saved;
    *dir = 0;
    if (!o->resume && sl_rundir_foreign(o->out))
        return sl_fail("%s holds %s but no config.yaml of a run, and would be written over; give another --out", o->out,
                       sl_rundir_foreign(o->out));
    if (!o->resume)
        return sl_rundir_holds_run(o->out)
                   ? sl_fail("%s already holds a run; give --resume to go on, or another --out", o->out)
                   : 0;
    if (find_run(o->out, &saved, dir))
        return -1;
    if (sl_config_difference(difference, &saved, c))
        return sl_fail("%s was trained with another configuration: %s; give the same, or another --out", o->out,
                       difference);
    if (*sl_checkpoint_passed_over())
        sl_warn("%s; going on from %s", sl_checkpoint_passed_over(), dir);
    return 0;
}

static int load(run *r, const char *dir, const char *out) {
    uint64_t data = r->state.data_hash;
    if (sl_model_load(r->model, dir, &r->state))
        return -1;
    if (r->state.data_hash != data)
        return sl_fail("%s was trained on another text than data.corpus=%s holds now; put that back, or give another "
                       "--out", out, r->config.data_corpus);
    return 0;
}

static void close_run(run *r) {
    sl_rundir_close(&r->dir);
    sl_probe_free(r->probe);
    sl_optim_free(r->optim);
    sl_model_free(r->model);
    sl_dataset_close(r->data);
    free(r->in);
    free(r->target);
}

/* ---- pieces of a step */

static void fill_batch(run *r, int64_t step) {
    const sl_config *c = &r->config;
    if (r->filled == step)
        return;
    r->filled = step;
    int64_t seq = c->model_seq, windows = c->train_accumulate * c->train_batch;
    int64_t first = c->train_overfit_one_batch ? 0 : step * windows;
    for (int64_t i = 0; i < windows; i++)
        sl_dataset_train_window(r->data, (uint64_t)c->seed, first + i, r->in + i * seq, r->target + i * seq);
}

/* While a device is at a step. */
static void fill_next(void *ctx) {
    run *r = ctx;
    if (r->state.step + 1 < r->config.train_steps)
        fill_batch(r, r->state.step + 1);
}

/* A loss above this is a spike. */
static double most_loss(const run *r) {
    const sl_config *c = &r->config;
    bool judge = c->train_guard != SL_GUARD_OFF && c->train_guard_spike > 0 && r->state.step >= GUARD_WARMUP &&
                 !isnan(r->state.loss_mean);
    return judge ? r->state.loss_mean + c->train_guard_spike : INFINITY;
}

/* 0: go on; -1: the run ends with a message. */
static int judge_step(run *r, const sl_step_result *s) {
    sl_train_state *t = &r->state;
    if (!s->skipped) {
        t->loss_mean = isnan(t->loss_mean) ? s->loss : 0.95 * t->loss_mean + 0.05 * s->loss;
        r->skips_in_row = 0;
        return 0;
    }
    t->skipped++;
    r->skips_in_row++;
    bool spike = isfinite(s->loss) && s->loss > most_loss(r);
    const char *what = spike ? "the loss spiked" : "the loss or a gradient is not a number";
    if (r->config.train_guard == SL_GUARD_SKIP && r->skips_in_row < GUARD_MAX_SKIPS) {
        sl_warn("step %lld skipped: %s (loss %.4g, running mean %.4g)", (long long)t->step, what, s->loss,
                t->loss_mean);
        return 0;
    }
    r->ended_by = "guard";
    char kept[64] = "there is no checkpoint yet";
    int64_t step;
    if (!sl_rundir_is_nowhere(&r->dir) && sl_checkpoint_list(r->dir.path, &step) > 0)
        snprintf(kept, sizeof kept, "the checkpoint of step %lld is kept", (long long)step);
    return sl_fail("training stopped at step %lld: %s (loss %.4g, running mean %.4g); %s; try a smaller train.lr or a "
                   "longer train.warmup", (long long)t->step, what, s->loss, t->loss_mean, kept);
}

static int evaluate(run *r) {
    return sl_evaluate(r->model, r->data, r->config.train_eval_windows, SL_SPREAD, &r->val, NULL);
}

static double bits_per_byte(const run *r, double loss) {
    double bytes = sl_dataset_bytes_per_token(r->data, SL_VAL);
    return bytes > 0 ? loss / log(2) / bytes : NAN;
}

static int probe_batch(void *ctx, sl_model *m, const sl_batch *b) {
    run *r = ctx;
    return sl_model_forward(m, b->in, b->target, NULL, NULL) ? -1 : sl_probe_add_marked(r->probe, m, b->mark);
}

/* Over as many whole batches as there are windows for; of one, if there are fewer, in part again. */
static json_t *probe(run *r, bool profile) {
    int64_t batch = r->config.train_batch, whole = sl_dataset_windows(r->data, SL_VAL) / batch * batch;
    int64_t wanted = (PROBE_WINDOWS + batch - 1) / batch * batch, windows = whole < wanted ? whole : wanted;
    sl_probe_reset(r->probe);
    sl_windows w = {SL_VAL, windows > 0 ? windows : batch, SL_FILL_WINDOWS, SL_SPREAD};
    if (sl_each_batch(r->model, r->data, w, probe_batch, r))
        return NULL;
    return sl_probe_result(r->probe, r->model, profile);
}

/* Takes the probe over; NULL: it failed. */
static int write_probe(run *r, json_t *o) {
    if (!o)
        return -1;
    json_object_set_new(o, "step", json_integer(r->state.step));
    return sl_rundir_line(&r->dir, r->dir.probe, "probe.jsonl", o);
}

/* Of mixtures: losses, the most loaded expert over the mean one (of all layers), the share of choices dropped; with
 * loads each expert's share of the choices, layer by layer. */
static void add_experts(const run *r, json_t *o, bool loads) {
    json_t *layers = json_array();
    double aux = 0, z = 0, dropped = 0, most = 0;
    sl_expert_load l;
    int n = 0;
    for (; sl_model_expert_load(r->model, n, &l) && l.choices; n++) {
        json_t *shares = json_array();
        for (int64_t e = 0; e < l.experts; e++) {
            double share = (double)l.count[e] / (double)l.choices;
            most = fmax(most, share * (double)l.experts);
            json_array_append_new(shares, number(share));
        }
        json_array_append_new(layers, shares);
        aux += l.aux_loss;
        z += l.z_loss;
        dropped += (double)l.dropped / (double)l.choices;
    }
    if (n > 0) {
        json_object_set_new(o, "aux_loss", number(aux / n));
        json_object_set_new(o, "z_loss", r->config.model_router == SL_ROUTER_SOFTMAX ? number(z / n) : json_null());
        json_object_set_new(o, "expert_max_load", number(most));
        json_object_set_new(o, "expert_dropped", number(dropped / n));
    }
    if (n > 0 && loads)
        json_object_set(o, "expert_load", layers);
    json_decref(layers);
}

/* What tasks with marked positions are judged by. */
static void put_marked(const run *r, json_t *o) {
    if (!sl_dataset_has_marks(r->data))
        return;
    json_object_set_new(o, "val_loss_trigger", number(r->val.trigger));
    json_object_set_new(o, "val_loss_other", number(r->val.other));
}

/* probed: NULL, or this step's probe. line: gets the line as a text, unless it is NULL. */
static int write_metrics(run *r, bool evaluated, const json_t *probed, char **line) {
    const sl_step_result *s = &r->last;
    json_t *o = json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "step", (json_int_t)r->state.step, "loss",
                          number(s->loss), "lr", number(s->lr), "grad_norm", number(s->grad_norm),
                          "tokens_per_s", number(r->rate), "gflops",
                          number(r->rate * sl_model_flops_per_token(r->model) / 1e9), "seconds",
                          number(r->state.train_seconds));
    if (!o)
        return sl_fail("out of memory for the metrics");
    if (s->skipped)
        json_object_set_new(o, "skipped", json_true());
    add_experts(r, o, evaluated);
    if (evaluated) {
        json_object_set_new(o, "val_loss", number(r->val.all));
        json_object_set_new(o, "val_bits_per_byte", number(bits_per_byte(r, r->val.all)));
        put_marked(r, o);
    }
    if (probed)
        json_object_set(o, "sink_dims", json_object_get(probed, "sink_dims"));
    char *text = line ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    if (line && !(*line = text)) {
        json_decref(o);
        return sl_fail("out of memory for the metrics");
    }
    return sl_rundir_line(&r->dir, r->dir.metrics, "metrics.jsonl", o);
}

static void show(run *r) {
    const sl_step_result *s = &r->last;
    double rate = r->rate, gflops = rate * sl_model_flops_per_token(r->model) / 1e9;
    char val[32] = "";
    if (!isnan(r->val.all))
        snprintf(val, sizeof val, " val %.4f", r->val.all);
    sl_progress_curve(&r->progress, "loss", s->loss);
    sl_progress_curve(&r->progress, "tok/s", rate);
    sl_progress_update(&r->progress, r->state.step,
                       "loss %.4f%s lr %.2e gnorm %.2f | %.0f tok/s %.0f GFLOP/s %.0f%% of peak", s->loss, val,
                       s->lr, s->grad_norm, rate, gflops, 100 * gflops / r->peak_gflops);
}

/* Nothing is saved over a folder that is gone, nor what was trained on other tokens than the run's. */
static int save(run *r) {
    if (sl_rundir_is_nowhere(&r->dir) || r->saved == r->state.step)
        return 0;
    if (sl_rundir_check(&r->dir) || sl_dataset_check(r->data) ||
        sl_model_save(r->model, r->dir.path, &r->state, (int)r->config.train_keep_checkpoints))
        return -1;
    r->saved = r->state.step;
    return 0;
}

static bool due(int64_t step, int64_t every, int64_t last) {
    return step == last || (every > 0 && step % every == 0);
}

/* Whether the step is the first one at or above 10^(k / a_decade) for some k. */
static bool due_log(int64_t step, int64_t a_decade) {
    double n = (double)a_decade;
    return a_decade > 0 && (step == 1 || floor(n * log10((double)step)) > floor(n * log10((double)(step - 1))));
}

static bool probe_due(const run *r) {
    const sl_config *c = &r->config;
    return due(r->state.step, c->train_probe_every, c->train_steps) || due_log(r->state.step, c->train_probe_log);
}

/* What follows step number state.step: evaluation, probe, checkpoint as configured. Its time is not training time. */
static int after_step(run *r, char **line) {
    const sl_config *c = &r->config;
    int64_t step = r->state.step, last = c->train_steps;
    bool evaluated = due(step, c->train_eval_every, last);
    if (evaluated && evaluate(r))
        return -1;
    if (evaluated && !(r->val.all >= r->state.best_val_loss))
        r->state.best_val_loss = r->val.all;
    json_t *probed = NULL;
    if (probe_due(r) && !(probed = probe(r, step == last)))
        return -1;
    if (write_metrics(r, evaluated, probed, line)) {
        json_decref(probed);
        return -1;
    }
    const json_t *m2 = json_object_get(probed, "m2");
    if (probed)
        sl_progress_curve(&r->progress, "M2", json_is_number(m2) ? json_number_value(m2) : NAN);
    if (probed && write_probe(r, probed))
        return -1;
    return due(step, c->train_checkpoint_every, last) ? save(r) : 0;
}

/* Step number state.step, which then is one more. */
static int step(run *r) {
    double start = sl_now();
    fill_batch(r, r->state.step);
    sl_step_around around = {most_loss(r), r->stop, fill_next, r};
    if (sl_train_step_in_run(r->optim, r->in, r->target, r->config.train_accumulate, r->state.step, &around, &r->last))
        return -1;
    r->left_off = r->last.stopped;
    if (r->left_off)
        return sl_fail("interrupted");
    if (judge_step(r, &r->last))
        return -1;
    double seconds = sl_now() - start, now = (double)step_tokens(&r->config) / seconds;
    r->rate = r->rate > 0 ? 0.9 * r->rate + 0.1 * now : now;
    r->state.step++;
    r->state.tokens += step_tokens(&r->config);
    r->state.train_seconds += seconds;
    r->behind = true;
    return 0;
}

/* 1: a step and what follows it are done; 0: there was none left; -1: a failure, after which what is left of them can
 * be done by another call. */
static int advance(run *r, char **line) {
    if (!r->behind && r->state.step >= r->config.train_steps)
        return 0;
    if ((!r->behind && step(r)) || after_step(r, line))
        return -1;
    r->behind = false;
    return 1;
}

static int told_interrupted(run *r) {
    return save(r) ? -1
                   : sl_fail("interrupted at step %lld; a checkpoint was saved, go on with --resume",
                             (long long)r->state.step);
}

static int loop(run *r) {
    static const char *const curves[] = {"loss", "M2", "tok/s"}; /* the first ones stay in a narrow terminal */
    if (r->config.train_steps == 0)
        return save(r);
    sl_progress_begin(&r->progress, "step", r->config.train_steps, r->state.step);
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++)
        sl_progress_curve(&r->progress, curves[i], NAN);
    int rc;
    while ((rc = advance(r, NULL)) > 0) {
        bool stop = stop_wanted(); /* read once: a signal from here on counts for the next step */
        show(r);
        if (stop)
            return told_interrupted(r);
    }
    return rc < 0 && r->left_off ? told_interrupted(r) : rc; /* in the middle of a step: saved is the one before */
}

/* ---- the end */

/* text: gets the result as a text, unless it is NULL. */
static int write_result(run *r, const char *status, char **text) {
    const sl_train_state *t = &r->state;
    bool finished = strcmp(status, "finished") == 0;
    if (finished && evaluate(r))
        return -1;
    double loss = finished ? r->val.all : NAN;
    json_t *p = finished ? probe(r, false) : json_null();
    if (!p)
        return -1;
    char hash[32], data[32];
    sl_match match;
    if (sl_match_count(&r->config, sl_dataset_vocab(r->data), &match))
        return -1;
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)sl_config_hash(&r->config));
    snprintf(data, sizeof data, "%016llx", (unsigned long long)sl_dataset_hash(r->data));
    json_t *o = json_pack(
        "{s:s, s:s?, s:I, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:s, s:o}", "status", status,
        "stopped_by", r->ended_by, "step", (json_int_t)t->step, "val_loss", number(loss), "bits_per_byte",
        number(bits_per_byte(r, loss)), "best_val_loss", number(t->best_val_loss), "params", (json_int_t)match.params,
        "baseline_params", (json_int_t)match.baseline, "ffn", (json_int_t)match.ffn, "tokens", (json_int_t)t->tokens,
        "skipped", (json_int_t)t->skipped, "seconds", number(t->train_seconds), "tokens_per_s",
        number((double)t->tokens / t->train_seconds), "config_hash", hash, "data_hash", data, "probe", p);
    if (!o)
        return sl_fail("out of memory for the result");
    if (finished)
        put_marked(r, o);
    if (text && !(*text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)))) {
        json_decref(o);
        return sl_fail("out of memory for the result");
    }
    return sl_rundir_write_json(&r->dir, "result.json", o);
}

/* After a failure, whose message stays the one that is told. */
static void write_stopped(run *r) {
    char message[2048];
    snprintf(message, sizeof message, "%s", sl_error());
    r->ended_by = r->ended_by ? r->ended_by : "failure";
    if (write_result(r, "stopped", NULL))
        sl_fail("%s", message);
}

/* " (baseline 1234, model.ffn 56)" where that was asked for. */
static void describe_match(const run *r, char *text, size_t n) {
    sl_match match;
    *text = 0;
    if (r->config.model_match_params && sl_match_count(&r->config, sl_dataset_vocab(r->data), &match) == 0)
        snprintf(text, n, " (baseline %lld, %s %lld)", (long long)match.baseline, sl_match_key(&r->config),
                 (long long)match.ffn);
}

/* The run's folder, and the checkpoint to go on from ("": none). */
static int open_folder(run *r, const sl_run_options *o, char dir[4096]) {
    *dir = 0;
    if (!o->out)
        return o->resume ? sl_fail_usage("a run without a folder cannot go on; name the folder") : 0;
    if (o->resume && !sl_rundir_holds_run(o->out))
        return sl_fail_usage("%s holds no run to go on with; leave out --resume to start one", o->out);
    return sl_rundir_claim(&r->dir, o->out, !o->resume) || check_folder(&r->config, o, dir) ? -1 : 0;
}

static void tell_start(const run *r, const char *out) {
    const sl_config *c = &r->config;
    char matched[128];
    describe_match(r, matched, sizeof matched);
    sl_info("%s: %lld parameters%s, %lld training tokens (%.1f a parameter), %s kernels, %s, %d threads", out,
            (long long)sl_model_params(r->model)->params, matched, (long long)(c->train_steps * step_tokens(c)),
            (double)(c->train_steps * step_tokens(c)) / (double)sl_model_params(r->model)->params,
            sl_model_place(c),
            sl_model_precision(c) == SL_PRECISION_BF16 ? "bf16" : "fp32", sl_threads());
    if (c->precision == SL_PRECISION_BF16 && sl_model_precision(c) != SL_PRECISION_BF16)
        sl_warn("precision: bf16 is computed in fp32, since this CPU (or isa) has no bf16 unit");
}

static int start(run *r, const sl_run_options *o) {
    const sl_config *c = &r->config;
    char dir[4096];
    if (open_folder(r, o, dir) || open_model(r, *dir ? dir : sl_config_init(c)))
        return -1;
    r->state = (sl_train_state){.loss_mean = NAN, .best_val_loss = NAN, .data_hash = sl_dataset_hash(r->data)};
    if (*dir && load(r, dir, o->out))
        return -1;
    if (o->out && sl_rundir_open(&r->dir, c, o->resume, r->state.step ? r->state.step : -1))
        return -1;
    if (*dir)
        sl_checkpoint_clean(o->out);
    return r->state.step == 0 && (c->train_probe_every || c->train_probe_log) ? write_probe(r, probe(r, false)) : 0;
}

static run fresh(const sl_config *c, bool (*stop)(void)) {
    return (run){.config = *c, .dir = {.lock = -1}, .filled = -1, .saved = -1, .val = {NAN, NAN, NAN}, .stop = stop};
}

int sl_train_run(const sl_config *c, const sl_run_options *o) {
    run r = fresh(c, stop_wanted);
    struct sigaction old[SIGNALS];
    if (sl_threads_start((int)c->threads, (enum sl_pin)c->pin))
        return -1;
    catch_signals(old);
    int rc = start(&r, o);
    if (rc == 0) {
        r.peak_gflops = sl_model_peak_gflops(c);
        tell_start(&r, o->out);
        rc = loop(&r);
        sl_progress_end(&r.progress);
        if (rc == 0)
            rc = write_result(&r, "finished", NULL);
        else if (!interrupted)
            write_stopped(&r);
    }
    release_signals(old);
    close_run(&r);
    return rc;
}

/* ---- those of sinklab.h */

sl_run *sl_run_open(const sl_config *c, const char *out, bool resume) {
    run *r = sl_config_check(c) ? NULL : sl_alloc(sizeof *r, "the run");
    if (!r)
        return NULL;
    *r = fresh(c, sl_stop_asked);
    if (sl_threads_start((int)c->threads, (enum sl_pin)c->pin) || start(r, &(sl_run_options){out, resume})) {
        sl_run_close(r);
        return NULL;
    }
    return r;
}

void sl_run_close(sl_run *r) {
    if (r)
        close_run(r);
    sl_free(r);
}

sl_model *sl_run_model(const sl_run *r) { return r->model; }
int64_t sl_run_steps(const sl_run *r) { return r->state.step; }

int sl_run_step(sl_run *r, char **line) {
    if (r->ended)
        return sl_fail("the run ended at step %lld with a failure", (long long)r->state.step);
    *line = NULL;
    int rc = advance(r, line);
    if (rc < 0) {
        free(*line);
        *line = NULL;
    }
    r->ended = rc < 0 && !sl_stop_failed();
    if (r->ended)
        write_stopped(r);
    return rc;
}

char *sl_run_probe(sl_run *r, bool profile) {
    json_t *o = probe(r, profile);
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    if (o && !text)
        sl_fail("out of memory for the probe's text");
    json_decref(o);
    return text;
}

int sl_run_save(sl_run *r) {
    return sl_rundir_is_nowhere(&r->dir) ? sl_fail_usage("the run has no folder to save to; give it one") : save(r);
}

char *sl_run_result(sl_run *r) {
    char *text = NULL;
    return write_result(r, r->state.step >= r->config.train_steps ? "finished" : "stopped", &text) ? NULL : text;
}

/* ---- dry run */

static double gib(double bytes) { return bytes / (1 << 30); }

int sl_train_dry_run(const sl_config *c) {
    enum { WARM = 1, TIMED = 3 };
    run r = fresh(c, stop_wanted);
    if (sl_threads_start((int)c->threads, (enum sl_pin)c->pin))
        return -1;
    if (open_model(&r, sl_config_init(c))) {
        close_run(&r);
        return -1;
    }
    double seconds = 0;
    for (int i = 0; i < WARM + TIMED; i++) {
        double start = sl_now();
        fill_batch(&r, i);
        sl_step_result s;
        if (sl_train_step(r.optim, r.in, r.target, c->train_accumulate, i, NULL, NULL, &s)) {
            close_run(&r);
            return -1;
        }
        if (i >= WARM)
            seconds += (sl_now() - start) / TIMED;
    }
    double params = (double)sl_model_params(r.model)->params, tokens = (double)(c->train_steps * step_tokens(c));
    double flops = sl_model_flops_per_token(r.model), held = (sl_model_params(r.model)->v ? 16 : 12) * params;
    char eta[SL_DURATION_CHARS], matched[128];
    describe_match(&r, matched, sizeof matched);
    sl_format_duration(eta, seconds * (double)c->train_steps);
    printf("parameters   %.0f%s\n", params, matched);
    printf("tokens       %.0f (%.1f a parameter, %.2f passes over the training text)\n", tokens, tokens / params,
           tokens / (double)sl_dataset_tokens(r.data, SL_TRAIN));
    printf("memory       %.2f GiB: parameters, gradients, moments %.2f, activations %.2f\n",
           gib(held + (double)sl_model_activation_bytes(r.model)), gib(held),
           gib((double)sl_model_activation_bytes(r.model)));
    const sl_device *device = sl_model_device(r.model);
    sl_device_info info;
    if (device && device->info(0, &info) == 0)
        printf("on %s    %.2f GiB taken in all, %.2f of %.2f GiB free\n", device->key,
               gib((double)device->bytes(sl_model_device_run(r.model))), gib((double)info.free),
               gib((double)info.total));
    printf("work         %.3g FLOP a token, %.3g in all\n", flops, flops * tokens);
    double rate = (double)step_tokens(c) / seconds, gflops = flops * rate / 1e9, peak = sl_model_peak_gflops(c);
    printf("speed        %.0f tokens/s, %.0f GFLOP/s, %.0f%% of this machine's measured %.0f (%d threads, %s)\n", rate,
           gflops, 100 * gflops / peak, peak, sl_threads(), sl_model_place(c));
    printf("time         %s for %lld steps, without evaluations and probes\n", eta, (long long)c->train_steps);
    close_run(&r);
    return 0;
}
