/* sinklab probe: measures a checkpoint on validation windows. */
#include "base/err.h"
#include "base/mem.h"
#include "cli/args.h"
#include "cli/lists.h"
#include "cli/load.h"
#include "cli/probe_measures.h"
#include "cli/verbs.h"
#include "probe/dump.h"
#include "probe/probe.h"
#include "eval/evaluate.h"
#include "eval/windows.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 16 };

typedef struct {
    const char *corpus, *bos, *measure_list, *folder, *what_list, *layer_list, *head_list;
    unsigned measures, what; /* of the lists */
    int64_t windows;
    bool profile, json;
    char dir[SL_DIR_CHARS]; /* the checkpoint that is meant */
    int32_t vocab, bos_id; /* bos_id: -1 without */
    sl_config config;
    sl_dataset *data;
    sl_model *model;
    sl_probe *probe;
    sl_detail *detail; /* NULL: no measures were asked for */
    sl_dump *dump;     /* NULL: nor a dump */
    bool *chosen;      /* of the dump: layers + 1 layers, then heads */
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

static int open_dump(probe_run *r) {
    sl_shape s = sl_model_shape(r->model);
    r->chosen = sl_alloc((size_t)(s.layers + 1 + s.heads), "the dump");
    if (!r->chosen ||
        (r->layer_list && sl_list_numbers("probe: --layers", r->layer_list, s.layers + 1, r->chosen) < 0) ||
        (r->head_list && sl_list_numbers("probe: --heads", r->head_list, s.heads, r->chosen + s.layers + 1) < 0))
        return -1;
    sl_dump_options o = {.folder = r->folder, .checkpoint = r->dir, .corpus = r->config.data_corpus, .what = r->what,
                         .windows = r->windows, .layer = r->layer_list ? r->chosen : NULL,
                         .head = r->head_list ? r->chosen + s.layers + 1 : NULL};
    r->dump = sl_dump_create(r->model, &o);
    return r->dump ? 0 : -1;
}

static int open_all(probe_run *r) {
    r->data = sl_load_dataset(&r->config, r->dir, r->vocab);
    if (!r->data || sl_load_bos_id(&r->config, &r->bos_id))
        return -1;
    int64_t available = sl_dataset_windows(r->data, SL_VAL);
    if (available < 1)
        return sl_fail("%s has no validation window of %lld tokens; raise data.val_fraction or lower "
                       "model.seq", r->config.data_corpus, (long long)r->config.model_seq);
    if (r->windows > available)
        r->windows = available;
    r->model = sl_model_create(&r->config, r->vocab, batch_of(r->windows), r->config.model_seq, SL_MODEL_TAPS);
    if (!r->model || sl_load_weights(r->model, r->dir) < 0)
        return -1;
    if (sl_measure_states(r->model, r->data) < 0)
        return -1;
    r->probe = sl_probe_create(r->model);
    return !r->probe || (r->folder && open_dump(r) < 0) ? -1 : 0;
}

/* A batch is as many windows as divide those asked for: none is in part. */
static int add_probe(void *ctx, sl_model *m, const sl_batch *b) {
    probe_run *r = ctx;
    double loss = 0;
    if (sl_model_forward(m, b->in, b->target, &loss, NULL) || sl_probe_add_marked(r->probe, m, b->mark))
        return -1;
    r->loss += loss * (double)b->n / (double)r->windows;
    return r->dump ? sl_dump_add(r->dump, m, b->in) : 0;
}

static int add_detail(void *ctx, sl_model *m, const sl_batch *b) {
    probe_run *r = ctx;
    return sl_model_forward(m, b->in, b->target, NULL, NULL) ? -1 : sl_detail_add(r->detail, m);
}

static int pass(probe_run *r, sl_batch_fn add) {
    return sl_each_batch(r->model, r->data, (sl_windows){SL_VAL, r->windows, SL_FILL_NO_LOSS}, add, r);
}

/* The measures need the sink dimensions, so they take a pass of their own. */
static int measure_detail(probe_run *r) {
    int64_t layers = sl_model_shape(r->model).layers, dim = sl_model_shape(r->model).dim;
    double *scratch = sl_alloc((size_t)(2 * dim) * sizeof *scratch, "the measures");
    sl_sink_dims *sinks = sl_alloc(((size_t)layers + 1) * sizeof *sinks, "the measures");
    for (int64_t i = 0; scratch && sinks && i <= layers; i++)
        sinks[i] = sl_probe_sink_dims(r->probe, i, scratch);
    if (scratch && sinks)
        r->detail = sl_detail_create(r->model, r->measures, r->windows, sinks);
    sl_free(scratch);
    sl_free(sinks);
    return r->detail ? pass(r, add_detail) : -1;
}

static int measure(probe_run *r) {
    if (pass(r, add_probe) < 0)
        return -1;
    return r->measures ? measure_detail(r) : 0;
}

static void cell(int width, const json_t *x) {
    if (json_is_number(x))
        printf(" %*.4g", width, json_number_value(x));
    else
        printf(" %*s", width, "-");
}

/* Mean and share above .3 of an array of heads; null: heads that there are no figures of. */
static void head_cells(const json_t *heads) {
    size_t n = 0, sinks = 0, h;
    double sum = 0;
    const json_t *x;
    json_array_foreach(heads, h, x) {
        n += json_is_number(x);
        sum += json_number_value(x);
        sinks += json_number_value(x) > .3;
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

/* One line about layers whose figures of attention are missing because their mixer has none. */
static void print_other_mixers(const json_t *layers) {
    const json_t *l;
    const char *first = NULL;
    size_t i;
    json_array_foreach(layers, i, l) {
        const char *mixer = json_string_value(json_object_get(l, "mixer"));
        if (mixer)
            printf("%s %zu (%s)", first ? "," : "without attention:", i, mixer);
        first = first ? first : mixer;
    }
    if (first)
        puts("; figures, measures and dumps of queries, keys, values and attention leave these blocks out");
}

static void print_sink_dims(const json_t *dims) {
    const json_t *x;
    size_t i;
    printf("sink dimensions (mean |h| at least %g times the median; channel: layers, largest):",
           SL_SINK_STRENGTH);
    json_array_foreach(dims, i, x)
        printf("%s %lld: %lld, %.3g", i ? ";" : "", (long long)json_integer_value(json_array_get(x, 0)),
               (long long)json_integer_value(json_array_get(x, 1)), json_number_value(json_array_get(x, 2)));
    puts(json_array_size(dims) ? "" : " none");
}

/* All figures as one object; NULL with a message. */
static json_t *result(const probe_run *r, bool profile) {
    json_t *o = sl_probe_result(r->probe, r->model, profile);
    json_t *measures = o && r->detail ? sl_detail_result(r->detail) : NULL;
    if (!o || (r->detail && !measures)) {
        json_decref(o);
        return NULL;
    }
    json_object_set_new(o, "val_loss", isfinite(r->loss) ? json_real(r->loss) : json_null());
    json_object_set_new(o, "loss", isfinite(r->loss) ? json_real(r->loss) : json_null());
    json_object_set_new(o, "bos", r->bos_id < 0 ? json_null() : json_integer(r->bos_id));
    json_object_set_new(o, "windows", json_integer(r->windows));
    json_object_set_new(o, "checkpoint", json_string(r->dir));
    if (measures)
        json_object_set_new(o, "measures", measures);
    return o;
}

static void print_tables(const probe_run *r, const json_t *o) {
    printf("%s: %lld validation windows of %s, loss %.4f nats per token\n", r->dir, (long long)r->windows,
           r->config.data_corpus, r->loss);
    if (r->bos_id < 0)
        puts("BOS: none\n");
    else
        printf("BOS: id %d %s every window\n\n", r->bos_id,
               r->config.data_bos_place == SL_BOS_FIRST ? "in front of" : "somewhere in");
    print_layers(json_object_get(o, "layers"));
    puts("\nRow i: h_i, the residual stream after i blocks, and the block that reads it.\n");
    print_other_mixers(json_object_get(o, "layers"));
    print_summary(o);
    print_sink_dims(json_object_get(o, "sink_dims"));
    sl_measures_print(json_object_get(o, "measures"));
}

/* Takes the channels and weights out again that only the dump, and --profile, want. */
static void drop_profile(json_t *o) {
    static const char *const keys[] = {"channel_mean_abs", "norm_weight_attn", "norm_weight_ffn", "norm_weight_final"};
    json_t *layer;
    size_t i;
    json_array_foreach(json_object_get(o, "layers"), i, layer)
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            json_object_del(layer, keys[k]);
}

static int report(const probe_run *r) {
    int files = 0;
    int64_t bytes = 0;
    json_t *o = result(r, r->profile || r->dump);
    if (!o || (r->dump && sl_dump_finish(r->dump, o, &files, &bytes) < 0)) {
        json_decref(o);
        return -1;
    }
    if (!r->profile)
        drop_profile(o);
    if (r->json) {
        json_dumpf(o, stdout, JSON_REAL_PRECISION(7) | JSON_COMPACT);
        putchar('\n');
    } else {
        print_tables(r, o);
        if (r->dump)
            printf("\n%s: %d arrays, %.4g MB; manifest.json lists them\n", r->folder, files, (double)bytes / 1e6);
    }
    json_decref(o);
    return 0;
}

static int check_lists(probe_run *r) {
    const char *alone = r->what_list ? "what" : r->layer_list ? "layers" : r->head_list ? "heads" : NULL;
    if (!r->folder && alone)
        return sl_fail_usage("probe: --%s says what to dump; give --dump FOLDER with it", alone);
    if (r->measure_list && sl_list_names("probe: --measures", r->measure_list, sl_measure_table, &r->measures) < 0)
        return -1;
    return sl_list_names("probe: --what", r->what_list ? r->what_list : "residual,norms,gates,statistics",
                         sl_dump_table, &r->what);
}

static int run(probe_run *r, const sl_args *args) {
    if (check_lists(r) < 0 || sl_load_config(args, r->bos, 1, &r->config, r->dir, &r->vocab) < 0 ||
        (r->corpus && set_corpus(&r->config, r->corpus) < 0))
        return -1;
    int rc = open_all(r) < 0 || measure(r) < 0 || report(r) < 0 ? -1 : 0;
    sl_dump_free(r->dump);
    sl_detail_free(r->detail);
    sl_probe_free(r->probe);
    sl_model_free(r->model);
    sl_dataset_close(r->data);
    sl_free(r->chosen);
    return rc;
}

int sl_verb_probe(int argc, char **argv) {
    probe_run r = {.windows = 32};
    const sl_flag flags[] = {
        SL_FLAG_STR("corpus", "C", &r.corpus, "measure on this corpus; default: the one trained on"),
        SL_FLAG_BOS(&r.bos),
        SL_FLAG_INT("windows", "N", &r.windows, 1, 1e6,
                    "validation windows, fewer where the corpus has fewer; default 32"),
        SL_FLAG_STR("measures", "LIST", &r.measure_list,
                    "take these measures too: names from the list above with commas between, or all"),
        SL_FLAG_STR("dump", "FOLDER", &r.folder, "write activations to this new folder as .npy files"),
        SL_FLAG_STR("what", "LIST", &r.what_list,
                    "what to dump, from the list above, or all; default residual,norms,gates,statistics"),
        SL_FLAG_STR("layers", "LIST", &r.layer_list, "layers to dump, like 0,2,5-7; default: all"),
        SL_FLAG_STR("heads", "LIST", &r.head_list, "query heads whose attention to dump; default: all"),
        SL_FLAG_BOOL("profile", &r.profile, "with --json: also every channel's mean and every norm weight"),
        SL_FLAG_BOOL("json", &r.json, "print one JSON object: the figures by name, and \"layers\""),
        SL_FLAG_END};
    char about[4096] =
        "Measures attention sinks and residual sinks of a checkpoint (its folder, a run folder, a "
        "Hugging Face folder or a GGUF file) on the first validation windows: per layer max |h| with and "
        "without token 0, M2, top-1 per mille, kurtosis-H, norm weights, attention to token 0, "
        "value norms and gates; then the figures of the whole model and the sink dimensions.";
    sl_list_help(about, sizeof about,
                 "Measures that --measures adds (defined in src/probe/detail.h):", sl_measure_table);
    sl_list_help(about, sizeof about, "What --dump writes:", sl_dump_table);
    const sl_verb_spec spec = {
        .verb = "probe",
        .operands = "CHECKPOINT [key=value ...]",
        .about = about,
        .flags = flags,
        .min_positionals = 1,
        .max_positionals = 1,
        .overrides = true,
        .examples = "sinklab probe runs/baseline\n"
                    "sinklab probe runs/baseline --windows 64 --json threads=2\n"
                    "sinklab probe model.gguf --corpus text.txt --bos none\n"
                    "sinklab probe runs/baseline --measures contribution,singular\n"
                    "sinklab probe runs/baseline --windows 8 --dump acts --what residual,attention --layers 0-2\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    return run(&r, &args);
}
