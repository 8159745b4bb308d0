#include "cli/args.h"

#include "base/err.h"
#include "base/text.h"
#include "session/load.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { HELP_WIDTH = 100, HELP_COLUMN = 24 };

static const sl_flag no_flags[] = {SL_FLAG_END};

static const sl_flag *flags_of(const sl_verb_spec *spec) {
    return spec->flags ? spec->flags : no_flags;
}

static void print_flag(const char *name, const char *value, const char *help) {
    char head[128];
    int n = snprintf(head, sizeof head, "  --%s%s%s", name, value ? " " : "", value ? value : "");
    fputs(head, stdout);
    if (n + 2 > HELP_COLUMN)
        printf("\n%*s", HELP_COLUMN, "");
    else
        printf("%*s", HELP_COLUMN - n, "");
    sl_print_wrapped(stdout, help, HELP_COLUMN, HELP_COLUMN, HELP_WIDTH);
}

static void print_paragraphs(const char *text) {
    char line[2048];
    while (*text) {
        size_t n = strcspn(text, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        sl_print_wrapped(stdout, line, 0, 0, HELP_WIDTH);
        text += n + (text[n] == '\n');
    }
}

static void print_help(const sl_verb_spec *spec) {
    printf("Usage: sinklab %s%s%s [flags]\n\n", spec->verb, *spec->operands ? " " : "",
           spec->operands);
    print_paragraphs(spec->about);
    puts("\nFlags:");
    for (const sl_flag *f = flags_of(spec); f->name; f++)
        print_flag(f->name, f->value, f->help);
    print_flag("help", NULL, "print this text (also -h)");
    if (spec->overrides)
        puts("\n`sinklab config` lists the keys that key=value can set.");
    if (spec->examples) {
        puts("\nExamples:");
        for (const char *s = spec->examples; *s;) {
            int n = (int)strcspn(s, "\n");
            printf("  %.*s\n", n, s);
            s += n + (s[n] == '\n');
        }
    }
}

/* Who is told of a verb's spec in place of --help's reader; fn NULL: nobody. */
static struct {
    sl_spec_fn *fn;
    void *ctx;
} listener;

void sl_args_describe(sl_verb_fn *verb, sl_spec_fn *fn, void *ctx) {
    char name[] = "", help[] = "--help", *argv[] = {name, help, NULL};
    listener.fn = fn, listener.ctx = ctx;
    verb(2, argv);
    listener.fn = NULL;
}

bool sl_flag_is_path(const sl_flag *f) {
    static const char *const paths[] = {"DIR", "FOLDER", "FILE", "PATH", "X.npy", "Y.npy"};
    for (size_t i = 0; f->value && i < sizeof paths / sizeof *paths; i++)
        if (strcmp(f->value, paths[i]) == 0)
            return true;
    return false;
}

static void help(const sl_verb_spec *spec) {
    if (listener.fn)
        listener.fn(spec, listener.ctx);
    else
        print_help(spec);
}

/* The flag called by the n bytes at `name`, NULL with a message if there is none. */
static const sl_flag *find_flag(const sl_verb_spec *spec, const char *name, size_t n) {
    for (const sl_flag *f = flags_of(spec); f->name; f++)
        if (strlen(f->name) == n && memcmp(f->name, name, n) == 0)
            return f;
    char word[64], quoted[SL_QUOTE_CHARS];
    snprintf(word, sizeof word, "%.*s", (int)(n < 63 ? n : 63), name);
    sl_quote(quoted, word);
    const char *near = sl_nearest(word, flags_of(spec), sizeof(sl_flag));
    if (near)
        sl_fail_usage("%s: unknown flag --%.*s; did you mean --%s?", spec->verb,
                      (int)strlen(quoted) - 2, quoted + 1, near);
    else
        sl_fail_usage("%s: unknown flag --%.*s; see `sinklab %s --help`", spec->verb,
                      (int)strlen(quoted) - 2, quoted + 1, spec->verb);
    return NULL;
}

static int set_number(const sl_verb_spec *spec, const sl_flag *f, const char *text) {
    char quoted[SL_QUOTE_CHARS], lo[SL_REAL_CHARS], hi[SL_REAL_CHARS];
    int64_t i = 0;
    double r = 0;
    bool whole = f->type == SL_FLAG_TYPE_INT;
    bool ok = whole ? sl_parse_int(text, &i) : sl_parse_real(text, &r);
    if (!ok || (whole ? (double)i : r) < f->min || (whole ? (double)i : r) > f->max)
        return sl_fail_usage("%s: --%s takes a %s from %s to %s, not %s", spec->verb, f->name,
                             whole ? "whole number" : "number", sl_format_real(lo, f->min),
                             sl_format_real(hi, f->max), sl_quote(quoted, text));
    if (whole)
        *f->to.i = i;
    else
        *f->to.r = r;
    return 0;
}

/* Reads the flag at argv[*at]; moves *at on to the value's place if that is the next word. */
static int take_flag(const sl_verb_spec *spec, int argc, char **argv, int *at) {
    const char *name = argv[*at] + 2;
    size_t n = strcspn(name, "=");
    const char *text = name[n] ? name + n + 1 : NULL;
    const sl_flag *f = find_flag(spec, name, n);
    if (!f)
        return -1;
    if (f->type == SL_FLAG_TYPE_BOOL) {
        if (text)
            return sl_fail_usage("%s: --%s takes no value", spec->verb, f->name);
        *f->to.b = true;
        return 0;
    }
    if (!text && *at + 1 < argc && strncmp(argv[*at + 1], "--", 2) != 0)
        text = argv[++*at];
    if (!text || !*text)
        return sl_fail_usage("%s: --%s needs a value: --%s %s", spec->verb, f->name, f->name,
                             f->value);
    if (f->type == SL_FLAG_TYPE_STR) {
        *f->to.s = text;
        return 0;
    }
    return set_number(spec, f, text);
}

static bool is_override(const char *s) {
    const char *start = s;
    while (isalnum((unsigned char)*s) || *s == '_' || *s == '.')
        s++;
    return s > start && *s == '=';
}

static int take_operand(const sl_verb_spec *spec, const char *text, bool may_override, sl_args *a) {
    char quoted[SL_QUOTE_CHARS];
    bool override = may_override && is_override(text);
    if (override && !spec->overrides)
        return sl_fail_usage("%s: takes no key=value, found %s; see `sinklab %s --help`",
                             spec->verb, sl_quote(quoted, text), spec->verb);
    int *count = override ? &a->overrides : &a->positionals;
    if (*count == SL_ARGS_MAX)
        return sl_fail_usage("%s: more than %d arguments", spec->verb, SL_ARGS_MAX);
    if (!override && spec->max_positionals >= 0 && *count == spec->max_positionals)
        return sl_fail_usage("%s: one argument too many: %s; see `sinklab %s --help`", spec->verb,
                             sl_quote(quoted, text), spec->verb);
    (override ? a->override : a->positional)[(*count)++] = text;
    return 0;
}

static bool wants_help(int argc, char **argv) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

int sl_args_parse(const sl_verb_spec *spec, int argc, char **argv, sl_args *a) {
    a->positionals = a->overrides = 0;
    if (wants_help(argc, argv)) {
        help(spec);
        return 1;
    }
    bool flags = true;
    for (int i = 1; i < argc; i++) {
        const char *s = argv[i];
        if (flags && strcmp(s, "--") == 0)
            flags = false;
        else if (flags && strncmp(s, "--", 2) == 0) {
            if (take_flag(spec, argc, argv, &i) != 0)
                return -1;
        } else if (flags && s[0] == '-' && s[1]) {
            char quoted[SL_QUOTE_CHARS];
            return sl_fail_usage(
                "%s: unknown flag %s; flags start with two dashes, see `sinklab %s "
                "--help`",
                spec->verb, sl_quote(quoted, s), spec->verb);
        } else if (take_operand(spec, s, flags, a) != 0)
            return -1;
    }
    if (a->positionals < spec->min_positionals)
        return sl_fail_usage("%s: an argument is missing: sinklab %s %s", spec->verb, spec->verb,
                             spec->operands);
    return 0;
}

int sl_args_override(const sl_args *a, sl_config *c) {
    for (int i = 0; i < a->overrides; i++)
        if (sl_config_override(c, a->override[i]) != 0)
            return -1;
    return 0;
}

sl_open_options sl_args_open(const sl_args *a, const char *bos) {
    return (sl_open_options){.key = a->override, .keys = a->overrides, .bos = bos};
}

int sl_args_load(const sl_args *a, const char *bos, double measured, sl_config *c, char dir[SL_DIR_CHARS],
                 int32_t *vocab) {
    sl_open_options o = sl_args_open(a, bos);
    return sl_load_config(a->positional[0], &o, measured, c, dir, vocab);
}
