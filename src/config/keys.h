/* The schema as a table; private to src/config. */
#ifndef SL_CONFIG_KEYS_H
#define SL_CONFIG_KEYS_H

#include "config/config.h"

#include <stddef.h>

enum sl_key_type { SL_KEY_INT, SL_KEY_REAL, SL_KEY_BOOL, SL_KEY_ENUM, SL_KEY_STR, SL_KEY_PAIR, SL_KEY_LIST };

typedef struct {
    const char *name; /* first, for sl_nearest() */
    enum sl_key_type type;
    size_t offset; /* of the field in sl_config */
    const char *help;
    int64_t int_default, int_min, int_max;
    double real_default[2], real_min, real_max; /* REAL, PAIR */
    const char *text_default;                   /* ENUM, STR, LIST */
    const sl_choice *choices;                   /* ENUM, LIST */
} sl_key;

extern const sl_key sl_keys[]; /* ended by a NULL name */
enum {
#define INT(key, field, def, min, max, help) SL_KEY_INDEX_##field,
#define REAL(key, field, def, min, max, help) SL_KEY_INDEX_##field,
#define BOOL(key, field, def, help) SL_KEY_INDEX_##field,
#define ENUM(key, field, def, choices, help) SL_KEY_INDEX_##field,
#define STR(key, field, def, help) SL_KEY_INDEX_##field,
#define PAIR(key, field, d0, d1, min, max, help) SL_KEY_INDEX_##field,
#define LIST(key, field, def, choices, help) SL_KEY_INDEX_##field,
#include "config/schema.inc"
    SL_KEY_COUNT
};

/* NULL without a message if there is no such key. */
const sl_key *sl_key_find(const char *name);
/* Is `name` a proper prefix of a key up to one of its dots? */
bool sl_key_is_section(const char *name);
/* Is the key `name`, or in the section `name`? */
bool sl_key_matches(const sl_key *k, const char *name);
/* "unknown key ...", with the nearest one and the keys of its section. Returns -1. */
int sl_key_fail_unknown(const char *name);
/* Members of a section ("" for the top): "layers, dim, ..., norm_opts". Returns buf. */
enum { SL_KEY_LIST_CHARS = 1024 };
char *sl_key_list(char buf[SL_KEY_LIST_CHARS], const char *section);

/* What a key is given: n scalars, as a list or (n = 1) alone. */
typedef struct {
    const char *text; /* UTF-8 */
    bool plain;       /* not quoted: it may be a number, true, false or null */
} sl_scalar;
/* Checks and stores. The message starts with the key. */
int sl_key_set(sl_config *c, const sl_key *k, const sl_scalar *values, int n, bool list);
/* "KEY: expected ..., found <found>". Returns -1. */
int sl_key_fail_type(const sl_key *k, const char *found);
bool sl_scalar_is_null(sl_scalar v);

enum { SL_VALUE_CHARS = SL_KEY_VALUE_CHARS };
/* The value as YAML that reads back as the same. Returns buf. */
char *sl_key_format(char buf[SL_VALUE_CHARS], const sl_key *k, const sl_config *c);
/* "1 to 1024", "true or false", "text", "[a, b], 0 to 1", "one of a, b", "one or a list of a, b". Returns buf. */
enum { SL_LEGAL_CHARS = SL_KEY_LEGAL_CHARS };
char *sl_key_legal(char buf[SL_LEGAL_CHARS], const sl_key *k);
/* Does the key decide what is trained (config/hash.c)? */
bool sl_key_decides_result(const sl_key *k);

#endif
