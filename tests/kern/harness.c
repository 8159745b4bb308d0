#include "kern.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    SLOT_BYTES = 4 << 20, /* largest buffer, canaries included */
    CANARY_BYTES = 256,   /* checked on either side */
    TIME_LIMIT = 20,      /* seconds of CPU time for one call */
};
#define ARENA_BYTES ((size_t)256 << 20)
#define TRACE_MAX ((int64_t)16 << 20)

enum mode { MID, AGAIN, REAR, FRONT, ALIAS };
static const char *const mode_name[] = {"mid", "again", "rear", "front", "alias"};

static uint8_t *slot[K_BUFS]; /* SLOT_BYTES each, an unmapped page before and after */
static size_t page;
static uint8_t *arena;
static size_t arena_used;
static double *trace; /* results of the first tier, in order */
static int64_t trace_n, trace_at;
static int tracing_first, trace_comparable;

static k_result *result;
static k_case *running;
static enum mode mode;
static char alias_text[80];
static sigjmp_buf escape;
static volatile sig_atomic_t escape_armed;
static const void *volatile fault_at;

/* ---- memory */

static void *map(size_t bytes, int prot) {
    void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "kern: cannot map %zu bytes; free some memory\n", bytes);
        exit(1);
    }
    return p;
}

static void *arena_get(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > ARENA_BYTES - arena_used) {
        fprintf(stderr, "kern: a test needs more than %zu bytes\n", ARENA_BYTES);
        exit(1);
    }
    void *p = arena + arena_used;
    arena_used += bytes;
    return p;
}

double *k_doubles(int64_t n) {
    double *p = arena_get((size_t)n * sizeof *p);
    memset(p, 0, (size_t)n * sizeof *p);
    return p;
}

static size_t elem(enum k_type t) {
    static const size_t bytes[] = {[K_F32] = 4, [K_F64] = 8, [K_BF16] = 2, [K_I32] = 4, [K_I8] = 1, [K_U8] = 1};
    return bytes[t];
}

static int is_integer(enum k_type t) { return t == K_I32 || t == K_I8 || t == K_U8; }

/* ---- failure */

_Noreturn void k_fail(k_case *c, const char *fmt, ...) {
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    snprintf(result->failure, sizeof result->failure, "%s [%s; %s%s]", what, c->text,
             mode_name[mode], mode == ALIAS ? alias_text : "");
    siglongjmp(escape, 1);
}

static void on_signal(int sig, siginfo_t *info, void *context) {
    (void)context;
    if (!escape_armed) { /* a fault of the runner itself */
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    fault_at = info->si_addr;
    siglongjmp(escape, sig);
}

/* SIGPROF after so many seconds of CPU time, 0: never. Not of time that passes: other work may take the cores. */
static void limit_time(int seconds) {
    setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = seconds}, NULL);
}

static size_t extent(const k_buf *b) {
    return b->rows == 0 || b->cols == 0 ? 0
                                        : (size_t)((b->rows - 1) * b->ld + b->cols) * elem(b->type);
}

/* Names the buffer whose guard page was hit. */
static void describe_fault(int sig, char *out, size_t size) {
    int at =
        snprintf(out, size, "%s", sig == SIGPROF ? "no end in sight: SIGPROF" : strsignal(sig));
    const uint8_t *a = (const uint8_t *)fault_at;
    if (sig != SIGSEGV && sig != SIGBUS)
        return;
    for (int i = 0; i < running->bufs; i++) {
        const k_buf *b = &running->buf[i];
        const uint8_t *p = b->p, *end = p + extent(b);
        if (a >= slot[i] + SLOT_BYTES && a < slot[i] + SLOT_BYTES + page)
            snprintf(out + at, size - (size_t)at, " at the byte %td past the end of '%s'", a - end,
                     b->name);
        else if (a >= slot[i] - page && a < slot[i])
            snprintf(out + at, size - (size_t)at, " at the byte %td before '%s'", p - a, b->name);
    }
}

void k_init(void) {
    page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < K_BUFS; i++) {
        uint8_t *p = map(SLOT_BYTES + 2 * page, PROT_NONE);
        slot[i] = p + page;
        if (mprotect(slot[i], SLOT_BYTES, PROT_READ | PROT_WRITE)) {
            perror("kern: mprotect");
            exit(1);
        }
    }
    arena = map(ARENA_BYTES, PROT_READ | PROT_WRITE);
    trace = map((size_t)TRACE_MAX * sizeof *trace, PROT_READ | PROT_WRITE);
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    const int fatal[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGABRT, SIGPROF};
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        sigaction(fatal[i], &sa, NULL);
}

/* ---- describing a call */

void k_begin(k_case *c, k_call call, const void *arg, const char *fmt, ...) {
    arena_used = 0;
    c->bufs = 0;
    memset(c->may_alias, 0, sizeof c->may_alias);
    c->call = call;
    c->arg = arg;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->text, sizeof c->text, fmt, ap);
    va_end(ap);
}

k_buf *k_add(k_case *c, const char *name, enum k_type type, enum k_role role, int64_t rows,
             int64_t cols, int64_t ld) {
    k_buf *b = &c->buf[c->bufs++];
    size_t n = (size_t)(rows * cols);
    *b = (k_buf){.name = name,
                 .type = type,
                 .role = role,
                 .rows = rows,
                 .cols = cols,
                 .ld = ld,
                 .align = (int)elem(type)};
    b->init = role == K_OUT || role == K_WORK ? NULL : memset(arena_get(n * elem(type)), 0, n * elem(type));
    if (role == K_OUT || role == K_INOUT) {
        b->want = k_doubles((int64_t)n);
        b->bound = k_doubles((int64_t)n);
        b->nan_ok = memset(arena_get(n), 0, n);
        b->got = arena_get(n * elem(type));
    }
    return b;
}

void k_alias(k_case *c, const k_buf *out, const k_buf *in) {
    c->may_alias[out - c->buf][in - c->buf] = 1;
}

void k_want(k_buf *b, int64_t i, double want, double bound) {
    b->want[i] = want;
    b->bound[i] = bound;
}

int64_t k_range(k_case *c, int64_t lo, int64_t hi) {
    return lo + (int64_t)sl_rng_below(&c->rng, (uint64_t)(hi - lo + 1));
}

int64_t k_count(k_case *c, int i) {
    static const int fixed[] = {0,  1,  2,   3,   4,   5,   7,   8,   9,    15,
                                16, 17, 24,  31,  32,  33,  47,  48,  63,   64,
                                65, 96, 127, 128, 129, 255, 384, 768, 1000, 1025};
    int n = sizeof fixed / sizeof *fixed;
    return i < n ? fixed[i] : k_range(c, 1, i % 2 ? 150 : 1100);
}

int64_t k_stride(k_case *c, int64_t n) { return n + (k_range(c, 0, 1) ? k_range(c, 1, 20) : 0); }

const char *k_data_name(enum k_data kind) {
    static const char *const name[] = {"normal",    "constant", "outlier", "offset",
                                       "subnormal", "zeros",    "expedge", "wide",
                                       "-inf",      "+inf",     "nan"};
    return name[kind];
}

void k_fill_normal(k_case *c, k_buf *b, double mean, double sd) {
    float *x = b->init;
    for (int64_t i = 0; i < b->rows * b->cols; i++)
        x[i] = (float)(mean + sd * sl_rng_normal(&c->rng));
}

static float draw(sl_rng *r, enum k_data kind) {
    double z = sl_rng_normal(r);
    uint32_t bits = sl_rng_u32(r);
    float sign = bits & 1 ? -1.0f : 1.0f;
    switch (kind) {
    case K_OFFSET: return (float)(1000 + z);
    case K_DENORMAL: {
        uint32_t b = bits & 0x807fffffu & (bits & 0x100 ? 0x80000000u : 0xffffffffu);
        float f;
        memcpy(&f, &b, sizeof f);
        return f;
    }
    case K_ZEROS: return bits & 2 ? sign * 0.0f : (float)z;
    case K_EXPEDGE: return sign * (float)(80 + 25 * sl_rng_uniform(r));
    case K_WIDE: return sign * (float)exp2(80 * sl_rng_uniform(r) - 40);
    case K_NEGINF: return bits % 8 ? (float)z : -INFINITY;
    case K_POSINF: return bits % 8 ? (float)z : INFINITY;
    case K_NAN: return bits % 8 ? (float)z : NAN;
    default: return (float)z;
    }
}

/* The element as a double (a bf16 is the upper half of a binary32). */
static double value(enum k_type t, const void *p) {
    double d;
    float f;
    uint32_t u;
    uint16_t h;
    int32_t i;
    switch (t) {
    case K_I32: memcpy(&i, p, sizeof i); return i;
    case K_I8: return *(const int8_t *)p;
    case K_U8: return *(const uint8_t *)p;
    case K_F64: memcpy(&d, p, sizeof d); return d;
    case K_BF16:
        memcpy(&h, p, sizeof h);
        u = (uint32_t)h << 16;
        memcpy(&f, &u, sizeof f);
        return f;
    default: memcpy(&f, p, sizeof f); return f;
    }
}

/* A bf16 is the upper half of what an fp32 buffer would hold. */
static void put(k_buf *b, int64_t i, float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (b->type == K_BF16)
        ((uint16_t *)b->init)[i] = (uint16_t)(u >> 16);
    else
        ((float *)b->init)[i] = x;
}

void k_fill(k_case *c, k_buf *b, enum k_data kind) {
    for (int64_t i = 0; i < b->rows; i++) {
        float first = draw(&c->rng, kind);
        for (int64_t j = 0; j < b->cols; j++)
            put(b, i * b->cols + j, kind == K_CONST || j == 0 ? first : draw(&c->rng, kind));
        if (kind == K_OUTLIER && b->cols)
            put(b, i * b->cols + k_range(c, 0, b->cols - 1), k_range(c, 0, 1) ? 1e4f : -1e4f);
    }
}

double k_initial(const k_buf *b, int64_t i) {
    return value(b->type, (const uint8_t *)b->init + (size_t)i * elem(b->type));
}

double k_depth(const k_case *c, int64_t n) {
    double depth = (double)(n / c->k->vl) + 1 + log2(c->k->vl) + 4;
    return fmin(depth, (double)n);
}

void k_identity(k_case *c, const char *what, double got, double want, double scale) {
    if (!(fabs(got - want) <= 1e-10 * scale + 1e-14))
        k_fail(c, "reference: %s is %.17g, complex step says %.17g", what, got, want);
}

/* ---- one call */

/* Every aligned word of canaries is a NaN, so that what is over-read and used shows. */
static uint8_t canary(const uint8_t *at) {
    uintptr_t a = (uintptr_t)at;
    return (a & 3) == 3 ? 0x7f : (a & 3) == 2 ? 0xff : (uint8_t)(a * 0x9E3779B1u >> 11);
}

/* Another NaN, that of outputs before the call. Integers have none: they keep the canaries, other ones in each
 * placement, so that an element that was not written shows at the latest as one that changed. */
static void unwritten(enum k_type t, void *p) {
    static const uint64_t f64 = 0x7ffe5a5a5a5a7fe5u;
    static const uint32_t f32 = 0x7fe5a5c3u;
    static const uint16_t bf16 = 0x7fe5;
    memcpy(p, t == K_F64 ? (const void *)&f64 : t == K_BF16 ? (const void *)&bf16 : &f32, elem(t));
}

static void place(k_case *c, int i, enum mode how) {
    k_buf *b = &c->buf[i];
    size_t bytes = extent(b), align = (size_t)b->align;
    if (bytes + 4 * page > SLOT_BYTES) {
        fprintf(stderr, "kern: '%s' of %zu bytes is larger than a slot\n", b->name, bytes);
        exit(1);
    }
    if (how == MID)
        b->p = slot[i] + page + align * (size_t)k_range(c, 0, 15);
    else if (how == REAR)
        b->p = slot[i] + (SLOT_BYTES - bytes) / align * align;
    else if (how == FRONT)
        b->p = slot[i];
}

static uint8_t *canaries_begin(int i, const k_buf *b) {
    uint8_t *p = b->p;
    return p - slot[i] < CANARY_BYTES ? slot[i] : p - CANARY_BYTES;
}

static uint8_t *canaries_end(int i, const k_buf *b) {
    uint8_t *end = (uint8_t *)b->p + extent(b), *last = slot[i] + SLOT_BYTES;
    return last - end < CANARY_BYTES ? last : end + CANARY_BYTES;
}

static void load(int i, const k_buf *b) {
    for (uint8_t *p = canaries_begin(i, b); p < canaries_end(i, b); p++)
        *p = canary(p);
    size_t e = elem(b->type), row = (size_t)b->cols * e;
    for (int64_t r = 0; r < b->rows && row; r++) {
        uint8_t *to = (uint8_t *)b->p + (size_t)(r * b->ld) * e;
        if (b->init)
            memcpy(to, (const uint8_t *)b->init + (size_t)r * row, row);
        else
            for (int64_t j = 0; j < b->cols && !is_integer(b->type); j++)
                unwritten(b->type, to + (size_t)j * e);
    }
}

static void check_canaries(k_case *c, int i, const k_buf *b) {
    size_t e = elem(b->type);
    uint8_t *p = canaries_begin(i, b), *data = b->p;
    for (; p < data; p++)
        if (*p != canary(p))
            k_fail(c, "wrote the byte %td before '%s'", p - data, b->name);
    for (int64_t r = 0; r < b->rows && b->cols; r++) {
        uint8_t *end = r + 1 < b->rows ? data + (size_t)((r + 1) * b->ld) * e : canaries_end(i, b);
        for (uint8_t *q = p = data + (size_t)(r * b->ld + b->cols) * e; p < end; p++)
            if (*p != canary(p))
                k_fail(c, "wrote the byte %td past the end of row %d of '%s'", p - q, (int)r,
                       b->name);
    }
    if (extent(b) == 0)
        for (; p < canaries_end(i, b); p++)
            if (*p != canary(p))
                k_fail(c, "wrote to '%s', which is empty", b->name);
}

static void check_unchanged(k_case *c, const k_buf *b) {
    size_t e = elem(b->type), row = (size_t)b->cols * e;
    for (int64_t r = 0; r < b->rows && row; r++)
        if (memcmp((uint8_t *)b->p + (size_t)(r * b->ld) * e, (uint8_t *)b->init + (size_t)r * row,
                   row))
            k_fail(c, "changed row %d of its input '%s'", (int)r, b->name);
}

static int same_exactly(enum k_type t, double got, double want) {
    double w = t == K_F64 || is_integer(t) ? want : (double)(float)want;
    return got == w && signbit(got) == signbit(w);
}

static void compare(k_case *c, k_buf *b, int64_t i, const void *p) {
    double got = value(b->type, p), want = b->want[i], bound = b->bound[i];
    char raw[8];
    unwritten(is_integer(b->type) ? K_F64 : b->type, raw);
    /* a bf16 has too few NaNs for one that no kernel returns */
    if (!b->init && !is_integer(b->type) && memcmp(p, raw, elem(b->type)) == 0 && (b->type != K_BF16 || !isnan(want)))
        k_fail(c, "%s[%d][%d] was not written", b->name, (int)(i / b->cols), (int)(i % b->cols));
    if (isnan(got) && (isnan(want) || b->nan_ok[i]))
        return;
    double max = b->type == K_F64 ? DBL_MAX : FLT_MAX, error = fabs(got - want);
    int ok = !isnan(want) && !isnan(bound);
    if (bound == 0)
        ok = ok && same_exactly(b->type, got, want);
    else if (isinf(got) || isinf(want))
        ok = ok && signbit(got) == signbit(want) && fabs(want) + bound > max && isinf(got);
    else
        ok = ok && error <= bound;
    int row = (int)(i / b->cols), col = (int)(i % b->cols);
    if (!ok && (bound == 0 || isnan(want)))
        k_fail(c, "%s[%d][%d] = %.9g, want %.9g exactly", b->name, row, col, got, want);
    if (!ok)
        k_fail(c, "%s[%d][%d] = %.9g, want %.9g +- %.3g (%.3g times the bound)", b->name, row, col,
               got, want, bound, error / bound);
    if (bound == 0 || isinf(got) || fabs(want) < SMALLEST) /* flushed results say little */
        return;
    double ulp = ldexp(1, ilogb(want) - (b->type == K_F64 ? 52 : 23));
    if (bound < 64 * ulp && error / ulp > result->ulp)
        result->ulp = error / ulp;
    if (error / bound > result->ratio) {
        result->ratio = error / bound;
        memcpy(result->worst, c->text, sizeof result->worst);
    }
}

static void compare_with_first_tier(double got, double bound) {
    if (tracing_first && trace_n < TRACE_MAX)
        trace[trace_n++] = got;
    if (tracing_first || !trace_comparable || trace_at >= trace_n)
        return;
    double other = trace[trace_at++];
    if (memcmp(&other, &got, sizeof got) == 0 || (isnan(other) && isnan(got)))
        return;
    result->differing++;
    if (bound > 0 && isfinite(got) && isfinite(other))
        result->apart = fmax(result->apart, fabs(got - other) / bound);
}

static void check_output(k_case *c, k_buf *b) {
    size_t e = elem(b->type);
    for (int64_t i = 0; i < b->rows * b->cols; i++) {
        const uint8_t *p = (uint8_t *)b->p + (size_t)(i / b->cols * b->ld + i % b->cols) * e;
        uint8_t *first = (uint8_t *)b->got + (size_t)i * e;
        if (mode == MID) {
            compare(c, b, i, p);
            memcpy(first, p, e);
            compare_with_first_tier(value(b->type, p), b->bound[i]);
        } else if (memcmp(first, p, e) != 0 &&
                   (mode == AGAIN || !isnan(value(b->type, p)) || !isnan(value(b->type, first)))) {
            k_fail(c, "%s[%d][%d] = %.9g, but %.9g in the first run", b->name, (int)(i / b->cols),
                   (int)(i % b->cols), value(b->type, p), value(b->type, first));
        }
    }
}

/* into[o] = index of the input that output o is written over, or -1. */
static void call_once(k_case *c, enum mode how, const int into[K_BUFS]) {
    mode = how;
    k_buf saved[K_BUFS];
    memcpy(saved, c->buf, sizeof saved);
    for (int i = 0; i < c->bufs; i++)
        if (into[i] < 0) {
            place(c, i, how == ALIAS ? REAR : how);
            load(i, &c->buf[i]);
        }
    for (int i = 0; i < c->bufs; i++)
        if (into[i] >= 0) {
            c->buf[i].p = c->buf[into[i]].p;
            c->buf[i].ld = c->buf[into[i]].ld;
        }
    result->calls++;
    limit_time(TIME_LIMIT);
    escape_armed = 1;
    c->call(c->k, c);
    escape_armed = 0;
    limit_time(0);
    int overwritten[K_BUFS] = {0};
    for (int i = 0; i < c->bufs; i++)
        if (into[i] >= 0)
            overwritten[into[i]] = 1;
    for (int i = 0; i < c->bufs; i++) {
        if (into[i] < 0)
            check_canaries(c, i, &c->buf[i]);
        if (c->buf[i].role == K_OUT || c->buf[i].role == K_INOUT)
            check_output(c, &c->buf[i]);
        else if (c->buf[i].role == K_IN && !overwritten[i])
            check_unchanged(c, &c->buf[i]);
        c->buf[i].ld = saved[i].ld;
    }
}

/* Goes through all ways of writing outputs over distinct inputs, from output o on. */
static void alias_all(k_case *c, int into[K_BUFS], int o) {
    while (o < c->bufs && c->buf[o].role == K_IN)
        o++;
    if (o == c->bufs) {
        int at = 0;
        for (int i = 0; i < c->bufs; i++)
            if (into[i] >= 0)
                at += snprintf(alias_text + at, sizeof alias_text - (size_t)at, " %s=%s",
                               c->buf[i].name, c->buf[into[i]].name);
        if (at)
            call_once(c, ALIAS, into);
        return;
    }
    for (int in = -1; in < c->bufs; in++) {
        int taken = 0;
        for (int i = 0; i < o; i++)
            taken |= in >= 0 && into[i] == in;
        if (taken || (in >= 0 && !c->may_alias[o][in]))
            continue;
        into[o] = in;
        alias_all(c, into, o + 1);
        into[o] = -1;
    }
}

void k_run(k_case *c) {
    int into[K_BUFS];
    for (int i = 0; i < K_BUFS; i++)
        into[i] = -1;
    running = c;
    for (enum mode how = MID; how <= FRONT; how++)
        call_once(c, how, into);
    alias_all(c, into, 0);
}

void k_place_for_bench(k_case *c) {
    for (int i = 0; i < c->bufs; i++) {
        c->buf[i].p = slot[i] + page * (size_t)(1 + i % 3); /* not all in the same cache sets */
        load(i, &c->buf[i]);
    }
}

void k_check(const k_kernel *kernel, const sl_kernels *tier, uint64_t seed, int repeat, int first,
             k_result *out) {
    static k_case c; /* survives the jump */
    *out = (k_result){0};
    result = out;
    running = &c;
    memset(&c, 0, sizeof c);
    c.k = tier;
    tracing_first = first;
    trace_comparable = kernel->across != K_BY_TILE;
    trace_at = 0;
    if (first)
        trace_n = 0;
    void *fn;
    memcpy(&fn, (const char *)tier + kernel->member, sizeof fn);
    if (!fn) {
        snprintf(out->failure, sizeof out->failure, "missing from the table of this tier");
        return;
    }
    int sig = sigsetjmp(escape, 1);
    if (sig == 0) {
        for (int i = 0; i < repeat; i++) {
            uint64_t sub = sl_hash64(kernel->name, strlen(kernel->name)) + (uint64_t)i;
            c.rng = sl_rng_make(seed, SL_STREAM_TEST, sub);
            kernel->check(&c);
        }
        if (kernel->across == K_SAME_BITS && out->differing)
            snprintf(out->failure, sizeof out->failure, "%lld results differ from the first tier's",
                     (long long)out->differing);
    } else if (sig != 1) {
        char what[160];
        describe_fault(sig, what, sizeof what);
        snprintf(out->failure, sizeof out->failure, "%s [%s; %s%s]", what, c.text, mode_name[mode],
                 mode == ALIAS ? alias_text : "");
    }
    limit_time(0);
    escape_armed = 0;
}
