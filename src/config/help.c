/* Configuration for readers: the table of keys, the dump, values in force. */
#include "base/err.h"
#include "base/text.h"
#include "config/keys.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_COLUMN = 2,
    DEFAULT_COLUMN = 29,
    LEGAL_COLUMN = 42,
    HELP_COLUMN = 66,
    WIDTH = 100,
    CHOICE_COLUMN = 46
};

static const sl_config *defaults(void) {
    static _Thread_local sl_config d;
    sl_config_defaults(&d);
    return &d;
}

static int check_names(const char *const *names, int n) {
    for (int i = 0; i < n; i++)
        if (!sl_key_find(names[i]) && !sl_key_is_section(names[i]))
            return sl_key_fail_unknown(names[i]);
    return 0;
}

static bool is_wanted(const sl_key *k, const char *const *names, int n) {
    for (int i = 0; i < n; i++)
        if (sl_key_matches(k, names[i]))
            return true;
    return n == 0;
}

/* ---- the table */

static int pad_to(FILE *f, int at, int column) {
    if (at >= column) {
        fputc('\n', f);
        at = 0;
    }
    fprintf(f, "%*s", column - at, "");
    return column;
}

static void print_key(FILE *f, const sl_key *k) {
    char value[SL_VALUE_CHARS], legal[SL_LEGAL_CHARS];
    int at = fprintf(f, "%*s%s", KEY_COLUMN, "", k->name);
    at = pad_to(f, at, DEFAULT_COLUMN);
    at += fprintf(f, "%s", sl_key_format(value, k, defaults()));
    at = pad_to(f, at, LEGAL_COLUMN);
    at += fprintf(f, "%s", k->type == SL_KEY_LIST ? "one or a list of"
                           : k->choices           ? "one of"
                                                  : sl_key_legal(legal, k));
    at = pad_to(f, at, HELP_COLUMN);
    sl_print_wrapped(f, k->help, at, HELP_COLUMN, WIDTH);
    for (const sl_choice *ch = k->choices; ch && ch->name; ch++) {
        at = fprintf(f, "%*s%s", CHOICE_COLUMN - 15, "", ch->name);
        at = pad_to(f, at, CHOICE_COLUMN);
        sl_print_wrapped(f, ch->help, at, CHOICE_COLUMN, WIDTH);
    }
}

static void print_table(FILE *f, const char *const *names, int n) {
    const char *section = NULL;
    size_t section_n = 0;
    fprintf(f, "%*s%-*s%-*s%-*s%s\n", KEY_COLUMN, "", DEFAULT_COLUMN - KEY_COLUMN, "KEY",
            LEGAL_COLUMN - DEFAULT_COLUMN, "DEFAULT", HELP_COLUMN - LEGAL_COLUMN, "LEGAL",
            "MEANING");
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (!is_wanted(k, names, n))
            continue;
        size_t prefix = strchr(k->name, '.') ? strcspn(k->name, ".") : 0;
        if (!section || prefix != section_n || memcmp(section, k->name, prefix) != 0)
            fprintf(f, "\n%.*s\n", prefix ? (int)prefix : 11, prefix ? k->name : "(top level)");
        section = k->name, section_n = prefix;
        print_key(f, k);
    }
}

/* ---- JSON */

/* A name, or several in an array. */
static json_t *json_list(const sl_choice *choices, const sl_choice_list *list) {
    json_t *names = list->n > 1 ? json_array() : json_string(choices[list->of[0]].name);
    for (int i = 0; list->n > 1 && i < list->n; i++)
        json_array_append_new(names, json_string(choices[list->of[i]].name));
    return names;
}

static json_t *json_value(const sl_key *k, const sl_config *c) {
    const void *p = (const char *)c + k->offset;
    const double *r = p;
    switch (k->type) {
    case SL_KEY_INT: return json_integer(*(const int64_t *)p);
    case SL_KEY_REAL: return json_real(*r);
    case SL_KEY_BOOL: return json_boolean(*(const bool *)p);
    case SL_KEY_ENUM: return json_string(k->choices[*(const int *)p].name);
    case SL_KEY_STR: return json_string(p);
    case SL_KEY_PAIR: return json_pack("[ff]", r[0], r[1]);
    case SL_KEY_LIST: return json_list(k->choices, p);
    }
    return NULL;
}

static json_t *json_choices(const sl_key *k) {
    json_t *list = json_array();
    for (const sl_choice *ch = k->choices; ch->name; ch++)
        json_array_append_new(list, json_pack("{ssss}", "value", ch->name, "help", ch->help));
    return list;
}

static json_t *json_key(const sl_key *k) {
    static const char *const types[] = {
        [SL_KEY_INT] = "int",   [SL_KEY_REAL] = "real", [SL_KEY_BOOL] = "bool",
        [SL_KEY_ENUM] = "enum", [SL_KEY_STR] = "text",  [SL_KEY_PAIR] = "pair",
        [SL_KEY_LIST] = "list"};
    json_t *o = json_pack("{ssssso}", "key", k->name, "type", types[k->type], "default",
                          json_value(k, defaults()));
    if (k->type == SL_KEY_INT) {
        json_object_set_new(o, "min", json_integer(k->int_min));
        json_object_set_new(o, "max", json_integer(k->int_max));
    } else if (k->type == SL_KEY_REAL || k->type == SL_KEY_PAIR) {
        json_object_set_new(o, "min", json_real(k->real_min));
        json_object_set_new(o, "max", json_real(k->real_max));
    } else if (k->choices)
        json_object_set_new(o, "choices", json_choices(k));
    json_object_set_new(o, "decides_result", json_boolean(sl_key_decides_result(k)));
    json_object_set_new(o, "help", json_string(k->help));
    return o;
}

/* Takes over `o`; NULL parts of it (out of memory) show as a failure to write. */
static int write_json(FILE *f, json_t *o) {
    int rc = o ? json_dumpf(o, f, JSON_INDENT(2)) : -1;
    json_decref(o);
    if (rc != 0)
        return sl_fail("cannot write JSON: out of memory, disk full or output closed");
    fputc('\n', f);
    return 0;
}

/* ---- interface */

int sl_config_help(FILE *f, const char *const *names, int n, bool json) {
    if (check_names(names, n) != 0)
        return -1;
    if (!json) {
        print_table(f, names, n);
        return 0;
    }
    json_t *list = json_array();
    for (const sl_key *k = sl_keys; k->name; k++)
        if (is_wanted(k, names, n))
            json_array_append_new(list, json_key(k));
    return write_json(f, list);
}

bool sl_config_key(int i, sl_key_info *info) {
    static const sl_choice booleans[] = {{"true", ""}, {"false", ""}, {NULL, NULL}};
    if (i < 0 || i >= SL_KEY_COUNT)
        return false;
    const sl_key *k = &sl_keys[i];
    info->name = k->name, info->help = k->help;
    info->choices = k->type == SL_KEY_BOOL ? booleans : k->choices;
    info->text = k->type == SL_KEY_STR;
    sl_key_format(info->value, k, defaults());
    sl_key_legal(info->legal, k);
    return true;
}

int sl_config_show(const sl_config *c, FILE *f, const char *const *names, int n, bool json) {
    if (check_names(names, n) != 0)
        return -1;
    json_t *o = json_object();
    char value[SL_VALUE_CHARS], standard[SL_VALUE_CHARS];
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (!is_wanted(k, names, n))
            continue;
        if (json)
            json_object_set_new(o, k->name, json_value(k, c));
        else if (n > 0 ||
                 strcmp(sl_key_format(value, k, c), sl_key_format(standard, k, defaults())))
            fprintf(f, "%s=%s\n", k->name, sl_key_format(value, k, c));
    }
    if (json)
        return write_json(f, o);
    json_decref(o);
    return 0;
}

/* Prints the section headers that lead from key `from` (NULL: none) to key `to`; returns the depth.
 */
static int print_headers(FILE *f, const char *from, const char *to) {
    int depth = 0;
    bool same = from != NULL;
    for (const char *dot; (dot = strchr(to, '.')); to = dot + 1, depth++) {
        int n = (int)(dot - to);
        same = same && strncmp(from, to, (size_t)n + 1) == 0;
        if (same)
            from += n + 1;
        else
            fprintf(f, "%*s%.*s:\n", 2 * depth, "", n, to);
    }
    return depth;
}

int sl_config_dump(const sl_config *c, FILE *f) {
    char value[SL_VALUE_CHARS];
    const char *before = NULL;
    for (const sl_key *k = sl_keys; k->name; k++) {
        int depth = print_headers(f, before, k->name);
        const char *dot = strrchr(k->name, '.');
        fprintf(f, "%*s%s: %s\n", 2 * depth, "", dot ? dot + 1 : k->name,
                sl_key_format(value, k, c));
        before = k->name;
    }
    return ferror(f) ? sl_fail_errno("cannot write", "the configuration") : 0;
}

/* ---- as text */

typedef int (*write_fn)(const sl_config *c, FILE *f);

/* What `write` writes, to be freed; NULL with a message. */
static char *text_of(const sl_config *c, write_fn write) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    int rc = f ? write(c, f) : -1;
    if (f && fclose(f) == 0 && rc == 0)
        return text;
    free(text);
    sl_fail("out of memory for the configuration's text");
    return NULL;
}

static int write_values(const sl_config *c, FILE *f) { return sl_config_show(c, f, NULL, 0, true); }

static int write_table(const sl_config *c, FILE *f) {
    (void)c;
    return sl_config_help(f, NULL, 0, true);
}

char *sl_config_yaml(const sl_config *c) { return text_of(c, sl_config_dump); }
char *sl_config_json(const sl_config *c) { return text_of(c, write_values); }
char *sl_config_keys_json(void) { return text_of(NULL, write_table); }
