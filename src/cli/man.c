/* sinklab man: the manual page, as groff and mandoc take it, from what --help says. */
#include "cli/verbs.h"

#include <stdio.h>
#include <string.h>

/* Text with what roff takes for commands made plain. A line of it starts at `line_start`. */
static void write_text(const char *text, bool line_start) {
    for (; *text; line_start = *text++ == '\n') {
        if (line_start && (*text == '.' || *text == '\''))
            fputs("\\&", stdout);
        if (*text == '\\')
            fputs("\\(rs", stdout);
        else if (*text == '-')
            fputs("\\-", stdout);
        else
            putchar(*text);
    }
}

static void write_line(const char *text) {
    write_text(text, true);
    putchar('\n');
}

static void write_paragraphs(const char *text) {
    for (bool first = true; *text; first = false) {
        char line[4096];
        size_t n = strcspn(text, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        if (n) {
            fputs(first ? "" : ".PP\n", stdout);
            write_line(line + strspn(line, " "));
        }
        text += n + (text[n] == '\n');
    }
}

/* "--out DIR", in bold and italics. */
static void write_flag(const char *name, const char *value, const char *help) {
    fputs(".TP\n\\fB", stdout);
    write_text("--", false);
    write_text(name, false);
    fputs("\\fR", stdout);
    if (value) {
        fputs(" \\fI", stdout);
        write_text(value, false);
        fputs("\\fR", stdout);
    }
    putchar('\n');
    write_line(help);
}

static void write_verb(const sl_verb_spec *spec, void *ctx) {
    (void)ctx;
    fputs(".SS ", stdout);
    write_text(spec->verb, false);
    fputs("\n\\fBsinklab ", stdout);
    write_text(spec->verb, false);
    fputs("\\fR ", stdout);
    write_text(spec->operands, false);
    fputs(*spec->operands ? " [flags]\n.PP\n" : "[flags]\n.PP\n", stdout);
    write_paragraphs(spec->about);
    for (const sl_flag *x = spec->flags; x && x->name; x++)
        write_flag(x->name, x->value, x->help);
    if (spec->examples) {
        fputs(".PP\nExamples:\n.PP\n.nf\n", stdout);
        write_text(spec->examples, true);
        fputs(".fi\n", stdout);
    }
}

static void write_key(const sl_key_info *k) {
    fputs(".TP\n\\fB", stdout);
    write_text(k->name, false);
    fputs("\\fR=", stdout);
    write_text(k->value, false);
    putchar('\n');
    write_text(k->help, true);
    fputs("; ", stdout);
    write_line(k->legal);
}

int sl_verb_man(int argc, char **argv) {
    const sl_verb_spec spec = {.verb = "man",
                               .operands = "",
                               .about = "Prints the manual page, which says what `sinklab VERB --help` and `sinklab "
                                        "config` say, for all verbs and keys.",
                               .examples = "sinklab man | man -l -\n"};
    sl_args args;
    sl_key_info k;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    printf(".TH SINKLAB 1 \"\" \"sinklab %s\"\n.SH NAME\nsinklab \\- attention sinks and residual sinks of small "
           "transformers\n.SH SYNOPSIS\n\\fBsinklab\\fR \\fIVERB\\fR [\\fIarguments\\fR]\n.SH DESCRIPTION\n",
           sl_version());
    write_line("sinklab trains small transformers, measures the sinks and outliers of these and of pre-trained ones, "
               "and changes what is thought to cause them. Exit codes: 0 ok, 1 failed, 2 wrong usage; an error is one "
               "line that says what, where and how to mend it.");
    puts(".SH VERBS");
    for (const sl_verb *v = sl_verbs; v->name; v++)
        sl_args_describe(v->run, write_verb, NULL);
    puts(".SH CONFIGURATION KEYS");
    write_line("Each with its default, as a YAML file or key=value on the command line sets it.");
    for (int i = 0; sl_config_key(i, &k); i++)
        write_key(&k);
    return 0;
}
