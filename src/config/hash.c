#include "config/keys.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* The keys that do not decide what is trained: how many threads and where (results are the same bits), which
 * tier or library (the same up to rounding), how often one looks and saves. */
static const char *const undecisive[] = {"threads",
                                         "pin",
                                         "isa",
                                         "gemm",
                                         "train.eval_every",
                                         "train.probe_every",
                                         "train.probe_log",
                                         "train.checkpoint_every",
                                         "train.keep_checkpoints"};

/* Keys younger than runs that are found by their hash: at its default such a key is not hashed. */
static const char *const added[] = {"model.mixer"};

static bool is_added(const sl_key *k) {
    for (size_t i = 0; i < sizeof added / sizeof *added; i++)
        if (strcmp(k->name, added[i]) == 0)
            return true;
    return false;
}

bool sl_key_decides_result(const sl_key *k) {
    for (size_t i = 0; i < sizeof undecisive / sizeof *undecisive; i++)
        if (strcmp(k->name, undecisive[i]) == 0)
            return false;
    return true;
}

uint64_t sl_config_hash(const sl_config *c) {
    char text[SL_VALUE_CHARS], standard[SL_VALUE_CHARS];
    XXH64_hash_t h = 0;
    sl_config defaults;
    sl_config_defaults(&defaults);
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (!sl_key_decides_result(k))
            continue;
        sl_key_format(text, k, c);
        if (is_added(k) && strcmp(text, sl_key_format(standard, k, &defaults)) == 0)
            continue;
        /* Each with its NUL, so that key and value stay apart. */
        h = XXH64(k->name, strlen(k->name) + 1, h);
        h = XXH64(text, strlen(text) + 1, h);
    }
    return h;
}

char *sl_config_difference(char buf[SL_DIFFERENCE_CHARS], const sl_config *a, const sl_config *b) {
    char of_a[SL_VALUE_CHARS], of_b[SL_VALUE_CHARS];
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (!sl_key_decides_result(k) || strcmp(sl_key_format(of_a, k, a), sl_key_format(of_b, k, b)) == 0)
            continue;
        snprintf(buf, SL_DIFFERENCE_CHARS, "%s: %.80s and %.80s", k->name, of_a, of_b);
        return buf;
    }
    return NULL;
}
