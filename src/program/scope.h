/* Where in a model an operation stands: fields that code compares. The name is made for printing alone. */
#ifndef SL_PROGRAM_SCOPE_H
#define SL_PROGRAM_SCOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sl_half { SL_HALF_NONE, SL_HALF_ATTN, SL_HALF_FFN }; /* of a block: the mixer's and the feed-forward's */

enum sl_part {
#define PART(name, printed) SL_PART_##name,
#include "tables/parts.inc"
#undef PART
    SL_PARTS
};

/* What an operation does for the part that it belongs to; the part itself is 0. */
enum sl_role { SL_ROLE_SELF, SL_ROLE_SCALE, SL_ROLE_GATE, SL_ROLE_ROTATE, SL_ROLE_QUANTISE, SL_ROLE_OBSERVE };

enum { SL_NO_LAYER = -1 }; /* embedding, final norm, head */

typedef struct {
    int layer;
    enum sl_half half;
    enum sl_part part;
    enum sl_role role;
} sl_scope;

enum { SL_SCOPE_CHARS = 64 };
/* "layers.3.attn.qkv", "layers.0.ffn.norm.gate", "head" into name; returns it. */
const char *sl_scope_name(sl_scope p, char name[SL_SCOPE_CHARS]);

/* The same place in another role. */
static inline sl_scope sl_scope_as(sl_scope p, enum sl_role role) {
    p.role = role;
    return p;
}
static inline bool sl_scope_same(sl_scope a, sl_scope b) {
    return a.layer == b.layer && a.half == b.half && a.part == b.part && a.role == b.role;
}

#endif
