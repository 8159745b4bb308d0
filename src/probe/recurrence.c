#include "probe/detail.h"

#include "base/threads.h"

#include <math.h>
#include <string.h>

/* Scratch of a thread: the head, |A| of a row and |v| of all tokens; in double the state, p of each token, o. */
typedef struct {
    sl_recurrence_head head;
    float *share, *value;
    double *state, *left, *o;
} scratch;

typedef struct {
    const sl_recurrence_rows *r;
    const sl_recurrence_scratch *room; /* floats: of the threads, then the last states of all items */
} job;

static int64_t items(const sl_recurrence_rows *r) { return r->windows * r->of.heads; }
static int64_t state_size(const sl_recurrence_rows *r) { return r->of.value_dim * r->of.key_dim; }
static int64_t thread_floats(const sl_recurrence_rows *r) {
    return r->seq * ((r->of.channels ? 5 : 2) * r->of.key_dim + r->of.value_dim + 5);
}
static int64_t thread_doubles(const sl_recurrence_rows *r) {
    return state_size(r) + r->seq * r->of.key_dim + 3 * r->of.value_dim + r->of.key_dim;
}

sl_recurrence_room sl_recurrence_needs(const sl_recurrence_rows *r) {
    int64_t threads = sl_threads();
    return (sl_recurrence_room){items(r), threads * thread_floats(r) + items(r) * state_size(r),
                                threads * thread_doubles(r)};
}

static float *last_state(const job *j, int64_t item) {
    return j->room->floats + sl_threads() * thread_floats(j->r) + item * state_size(j->r);
}

static scratch scratch_of(const job *j, int thread) {
    const sl_recurrence_rows *r = j->r;
    int64_t k = r->of.key_dim, n = r->seq;
    float *f = j->room->floats + thread * thread_floats(r), *behind = f + n * (2 * k + r->of.value_dim);
    scratch s = {.head = {.q = f, .k = f + n * k, .v = f + 2 * n * k, .decay = behind, .weight = behind + n,
                          .length = behind + 2 * n},
                 .share = behind + 3 * n, .value = behind + 4 * n};
    if (r->of.channels) {
        float *channels = behind + 5 * n;
        s.head.fade = channels, s.head.read = channels + n * k, s.head.erase = channels + 2 * n * k;
    }
    s.state = j->room->doubles + thread * thread_doubles(r);
    s.left = s.state + state_size(r);
    s.o = s.left + n * k;
    return s;
}

static double dot(int64_t n, const double *a, const float *b) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * (double)b[i];
    return sum;
}

static double norm_of(int64_t n, const float *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* x = decay x, and with the rule x = x - weight <x, k> k: what position t does to a row of the state. */
static void step_of_head(const sl_recurrence_sizes *of, const sl_recurrence_head *h, int64_t t, double *x) {
    const float *k = h->k + t * of->key_dim;
    for (int64_t i = 0; i < of->key_dim; i++)
        x[i] *= (double)h->decay[t];
    double along = of->rule ? (double)h->weight[t] * dot(of->key_dim, x, k) : 0;
    for (int64_t i = 0; of->rule && i < of->key_dim; i++)
        x[i] -= along * (double)k[i];
}

/* x = x fade - <x, read> erase */
static void step_of_channels(const sl_recurrence_sizes *of, const sl_recurrence_head *h, int64_t t, double *x) {
    const float *fade = h->fade + t * of->key_dim, *erase = h->erase + t * of->key_dim;
    double along = dot(of->key_dim, x, h->read + t * of->key_dim);
    for (int64_t i = 0; i < of->key_dim; i++)
        x[i] = x[i] * (double)fade[i] - along * (double)erase[i];
}

/* The state and what is left of each token in it go on to position t; o_t. */
static void advance(const job *j, const scratch *s, int64_t t) {
    const sl_recurrence_sizes *of = &j->r->of;
    const sl_recurrence_head *h = &s->head;
    const float *k = h->k + t * of->key_dim, *q = h->q + t * of->key_dim, *v = h->v + t * of->value_dim;
    double weight = of->channels ? 1 : (double)h->weight[t];
    void (*step)(const sl_recurrence_sizes *, const sl_recurrence_head *, int64_t, double *) =
        of->channels ? step_of_channels : step_of_head;
    for (int64_t c = 0; c < of->value_dim; c++) {
        double *row = s->state + c * of->key_dim;
        step(of, h, t, row);
        for (int64_t i = 0; i < of->key_dim; i++)
            row[i] += weight * (double)v[c] * (double)k[i];
        s->o[c] = dot(of->key_dim, row, q) + (double)h->skip * (double)v[c];
    }
    for (int64_t i = 0; i <= t; i++) {
        double *left = s->left + i * of->key_dim;
        if (i < t)
            step(of, h, t, left);
        for (int64_t c = 0; i == t && c < of->key_dim; c++)
            left[c] = weight * (double)k[c];
        s->share[i] = (float)fabs(dot(of->key_dim, left, q) + (i == t ? (double)h->skip : 0));
    }
}

/* A row of A: |A_tj| of tokens j <= t, |v_j|, |o_t|. */
static void add_row(sl_recurrence_sums *s, int64_t t, const float *share, const float *value, double out) {
    double all = 0, whole = 0, part = (double)share[0] * (double)value[0];
    for (int64_t i = 0; i <= t; i++) {
        all += (double)share[i];
        whole += (double)share[i] * (double)value[i];
    }
    if (all == 0 || whole == 0 || out == 0)
        return;
    s->queries++;
    for (int i = 0; i < SL_RECURRENCE_TOKENS; i++)
        s->share[i] += (double)share[i] / all;
    s->contribution += part / whole;
    s->over_output += part / out;
}

static void add_token(sl_recurrence_sums *s, const job *j, const scratch *x, int64_t t) {
    const sl_recurrence_head *h = &x->head;
    double square = 0, key = (double)h->length[t], value = (double)x->value[t];
    for (int64_t c = 0; c < j->r->of.value_dim; c++)
        square += x->o[c] * x->o[c];
    double mean = square / (double)j->r->of.value_dim;
    s->below_eps += mean < j->r->eps;
    if (t == 0) {
        s->weight0 += (double)h->weight[0], s->key0 += key, s->value0 += value, s->rms0 += sqrt(mean);
        return;
    }
    s->tokens++;
    s->decay += (double)h->decay[t], s->log_decay += log((double)h->decay[t]);
    s->weight += (double)h->weight[t], s->key += key, s->value += value, s->rms += sqrt(mean);
    if (t >= j->r->first)
        add_row(s, t, x->share, x->value, sqrt(square));
}

static double frobenius(int64_t n, const double *x, double *most) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i] * x[i];
        *most = fmax(*most, fabs(x[i]));
    }
    return sqrt(sum);
}

/* At the end of a window; the rank follows. */
static void add_state(sl_recurrence_sums *s, const job *j, const scratch *x, double half) {
    int64_t n = state_size(j->r);
    double most = 0, ignored = 0, norm = frobenius(n, x->state, &most);
    if (norm == 0)
        return;
    s->states++;
    s->half += half, s->end += norm, s->peak += most * sqrt((double)n) / norm;
    s->token0 += frobenius(j->r->of.key_dim, x->left, &ignored) * (double)x->value[0] / norm;
}

static void head_item(void *ctx, int64_t i, int thread) {
    const job *j = ctx;
    const sl_recurrence_rows *r = j->r;
    scratch x = scratch_of(j, thread);
    sl_recurrence_sums *s = &j->room->parts[i];
    double half = 0, ignored = 0;
    *s = (sl_recurrence_sums){.windows = 1};
    r->read(r->ctx, i / r->of.heads, i % r->of.heads, &x.head);
    memset(x.state, 0, (size_t)state_size(r) * sizeof *x.state);
    for (int64_t t = 0; t < r->seq; t++) {
        x.value[t] = (float)norm_of(r->of.value_dim, x.head.v + t * r->of.value_dim);
        advance(j, &x, t);
        add_token(s, j, &x, t);
        half = t == r->seq / 2 - 1 ? frobenius(state_size(r), x.state, &ignored) : half;
    }
    add_state(s, j, &x, half);
    for (int64_t c = 0; c < state_size(r); c++)
        last_state(j, i)[c] = (float)x.state[c];
}

static void fold(sl_recurrence_sums *to, const sl_recurrence_sums *from) {
    for (size_t i = 0; i < sizeof *to / sizeof(double); i++)
        ((double *)to)[i] += ((const double *)from)[i];
}

static double stable_rank(const job *j, int64_t item) {
    sl_matrix m = {last_state(j, item), j->r->of.value_dim, j->r->of.key_dim};
    sl_linear map = sl_linear_matrix(&m);
    double *u = j->room->doubles, top = sl_leading_singular(&map, u, u + m.rows).sigma, norm = 0;
    for (int64_t c = 0; c < state_size(j->r); c++)
        norm += (double)m.w[c] * (double)m.w[c];
    return norm / (top * top);
}

void sl_recurrence_add(sl_recurrence_sums *sums, const sl_recurrence_rows *r, const sl_recurrence_scratch *room) {
    job j = {r, room};
    sl_parallel(items(r), head_item, &j);
    for (int64_t i = 0; i < items(r); i++) {
        room->parts[i].rank = room->parts[i].states > 0 ? stable_rank(&j, i) : 0;
        fold(&sums[i % r->of.heads], &room->parts[i]);
    }
}

/* ---- softmax layers */

typedef struct {
    const sl_kernels *k;
    const sl_attention_rows *a;
    const float *core;
    int64_t first;
    sl_recurrence_sums *parts;
    float *rows;
} attention_job;

int64_t sl_recurrence_attention_floats(int64_t seq) { return sl_attention_thread_floats(seq) + (seq + 15) / 16 * 16; }

static void attention_item(void *ctx, int64_t i, int thread) {
    const attention_job *j = ctx;
    const sl_attention_rows *a = j->a;
    int64_t head = i % a->heads, kv = head / (a->heads / a->kv_heads), first = i / a->heads * a->seq;
    float *scores = j->rows + thread * sl_recurrence_attention_floats(a->seq);
    float *p = scores + sl_attention_thread_floats(a->seq) / 2, *value = scores + sl_attention_thread_floats(a->seq);
    const float *keys = a->k + first * a->ld + kv * a->head_dim, *v = a->v + first * a->ld + kv * a->head_dim;
    j->parts[i] = (sl_recurrence_sums){.windows = 1};
    for (int64_t t = 0; t < a->seq; t++) {
        value[t] = (float)norm_of(a->head_dim, v + t * a->ld);
        if (t < j->first)
            continue;
        memset(p, 0, (size_t)(t + 1) * sizeof *p);
        sl_attention_row(a, j->k, head, a->q + (first + t) * a->ld + head * a->head_dim, keys, t + 1, scores, p);
        for (int64_t s = 0; s <= t; s++)
            p[s] = fabsf(p[s]);
        add_row(&j->parts[i], t, p, value,
                norm_of(a->head_dim, j->core + ((first + t) * a->heads + head) * a->head_dim));
    }
}

void sl_recurrence_add_attention(sl_recurrence_sums *sums, const sl_kernels *k, const sl_attention_rows *a,
                                 const float *core, int64_t first, sl_recurrence_sums *parts, float *rows) {
    attention_job j = {k, a, core, first, parts, rows};
    sl_parallel(a->windows * a->heads, attention_item, &j);
    for (int64_t i = 0; i < a->windows * a->heads; i++)
        fold(&sums[i % a->heads], &parts[i]);
}
