#include "ref/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ref_c *ref_alloc(int64_t n) {
    ref_c *p = calloc(n > 0 ? (size_t)n : 1, sizeof *p);
    if (!p) {
        fprintf(stderr, "reference: out of memory\n");
        abort();
    }
    return p;
}

static ref_c sigmoid(ref_c x) { return 1 / (1 + cexp(-x)); }
static ref_c silu(ref_c x) { return x * sigmoid(x); }

void ref_linear(int64_t rows, int64_t in, int64_t out, const ref_c *x, const ref_c *w, ref_c *y) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t o = 0; o < out; o++) {
            ref_c sum = 0;
            for (int64_t j = 0; j < in; j++)
                sum += x[i * in + j] * w[o * in + j];
            y[i * out + o] = sum;
        }
}

void ref_embedding(int64_t rows, int64_t d, const int32_t *token, const ref_c *table, ref_c *y) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < d; j++)
            y[i * d + j] = table[token[i] * d + j];
}

void ref_add(int64_t n, const ref_c *x, ref_c *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

void ref_add_row(int64_t rows, int64_t d, const ref_c *b, ref_c *y) {
    for (int64_t i = 0; i < rows; i++)
        ref_add(d, b, y + i * d);
}

/* One row: y = w (x - shift) / sqrt(mean((x - shift)^2) + eps). */
static void normalise(int64_t d, const ref_c *x, ref_c shift, const ref_c *w, double eps,
                      ref_c *y) {
    ref_c sum = 0;
    for (int64_t j = 0; j < d; j++)
        sum += (x[j] - shift) * (x[j] - shift);
    ref_c root = csqrt(sum / (double)d + eps);
    for (int64_t j = 0; j < d; j++)
        y[j] = w[j] * (x[j] - shift) / root;
}

void ref_rmsnorm(int64_t rows, int64_t d, const ref_c *x, const ref_c *w, double eps, ref_c *y) {
    for (int64_t i = 0; i < rows; i++)
        normalise(d, x + i * d, 0, w, eps, y + i * d);
}

void ref_layernorm(int64_t rows, int64_t d, const ref_c *x, const ref_c *w, double eps, ref_c *y) {
    for (int64_t i = 0; i < rows; i++) {
        ref_c sum = 0;
        for (int64_t j = 0; j < d; j++)
            sum += x[i * d + j];
        normalise(d, x + i * d, sum / (double)d, w, eps, y + i * d);
    }
}

void ref_scale_channels(int64_t rows, int64_t d, const ref_c *w, ref_c *y) {
    for (int64_t i = 0; i < rows * d; i++)
        y[i] *= w[i % d];
}

static ref_c erf_of(ref_c z) {
    double r = creal(z);
    return erf(r) + I * (cimag(z) * 2 / sqrt(M_PI) * exp(-r * r));
}

void ref_dyt(int64_t rows, int64_t d, const ref_c *x, bool erf_form, ref_c alpha, ref_c shift, const ref_c *w,
             const ref_c *bias, ref_c *y) {
    for (int64_t i = 0; i < rows * d; i++) {
        ref_c z = alpha * x[i] + shift;
        y[i] = w[i % d] * (erf_form ? erf_of(z) : ctanh(z)) + (bias ? bias[i % d] : 0);
    }
}

static ref_c activation(const char *name, ref_c x) {
    if (strcmp(name, "sigmoid") == 0)
        return sigmoid(x);
    if (strcmp(name, "tanh") == 0)
        return ctanh(x);
    if (strcmp(name, "silu") == 0)
        return silu(x);
    if (strcmp(name, "relu") == 0)
        return creal(x) > 0 ? x : 0;
    if (strcmp(name, "identity") == 0)
        return x;
    fprintf(stderr, "reference: no activation %s\n", name);
    abort();
}

void ref_gate(int64_t rows, int64_t d, const ref_gate_kind *kind, const ref_c *down, const ref_c *up, ref_c *y) {
    int64_t rank = kind->rank, gates = kind->gates;
    bool sigmoidal = strcmp(kind->outer, "sigmoid") == 0;
    double factor = kind->identity && sigmoidal ? 2 : 1, offset = kind->identity && !sigmoidal ? 1 : 0;
    ref_c *a = ref_alloc(rows * rank), *b = ref_alloc(rows * gates);
    ref_linear(rows, d, rank, y, down, a);
    for (int64_t i = 0; i < rows * rank; i++)
        a[i] = activation(kind->inner, a[i]);
    ref_linear(rows, rank, gates, a, up, b);
    for (int64_t i = 0; i < rows * d; i++)
        y[i] *= factor * activation(kind->outer, b[i / d * gates + (gates > 1 ? i % d : 0)]) + offset;
    free(a);
    free(b);
}

/* The j with original / (2 pi base^(2j/n)) = times. */
static double pair_of(const ref_rotary *r, int64_t n, double times) {
    return (double)n / 2 * log(r->original / times / (2 * M_PI)) / log(r->base);
}

static double yarn(const ref_rotary *r, int64_t n, int64_t j, double frequency) {
    double a = pair_of(r, n, r->fast), b = pair_of(r, n, r->slow);
    a = fmax(0, r->whole ? floor(a) : a);
    b = fmin((double)n - 1, r->whole ? ceil(b) : b);
    double share = fmin(1, fmax(0, ((double)j - a) / (b - a)));
    return share * frequency / r->factor + (1 - share) * frequency;
}

static double turned(const ref_rotary *r, int64_t n, int64_t j) {
    double frequency = 1 / pow(r->base, 2.0 * (double)j / (double)n);
    if (r->scaling && strcmp(r->scaling, "yarn") == 0)
        return yarn(r, n, j, frequency);
    double wavelength = 2 * M_PI / frequency;
    if (r->scaling && strcmp(r->scaling, "linear") == 0)
        return frequency / r->factor;
    if (!r->scaling || strcmp(r->scaling, "llama3") != 0 || wavelength < r->original / r->high)
        return frequency;
    if (wavelength > r->original / r->low)
        return frequency / r->factor;
    double smooth = (r->original / wavelength - r->low) / (r->high - r->low);
    return (1 - smooth) * frequency / r->factor + smooth * frequency;
}

void ref_rope(int64_t rows, int64_t seq, int64_t heads, int64_t hd, const ref_rotary *r, ref_c *x) {
    int64_t n = r->dims ? r->dims : hd, half = n / 2;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < half; j++) {
            double angle = (double)(i % seq) * turned(r, n, j);
            bool grows = r->scaling && strcmp(r->scaling, "yarn") == 0;
            double c = (grows ? r->growth : 1) * cos(angle), s = (grows ? r->growth : 1) * sin(angle);
            for (int64_t h = 0; h < heads; h++) {
                ref_c *at = x + (i * heads + h) * hd;
                ref_c a = at[j], b = at[j + half];
                at[j] = a * c - b * s;
                at[j + half] = b * c + a * s;
            }
        }
}

void ref_convolution(int64_t rows, int64_t seq, int64_t d, int64_t width, const ref_c *x, const ref_c *w,
                     const ref_c *bias, bool with_silu, ref_c *y) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < d; c++) {
            ref_c u = bias ? bias[c] : 0;
            for (int64_t j = 0; j < width && j <= i % seq; j++)
                u += w[c * width + width - 1 - j] * x[(i - j) * d + c];
            y[i * d + c] = with_silu ? silu(u) : u;
        }
}

void ref_ssd_run(int64_t rows, int64_t seq, const ref_ssd *s, ref_c *y) {
    ref_c *h = ref_alloc(s->p * s->n);
    for (int64_t head = 0; head < s->heads; head++)
        for (int64_t t = 0; t < rows; t++) {
            int64_t group = t * s->groups + head / (s->heads / s->groups);
            ref_c dt = clog(1 + cexp(s->dt[t * s->heads + head] + s->bias[head]));
            ref_c decay = t % seq ? cexp(-dt * cexp(s->a_log[head])) : 0;
            for (int64_t i = 0; i < s->p; i++) {
                int64_t at = (t * s->heads + head) * s->p + i;
                y[at] = s->skip[head] * s->x[at];
                for (int64_t j = 0; j < s->n; j++) {
                    h[i * s->n + j] = decay * h[i * s->n + j] + dt * s->x[at] * s->b[group * s->n + j];
                    y[at] += h[i * s->n + j] * s->c[group * s->n + j];
                }
            }
        }
    free(h);
}

static ref_c dot(int64_t n, const ref_c *x, const ref_c *y) {
    ref_c sum = 0;
    for (int64_t j = 0; j < n; j++)
        sum += x[j] * y[j];
    return sum;
}

static void scaled(int64_t n, bool unit, double scale, const ref_c *x, ref_c *y) {
    ref_c r = unit ? scale / csqrt(dot(n, x, x) + 1e-6) : scale;
    for (int64_t j = 0; j < n; j++)
        y[j] = x[j] * r;
}

void ref_delta_run(int64_t rows, int64_t seq, const ref_delta *s, ref_c *o) {
    int64_t n = s->n, m = s->m;
    ref_c *memory = ref_alloc(n * m), *q = ref_alloc(n), *k = ref_alloc(n), *column = ref_alloc(n);
    for (int64_t head = 0; head < s->heads; head++)
        for (int64_t t = 0; t < rows; t++) {
            int64_t at = t * s->heads + head, key = (t * s->key_heads + head / (s->heads / s->key_heads)) * n;
            ref_c decay = t % seq ? cexp(s->log_decay[at]) : 0;
            scaled(n, s->unit, 1 / sqrt((double)n), s->q + key, q), scaled(n, s->unit, 1, s->k + key, k);
            for (int64_t c = 0; c < m; c++) {
                for (int64_t j = 0; j < n; j++)
                    column[j] = decay * memory[j * m + c];
                ref_c write = s->v[at * m + c];
                if (s->rule)
                    write = s->beta[at] * (write - dot(n, column, k));
                for (int64_t j = 0; j < n; j++)
                    column[j] = memory[j * m + c] = column[j] + k[j] * write;
                o[at * m + c] = dot(n, column, q);
            }
        }
    free(memory), free(q), free(k), free(column);
}

/* n scores to weights. extra: a logit beside them, NULL for none; its weight is returned. */
static ref_c softmax(int64_t n, const ref_c *extra, ref_c *p) {
    double top = extra ? creal(*extra) : -INFINITY;
    for (int64_t s = 0; s < n; s++)
        top = fmax(top, creal(p[s]));
    ref_c own = extra ? cexp(*extra - top) : 0, sum = own;
    for (int64_t s = 0; s < n; s++)
        sum += p[s] = cexp(p[s] - top);
    for (int64_t s = 0; s < n; s++)
        p[s] /= sum;
    return own / sum;
}

ref_c ref_attention_weights(const ref_attend *a, int64_t n, const ref_c *extra, ref_c *p) {
    if (strcmp(a->kind, "sigmoid") != 0 && strcmp(a->kind, "relu") != 0) {
        ref_c own = softmax(n, extra, p);
        for (int64_t s = 0; s < n && strcmp(a->kind, "clipped_softmax") == 0; s++) {
            ref_c y = a->a * p[s] + a->b;
            p[s] = creal(y) <= 0 ? 0 : creal(y) >= 1 ? 1 : y;
        }
        return own;
    }
    for (int64_t s = 0; s < n; s++)
        p[s] = *a->kind == 's' ? sigmoid(p[s] + a->a) : creal(p[s]) > 0 ? p[s] / (double)n : 0;
    return 0;
}

static ref_c capped(double cap, ref_c z) { return cap > 0 ? cap * ctanh(z / cap) : z; }

void ref_softcap(int64_t n, double cap, ref_c *x) {
    for (int64_t i = 0; i < n; i++)
        x[i] = capped(cap, x[i]);
}

void ref_attention(int64_t rows, int64_t seq, int64_t heads, int64_t kv_heads, int64_t hd, const ref_attend *a,
                   const ref_c *q, const ref_c *k, const ref_c *v, ref_c *y, ref_c *null) {
    ref_c *p = ref_alloc(seq), extra = 0;
    double scale = a->scale > 0 ? a->scale : 1 / sqrt((double)hd);
    bool has_extra = a->sinks || a->key || strcmp(a->kind, "softmax1") == 0;
    int64_t ld = kv_heads * hd;
    for (int64_t i = 0; null && i < rows; i++)
        null[i] = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t h = 0; h < heads; h++) {
            int64_t at = i * heads * hd + h * hd, kv = h / (heads / kv_heads), last = i % seq;
            int64_t first = a->window && last >= a->window ? last - a->window + 1 : 0, n = last - first + 1;
            int64_t row = (i - last + first) * ld + kv * hd;
            for (int64_t s = 0; s < n; s++)
                p[s] = capped(a->softcap, scale * dot(hd, q + at, k + row + s * ld));
            if (a->sinks)
                extra = a->sinks[h];
            if (a->key)
                extra = scale * dot(hd, q + at, a->key + kv * hd);
            ref_c own = ref_attention_weights(a, n, has_extra ? &extra : NULL, p);
            if (null)
                null[i] += own / (double)heads;
            for (int64_t j = 0; j < hd; j++) {
                y[at + j] = a->value ? own * a->value[kv * hd + j] : 0;
                for (int64_t s = 0; s < n; s++)
                    y[at + j] += p[s] * v[row + s * ld + j];
            }
        }
    free(p);
}

void ref_attention_gate(int64_t rows, int64_t n, int64_t group, double floor, const ref_c *g, ref_c *y) {
    for (int64_t i = 0; i < rows * n; i++)
        y[i] *= floor + (1 - floor) * sigmoid(g[i / n * (n / group) + i % n / group]);
}

static ref_c gelu(ref_c x) {
    double r = creal(x), density = exp(-r * r / 2) / sqrt(2 * M_PI);
    return x * (0.5 * erfc(-r / sqrt(2)) + I * (cimag(x) * density));
}
static ref_c gelu_tanh(ref_c x) { return 0.5 * x * (1 + ctanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
static ref_c relu(ref_c x) { return creal(x) > 0 ? x : 0; }
static ref_c relu2(ref_c x) { return creal(x) > 0 ? x * x : 0; }

static ref_c clamped_silu(ref_c x) {
    ref_c c = creal(x) > 7 ? 7 : x;
    return c * sigmoid(1.702 * c);
}
static ref_c clamped_plus_one(ref_c x) { return 1 + (creal(x) > 7 ? 7 : creal(x) < -7 ? -7 : x); }
static ref_c same(ref_c x) { return x; }

/* Marks in `chosen` the `top` largest of the real parts, of equals the first. */
static void choose(int64_t experts, int64_t top, const ref_c *score, const ref_c *bias, bool *chosen) {
    for (int64_t j = 0; j < top; j++) {
        int64_t best = -1;
        double most = 0;
        for (int64_t e = 0; e < experts; e++) {
            double v = creal(score[e]) + (bias ? creal(bias[e]) : 0);
            if (!chosen[e] && (best < 0 || v > most))
                best = e, most = v;
        }
        chosen[best] = true;
    }
}

/* Scores of one row, their sum, and the log of the sum of exponentials. */
static void route_scores(int64_t experts, bool use_sigmoid, const ref_c *logits, ref_c *score, ref_c *sum, ref_c *lse) {
    double top = creal(logits[0]);
    ref_c exps = 0;
    for (int64_t e = 1; e < experts; e++)
        top = fmax(top, creal(logits[e]));
    for (int64_t e = 0; e < experts; e++)
        exps += cexp(logits[e] - top);
    *lse = clog(exps) + top;
    *sum = 0;
    for (int64_t e = 0; e < experts; e++)
        *sum += score[e] = use_sigmoid ? sigmoid(logits[e]) : cexp(logits[e] - top) / exps;
}

void ref_route(int64_t rows, int64_t experts, int64_t top, bool use_sigmoid, const ref_c *logits, const ref_c *bias,
               int64_t capacity, ref_c *weight, ref_c *aux, ref_c *z) {
    ref_c *score = ref_alloc(experts), *share = ref_alloc(experts), sum, lse;
    double *count = calloc((size_t)experts, sizeof *count);
    *aux = *z = 0;
    for (int64_t i = 0; i < rows; i++) {
        bool *chosen = calloc((size_t)experts, sizeof *chosen);
        ref_c picked = 1e-20;
        route_scores(experts, use_sigmoid, logits + i * experts, score, &sum, &lse);
        choose(experts, top, score, bias, chosen);
        for (int64_t e = 0; e < experts; e++) {
            share[e] += score[e] / sum;
            picked += chosen[e] ? score[e] : 0;
        }
        for (int64_t e = 0; e < experts; e++)
            weight[i * experts + e] =
                chosen[e] && ++count[e] <= (double)capacity ? (top > 1 ? score[e] / picked : score[e]) : 0;
        *z += lse * lse / (double)rows;
        free(chosen);
    }
    for (int64_t e = 0; e < experts; e++)
        *aux += (double)experts * count[e] / (double)(rows * top) * share[e] / (double)rows;
    free(score);
    free(share);
    free(count);
}

void ref_ffn(int kind, int64_t n, const ref_c *gate, const ref_c *up, ref_c *y) {
    static ref_c (*const act[])(ref_c) = {
#define FFN(name, gated, act, ...) act,
#include "simd/ffn.inc"
#undef FFN
    }, (*const other[])(ref_c) = {
#define FFN(name, gated, act, other, ...) other,
#include "simd/ffn.inc"
#undef FFN
    };
    for (int64_t i = 0; i < n; i++)
        y[i] = act[kind](gate[i]) * (up ? other[kind](up[i]) : 1);
}

void ref_cross_entropy(int64_t rows, int64_t vocab, const ref_c *logits, const int32_t *target,
                       ref_c *loss) {
    for (int64_t i = 0; i < rows; i++) {
        const ref_c *l = logits + i * vocab;
        loss[i] = 0;
        if (target[i] < 0)
            continue;
        double top = -INFINITY;
        for (int64_t j = 0; j < vocab; j++)
            top = fmax(top, creal(l[j]));
        ref_c sum = 0;
        for (int64_t j = 0; j < vocab; j++)
            sum += cexp(l[j] - top);
        loss[i] = clog(sum) + top - l[target[i]];
    }
}
