/* sinklab config: the table of keys; checks a configuration and shows what is in force. */
#include "base/err.h"
#include "cli/args.h"
#include "cli/verbs.h"
#include "data/dataset.h"
#include "model/match.h"

#include <stdlib.h>
#include <string.h>

/* A first word that looks like a path is the file; all others are keys or sections. */
static bool is_file(const char *word) {
    size_t n = strlen(word);
    return strchr(word, '/') || (n > 5 && strcmp(word + n - 5, ".yaml") == 0) ||
           (n > 4 && strcmp(word + n - 4, ".yml") == 0);
}

static int print_params(const sl_config *c, bool json) {
    sl_tokenizer *t = sl_dataset_open_tokenizer(c);
    int32_t vocab = t ? sl_tokenizer_vocab(t) : 0;
    sl_match m;
    sl_tokenizer_close(t);
    if (!t || sl_match_count(c, vocab, &m))
        return -1;
    long long params = m.params, baseline = m.baseline, ffn = m.ffn;
    if (json)
        printf("{\"params\": %lld, \"baseline_params\": %lld, \"ffn\": %lld}\n", params, baseline, ffn);
    else
        printf("parameters   %lld\nbaseline     %lld\n%-12s %lld\n", params, baseline, sl_match_key(c), ffn);
    return 0;
}

static int print_schema(void) {
    char *schema = sl_config_schema();
    if (schema)
        puts(schema);
    free(schema);
    return schema ? 0 : -1;
}

int sl_verb_config(int argc, char **argv) {
    bool dump = false, json = false, params = false, schema = false;
    const sl_flag flags[] = {
        SL_FLAG_BOOL("dump", &dump, "print the whole effective configuration as YAML"),
        SL_FLAG_BOOL("params", &params, "print the model's parameters, its baseline's and the feed-forward's width"),
        SL_FLAG_BOOL("json", &json, "print JSON: the table, or an object of the values in force"),
        SL_FLAG_BOOL("schema", &schema, "print the JSON schema of configurations, for editors; and do nothing else"),
        SL_FLAG_END};
    const sl_verb_spec spec = {
        .verb = "config",
        .operands = "[CONFIG.yaml] [KEY ...] [key=value ...]",
        .about =
            "Without a file or key=value: lists every configuration key with default, legal values "
            "and meaning; KEY (a key or a section) narrows the list.\n"
            "With them: checks the configuration and prints the values that differ from the "
            "defaults, or those of each KEY, as key=value.",
        .flags = flags,
        .max_positionals = -1,
        .overrides = true,
        .examples = "sinklab config\n"
                    "sinklab config model.norm train\n"
                    "sinklab config tiny.yaml model.norm=gated_norm train.lr=2e-3 --dump\n"
                    "sinklab config tiny.yaml --json\n"
                    "sinklab config tiny.yaml model.match_params=true --params\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (schema)
        return print_schema();
    bool file = args.positionals > 0 && is_file(args.positional[0]);
    const char *const *keys = args.positional + file;
    int n = args.positionals - file;
    if (!file && !dump && !params && args.overrides == 0)
        return sl_config_help(stdout, keys, n, json);

    sl_config c;
    sl_config_defaults(&c);
    if ((file && sl_config_read(&c, args.positional[0]) != 0) || sl_args_override(&args, &c) != 0 ||
        sl_config_check(&c) != 0)
        return -1;
    if (params && (dump || n > 0))
        return sl_fail_usage("config: --params prints counts only; leave out %s", dump ? "--dump" : keys[0]);
    if (params)
        return print_params(&c, json);
    if (dump && n > 0)
        return sl_fail_usage("config: --dump prints every key; leave out %s", keys[0]);
    return dump && !json ? sl_config_dump(&c, stdout) : sl_config_show(&c, stdout, keys, n, json);
}
