/* The script for fish: one `complete` for each verb, flag and verb's operands. */
#include "cli/completion.h"

#include "cli/verbs.h"

static const char quoted[] = "\\'"; /* what is special between single quotes */

static void write_text(FILE *f, const char *text) {
    fputc('\'', f);
    sl_completion_escape(f, text, quoted);
    fputc('\'', f);
}

static void write_verb(const sl_verb_spec *spec, void *ctx) {
    FILE *f = ctx;
    static const char *const is_verb = "complete -c sinklab -n '__fish_seen_subcommand_from";
    for (const sl_flag *x = spec->flags; x && x->name; x++) {
        fprintf(f, "%s %s' -l %s%s -d ", is_verb, spec->verb, x->name,
                !x->value            ? ""
                : sl_flag_is_path(x) ? " -r -F"
                                     : " -x");
        write_text(f, x->help);
        fputc('\n', f);
    }
    fprintf(f, "%s %s' -l help -d 'print help'\n", is_verb, spec->verb);
    if (sl_completion_files(spec))
        fprintf(f, "%s %s; and __sinklab_file' -F\n", is_verb, spec->verb);
    for (const char *const *w = spec->words; w && *w; w++)
        fprintf(f, "%s %s' -a %s\n", is_verb, spec->verb, *w);
    if (spec->overrides)
        fprintf(f, "%s %s' -a '(__sinklab_assignments)'\n", is_verb, spec->verb);
}

static void write_keys(FILE *f) {
    sl_key_info k;
    for (int i = 0; sl_config_key(i, &k); i++) {
        fprintf(f, "        printf '%%s\\t%%s\\n' %s= ", k.name);
        write_text(f, k.help);
        fputc('\n', f);
    }
}

static void write_values(FILE *f) {
    sl_key_info k;
    for (int i = 0; sl_config_key(i, &k); i++) {
        if (!k.choices)
            continue;
        fprintf(f, "        case '%s=*'\n            printf '%%s\\n'", k.name);
        for (const sl_choice *c = k.choices; c->name; c++)
            fprintf(f, " %s=%s", k.name, c->name);
        fputc('\n', f);
    }
}

/* A file stands alone, or behind a key that takes any text. */
static void write_file_test(FILE *f) {
    sl_key_info k;
    fputs("function __sinklab_file\n    switch (commandline -ct)\n        case", f);
    for (int i = 0; sl_config_key(i, &k); i++)
        if (k.text)
            fprintf(f, " '%s=*'", k.name);
    fputs("\n            return 0\n        case '*=*'\n            return 1\n    end\nend\n", f);
}

void sl_completion_fish(FILE *f) {
    fputs("# Completion of sinklab's command lines for fish, written by `sinklab completion fish`.\n", f);
    write_file_test(f);
    fputs("function __sinklab_assignments\n"
          "    switch (commandline -ct)\n", f);
    write_values(f);
    fputs("        case '*=*'\n        case '*'\n", f);
    write_keys(f);
    fputs("    end\nend\ncomplete -c sinklab -f\n", f);
    for (const sl_verb *v = sl_verbs; v->name; v++) {
        fprintf(f, "complete -c sinklab -n '__fish_use_subcommand; or __fish_seen_subcommand_from help' -a %s -d ",
                v->name);
        write_text(f, v->help);
        fputc('\n', f);
    }
    fputs("complete -c sinklab -n __fish_use_subcommand -a help -d 'explain a verb'\n"
          "complete -c sinklab -n __fish_use_subcommand -l version -d 'print the version'\n"
          "complete -c sinklab -n __fish_use_subcommand -l help -d 'list the verbs'\n", f);
    for (const sl_verb *v = sl_verbs; v->name; v++)
        sl_args_describe(v->run, write_verb, f);
}
