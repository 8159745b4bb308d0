#include "quant/keep.h"

#include "quant/layers.h"

#include <string.h>

static sl_scope kind(int i) {
    const sl_block_layer *l = sl_rounded_layer(i);
    return l ? sl_block_layer_scope(l, SL_NO_LAYER) : (sl_scope){.layer = SL_NO_LAYER};
}

const char *sl_keep_name(int i, char name[SL_SCOPE_CHARS]) {
    sl_scope s = kind(i);
    return s.part == SL_PART_none ? NULL : sl_scope_name(s, name);
}

void sl_keep_add(sl_quant_options *o, int i) {
    sl_scope s = kind(i);
    o->keep[s.half - SL_HALF_ATTN] |= (uint64_t)1 << s.part;
}

bool sl_keep_has(const sl_quant_options *o, int i) { return sl_quant_keeps(o, kind(i)); }

json_t *sl_keep_json(const sl_quant_options *o) {
    char name[SL_SCOPE_CHARS];
    json_t *names = json_array();
    for (int i = 0; sl_keep_name(i, name); i++)
        if (sl_keep_has(o, i) && json_array_append_new(names, json_string(name)) < 0) {
            json_decref(names);
            return NULL;
        }
    return names;
}

static bool read_name(const char *wanted, sl_quant_options *o) {
    char name[SL_SCOPE_CHARS];
    for (int i = 0; wanted && sl_keep_name(i, name); i++)
        if (strcmp(wanted, name) == 0) {
            sl_keep_add(o, i);
            return true;
        }
    return false;
}

bool sl_keep_read(const json_t *names, sl_quant_options *o) {
    const json_t *x;
    size_t i;
    json_array_foreach(names, i, x)
        if (!read_name(json_string_value(x), o))
            return false;
    return !names || json_is_array(names);
}
