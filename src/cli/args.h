/* Command-line arguments of a verb. A verb declares its flags in a table; parsing, the messages and
 * --help come from it. Everything that is not a flag is a positional or, where the verb takes them,
 * a configuration override key=value (a word of letters, digits, '_' and '.' before the first '=';
 * write ./a=b for a file of such a name). After "--" everything is positional.
 *
 *     int sl_verb_train(int argc, char **argv) {
 *         const char *out = NULL;
 *         bool resume = false;
 *         const sl_flag flags[] = {
 *             SL_FLAG_STR("out", "DIR", &out, "run directory; default runs/<name>"),
 *             SL_FLAG_BOOL("resume", &resume, "go on from the newest checkpoint"),
 *             SL_FLAG_END};
 *         const sl_verb_spec spec = {.verb = "train", .operands = "CONFIG.yaml [key=value ...]",
 *             .about = "Trains a model.", .flags = flags, .min_positionals = 1,
 *             .max_positionals = 1, .overrides = true,
 *             .examples = "sinklab train tiny.yaml model.norm=gated_norm --out runs/a\n"};
 *         sl_args args;
 *         int rc = sl_args_parse(&spec, argc, argv, &args);
 *         if (rc)
 *             return rc < 0 ? -1 : 0;   // an error, or --help was printed
 *         ...
 *
 * A verb returns 0, or -1 after sl_fail() (main prints the message and exits with its code). */
#ifndef SL_CLI_ARGS_H
#define SL_CLI_ARGS_H

#include "config/config.h"

#include <stdbool.h>
#include <stdint.h>

enum sl_flag_type { SL_FLAG_TYPE_BOOL, SL_FLAG_TYPE_STR, SL_FLAG_TYPE_INT, SL_FLAG_TYPE_REAL };

typedef struct {
    const char *name;  /* without the dashes; NULL ends a table */
    const char *value; /* what --help calls its value, e.g. "DIR"; NULL of a switch */
    const char *help;  /* one sentence, without a full stop; wrapped by --help */
    enum sl_flag_type type;
    union {
        bool *b;
        const char **s; /* points into argv */
        int64_t *i;
        double *r;
    } to;            /* keeps its value when the flag isn't given, so set the default first */
    double min, max; /* inclusive range of INT and REAL */
} sl_flag;

/* --name and --name=VALUE or --name VALUE; the last one given wins. */
#define SL_FLAG_BOOL(name, to_, help)                                                              \
    { name, NULL, help, SL_FLAG_TYPE_BOOL, {.b = (to_)}, 0, 0 }
#define SL_FLAG_STR(name, value, to_, help)                                                        \
    { name, value, help, SL_FLAG_TYPE_STR, {.s = (to_)}, 0, 0 }
#define SL_FLAG_INT(name, value, to_, min, max, help)                                              \
    { name, value, help, SL_FLAG_TYPE_INT, {.i = (to_)}, min, max }
#define SL_FLAG_REAL(name, value, to_, min, max, help)                                             \
    { name, value, help, SL_FLAG_TYPE_REAL, {.r = (to_)}, min, max }
#define SL_FLAG_END                                                                                \
    { NULL, NULL, NULL, SL_FLAG_TYPE_BOOL, {.b = NULL}, 0, 0 }

typedef struct {
    const char *verb;
    const char *operands; /* for the usage line: "CONFIG.yaml [key=value ...]"; "" if none */
    const char *about;    /* sentences; a '\n' starts a paragraph; wrapped by --help */
    const sl_flag *flags; /* ended by SL_FLAG_END; NULL if none. -h, --help are always there */
    int min_positionals, max_positionals; /* max < 0: any number */
    const char *const *words;             /* that operands may be, ended by NULL; NULL: files */
    bool overrides;                       /* takes key=value */
    const char *examples;                 /* lines ending in '\n', NULL if none */
} sl_verb_spec;

enum { SL_ARGS_MAX = 1024 };
typedef struct {
    int positionals, overrides;
    const char *positional[SL_ARGS_MAX], *override[SL_ARGS_MAX]; /* point into argv */
} sl_args;

/* argv[0] is the verb. 0: *a and the flags are filled; 1: help was asked for and printed to stdout,
 * the verb has nothing left to do; -1: a usage error that names the flag. */
int sl_args_parse(const sl_verb_spec *spec, int argc, char **argv, sl_args *a);

/* A verb: argv[0] is its name; 0, or -1 after sl_fail(). */
typedef int sl_verb_fn(int argc, char **argv);
typedef void sl_spec_fn(const sl_verb_spec *spec, void *ctx);
/* Gives fn what the verb says of itself, which is there until fn returns: for all that is made of --help's text. The
 * verb does nothing else. */
void sl_args_describe(sl_verb_fn *verb, sl_spec_fn *fn, void *ctx);
/* Whether the value of a flag is a file or folder. */
bool sl_flag_is_path(const sl_flag *f);

/* Applies the overrides in order. */
int sl_args_override(const sl_args *a, sl_config *c);

#define SL_FLAG_BOS(bos) \
    SL_FLAG_STR("bos", "TOKEN", bos, "what windows begin with: none, an id, or a token as the tokenizer's file " \
                                     "writes it; default: the run's, or of models of others the tokenizer's own rule")
/* SL_SPREAD before. */
#define SL_FLAG_SKIP(skip)                                                                                             \
    SL_FLAG_INT("skip", "N", skip, 0, 1e12,                                                                            \
                "leave out the first N windows of the text and take those behind them; default: spread over the text")

/* The overrides, and what SL_FLAG_BOS gave. */
sl_open_options sl_args_open(const sl_args *a, const char *bos);
/* sl_load_config() of the first positional. */
int sl_args_load(const sl_args *a, const char *bos, double measured, sl_config *c, char dir[SL_DIR_CHARS],
                 int32_t *vocab);

#endif
