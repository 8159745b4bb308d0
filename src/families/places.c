/* Names of our tensors, and where a file has them. */
#include "families/kind.h"

#include <stdio.h>
#include <string.h>

bool sl_place_fits(const char *pattern, const char *name) {
    const char *star = strchr(pattern, '*');
    if (!star)
        return !strcmp(pattern, name);
    size_t before = (size_t)(star - pattern), behind = strlen(star + 1), n = strlen(name);
    return n >= before + behind && !strncmp(pattern, name, before) && !strcmp(star + 1, name + n - behind);
}

/* The digits for which * of the pattern stands in the first n characters of the name; false: it does not fit. Without a
 * *, none. */
static bool match(const char *pattern, const char *name, size_t n, const char **digits, size_t *count) {
    const char *star = strchr(pattern, '*');
    size_t before = star ? (size_t)(star - pattern) : strlen(pattern), behind = star ? strlen(star + 1) : 0;
    *digits = name + before;
    *count = 0;
    if (n < before || strncmp(pattern, name, before) != 0)
        return false;
    while (star && before + *count < n && (*digits)[*count] >= '0' && (*digits)[*count] <= '9')
        ++*count;
    return n == before + *count + behind && (!star || *count) &&
           !strncmp(star ? star + 1 : "", *digits + *count, behind);
}

static const sl_place *search(const sl_place *p, const char *ours, size_t stem, const char **digits, size_t *count) {
    for (; p && p->ours; p++)
        if (match(p->ours, ours, stem, digits, count))
            return p;
    return NULL;
}

bool sl_places_find(const sl_places *places, const char *ours, char name[SL_PLACE_CHARS], sl_place *how) {
    const char *dot = strrchr(ours, '.'), *digits;
    size_t stem = dot ? (size_t)(dot - ours) : strlen(ours), count;
    const sl_place *p = search(places->own, ours, stem, &digits, &count);
    p = p ? p : search(places->shared, ours, stem, &digits, &count);
    *how = p ? *p : (sl_place){NULL, NULL, 0, 0, 0};
    if (!p) {
        snprintf(name, SL_PLACE_CHARS, "%s", ours);
        return places->identity;
    }
    const char *star = strchr(p->theirs, '*');
    int before = star ? (int)(star - p->theirs) : (int)strlen(p->theirs);
    snprintf(name, SL_PLACE_CHARS, "%.*s%.*s%s%s", before, p->theirs, (int)count, digits, star ? star + 1 : "",
             ours + stem);
    return true;
}
