/* sinklab probe: measures a checkpoint on validation windows. */
#include "base/err.h"
#include "base/mem.h"
#include "cli/args.h"
#include "cli/probe_measures.h"
#include "cli/probe_tokens.h"
#include "cli/verbs.h"
#include "eval/windows.h"
#include "session/lists.h"
#include "session/load.h"
#include "session/measure.h"
#include "session/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    const char *corpus, *bos, *measure_list, *folder, *what_list, *layer_list, *head_list;
    unsigned measures, what; /* of the lists */
    int64_t windows, skip;
    bool profile, json;
    char dir[SL_DIR_CHARS]; /* the checkpoint that is meant */
    int32_t vocab;
    sl_config config;
    sl_dataset *data;
    sl_model *model;
    sl_dump *dump;     /* NULL: none was asked for */
    bool *chosen;      /* of the dump: layers + 1 layers, then heads */
} probe_run;

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

/* As many windows as keep the cores busy, of those that divide all: more would take memory alone. */
static int64_t batch_of(int64_t windows, int64_t seq) {
    enum { ROWS = 1024 };
    int64_t batch = sl_measure_batch(windows);
    while (batch > 1 && (batch * seq > ROWS || windows % batch))
        batch--;
    return batch;
}

static int open_all(probe_run *r) {
    r->data = sl_open_data(&r->config, r->dir, r->vocab);
    r->windows = r->data ? sl_val_windows(r->data, r->windows, r->skip) : -1;
    if (r->windows < 0)
        return -1;
    int64_t seq = r->config.model_seq;
    unsigned parts = r->measures || r->folder ? 0 : SL_MODEL_NO_PART_TAPS; /* measures and dumps read them */
    r->model = sl_model_create(&r->config, r->vocab, batch_of(r->windows, seq), seq,
                               SL_MODEL_TAPS | parts | sl_load_compact(&r->config, r->dir));
    if (!r->model || sl_load_weights(r->model, r->dir) < 0)
        return -1;
    return r->folder ? open_dump(r) : 0;
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
    const char *name, *help;
    for (int i = 0; (name = sl_measure_figure(i, &help)); i++) {
        if (!json_object_get(o, name))
            continue;
        printf("%-18s", name);
        cell(10, json_object_get(o, name));
        printf("   %s\n", help);
    }
}

static int print_schema(void) {
    char *schema = sl_measure_schema();
    if (schema)
        puts(schema);
    free(schema);
    return schema ? 0 : -1;
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

static void print_tables(const probe_run *r, const json_t *o) {
    const json_t *loss = json_object_get(o, "loss"), *bos = json_object_get(o, "bos");
    printf("%s: %lld validation windows of %s, loss %.4f nats per token\n", r->dir, (long long)r->windows,
           r->config.data_corpus, json_is_number(loss) ? json_number_value(loss) : NAN);
    if (json_is_null(bos))
        puts("BOS: none\n");
    else
        printf("BOS: id %lld %s every window\n\n", (long long)json_integer_value(bos),
               r->config.data_bos_place == SL_BOS_FIRST ? "in front of" : "somewhere in");
    print_layers(json_object_get(o, "layers"));
    puts("\nRow i: h_i, the residual stream after i blocks, and the block that reads it.\n");
    print_other_mixers(json_object_get(o, "layers"));
    print_summary(o);
    print_sink_dims(json_object_get(o, "sink_dims"));
    sl_top_tokens_print(json_object_get(o, "top_tokens"));
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
    sl_measure_options how = {r->windows, r->skip, r->measures, r->profile || r->dump, r->dump};
    json_t *o = sl_measure(r->model, r->data, &how);
    if (o)
        json_object_set_new(o, "checkpoint", json_string(r->dir));
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
    if (check_lists(r) < 0 || sl_args_load(args, r->bos, 1, &r->config, r->dir, &r->vocab) < 0 ||
        sl_load_corpus(r->corpus, &r->config))
        return -1;
    int rc = open_all(r) < 0 || report(r) < 0 ? -1 : 0;
    sl_dump_free(r->dump);
    sl_model_free(r->model);
    sl_dataset_close(r->data);
    sl_free(r->chosen);
    return rc;
}

int sl_verb_probe(int argc, char **argv) {
    probe_run r = {.windows = 32, .skip = SL_SPREAD};
    bool schema = false;
    const sl_flag flags[] = {
        SL_FLAG_STR("corpus", "C", &r.corpus, "measure on this corpus; default: the one trained on"),
        SL_FLAG_BOS(&r.bos),
        SL_FLAG_INT("windows", "N", &r.windows, 1, 1e6,
                    "validation windows, fewer where the corpus has fewer; default 32"),
        SL_FLAG_SKIP(&r.skip),
        SL_FLAG_STR("measures", "LIST", &r.measure_list,
                    "take these measures too: names from the list above with commas between, or all"),
        SL_FLAG_STR("dump", "FOLDER", &r.folder, "write activations to this new folder as .npy files"),
        SL_FLAG_STR("what", "LIST", &r.what_list,
                    "what to dump, from the list above, or all; default residual,norms,gates,statistics"),
        SL_FLAG_STR("layers", "LIST", &r.layer_list, "layers to dump, like 0,2,5-7; default: all"),
        SL_FLAG_STR("heads", "LIST", &r.head_list, "query heads whose attention to dump; default: all"),
        SL_FLAG_BOOL("profile", &r.profile, "with --json: also every channel's mean and every norm weight"),
        SL_FLAG_BOOL("json", &r.json, "print one JSON object: the figures by name, and \"layers\""),
        SL_FLAG_BOOL("schema", &schema, "print the JSON schema of what --json prints, and do nothing else"),
        SL_FLAG_END};
    char about[4096] =
        "Measures attention sinks and residual sinks of a checkpoint (its folder, a run folder, a "
        "Hugging Face folder or a GGUF file) on validation windows: per layer max |h| with and "
        "without token 0, M2, top-1 per mille, kurtosis-H, norm weights, attention to token 0, "
        "value norms and gates; then the figures of the whole model, the sink dimensions, and the tokens of "
        "largest norm.";
    sl_list_help(about, sizeof about,
                 "Measures that --measures adds (defined in src/probe/detail.h):", sl_measure_table);
    sl_list_help(about, sizeof about, "What --dump writes:", sl_dump_table);
    const sl_verb_spec spec = {
        .verb = "probe",
        .operands = "CHECKPOINT [key=value ...]",
        .about = about,
        .flags = flags,
        .min_positionals = 0,
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
    if (schema)
        return print_schema();
    if (args.positionals == 0)
        return sl_fail_usage("probe: an argument is missing: sinklab probe %s", spec.operands);
    return run(&r, &args);
}
