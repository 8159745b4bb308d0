#include "session/lists.h"

#include "base/err.h"
#include "base/text.h"

#include <stdio.h>
#include <string.h>

bool sl_list_word(const char **list, char word[SL_LIST_WORD_CHARS]) {
    if (!*list)
        return false;
    size_t n = strcspn(*list, ",");
    snprintf(word, SL_LIST_WORD_CHARS, "%.*s", (int)(n < SL_LIST_WORD_CHARS ? n : SL_LIST_WORD_CHARS - 1), *list);
    *list = (*list)[n] ? *list + n + 1 : NULL;
    return true;
}

static int find_name(const char *flag, const char *word, const sl_measure_info *table, unsigned *bits) {
    char quoted[SL_QUOTE_CHARS];
    bool all = strcmp(word, "all") == 0, known = all;
    for (int i = 0; table[i].name; i++)
        if (all || strcmp(word, table[i].name) == 0) {
            *bits |= 1u << i;
            known = true;
        }
    if (known)
        return 0;
    const char *near = sl_nearest(word, table, sizeof *table);
    if (near)
        return sl_fail_usage("%s: unknown name %s; did you mean %s?", flag, sl_quote(quoted, word), near);
    return sl_fail_usage("%s: unknown name %s; --help lists them", flag, sl_quote(quoted, word));
}

int sl_list_names(const char *flag, const char *list, const sl_measure_info *table, unsigned *bits) {
    char word[SL_LIST_WORD_CHARS];
    while (sl_list_word(&list, word))
        if (find_name(flag, word, table, bits))
            return -1;
    return 0;
}

int sl_list_numbers(const char *flag, const char *list, int64_t n, bool *chosen) {
    char word[SL_LIST_WORD_CHARS], quoted[SL_QUOTE_CHARS];
    while (sl_list_word(&list, word)) {
        int64_t first, last;
        char whole[SL_LIST_WORD_CHARS], *dash = strchr(word, '-');
        strcpy(whole, word);
        if (dash)
            *dash = 0;
        if (!sl_parse_int(word, &first) || !sl_parse_int(dash ? dash + 1 : word, &last) || first < 0 || last < first ||
            last >= n)
            return sl_fail_usage("%s: %s is not a number, or a range like 2-3, from 0 to %lld", flag,
                                 sl_quote(quoted, whole), (long long)n - 1);
        for (int64_t i = first; i <= last; i++)
            chosen[i] = true;
    }
    return 0;
}

void sl_list_help(char *text, size_t size, const char *title, const sl_measure_info *table) {
    size_t n = strlen(text);
    n += (size_t)snprintf(text + n, size - n, "\n\n%s", title);
    for (int i = 0; table[i].name && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "\n  %s: %s", table[i].name, table[i].help);
}
