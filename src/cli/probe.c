/* sinklab probe: measures a checkpoint on validation windows. */
#include "base/err.h"
#include "base/mem.h"
#include "cli/args.h"
#include "cli/load.h"
#include "cli/verbs.h"
#include "probe/probe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 16 };

typedef struct {
    const char *corpus;
    int64_t windows;
    bool profile, json;
    char dir[SL_DIR_CHARS]; /* the checkpoint that is meant */
    int32_t vocab;
    sl_config config;
    sl_dataset *data;
    sl_model *model;
    sl_probe *probe;
    double loss;
} probe_run;

static int set_corpus(sl_config *c, const char *corpus) {
    if (strlen(corpus) >= sizeof c->data_corpus)
        return sl_fail_usage("--corpus: a path of %zu bytes; at most %zu fit", strlen(corpus),
                             sizeof c->data_corpus - 1);
    strcpy(c->data_corpus, corpus);
    return 0;
}

/* Largest batch that divides the windows, so that exactly the windows asked for are measured. */
static int64_t batch_of(int64_t windows) {
    int64_t batch = windows < MAX_BATCH ? windows : MAX_BATCH;
    while (windows % batch)
        batch--;
    return batch;
}

static int open_all(probe_run *r) {
    r->data = sl_load_dataset(&r->config, r->vocab);
    if (!r->data)
        return -1;
    int64_t available = sl_dataset_windows(r->data, SL_VAL);
    if (available < 1)
        return sl_fail("%s has no validation window of %lld tokens; raise data.val_fraction or lower "
                       "model.seq", r->config.data_corpus, (long long)r->config.model_seq);
    if (r->windows > available)
        r->windows = available;
    r->model = sl_model_create(&r->config, r->vocab, batch_of(r->windows), r->config.model_seq, false,
                               true);
    if (!r->model || sl_model_load(r->model, r->dir, NULL) < 0)
        return -1;
    r->probe = sl_probe_create(r->model);
    return r->probe ? 0 : -1;
}

/* The first validation windows, in order. */
static int measure(probe_run *r) {
    int64_t batch = sl_model_shape(r->model).batch, seq = sl_model_shape(r->model).seq;
    int32_t *in = sl_alloc((size_t)(2 * batch * seq) * sizeof *in, "a batch");
    if (!in)
        return -1;
    int32_t *target = in + batch * seq;
    uint8_t *mark = sl_dataset_has_marks(r->data) ? sl_alloc((size_t)(batch * seq), "a batch's marks") : NULL;
    int rc = sl_dataset_has_marks(r->data) && !mark ? -1 : 0;
    for (int64_t first = 0; first < r->windows && rc == 0; first += batch) {
        double loss = 0;
        for (int64_t w = 0; w < batch; w++) {
            sl_dataset_val_window(r->data, first + w, in + w * seq, target + w * seq);
            if (mark)
                sl_dataset_mark(r->data, in + w * seq, mark + w * seq);
        }
        rc = sl_model_forward(r->model, in, target, &loss, NULL) || sl_probe_add_marked(r->probe, r->model, mark)
                 ? -1
                 : 0;
        r->loss += loss * (double)batch / (double)r->windows;
    }
    sl_free(in);
    sl_free(mark);
    return rc;
}

static void cell(int width, const json_t *x) {
    if (json_is_number(x))
        printf(" %*.4g", width, json_number_value(x));
    else
        printf(" %*s", width, "-");
}

/* Mean and share above .3 of an array of heads. */
static void head_cells(const json_t *heads) {
    size_t n = json_array_size(heads), sinks = 0;
    double sum = 0;
    for (size_t h = 0; h < n; h++) {
        double x = json_number_value(json_array_get(heads, h));
        sum += x;
        sinks += x > .3;
    }
    char share[48] = "-";
    if (n > 0)
        snprintf(share, sizeof share, "%zu/%zu", sinks, n);
    if (n > 0)
        printf(" %8.4f %6s", sum / (double)n, share);
    else
        printf(" %8s %6s", "-", share);
}

static void print_layers(const json_t *layers) {
    static const struct {
        const char *key, *title;
        int width;
    } column[] = {{"max", "max", 8}, {"max_no_token0", "no t0", 8}, {"m2", "M2", 7},
                  {"m2_dim", "dim", 5}, {"top1_permille", "top1/m", 7}, {"kurtosis_h", "kurt-H", 7},
                  {"token0_norm_ratio", "t0 norm", 8}, {"lambda_min", "lam min", 9},
                  {"lambda_at_sink", "lam dim", 9}, {"value_norm_ratio", "v0", 6},
                  {"gate_mean", "gate", 6}, {"gate_std", "spread", 7}};
    size_t columns = sizeof column / sizeof *column;
    printf("layer");
    for (size_t c = 0; c < columns; c++)
        printf(" %*s", column[c].width, column[c].title);
    printf(" %8s %6s\n", "att0", ">.3");
    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *l = json_array_get(layers, i);
        printf("%5zu", i);
        for (size_t c = 0; c < columns; c++)
            cell(column[c].width, json_object_get(l, column[c].key));
        head_cells(json_object_get(l, "att0"));
        putchar('\n');
    }
}

static void print_summary(const json_t *o) {
    static const struct {
        const char *key, *help;
    } line[] = {{"max", "largest |h| of the residual stream, all layers"},
                {"max_no_token0", "the same without token 0"},
                {"m2", "residual sink: max/median over channels of mean |h|, largest layer, no token 0"},
                {"m2_layer", "its layer"}, {"m2_dim", "its channel"},
                {"top1_permille", "share of the top 1/1000 of the channels in mean |h|, per mille"},
                {"kurtosis_h", "spread over channels, 1 (even) to d (one channel)"},
                {"lambda_min", "smallest |norm weight| of the block norms"},
                {"lambda_at_sink", "mean |norm weight| at channel m2_dim"},
                {"att0", "mean attention of queries 1.. to token 0"},
                {"att0_trigger", "the same of queries at triggers (synthetic tasks)"},
                {"att0_other", "the same of all other queries"},
                {"sink_rate", "share of heads whose mean attention to token 0 exceeds .3"},
                {"attention_entropy", "mean entropy of the attention rows, nats"},
                {"value_norm_ratio", "|value| of token 0 over the others'"},
                {"token0_norm_ratio", "|h| of token 0 over the others', largest layer"},
                {"gate_mean", "mean of the norm gates"}, {"gate_std", "their spread"},
                {"tokens", "tokens measured"}};
    for (size_t i = 0; i < sizeof line / sizeof *line; i++) {
        if (!json_object_get(o, line[i].key))
            continue;
        printf("%-18s", line[i].key);
        cell(10, json_object_get(o, line[i].key));
        printf("   %s\n", line[i].help);
    }
}

static int report(const probe_run *r) {
    json_t *o = sl_probe_result(r->probe, r->model, r->profile);
    if (!o)
        return -1;
    json_object_set_new(o, "val_loss", isfinite(r->loss) ? json_real(r->loss) : json_null());
    json_object_set_new(o, "windows", json_integer(r->windows));
    json_object_set_new(o, "checkpoint", json_string(r->dir));
    if (r->json) {
        json_dumpf(o, stdout, JSON_REAL_PRECISION(7) | JSON_COMPACT);
        putchar('\n');
    } else {
        printf("%s: %lld validation windows of %s, loss %.4f nats per token\n\n", r->dir,
               (long long)r->windows, r->config.data_corpus, r->loss);
        print_layers(json_object_get(o, "layers"));
        puts("\nRow i: h_i, the residual stream after i blocks, and the block that reads it.\n");
        print_summary(o);
    }
    json_decref(o);
    return 0;
}

static int run(probe_run *r, const sl_args *args) {
    if (sl_load_config(args, &r->config, r->dir, &r->vocab) < 0 ||
        (r->corpus && set_corpus(&r->config, r->corpus) < 0))
        return -1;
    int rc = open_all(r) < 0 || measure(r) < 0 || report(r) < 0 ? -1 : 0;
    sl_probe_free(r->probe);
    sl_model_free(r->model);
    sl_dataset_close(r->data);
    return rc;
}

int sl_verb_probe(int argc, char **argv) {
    probe_run r = {.windows = 32};
    const sl_flag flags[] = {
        SL_FLAG_STR("corpus", "C", &r.corpus, "measure on this corpus; default: the one trained on"),
        SL_FLAG_INT("windows", "N", &r.windows, 1, 1e6,
                    "validation windows, fewer where the corpus has fewer; default 32"),
        SL_FLAG_BOOL("profile", &r.profile, "with --json: also every channel's mean and every norm weight"),
        SL_FLAG_BOOL("json", &r.json, "print one JSON object: the figures by name, and \"layers\""),
        SL_FLAG_END};
    const sl_verb_spec spec = {
        .verb = "probe",
        .operands = "CHECKPOINT [key=value ...]",
        .about = "Measures attention sinks and residual sinks of a checkpoint (its folder, a run folder, or "
                 "a Hugging Face folder) on the first validation windows: per layer max |h| with and "
                 "without token 0, M2, top-1 per mille, kurtosis-H, norm weights, attention to token 0, "
                 "value norms and gates; then the figures of the whole model.",
        .flags = flags,
        .min_positionals = 1,
        .max_positionals = 1,
        .overrides = true,
        .examples = "sinklab probe runs/baseline\n"
                    "sinklab probe runs/baseline --windows 64 --json threads=2\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    return run(&r, &args);
}
