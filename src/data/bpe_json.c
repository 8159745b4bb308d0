/* Reading tokenizer.json. */
#include "base/err.h"
#include "data/bpe.h"
#include "data/bpe_impl.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "<name>: <message>"; returns -1. */
__attribute__((format(printf, 2, 3))) static int bad(const char *name, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sl_fail("%s: %s", name, text);
}

static int out_of_memory(const char *name) { return bad(name, "out of memory"); }

/* The alphabet of byte-level BPE: each byte is written as one printable character. Printable Latin-1 stands for
 * itself, the other 68 bytes, in order, for U+0100 and following. */
static int byte_of_char(uint32_t code) {
    if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255))
        return (int)code;
    if (code < 256 || code >= 256 + 68)
        return -1;
    uint32_t k = code - 256; /* the k-th of 0..32, 127..160, 173 */
    return (int)(k <= 32 ? k : k <= 66 ? k - 33 + 127 : 173);
}

/* Bytes that a vocabulary entry stands for, written to out (at most strlen(s)). An entry with a character outside
 * the alphabet stands for its own text, as in the library, and *by_alphabet is false. */
static size_t piece_bytes(const char *s, char *out, bool *by_alphabet) {
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        uint32_t code = *p;
        if (*p >= 0xC2 && *p <= 0xDF) { /* two bytes; jansson has checked the UTF-8 */
            code = (*p & 0x1Fu) << 6 | (p[1] & 0x3Fu);
            p++;
        }
        int byte = *p >= 0xE0 ? -1 : byte_of_char(code); /* the alphabet ends below U+0800 */
        if (byte < 0) {
            n = strlen(s);
            memcpy(out, s, n);
            *by_alphabet = false;
            return n;
        }
        out[n++] = (char)byte;
    }
    *by_alphabet = true;
    return n;
}

/* obj[key] is absent, null, false, 0 or "". */
static bool is_off(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return !v || json_is_null(v) || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
           (json_is_string(v) && !json_string_length(v));
}

static bool type_is(const json_t *obj, const char *type) {
    const char *s = json_string_value(json_object_get(obj, "type"));
    return s && !strcmp(s, type);
}

static const char *type_name(const json_t *obj) {
    const char *s = json_string_value(json_object_get(obj, "type"));
    return s ? s : json_is_null(obj) || !obj ? "null" : "no type";
}

static int check_kind(sl_bpe *b, const json_t *root, const char *name) {
    const json_t *norm = json_object_get(root, "normalizer"), *pre = json_object_get(root, "pre_tokenizer"),
                 *model = json_object_get(root, "model");
    if (norm && !json_is_null(norm))
        return bad(name, "normalizer is %.40s, only null is supported; train with data/train_bpe.py", type_name(norm));
    if (!type_is(pre, "ByteLevel"))
        return bad(name, "pre_tokenizer is %.40s, only ByteLevel is supported; train with data/train_bpe.py",
                   type_name(pre));
    b->prefix_space = json_is_true(json_object_get(pre, "add_prefix_space"));
    b->use_regex = !json_is_false(json_object_get(pre, "use_regex"));
    /* Files of old versions leave the type of a BPE model out. */
    if (!json_is_object(model) || (json_object_get(model, "type") && !type_is(model, "BPE")))
        return bad(name, "model is %.40s, only BPE is supported", type_name(model));
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix",
                                      "byte_fallback", "ignore_merges"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (!is_off(model, off[i]))
            return bad(name, "model.%s is set, which isn't supported", off[i]);
    if (!json_is_object(json_object_get(model, "vocab")) || !json_is_array(json_object_get(model, "merges")))
        return bad(name, "model.vocab must be an object and model.merges an array");
    return 0;
}

static int check_id(const json_t *v, const char *name, const char *field, const char *token, int32_t *id) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= SL_BPE_MAX_VOCAB)
        return bad(name, "%s: id of \"%.60s\" must be an integer in 0..%d", field, token, SL_BPE_MAX_VOCAB - 1);
    *id = (int32_t)json_integer_value(v);
    return 0;
}

/* Largest id, total bytes, and the fields of each added token checked. */
static int measure(sl_bpe *b, json_t *vocab, const json_t *added, const char *name, size_t *bytes) {
    const char *token;
    json_t *v;
    size_t i;
    int32_t id = 0;
    json_object_foreach(vocab, token, v) {
        if (check_id(v, name, "model.vocab", token, &id))
            return -1;
        b->vocab = id >= b->vocab ? id + 1 : b->vocab;
        *bytes += strlen(token);
    }
    json_array_foreach(added, i, v) {
        token = json_string_value(json_object_get(v, "content"));
        if (!token || !*token)
            return bad(name, "added_tokens[%zu].content must be a text that isn't empty", i);
        if (check_id(json_object_get(v, "id"), name, "added_tokens", token, &id))
            return -1;
        static const char *const off[] = {"single_word", "lstrip", "rstrip"};
        for (size_t k = 0; k < sizeof off / sizeof *off; k++)
            if (!is_off(v, off[k]))
                return bad(name, "added_tokens[%zu].%s is set, which isn't supported", i, off[k]);
        b->vocab = id >= b->vocab ? id + 1 : b->vocab;
        *bytes += strlen(token);
    }
    return 0;
}

/* The place of a new token whose bytes the caller writes to b->bytes + *used. */
static sl_bpe_token *new_token(sl_bpe *b, int32_t id, const char *s, size_t used, const char *name) {
    sl_bpe_token *t = &b->token[id];
    if (t->there) {
        bad(name, "id %d stands for two tokens, one of them \"%.60s\"", id, s);
        return NULL;
    }
    t->there = true;
    t->at = used;
    return t;
}

static int read_vocab(sl_bpe *b, json_t *vocab, size_t *used, const char *name) {
    const char *token;
    json_t *v;
    for (int c = 0; c < 256; c++)
        b->byte_id[c] = -1;
    json_object_foreach(vocab, token, v) {
        int32_t id = (int32_t)json_integer_value(v);
        sl_bpe_token *t = new_token(b, id, token, *used, name);
        if (!t)
            return -1;
        bool by_alphabet;
        t->n = (uint32_t)piece_bytes(token, b->bytes + *used, &by_alphabet);
        if (t->n == 1 && by_alphabet)
            b->byte_id[(unsigned char)b->bytes[*used]] = id;
        *used += t->n;
    }
    for (int c = 0; c < 256; c++)
        if (b->byte_id[c] < 0)
            return bad(name, "model.vocab has no token for byte 0x%02X; train with the byte-level alphabet "
                             "(data/train_bpe.py does)", c);
    return 0;
}

/* Of equal texts the lower id comes last: it is the one that is found. */
static int by_bytes(const void *x, const void *y) {
    const sl_bpe_added *a = x, *b = y;
    int c = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    return c ? c : a->n != b->n ? (a->n > b->n) - (a->n < b->n) : (a->id < b->id) - (a->id > b->id);
}

static void index_added(sl_bpe_added_set *set) {
    if (set->count)
        qsort(set->token, (size_t)set->count, sizeof *set->token, by_bytes);
    for (int c = 0, k = 0; c <= 256; c++) {
        while (k < set->count && (unsigned char)set->token[k].text[0] < c)
            k++;
        set->first[c] = k;
    }
}

static int read_added(sl_bpe *b, const json_t *vocab, const json_t *added, size_t *used, const char *name) {
    json_t *v;
    size_t i;
    int32_t end_of_text = -1, s = -1;
    for (int pass = 0; pass < 2; pass++)
        if (json_array_size(added) &&
            !(b->added[pass].token = calloc(json_array_size(added), sizeof *b->added[pass].token)))
            return out_of_memory(name);
    json_array_foreach(added, i, v) {
        const char *content = json_string_value(json_object_get(v, "content"));
        int32_t id = (int32_t)json_integer_value(json_object_get(v, "id"));
        const json_t *known = json_object_get(vocab, content);
        if (known && json_integer_value(known) != id)
            return bad(name, "added_tokens[%zu]: \"%.60s\" has another id in model.vocab", i, content);
        if (!known) {
            sl_bpe_token *t = new_token(b, id, content, *used, name);
            if (!t)
                return -1;
            t->n = (uint32_t)strlen(content);
            memcpy(b->bytes + *used, content, t->n);
            *used += t->n;
        }
        sl_bpe_added_set *set = &b->added[json_is_true(json_object_get(v, "normalized"))];
        sl_bpe_added *a = &set->token[set->count];
        if (!(a->text = strdup(content)))
            return out_of_memory(name);
        a->n = strlen(content);
        a->id = id;
        set->count++;
        if (!strcmp(content, "<|endoftext|>"))
            end_of_text = id;
        else if (!strcmp(content, "<s>"))
            s = id;
    }
    for (int pass = 0; pass < 2; pass++)
        index_added(&b->added[pass]);
    b->bos = end_of_text >= 0 ? end_of_text : s;
    if (b->bos < 0)
        return bad(name, "added_tokens holds neither \"<|endoftext|>\" nor \"<s>\", one of which must mark the start "
                         "of a document; train with data/train_bpe.py");
    return 0;
}

/* The two halves of merge i, from "a b" or ["a", "b"]; `buffer` holds the copies. */
static int merge_halves(const json_t *m, size_t i, char **buffer, char **left, char **right, const char *name) {
    const char *a = NULL, *z = NULL;
    size_t a_len = 0;
    if (json_is_string(m)) {
        a = json_string_value(m);
        z = strchr(a, ' ');
        a_len = z ? (size_t)(z - a) : 0;
        z = z ? z + 1 : NULL;
    } else if (json_array_size(m) == 2) {
        a = json_string_value(json_array_get(m, 0));
        z = json_string_value(json_array_get(m, 1));
        a_len = a ? strlen(a) : 0;
    }
    if (!a || !z || !a_len || !*z || (json_is_string(m) && strchr(z, ' ')))
        return bad(name, "model.merges[%zu] must be \"a b\" or [\"a\", \"b\"]", i);
    size_t z_len = strlen(z);
    free(*buffer);
    if (!(*buffer = malloc(2 * (a_len + z_len) + 2)))
        return out_of_memory(name);
    /* left NUL | left right NUL: the second is the merged token, whose tail is the right half */
    *left = *buffer;
    *right = *buffer + a_len + 1;
    memcpy(*left, a, a_len);
    (*left)[a_len] = 0;
    memcpy(*right, a, a_len);
    memcpy(*right + a_len, z, z_len + 1);
    return 0;
}

static int read_merge(sl_bpe *b, const json_t *vocab, const json_t *m, size_t i, char **buffer, const char *name) {
    char *left = NULL, *whole = NULL;
    if (merge_halves(m, i, buffer, &left, &whole, name))
        return -1;
    const char *right = whole + strlen(left);
    const json_t *l = json_object_get(vocab, left), *r = json_object_get(vocab, right),
                 *w = json_object_get(vocab, whole);
    if (!l || !r || !w)
        return bad(name, "model.merges[%zu]: \"%.60s\" isn't in model.vocab", i, !l ? left : !r ? right : whole);
    int32_t l_id = (int32_t)json_integer_value(l), r_id = (int32_t)json_integer_value(r);
    sl_bpe_merge *slot = sl_bpe_find(b, l_id, r_id);
    slot->pair = (uint64_t)(uint32_t)l_id << 32 | (uint32_t)r_id;
    slot->rank = (int32_t)i; /* of a pair that is listed twice the library keeps the later rank, too */
    slot->id = (int32_t)json_integer_value(w);
    return 0;
}

static int read_merges(sl_bpe *b, const json_t *vocab, const json_t *merges, const char *name) {
    size_t count = json_array_size(merges), slots = 16;
    if (count > INT32_MAX / 4)
        return bad(name, "model.merges has %zu entries, too many", count);
    while (slots < 2 * count)
        slots *= 2;
    if (!(b->merge = malloc(slots * sizeof *b->merge)))
        return out_of_memory(name);
    b->merge_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        b->merge[i].pair = UINT64_MAX;
    char *buffer = NULL;
    json_t *m;
    size_t i;
    int rc = 0;
    json_array_foreach(merges, i, m) {
        if ((rc = read_merge(b, vocab, m, i, &buffer, name)))
            break;
    }
    free(buffer);
    return rc;
}

static int read_root(sl_bpe *b, const json_t *root, const char *name) {
    if (!json_is_object(root))
        return bad(name, "not a tokenizer.json: the top is no object");
    if (check_kind(b, root, name))
        return -1;
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    json_t *vocab = json_object_get(model, "vocab");
    size_t bytes = 0, used = 0;
    if (measure(b, vocab, added, name, &bytes))
        return -1;
    b->token = calloc((size_t)b->vocab + 1, sizeof *b->token);
    b->bytes = malloc(bytes + 1);
    if (!b->token || !b->bytes)
        return out_of_memory(name);
    return read_vocab(b, vocab, &used, name) || read_added(b, vocab, added, &used, name) ||
                   read_merges(b, vocab, json_object_get(model, "merges"), name)
               ? -1
               : 0;
}

sl_bpe *sl_bpe_parse(const char *json, size_t n, const char *name) {
    json_error_t error;
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        bad(name, "line %d: %.200s; is it a tokenizer.json?", error.line, error.text);
        return NULL;
    }
    sl_bpe *b = calloc(1, sizeof *b);
    if (!b)
        out_of_memory(name);
    else if (read_root(b, root, name)) {
        sl_bpe_free(b);
        b = NULL;
    }
    json_decref(root);
    return b;
}
