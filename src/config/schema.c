/* The JSON schema (draft 2020-12) of configurations, out of the table of keys. */
#include "base/err.h"
#include "config/keys.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* One of the choices, each with what it means. */
static json_t *choices(const sl_choice *ch) {
    json_t *list = json_array();
    for (; ch->name; ch++)
        json_array_append_new(list, json_pack("{s:s, s:s}", "const", ch->name, "description", ch->help));
    return json_pack("{s:o}", "oneOf", list);
}

static json_t *number(const sl_key *k) {
    return json_pack("{s:s, s:f, s:f}", "type", "number", "minimum", k->real_min, "maximum", k->real_max);
}

/* One choice, or several in a list. */
static json_t *list_of(const sl_key *k) {
    json_t *one = choices(k->choices);
    json_t *several = json_pack("{s:s, s:O, s:i, s:i}", "type", "array", "items", one, "minItems", 1, "maxItems",
                                (int)SL_LIST_MOST);
    return json_pack("{s:[o, o]}", "anyOf", one, several);
}

static json_t *value(const sl_key *k) {
    switch (k->type) {
    case SL_KEY_INT:
        return json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum", (json_int_t)k->int_min, "maximum",
                         (json_int_t)k->int_max);
    case SL_KEY_REAL: return number(k);
    case SL_KEY_BOOL: return json_pack("{s:s}", "type", "boolean");
    case SL_KEY_ENUM: return choices(k->choices);
    case SL_KEY_STR: return json_pack("{s:s}", "type", "string");
    case SL_KEY_PAIR:
        return json_pack("{s:s, s:o, s:i, s:i}", "type", "array", "items", number(k), "minItems", 2, "maxItems", 2);
    case SL_KEY_LIST: return list_of(k);
    }
    return NULL;
}

static json_t *section(void) {
    return json_pack("{s:s, s:b, s:{}}", "type", "object", "additionalProperties", false, "properties");
}

/* The section of that name in another one; made if it is not there. */
static json_t *enter(json_t *of, const char *name, size_t n) {
    json_t *properties = json_object_get(of, "properties"), *inner = json_object_getn(properties, name, n);
    if (!inner)
        json_object_setn_new(properties, name, n, inner = section());
    return inner;
}

/* In its section, and by what is left of its dotted name in those around it. */
static void put_key(json_t *root, const sl_key *k) {
    char where[256] = "#";
    const char *rest = k->name;
    json_t *at = root;
    for (const char *name = k->name;; name = strchr(name, '.') + 1) {
        size_t used = strlen(where), n = strcspn(name, ".");
        snprintf(where + used, sizeof where - used, "/properties/%.*s", (int)n, name);
        if (!name[n])
            break;
    }
    for (const char *dot; (dot = strchr(rest, '.')); rest = dot + 1) {
        json_object_set_new(json_object_get(at, "properties"), rest, json_pack("{s:s}", "$ref", where));
        at = enter(at, rest, (size_t)(dot - rest));
    }
    json_t *v = value(k);
    json_object_set_new(v, "description", json_string(k->help));
    json_object_set_new(json_object_get(at, "properties"), rest, v);
}

static json_t *schema(void) {
    json_t *root = section();
    json_object_set_new(root, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
    json_object_set_new(root, "title", json_string("a configuration of sinklab"));
    for (const sl_key *k = sl_keys; k->name; k++)
        put_key(root, k);
    return root;
}

char *sl_config_schema(void) {
    json_t *o = schema();
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text)
        sl_fail("out of memory for the schema");
    return text;
}
