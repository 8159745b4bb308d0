/* Names of our tensors, and where a file has them. */
#include "families/kind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool sl_place_fits(const char *pattern, const char *name) {
    const char *star = strchr(pattern, '*');
    if (!star)
        return !strcmp(pattern, name);
    size_t before = (size_t)(star - pattern), behind = strlen(star + 1), n = strlen(name);
    return n >= before + behind && !strncmp(pattern, name, before) && !strcmp(star + 1, name + n - behind);
}

/* The digits for which the *s of a pattern stand. */
typedef struct {
    const char *p[2];
    int n[2];
} numbers;

/* Do the first n characters of the name fit the pattern, which has at most two *? */
static bool match(const char *pattern, const char *name, size_t n, numbers *of) {
    size_t at = 0;
    int stars = 0;
    *of = (numbers){{name, name}, {0, 0}};
    for (; *pattern; pattern++) {
        if (*pattern != '*') {
            if (at == n || name[at++] != *pattern)
                return false;
            continue;
        }
        of->p[stars] = name + at;
        for (; at < n && name[at] >= '0' && name[at] <= '9'; at++)
            of->n[stars]++;
        if (of->n[stars++] == 0)
            return false;
    }
    return at == n;
}

/* The first rule that tells of ours after `skip` others; stem: the length of its stem. */
static const sl_place *search(const sl_place *p, const char *ours, size_t stem, int *skip, numbers *of) {
    for (; p && p->ours; p++)
        if (match(p->ours, ours, p->how & SL_PLACE_WHOLE ? strlen(ours) : stem, of) && (*skip)-- == 0)
            return p;
    return NULL;
}

bool sl_places_find(const sl_places *places, const char *ours, int nth, sl_found_place *found) {
    const char *dot = strrchr(ours, '.');
    size_t stem = dot ? (size_t)(dot - ours) : strlen(ours);
    numbers of;
    int skip = nth;
    const sl_place *p = search(places->own, ours, stem, &skip, &of);
    bool hidden = p || skip < nth; /* one of its own hides the shared ones */
    p = hidden ? p : search(places->shared, ours, stem, &skip, &of);
    *found = (sl_found_place){.how = p ? *p : (sl_place){NULL, NULL, 0, 0, 0}};
    if (!p) {
        snprintf(found->name, SL_PLACE_CHARS, "%s", ours);
        return nth == 0 && places->identity;
    }
    const char *star = strchr(p->theirs, '*');
    int before = star ? (int)(star - p->theirs) : (int)strlen(p->theirs);
    if (p->how & SL_PLACE_STACKED)
        found->expert = atoi(of.p[1]);
    snprintf(found->name, SL_PLACE_CHARS, "%.*s%.*s%s%s", before, p->theirs, of.n[0], of.p[0], star ? star + 1 : "",
             p->how & SL_PLACE_WHOLE ? "" : ours + stem);
    return true;
}
