/* sinklab completion: a script for a shell. */
#include "cli/completion.h"

#include "base/err.h"
#include "base/text.h"
#include "cli/verbs.h"

#include <string.h>

typedef struct {
    const char *name; /* first, for sl_nearest() */
    sl_completion_fn *write;
} shell;

static const shell shells[] = {
    {"bash", sl_completion_bash}, {"fish", sl_completion_fish}, {"zsh", sl_completion_zsh}, {NULL, NULL}};

bool sl_completion_files(const sl_verb_spec *spec) { return spec->max_positionals != 0 && !spec->words; }

void sl_completion_escape(FILE *f, const char *text, const char *special) {
    for (; *text; text++) {
        if (strchr(special, *text))
            fputc('\\', f);
        fputc(*text, f);
    }
}

void sl_completion_key_cases(FILE *f, const char *head, const char *tail) {
    sl_key_info k;
    for (int i = 0; sl_config_key(i, &k); i++) {
        if (!k.choices)
            continue;
        fprintf(f, "        %s) %s", k.name, head);
        for (const sl_choice *c = k.choices; c->name; c++)
            fprintf(f, "%s%s", c == k.choices ? "" : " ", c->name);
        fprintf(f, "%s ;;\n", tail);
    }
}

void sl_completion_keys(FILE *f, int indent, int width) {
    sl_key_info k;
    int at = width;
    for (int i = 0; sl_config_key(i, &k); i++) {
        int n = (int)strlen(k.name) + 2;
        if (at + n > width)
            fprintf(f, "%s%*s", i ? "\n" : "", indent, ""), at = indent;
        fprintf(f, "%s%s=", at > indent ? " " : "", k.name);
        at += n;
    }
}

int sl_verb_completion(int argc, char **argv) {
    static const char *const names[] = {"bash", "fish", "zsh", NULL};
    const sl_verb_spec spec = {
        .verb = "completion",
        .operands = "bash|fish|zsh",
        .about = "Prints the script by which a shell completes command lines of sinklab: verbs, flags, configuration "
                 "keys with their legal values, and files. It is made from the same tables as --help, and is to be "
                 "made again after an update.",
        .min_positionals = 1,
        .max_positionals = 1,
        .words = names,
        .examples = "source <(sinklab completion bash)\n"
                    "sinklab completion zsh >~/.zfunc/_sinklab\n"
                    "sinklab completion fish >~/.config/fish/completions/sinklab.fish\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    for (const shell *s = shells; s->name; s++)
        if (strcmp(s->name, args.positional[0]) == 0) {
            s->write(stdout);
            return 0;
        }
    char quoted[SL_QUOTE_CHARS];
    return sl_fail_usage("completion: there is bash, fish and zsh, not %s", sl_quote(quoted, args.positional[0]));
}
