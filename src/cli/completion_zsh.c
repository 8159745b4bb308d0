/* The script for zsh, a function for a folder of $fpath; sourced, it registers itself. */
#include "cli/completion.h"

#include "cli/verbs.h"

static const char apostrophe[] = "'\\''"; /* one between single quotes */

/* Help inside a spec of _arguments, between single quotes: brackets and colons mean something there. */
static void write_help(FILE *f, const char *text) {
    for (; *text; text++) {
        char one[] = {*text, '\0'};
        if (*text == '\'')
            fputs(apostrophe, f);
        else
            sl_completion_escape(f, one, "[]:\\");
    }
}

static void write_verb(const sl_verb_spec *spec, void *ctx) {
    FILE *f = ctx;
    fprintf(f, "        %s)\n            _arguments -S '--help[print help]'", spec->verb);
    for (const sl_flag *x = spec->flags; x && x->name; x++) {
        fprintf(f, " \\\n                '--%s%s[", x->name, x->value ? "=" : "");
        write_help(f, x->help);
        fputc(']', f);
        if (x->value)
            fprintf(f, ":%s:%s", x->value, sl_flag_is_path(x) ? "_files" : " ");
        fputc('\'', f);
    }
    if (spec->words) {
        fputs(" \\\n                '*:operand:(", f);
        for (const char *const *w = spec->words; *w; w++)
            fprintf(f, "%s%s", w == spec->words ? "" : " ", *w);
        fputs(")'", f);
    } else if (spec->max_positionals != 0)
        fprintf(f, " \\\n                '*:operand:%s'", spec->overrides ? "_sinklab_operand" : "_files");
    fputs(" ;;\n", f);
}

void sl_completion_zsh(FILE *f) {
    sl_key_info k;
    fputs("#compdef sinklab\n"
          "# Completion of sinklab's command lines for zsh, written by `sinklab completion zsh`.\n"
          "# A file, key= or the value of a key.\n"
          "_sinklab_operand() {\n"
          "    local key\n"
          "    local -a keys=(\n", f);
    sl_completion_keys(f, 8, 118);
    fputs("\n    )\n"
          "    if ! compset -P 1 '*='; then\n"
          "        compadd -S '' -a keys\n"
          "        _files\n"
          "        return\n"
          "    fi\n"
          "    key=${IPREFIX%=}\n"
          "    case $key in\n", f);
    sl_completion_key_cases(f, "compadd -- ", "");
    for (int i = 0; sl_config_key(i, &k); i++)
        if (k.text)
            fprintf(f, "        %s) _files ;;\n", k.name);
    fputs("    esac\n}\n"
          "_sinklab() {\n"
          "    local -a verbs=(\n", f);
    for (const sl_verb *v = sl_verbs; v->name; v++) {
        fprintf(f, "        '%s:", v->name);
        write_help(f, v->help);
        fputs("'\n", f);
    }
    fputs("        'help:explain a verb'\n"
          "    )\n"
          "    if (( CURRENT == 2 )) || [[ CURRENT -eq 3 && $words[2] == help ]]; then\n"
          "        _describe -t verbs verb verbs\n"
          "        return\n"
          "    fi\n"
          "    shift words\n"
          "    (( CURRENT -= 1 ))\n"
          "    case $words[1] in\n", f);
    for (const sl_verb *v = sl_verbs; v->name; v++)
        sl_args_describe(v->run, write_verb, f);
    fputs("    esac\n"
          "}\n"
          "if [[ $funcstack[1] == _sinklab ]]; then\n"
          "    _sinklab \"$@\"\n"
          "else\n"
          "    compdef _sinklab sinklab\n"
          "fi\n", f);
}
