#include "program/scope.h"

#include <stdio.h>

static const char *const halves[] = {[SL_HALF_NONE] = "", [SL_HALF_ATTN] = "attn.", [SL_HALF_FFN] = "ffn."};
static const char *const parts[] = {
#define PART(name, printed) printed,
#include "tables/parts.inc"
#undef PART
};
static const char *const roles[] = {[SL_ROLE_SELF] = "",           [SL_ROLE_SCALE] = ".scale",
                                    [SL_ROLE_GATE] = ".gate",      [SL_ROLE_ROTATE] = ".rotate",
                                    [SL_ROLE_QUANTISE] = ".quantise", [SL_ROLE_OBSERVE] = ".observe"};

const char *sl_scope_name(sl_scope p, char name[SL_SCOPE_CHARS]) {
    char layer[24] = "";
    if (p.layer != SL_NO_LAYER)
        snprintf(layer, sizeof layer, "layers.%d.", p.layer);
    snprintf(name, SL_SCOPE_CHARS, "%s%s%s%s", layer, halves[p.half], parts[p.part], roles[p.role]);
    return name;
}
