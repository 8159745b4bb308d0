#include "session/schema.h"

#include "base/err.h"
#include "probe/probe.h"

#include <stdbool.h>

#define NUMBER "{\"type\": [\"number\", \"null\"]}"
#define NATURAL "{\"type\": \"integer\", \"minimum\": 0}"
#define TUPLES(n, items) \
    "{\"type\": \"array\", \"items\": {\"type\": \"array\", \"minItems\": " #n ", \"prefixItems\": [" items "], " \
    "\"items\": false}}"

#define TOKEN_ROWS \
    "{\"type\": \"array\", \"items\": {\"type\": \"object\", \"properties\": {\"norm\": " NUMBER ", \"window\": " \
    NATURAL ", \"position\": " NATURAL ", \"token\": " NATURAL ", \"text\": {\"type\": [\"string\", \"null\"]}}, " \
    "\"required\": [\"norm\", \"window\", \"position\", \"token\", \"text\"], \"additionalProperties\": false}}"

enum type { REAL, REALS, COUNT, INDEX, TEXT, PAIRS, TRIPLES, TOKENS };
static const char *const schema_of[] = {
    [REAL] = NUMBER, /* null: it cannot be told */
    [REALS] = "{\"type\": [\"array\", \"null\"], \"items\": " NUMBER "}",
    [COUNT] = NATURAL,
    [INDEX] = "{\"type\": [\"integer\", \"null\"], \"minimum\": 0}",
    [TEXT] = "{\"type\": \"string\"}",
    [PAIRS] = TUPLES(2, NATURAL ", " NUMBER),
    [TRIPLES] = TUPLES(3, NATURAL ", " NATURAL ", " NUMBER),
    [TOKENS] = "{\"type\": \"object\", \"properties\": {\"layer\": " NATURAL ", \"mean_norm\": " NUMBER
               ", \"first\": " TOKEN_ROWS ", \"others\": " TOKEN_ROWS "}, "
               "\"required\": [\"layer\", \"mean_norm\", \"first\", \"others\"], \"additionalProperties\": false}",
};

typedef struct {
    const char *name;
    bool layer;
    enum type type;
    bool always;
    const char *help;
} figure;

static const figure figures[] = {
#define MODEL(name, type, always, help) {name, false, type, always, help},
#define LAYER(name, type, always, help) {name, true, type, always, help},
#include "tables/figure.inc"
#undef MODEL
#undef LAYER
};
enum { FIGURES = sizeof figures / sizeof *figures };

/* The rows before the first of a layer. */
const char *sl_measure_figure(int i, const char **help) {
    if (i < 0 || i >= FIGURES || figures[i].layer)
        return NULL;
    *help = figures[i].help;
    return figures[i].name;
}

/* An object with the figures of the model, or of a layer, and no others. */
static json_t *object(bool layer) {
    json_t *properties = json_object(), *required = json_array();
    for (int i = 0; i < FIGURES; i++) {
        const figure *f = &figures[i];
        if (f->layer != layer)
            continue;
        json_t *s = json_loads(schema_of[f->type], 0, NULL);
        json_object_set_new(s, "description", json_string(f->help));
        json_object_set_new(properties, f->name, s);
        if (f->always)
            json_array_append_new(required, json_string(f->name));
    }
    return json_pack("{s:s, s:o, s:o, s:b}", "type", "object", "properties", properties, "required", required,
                     "additionalProperties", false);
}

/* Of each measure an array over layers or blocks, whose members probe/probe.h says. */
static json_t *measures(void) {
    json_t *properties = json_object();
    for (int i = 0; i < SL_MEASURES; i++)
        json_object_set_new(properties, sl_measure_table[i].name,
                            json_pack("{s:s, s:s, s:{s:s}}", "description", sl_measure_table[i].help, "type", "array",
                                      "items", "type", "object"));
    return json_pack("{s:s, s:s, s:o, s:b}", "description", "what --measures adds", "type", "object", "properties",
                     properties, "additionalProperties", false);
}

static json_t *schema(void) {
    json_t *o = object(false), *properties = json_object_get(o, "properties");
    json_object_set_new(properties, "measures", measures());
    json_object_set_new(properties, "layers",
                        json_pack("{s:s, s:s, s:o}", "description", "layers 0 to L", "type", "array", "items",
                                  object(true)));
    json_array_append_new(json_object_get(o, "required"), json_string("layers"));
    json_t *head = json_pack("{s:s, s:s}", "$schema", "https://json-schema.org/draft/2020-12/schema", "title",
                             "what sinklab probe --json prints");
    json_object_update(head, o);
    json_decref(o);
    return head;
}

char *sl_measure_schema(void) {
    json_t *o = schema();
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text)
        sl_fail("out of memory for the schema");
    return text;
}
