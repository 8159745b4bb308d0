#include "base/err.h"
#include "cli/args.h"
#include "cli/verbs.h"
#include "train/train.h"

#include <libgen.h>
#include <stdio.h>
#include <string.h>

/* runs/<name of the config file>-<configuration hash>: one folder for each distinct configuration. */
static const char *default_out(const char *config, const sl_config *c, char out[512]) {
    char copy[256];
    snprintf(copy, sizeof copy, "%s", config);
    char *name = basename(copy), *dot = strrchr(name, '.');
    if (dot)
        *dot = 0;
    snprintf(out, 512, "runs/%s-%08x", name, (unsigned)sl_config_hash(c));
    return out;
}

int sl_verb_train(int argc, char **argv) {
    const char *out = NULL, *init = NULL;
    bool resume = false, dry_run = false;
    const sl_flag flags[] = {
        SL_FLAG_STR("out", "DIR", &out, "run directory; default runs/<config>-<hash of the configuration>"),
        SL_FLAG_STR("init", "PATH", &init,
                    "start from the weights and the model.* keys of this run, checkpoint folder, Hugging Face folder "
                    "or GGUF file; CONFIG need not repeat them (key train.init)"),
        SL_FLAG_BOOL("resume", &resume, "go on from the newest checkpoint of the run directory"),
        SL_FLAG_BOOL("dry-run", &dry_run,
                     "print parameters, memory, FLOP and the time it will take, from a few steps; write nothing"),
        SL_FLAG_END};
    const sl_verb_spec spec = {
        .verb = "train",
        .operands = "CONFIG.yaml [key=value ...]",
        .about = "Trains a model and measures its sinks on the way. The run directory gets config.yaml, env.json, "
                 "metrics.jsonl, probe.jsonl, checkpoints/ and result.json. A checkpoint is saved on SIGINT, "
                 "SIGTERM, SIGHUP, SIGUSR1 and SIGPIPE; an interrupted run goes on with --resume to the same bits.",
        .flags = flags,
        .min_positionals = 1,
        .max_positionals = 1,
        .overrides = true,
        .examples = "sinklab train tiny.yaml model.norm=gated_norm --out runs/gated\n"
                    "sinklab train tiny.yaml --out runs/gated --resume\n"
                    "sinklab train finetune.yaml --init smollm2.gguf train.lr=1e-4\n"};
    sl_args args;
    sl_config c;
    char path[512];
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    sl_config_defaults(&c);
    if (init && sl_config_take_init(&c, init))
        return -1;
    if (sl_config_read(&c, args.positional[0]) || sl_args_override(&args, &c) || sl_config_check(&c))
        return -1;
    if (dry_run)
        return sl_train_dry_run(&c);
    if (!out)
        out = default_out(args.positional[0], &c, path);
    return sl_train_run(&c, &(sl_run_options){.out = out, .resume = resume});
}
