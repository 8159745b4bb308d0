/* The script for bash. "=" breaks words there: key=value comes as three. */
#include "cli/completion.h"

#include "cli/verbs.h"

static void write_flags(FILE *f, const char *name, const sl_verb_spec *spec, bool (*wanted)(const sl_flag *)) {
    const char *blank = "";
    fprintf(f, " %s=\"", name);
    for (const sl_flag *x = spec->flags; x && x->name; x++)
        if (wanted(x)) {
            fprintf(f, "%s--%s", blank, x->name);
            blank = " ";
        }
    fputc('"', f);
}

static bool any(const sl_flag *x) { return x->name != NULL; }
static bool takes_path(const sl_flag *x) { return sl_flag_is_path(x); }
static bool takes_other(const sl_flag *x) { return x->value && !sl_flag_is_path(x); }

static void write_verb(const sl_verb_spec *spec, void *ctx) {
    FILE *f = ctx;
    fprintf(f, "        %s)", spec->verb);
    write_flags(f, "flags", spec, any);
    write_flags(f, "paths", spec, takes_path);
    write_flags(f, "others", spec, takes_other);
    fprintf(f, " files=%s keys=%s words=\"", sl_completion_files(spec) ? "yes" : "", spec->overrides ? "yes" : "");
    for (const char *const *w = spec->words; w && *w; w++)
        fprintf(f, "%s%s", w == spec->words ? "" : " ", *w);
    fputs("\" ;;\n", f);
}

static const char complete[] =
    "_sinklab() {\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]}\n"
    "    local key= head= flags= paths= others= files= keys= words= values=\n"
    "    COMPREPLY=()\n"
    "    if ((COMP_CWORD == 1)) || { ((COMP_CWORD == 2)) && [[ $verb == help ]]; }; then\n"
    "        COMPREPLY=($(compgen -W \"$_sinklab_verbs\" -- \"$cur\"))\n"
    "        return\n"
    "    fi\n"
    "    _sinklab_verb \"$verb\"\n"
    "    if [[ $cur == = ]]; then\n"
    "        key=$prev cur=\n"
    "    elif [[ $prev == = ]]; then\n"
    "        key=${COMP_WORDS[COMP_CWORD - 2]}\n"
    "    elif [[ $cur == ?*=* ]]; then # where \"=\" breaks no words\n"
    "        key=${cur%%=*} head=${cur%%=*}= cur=${cur#*=}\n"
    "    elif [[ \" $paths $others \" == *\" $prev \"* ]]; then\n"
    "        key=$prev\n"
    "    fi\n"
    "    if [[ $key == --* ]]; then\n"
    "        [[ \" $paths \" == *\" $key \"* ]] && _sinklab_files\n"
    "    elif [[ $key ]]; then\n"
    "        _sinklab_values \"$key\"\n"
    "        case $values in\n"
    "        '') ;;\n"
    "        '*') _sinklab_files ;;\n"
    "        *) COMPREPLY=($(compgen -P \"$head\" -W \"$values\" -- \"$cur\")) ;;\n"
    "        esac\n"
    "    elif [[ $cur == -* ]]; then\n"
    "        COMPREPLY=($(compgen -W \"$flags --help\" -- \"$cur\"))\n"
    "    else\n"
    "        # Keys from the second operand on, where the first is a file; \"filenames\" would quote their \"=\".\n"
    "        if [[ $keys ]] && { [[ $cur ]] || ((COMP_CWORD > 2)); }; then\n"
    "            COMPREPLY=($(compgen -W \"$_sinklab_keys\" -- \"$cur\"))\n"
    "        fi\n"
    "        ((${#COMPREPLY[@]} == 0)) || compopt -o nospace\n"
    "        [[ ! $files ]] || _sinklab_files\n"
    "        COMPREPLY+=($(compgen -W \"$words\" -- \"$cur\"))\n"
    "    fi\n"
    "}\n"
    "_sinklab_files() {\n"
    "    local path\n"
    "    ((${#COMPREPLY[@]} > 0)) || compopt -o filenames\n"
    "    while IFS= read -r path; do\n"
    "        COMPREPLY+=(\"$head$path\")\n"
    "    done < <(compgen -f -- \"$cur\")\n"
    "}\n"
    "complete -F _sinklab sinklab\n";

void sl_completion_bash(FILE *f) {
    sl_key_info k;
    fputs("# Completion of sinklab's command lines for bash, written by `sinklab completion bash`.\n"
          "_sinklab_verbs=\"", f);
    for (const sl_verb *v = sl_verbs; v->name; v++)
        fprintf(f, "%s ", v->name);
    fputs("help --help --version\"\n_sinklab_keys=\"\n", f);
    sl_completion_keys(f, 4, 118);
    fputs("\"\n_sinklab_verb() {\n    case $1 in\n", f);
    for (const sl_verb *v = sl_verbs; v->name; v++)
        sl_args_describe(v->run, write_verb, f);
    fputs("    esac\n}\n# The legal values of a key; * where any text is.\n_sinklab_values() {\n    case $1 in\n", f);
    sl_completion_key_cases(f, "values=\"", "\"");
    for (int i = 0; sl_config_key(i, &k); i++)
        if (k.text)
            fprintf(f, "        %s) values='*' ;;\n", k.name);
    fputs("    esac\n}\n", f);
    fputs(complete, f);
}
