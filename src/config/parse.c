/* YAML to sl_config, event by event. Only what a configuration needs is legal: mappings with scalar
 * keys, scalars, lists of scalars. Depth is bounded by the schema: an unknown section fails at
 * once. */
#include "base/err.h"
#include "base/text.h"
#include "config/keys.h"
#include "io/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { FILE_BYTES = 1 << 20, PATH_CHARS = 128, SECTIONS = 32 };

typedef struct {
    yaml_parser_t yaml;
    yaml_event_t event; /* the one at hand */
    bool have_event;
    const char *name; /* of the file, NULL of an override */
    const unsigned char *text;
    size_t n;
    sl_config *c;
    size_t key_line[SL_KEY_COUNT]; /* where a key was given, 0 = not yet */
    struct {
        char name[PATH_CHARS];
        size_t line;
    } section[SECTIONS];
    int sections;
} reader;

/* Puts "file:line: " in front of the pending message. */
static int fail_at(const reader *r, size_t line) {
    return r->name ? sl_fail_prefix("%s:%zu", r->name, line) : -1;
}

static size_t line_at(const reader *r, size_t offset) {
    size_t line = 1;
    for (size_t i = 0; i < offset && i < r->n; i++)
        line += r->text[i] == '\n';
    return line;
}

static int fail_yaml(reader *r) {
    const yaml_parser_t *y = &r->yaml;
    if (y->error == YAML_MEMORY_ERROR)
        return sl_fail("out of memory while reading YAML");
    sl_fail_usage("not valid YAML: %s%s%s", y->context ? y->context : "", y->context ? ", " : "",
                  y->problem ? y->problem : "unknown problem");
    return fail_at(r, y->error == YAML_READER_ERROR ? line_at(r, y->problem_offset)
                                                    : y->problem_mark.line + 1);
}

static size_t line_of(const reader *r) { return r->event.start_mark.line + 1; }

/* Goes on to the next event; refuses what no configuration needs. */
static int next(reader *r) {
    if (r->have_event)
        yaml_event_delete(&r->event);
    r->have_event = yaml_parser_parse(&r->yaml, &r->event) != 0;
    if (!r->have_event)
        return fail_yaml(r);
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (r->event.type) {
    case YAML_SCALAR_EVENT:
        anchor = r->event.data.scalar.anchor, tag = r->event.data.scalar.tag;
        if (memchr(r->event.data.scalar.value, 0, r->event.data.scalar.length)) {
            sl_fail_usage("a NUL character in a value");
            return fail_at(r, line_of(r));
        }
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = r->event.data.sequence_start.anchor, tag = r->event.data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = r->event.data.mapping_start.anchor, tag = r->event.data.mapping_start.tag;
        break;
    case YAML_ALIAS_EVENT: anchor = r->event.data.alias.anchor; break;
    default: break;
    }
    if (anchor || tag) {
        sl_fail_usage(
            "YAML %s are not used here; write the value itself (quote text that starts with "
            "%s)",
            tag ? "tags" : "anchors and aliases", tag ? "!" : "& or *");
        return fail_at(r, line_of(r));
    }
    return 0;
}

static sl_scalar scalar_of(const reader *r) {
    return (sl_scalar){(const char *)r->event.data.scalar.value,
                       r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE};
}

/* A list: its scalars are copied, since events are freed as they pass; only as many are kept as show that there are
 * more than any key takes. */
static int read_list(reader *r, const sl_key *k) {
    enum { MOST = SL_LIST_MOST + 1 };
    size_t line = line_of(r);
    char *copy[MOST] = {NULL};
    sl_scalar values[MOST];
    int n = 0, rc = -1;
    for (;;) {
        if (next(r) != 0)
            goto out;
        if (r->event.type == YAML_SEQUENCE_END_EVENT)
            break;
        if (r->event.type != YAML_SCALAR_EVENT) {
            sl_key_fail_type(k, "a list of lists or sections");
            fail_at(r, line_of(r));
            goto out;
        }
        if (n == MOST)
            continue;
        values[n] = scalar_of(r);
        values[n].text = copy[n] = strdup(values[n].text);
        if (!copy[n++]) {
            sl_fail("out of memory while reading YAML");
            goto out;
        }
    }
    rc = sl_key_set(r->c, k, values, n, true) == 0 ? 0 : fail_at(r, line);
out:
    for (int i = 0; i < n; i++)
        free(copy[i]);
    return rc;
}

/* The value of key k, which is the event at hand. */
static int read_value(reader *r, const sl_key *k) {
    if (r->event.type == YAML_SEQUENCE_START_EVENT)
        return read_list(r, k);
    if (r->event.type == YAML_SCALAR_EVENT) {
        sl_scalar v = scalar_of(r);
        return sl_key_set(r->c, k, &v, 1, false) == 0 ? 0 : fail_at(r, line_of(r));
    }
    sl_key_fail_type(k, "a section");
    return fail_at(r, line_of(r));
}

static int fail_not_a_section(reader *r, const char *section) {
    char list[SL_KEY_LIST_CHARS];
    const char *found = r->event.type == YAML_SEQUENCE_START_EVENT ? "a list" : "a single value";
    if (*section)
        sl_fail_usage("%s: expected a section with keys among %s; found %s", section,
                      sl_key_list(list, section), found);
    else
        sl_fail_usage("expected keys among %s; found %s", sl_key_list(list, ""), found);
    return fail_at(r, line_of(r));
}

static int fail_twice(reader *r, const char *name, size_t line, size_t first) {
    sl_fail_usage("%s is given twice, first in line %zu; merge the two", name, first);
    return fail_at(r, line);
}

static int open_section(reader *r, const char *name, size_t line) {
    for (int i = 0; i < r->sections; i++)
        if (strcmp(r->section[i].name, name) == 0)
            return fail_twice(r, name, line, r->section[i].line);
    if (r->sections == SECTIONS)
        return sl_fail("more than %d sections", SECTIONS);
    snprintf(r->section[r->sections].name, PATH_CHARS, "%s", name);
    r->section[r->sections++].line = line;
    return 0;
}

static int read_section(reader *r, const char *path);

/* One entry of a section: the event at hand is its key. */
static int read_entry(reader *r, const char *section) {
    size_t line = line_of(r);
    if (r->event.type != YAML_SCALAR_EVENT) {
        sl_fail_usage("a list or section in the place of a key");
        return fail_at(r, line);
    }
    char path[PATH_CHARS];
    snprintf(path, sizeof path, "%s%s%s", section, *section ? "." : "",
             (const char *)r->event.data.scalar.value); /* a longer name is cut and then unknown */
    const sl_key *k = sl_key_find(path);
    if (!k && !sl_key_is_section(path)) {
        sl_key_fail_unknown(path);
        return fail_at(r, line);
    }
    if (k && r->key_line[k - sl_keys])
        return fail_twice(r, path, line, r->key_line[k - sl_keys]);
    if (k)
        r->key_line[k - sl_keys] = line;
    if (next(r) != 0)
        return -1;
    if (k)
        return read_value(r, k);
    if (open_section(r, path, line) != 0)
        return -1;
    return read_section(r, path);
}

/* A section ("" = the whole document); the event at hand is its mapping or, if it is empty, a null.
 */
static int read_section(reader *r, const char *path) {
    if (r->event.type == YAML_SCALAR_EVENT && sl_scalar_is_null(scalar_of(r)))
        return 0;
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return fail_not_a_section(r, path);
    for (;;) {
        if (next(r) != 0)
            return -1;
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        if (read_entry(r, path) != 0)
            return -1;
    }
}

/* The one document of the text: a configuration, or the value of key k if that is given. */
static int read_document(reader *r, const sl_key *k) {
    if (next(r) != 0 || next(r) != 0) /* start of the stream, of the document */
        return -1;
    if (r->event.type == YAML_STREAM_END_EVENT) {
        sl_scalar nothing = {"", true};
        return k ? sl_key_set(r->c, k, &nothing, 1, false) : 0;
    }
    if (next(r) != 0 || (k ? read_value(r, k) : read_section(r, "")) != 0)
        return -1;
    if (next(r) != 0 || next(r) != 0) /* end of the document, of the stream */
        return -1;
    if (r->event.type != YAML_STREAM_END_EVENT) {
        sl_fail_usage("a second YAML document; a configuration is one");
        return fail_at(r, line_of(r));
    }
    return 0;
}

static int read_text(sl_config *c, const char *text, size_t n, const char *name, const sl_key *k) {
    sl_config copy = *c;
    reader r = {.name = name, .text = (const unsigned char *)text, .n = n, .c = &copy};
    if (!yaml_parser_initialize(&r.yaml))
        return sl_fail("out of memory while reading YAML");
    yaml_parser_set_input_string(&r.yaml, r.text, n);
    int rc = read_document(&r, k);
    if (r.have_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.yaml);
    if (rc == 0)
        *c = copy;
    return rc;
}

int sl_config_parse(sl_config *c, const char *text, size_t n, const char *name) {
    if (n > FILE_BYTES)
        return sl_fail_usage("%s: more than 1 MiB; this cannot be a configuration", name);
    return read_text(c, text, n, name, NULL);
}

int sl_config_read(sl_config *c, const char *path) {
    FILE *f = sl_open_regular(path);
    if (!f)
        return -1;
    char *text = malloc(FILE_BYTES + 1);
    if (!text) {
        fclose(f);
        return sl_fail("out of memory while reading %s", path);
    }
    size_t n = fread(text, 1, FILE_BYTES + 1, f);
    int rc = ferror(f) ? sl_fail_errno("cannot read configuration", path)
                       : sl_config_parse(c, text, n, path);
    fclose(f);
    free(text);
    return rc;
}

int sl_config_override(sl_config *c, const char *assignment) {
    char name[PATH_CHARS], list[SL_KEY_LIST_CHARS], quoted[SL_QUOTE_CHARS];
    size_t n = strcspn(assignment, "=");
    if (!assignment[n] || n == 0)
        return sl_fail_usage("%s is not of the form key=value", sl_quote(quoted, assignment));
    snprintf(name, sizeof name, "%.*s", (int)(n < PATH_CHARS ? n : PATH_CHARS), assignment);
    const sl_key *k = sl_key_find(name);
    if (!k && sl_key_is_section(name))
        return sl_fail_usage("%s is a section; set a key of it: %s", name, sl_key_list(list, name));
    if (!k)
        return sl_key_fail_unknown(name);
    const char *value = assignment + n + 1;
    size_t value_n = strlen(value);
    if (value_n > FILE_BYTES)
        return sl_fail_usage("%s: a value over 1 MiB", name);
    if (read_text(c, value, value_n, NULL, k) == 0)
        return 0;
    if (strncmp(sl_error(), name, strlen(name)) != 0) /* YAML's own message doesn't know the key */
        sl_fail_prefix("%s", name);
    return -1;
}
