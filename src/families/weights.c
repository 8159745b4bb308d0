/* The weights of foreign files, and ours as such files have them. */
#include "base/err.h"
#include "base/text.h"
#include "families/foreign_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int sl_foreign_find(const sl_foreign *f, const char *name) {
    const char *prefix = f->row->kind->prefix;
    int i = sl_tensors_find(f->tensors, name);
    return i < 0 && prefix && !strncmp(name, prefix, strlen(prefix))
               ? sl_tensors_find(f->tensors, name + strlen(prefix))
               : i;
}

sl_places sl_foreign_places(const sl_foreign *f) {
    return sl_tensors_gguf(f->tensors) ? (sl_places){f->row->kind->gguf_places, sl_gguf_places, false}
                                       : (sl_places){f->row->kind->hf_places, NULL, true};
}

enum { BLOCK = 1 << 16 }; /* values that are read at a time on their way to bf16 */
enum { MXFP4_BLOCK = 32 };

/* A tensor of ours and where it comes from. */
typedef struct {
    const sl_tensor *ours;
    const sl_tensor_view *view; /* NULL: a state that is missing */
    const sl_tensor_view *scales; /* of SL_PLACE_MXFP4 */
    sl_place how;
    int64_t head, expert, experts; /* rows of a head; of those that are stacked, which, and how many */
    int64_t own, before, all; /* rows of ours in a group of the file's, of other parts before them there, of all parts;
                               * one group is the whole but in SL_PLACE_BY_HEAD, _BY_KEY_HEAD and _INTERLEAVED */
} source;

static bool stacked(const source *s) { return s->how.how & SL_PLACE_STACKED; }
static bool scattered(const source *s) {
    const unsigned in_place = SL_PLACE_ADD_ONE | SL_PLACE_CENTRED | SL_PLACE_STACKED | SL_PLACE_WHOLE;
    return s->how.parts || s->how.how & ~in_place;
}

static source source_of(const sl_tensor *t, const sl_found_place *found, const sl_config *c) {
    const sl_place *how = &found->how;
    source s = {.ours = t, .how = *how, .head = sl_config_head_dim(c), .expert = found->expert,
                .experts = c->model_experts};
    int part = how->parts ? how->part : 0, parts = how->parts ? how->parts : 1;
    int64_t equal = how->how & SL_PLACE_BY_HEAD ? s.head : how->how & SL_PLACE_INTERLEAVED ? 1 : t->shape[0];
    for (int i = 0; i < parts; i++) {
        int64_t rows = how->how & SL_PLACE_BY_KEY_HEAD ? sl_gdn_group(c, i, parts) : equal;
        s.own = i == part ? rows : s.own;
        s.before += i < part ? rows : 0;
        s.all += rows;
    }
    if (how->how & SL_PLACE_CENTRED && !c->norm_zero_centred)
        s.how.how |= SL_PLACE_ADD_ONE;
    return s;
}

/* Rows of the file, all its parts and those that nothing reads. */
static int64_t file_rows(const source *s) {
    return s->ours->shape[0] / s->own * s->all + (s->how.how & SL_PLACE_BEHIND_TWO ? 2 : 0);
}

/* The shape that the file must have for ours. */
static int wanted_shape(const source *s, int64_t shape[SL_TENSOR_DIMS + 1]) {
    int64_t *one = shape + stacked(s);
    memcpy(one, s->ours->shape, SL_TENSOR_DIMS * sizeof *one);
    shape[0] = s->experts;
    one[0] = file_rows(s);
    if (s->how.how & SL_PLACE_TRANSPOSED && s->ours->ndim == 2) {
        one[0] = one[1];
        one[1] = file_rows(s);
    }
    return s->ours->ndim + stacked(s);
}

static int check_shape(const sl_tensor_view *v, int ndim, const int64_t *shape) {
    char have[SL_SHAPE_CHARS], want[SL_SHAPE_CHARS];
    return v->ndim == ndim && memcmp(v->shape, shape, (size_t)ndim * sizeof *shape) == 0
               ? 0
               : sl_fail("%s: tensor %s has shape %s where %s is needed", v->file, v->name,
                         sl_format_shape(have, v->ndim, v->shape), sl_format_shape(want, ndim, shape));
}

/* Bytes of blocks, and their scales. */
static int check_mxfp4(const source *s, int ndim, int64_t shape[SL_TENSOR_DIMS + 1]) {
    int64_t in = shape[ndim - 1];
    const sl_tensor_view *both[] = {s->scales, s->view};
    if (in % MXFP4_BLOCK)
        return sl_fail("%s: tensor %s: rows of %" PRId64 " values are no whole blocks of %d", s->view->file,
                       s->view->name, in, MXFP4_BLOCK);
    shape[ndim - 1] = in / MXFP4_BLOCK;
    shape[ndim] = MXFP4_BLOCK / 2;
    for (int i = 0; i < 2; i++) {
        if (check_shape(both[i], ndim + i, shape))
            return -1;
        if (strcmp(both[i]->type, "U8") != 0)
            return sl_fail("%s: tensor %s is %s where U8 is needed", both[i]->file, both[i]->name, both[i]->type);
    }
    return 0;
}

static int check_source(const source *s) {
    int64_t shape[SL_TENSOR_DIMS + 1];
    char names[SL_GGML_NAMES_CHARS];
    int ndim = wanted_shape(s, shape);
    const sl_tensor_view *v = s->view;
    if (s->how.how & SL_PLACE_MXFP4)
        return check_mxfp4(s, ndim, shape);
    if (check_shape(v, ndim, shape))
        return -1;
    return v->floats ? 0
                     : sl_fail("%s: tensor %s is %s, which is not supported; %s are", v->file, v->name, v->type,
                               sl_ggml_supported(names));
}

static int find_scales(const sl_foreign *f, source *s) {
    char name[SL_PLACE_CHARS];
    if (!(s->how.how & SL_PLACE_MXFP4))
        return 0;
    snprintf(name, sizeof name, "%.*s_scales", (int)(strlen(s->view->name) - strlen("_blocks")), s->view->name);
    int i = sl_foreign_find(f, name);
    if (i < 0)
        return sl_fail("%s: tensor %s is missing", sl_tensors_name(f->tensors), name);
    s->scales = sl_tensors_at(f->tensors, i);
    return 0;
}

static int find_source(const sl_foreign *f, const sl_params *p, const sl_tensor *t, const sl_config *c, source *s) {
    sl_places places = sl_foreign_places(f);
    sl_found_place found;
    *s = (source){.ours = t};
    for (int nth = 0, i = -1; sl_places_find(&places, t->name, nth, &found); nth++) {
        if ((i = sl_foreign_find(f, found.name)) < 0)
            continue;
        *s = source_of(t, &found, c);
        s->view = sl_tensors_at(f->tensors, i);
        return find_scales(f, s) || check_source(s) ? -1 : 0;
    }
    if (t->state && !p->m)
        return 0;
    return sl_places_find(&places, t->name, 0, &found)
               ? sl_fail("%s: tensor %s is missing", sl_tensors_name(f->tensors), found.name)
               : sl_fail("%s: %s files have no tensor for %s", sl_tensors_name(f->tensors), f->row->name, t->name);
}

/* The row of the file, of all its parts, that is row r of ours. */
static int64_t row_of(const source *s, int64_t r) {
    if (s->how.how & SL_PLACE_BEHIND_TWO)
        return r + 2;
    int64_t hd = s->head, in_head = r % hd;
    if (s->how.how & SL_PLACE_PAIRS)
        r += (in_head < hd / 2 ? 2 * in_head : 2 * (in_head - hd / 2) + 1) - in_head;
    return r / s->own * s->all + s->before + r % s->own;
}

static int64_t columns_of(const sl_tensor *t) { return t->size / t->shape[0]; }

/* Where the first number of row r of ours is in the file's values; the next is *step behind it. */
static int64_t place_of(const source *s, int64_t r, int64_t *step) {
    bool transposed = s->how.how & SL_PLACE_TRANSPOSED && s->ours->ndim == 2;
    *step = transposed ? file_rows(s) : 1;
    return row_of(s, r) * (transposed ? 1 : columns_of(s->ours));
}

/* Rows first .. first + n - 1 of ours from all values of the file's. */
static void scatter(const source *s, const float *from, int64_t first, int64_t n, float *w) {
    int64_t columns = columns_of(s->ours), step;
    for (int64_t r = 0; r < n; r++) {
        int64_t at = place_of(s, first + r, &step);
        for (int64_t c = 0; c < columns; c++)
            w[r * columns + c] = from[at + c * step];
    }
}

/* Rows of ours that are read at a time: one at least, all where they go to their place as they are. */
static int64_t rows_at_once(const sl_tensor *t) {
    int64_t rows = BLOCK / columns_of(t);
    return !t->bf16 ? t->shape[0] : rows > 1 ? rows : 1;
}

/* All values of the file's tensor, of one expert where they are stacked. */
static void read_all(const source *s, float *scratch) {
    int64_t rows = sl_tensor_rows(s->view) / (stacked(s) ? s->experts : 1), first = s->expert * rows;
    if (!(s->how.how & SL_PLACE_MXFP4)) {
        sl_tensor_read(s->view, first, rows, scratch);
        return;
    }
    /* A row of the view is a block. */
    sl_floats_from_mxfp4(s->view->data + first * s->view->row_bytes, s->scales->data + first, rows * MXFP4_BLOCK,
                         scratch);
}

/* scratch: as many values as the file's tensor has, for those whose rows lie otherwise; block: rows_at_once of those
 * that are rounded. */
static void read_source(const source *s, float *scratch, float *block, sl_params *p) {
    const sl_tensor *t = s->ours;
    int64_t rows = t->shape[0], step = rows_at_once(t), columns = columns_of(t);
    int64_t all = sl_tensor_rows(s->view) / (stacked(s) ? s->experts : 1), base = s->expert * all;
    if (scattered(s))
        read_all(s, scratch);
    for (int64_t r = 0; r < rows; r += step) {
        int64_t n = rows - r < step ? rows - r : step;
        float *w = t->bf16 ? block : p->w + t->offset;
        if (scattered(s))
            scatter(s, scratch, r, n, w);
        else
            sl_tensor_read(s->view, base + r, t->bf16 ? n : all, w);
        for (int64_t i = 0; s->how.how & SL_PLACE_ADD_ONE && i < n * columns; i++)
            w[i] += 1;
        if (t->bf16)
            sl_params_set(p, t, r * columns, n * columns, w);
    }
    sl_tensor_release(s->view);
    if (s->scales)
        sl_tensor_release(s->scales);
}

static bool listed(const char *const *list, const char *name) {
    for (; list && *list; list++)
        if (sl_place_fits(*list, name))
            return true;
    return false;
}

/* Tensors that hold nothing to read. */
static bool ignored(const sl_foreign *f, const char *name) {
    /* Frequencies, which follow from the configuration (sl_keys_rope compares them); the head of a tied model, that of
       others being a parameter. */
    static const char *const any[] = {"*.rotary_emb.inv_freq", "rope_freqs.weight", "lm_head.weight", NULL};
    return listed(any, name) || listed(f->row->kind->ignored, name);
}

static int refuse_unread(const sl_foreign *f, const bool *read) {
    for (int i = 0; i < sl_tensors_count(f->tensors); i++) {
        const sl_tensor_view *v = sl_tensors_at(f->tensors, i);
        if (!read[i] && !ignored(f, v->name))
            return sl_fail("%s: tensor %s is not one of this model; does the configuration belong to it?", v->file,
                           v->name);
    }
    return 0;
}

/* Values of what is read into before it goes to its place. */
typedef struct {
    int64_t scattered, block;
} scratch_sizes;

/* Fills source[], one for each parameter, and what the largest ones take. */
static int find_all(const sl_foreign *f, const sl_params *p, const sl_config *c, source *s, bool *read,
                    scratch_sizes *most) {
    for (int i = 0; i < p->count; i++) {
        if (find_source(f, p, &p->tensor[i], c, &s[i]))
            return -1;
        if (!s[i].view)
            continue;
        read[sl_tensors_find(f->tensors, s[i].view->name)] = true;
        if (s[i].scales)
            read[sl_tensors_find(f->tensors, s[i].scales->name)] = true;
        int64_t values = s[i].ours->size / s[i].ours->shape[0] * file_rows(&s[i]);
        most->scattered = scattered(&s[i]) && values > most->scattered ? values : most->scattered;
        values = rows_at_once(s[i].ours) * columns_of(s[i].ours);
        most->block = s[i].ours->bf16 && values > most->block ? values : most->block;
    }
    return refuse_unread(f, read);
}

int sl_foreign_load(const sl_foreign *f, sl_params *p) {
    sl_config c;
    int32_t vocab;
    if (sl_foreign_config(f, &c, &vocab))
        return -1;
    source *s = calloc((size_t)p->count, sizeof *s);
    bool *read = calloc((size_t)sl_tensors_count(f->tensors) + 1, sizeof *read);
    float *scratch = NULL;
    scratch_sizes most = {0};
    int rc = s && read ? find_all(f, p, &c, s, read, &most)
                       : sl_fail("%s: out of memory", sl_tensors_name(f->tensors));
    if (rc == 0 && !(scratch = malloc((size_t)(most.scattered + most.block + 1) * sizeof *scratch)))
        rc = sl_fail("%s: out of memory for a tensor of %" PRId64 " values", sl_tensors_name(f->tensors),
                     most.scattered + most.block);
    p->state_missing = false;
    for (int i = 0; rc == 0 && i < p->count; i++) {
        p->state_missing = p->state_missing || !s[i].view;
        if (s[i].view)
            read_source(&s[i], scratch, scratch + most.scattered, p);
    }
    free(scratch);
    free(read);
    free(s);
    return rc;
}

/* ---------------------------------------------------------------- the way back */

/* Is the file's other than ours as it lies in memory? */
static bool moved(const source *s) { return scattered(s) || s->how.how & SL_PLACE_ADD_ONE; }

static sl_st_entry described(const source *s, const char *name) {
    sl_st_entry e = {.meta = {.dtype = SL_F32}};
    int64_t shape[SL_TENSOR_DIMS + 1];
    e.meta.ndim = wanted_shape(s, shape);
    memcpy(e.meta.shape, shape, (size_t)e.meta.ndim * sizeof *shape);
    snprintf(e.meta.name, sizeof e.meta.name, "%s", name);
    return e;
}

/* All rows of ours to where the file's values are. */
static void gather(const source *s, const float *w, float *to) {
    int64_t columns = columns_of(s->ours), step;
    for (int64_t r = 0; r < s->ours->shape[0]; r++) {
        int64_t at = place_of(s, r, &step);
        for (int64_t c = 0; c < columns; c++)
            to[at + c * step] = w[r * columns + c] - (s->how.how & SL_PLACE_ADD_ONE ? 1 : 0);
    }
}

/* The entry of this name, n if it is new. */
static int entry_named(const sl_st_entry *entry, int n, const char *name) {
    int i = 0;
    while (i < n && strcmp(entry[i].meta.name, name) != 0)
        i++;
    return i;
}

int sl_foreign_tensors(const char *architecture, const sl_config *c, const sl_params *p, sl_st_entry *entry,
                       float **values) {
    const sl_places places = {.own = sl_foreign_hf_places(architecture), .identity = true};
    sl_found_place found;
    int64_t total = 0;
    int n = 0;
    for (int i = 0; i < p->count; i++) {
        sl_places_find(&places, p->tensor[i].name, 0, &found);
        source s = source_of(&p->tensor[i], &found, c);
        int at = entry_named(entry, n, found.name);
        if (at == n)
            entry[n++] = described(&s, found.name);
        total += moved(&s) ? s.ours->size : 0;
    }
    float *next = *values = malloc((size_t)(total + 1) * sizeof **values);
    if (!next)
        return sl_fail("out of memory for %" PRId64 " values that are written otherwise than they lie here", total);
    for (int i = 0; i < p->count; i++) {
        sl_places_find(&places, p->tensor[i].name, 0, &found);
        source s = source_of(&p->tensor[i], &found, c);
        sl_st_entry *e = &entry[entry_named(entry, n, found.name)];
        const float *w = p->w + s.ours->offset;
        if (!moved(&s)) {
            e->data = w;
            continue;
        }
        if (!e->data) {
            e->data = next;
            next += file_rows(&s) * columns_of(s.ours);
        }
        gather(&s, w, *values + ((const float *)e->data - *values));
    }
    return n;
}
