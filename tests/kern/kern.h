/* Kernel runner, in the manner of dav1d's checkasm. A test describes a call: its buffers with their
 * shapes and contents, the function that makes the call, and for each output element the value
 * wanted (computed in double) and the largest error allowed. The runner then makes the call several
 * times:
 *
 *   mid    canaries on both sides, base address misaligned at random; compared with the reference
 *   again  the same once more: the same bits
 *   rear   the last element of every buffer lies flush against an unmapped page: no over-read; same
 * bits front  the first element right after an unmapped page: no under-read; same bits alias  every
 * legal way of computing in place; same bits
 *
 * and after each: canaries, gaps between rows and inputs unchanged, every output written. A failure
 * (or a signal) ends this kernel on this tier only. */
#ifndef SL_TESTS_KERN_H
#define SL_TESTS_KERN_H

#include "base/rng.h"
#include "simd/kernels.h"

#include <stddef.h>
#include <stdint.h>

enum k_type { K_F32, K_F64, K_BF16, K_I32, K_I8, K_U8 };
enum k_role { K_IN, K_OUT, K_INOUT, K_WORK }; /* K_WORK: written, and no result */

/* Contents of a buffer; see k_fill. */
enum k_data {
    K_NORMAL,   /* N(0,1) */
    K_CONST,    /* each row one value (variance 0) */
    K_OUTLIER,  /* N(0,1), one element of each row +-1e4 */
    K_OFFSET,   /* 1000 + N(0,1): the mean is large against the spread */
    K_DENORMAL, /* subnormals and zeros of both signs */
    K_ZEROS,    /* N(0,1) with many zeros of both signs */
    K_EXPEDGE,  /* +-[80,105]: where exp leaves the range of binary32 on either side */
    K_WIDE,     /* +-2^[-40,40] */
    K_NEGINF,   /* N(0,1) with some -inf */
    K_POSINF,   /* N(0,1) with some +inf */
    K_NAN,      /* N(0,1) with some NaN */
    K_KINDS
};
#define K_BIT(kind) (1u << (kind))
#define K_FINITE (K_BIT(K_NEGINF) - 1)
#define K_ALL (K_BIT(K_KINDS) - 1)

typedef struct {
    const char *name;
    enum k_type type;
    enum k_role role;
    int64_t rows, cols, ld; /* ld in elements, >= cols */
    int align;              /* bytes; at least that of the type */
    void *init;             /* rows x cols, dense: contents before the call (K_IN, K_INOUT) */
    double *want, *bound;   /* rows x cols, dense (K_OUT, K_INOUT); bound 0: bit-exact */
    uint8_t *nan_ok;        /* 1: NaN is right as well (a limit such as -inf * 0) */
    void *p;                /* what the kernel is given */
    void *got;              /* after k_run: rows x cols, dense, result of the mid run */
} k_buf;

enum { K_BUFS = 10 };

typedef struct k_case k_case;
typedef void (*k_call)(const sl_kernels *k, const k_case *c);

struct k_case {
    const sl_kernels *k;
    sl_rng rng;
    k_buf buf[K_BUFS];
    int bufs;
    uint8_t may_alias[K_BUFS][K_BUFS]; /* [output][input] */
    k_call call;
    const void *arg;     /* the test's own parameters of the call */
    double bytes, flops; /* of one call; set by a benchmark */
    char text[160];      /* shapes and data, for messages */
};

typedef struct {
    const char *name;
    size_t member; /* offset in sl_kernels */
    void (*check)(k_case *c);
    void (*bench)(k_case *c); /* k_begin, buffers, call, bytes, flops; does not run it */
    enum {
        K_BY_TILE = 1, /* the shapes tested depend on the tier: no comparison across tiers */
        K_SAME_BITS,   /* every tier must give the same bits */
    } across;
} k_kernel;
#define K_KERNEL(name_, ...)                                                                       \
    { #name_, offsetof(sl_kernels, name_), __VA_ARGS__ }

/* One table, k_<name>, a source of the kernels' list, ended by a row without a name. */
#define SOURCE(name) extern const k_kernel k_##name[];
#define KERNEL(...)
#define UNIT_KERNEL(...)
#include "simd/kernels.inc"

/* ---- describing a call */
void k_begin(k_case *c, k_call call, const void *arg, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Adds a buffer (index 0, 1, ... in order of the calls). Its arrays live until the next k_begin. */
k_buf *k_add(k_case *c, const char *name, enum k_type type, enum k_role role, int64_t rows,
             int64_t cols, int64_t ld);
void k_fill(k_case *c, k_buf *b, enum k_data kind); /* K_F32 or K_BF16 */
double k_initial(const k_buf *b, int64_t i);        /* element i (dense) of what it was filled with */
void k_fill_normal(k_case *c, k_buf *b, double mean, double sd);
/* The kernel may write `out` over `in` (same shape). */
void k_alias(k_case *c, const k_buf *out, const k_buf *in);
/* Element i (dense) of an output: the value wanted and the error allowed. */
void k_want(k_buf *b, int64_t i, double want, double bound);
double *k_doubles(int64_t n); /* scratch until the next k_begin */
/* Calls in every placement and checks; does not return on a failure. */
void k_run(k_case *c);
_Noreturn void k_fail(k_case *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* In a k_call. */
static inline float *k_f32(const k_case *c, int i) { return c->buf[i].p; }
static inline uint8_t *k_u8(const k_case *c, int i) { return c->buf[i].p; }
static inline double *k_f64(const k_case *c, int i) { return c->buf[i].p; }
static inline int64_t k_ld(const k_case *c, int i) { return c->buf[i].ld; }

/* ---- shapes */
enum { K_COUNTS = 38 };
/* The i-th count to try, i < K_COUNTS: 0, 1, 2, 3, around powers of two, model sizes, then random.
 */
int64_t k_count(k_case *c, int i);
/* Row stride for rows of n: n or up to 20 more. */
int64_t k_stride(k_case *c, int64_t n);
int64_t k_range(k_case *c, int64_t lo, int64_t hi); /* uniform, both ends included */
const char *k_data_name(enum k_data kind);

/* ---- error bounds. A rounding to binary32 has a relative error of at most U, and in the subnormal
 * range an absolute one of at most TINY/2. */
#define U 0x1p-24
#define TINY 0x1p-149
#define SMALLEST 0x1p-126 /* least normal; exp may flush results below it */
#define EXP_REL (2.4 * U) /* relative error of the vector exp: 1.2 ulp, simd/vec_math.h */
/* Additions on the longest path of a sum of n terms in vectors of vl: one chain a lane (several
 * only shorten it, and are folded with up to 4 more), a masked tail, the lanes halved log2(vl)
 * times; never more than n. */
double k_depth(const k_case *c, int64_t n);
/* Element i of a bf16 output: the error of rounding comes on top of the bound. (bf16.c) */
void k_want_bf16(const k_case *c, k_buf *b, int64_t i, double want, double bound);
/* A number as this tier rounds it to bf16; does the tier read subnormals as 0 while it does? (bf16.c) */
double k_round_bf16(const k_case *c, double x);
int k_flushes(const k_case *c);
/* Fails unless |got - want| <= rel * scale; for checks of the references themselves. */
void k_identity(k_case *c, const char *what, double got, double want, double scale);

/* ---- the runner's side (harness.c) */
typedef struct {
    int64_t calls;
    double ratio;      /* worst error / bound */
    double ulp;        /* worst error in ulp, of outputs whose bound is below 64 ulp */
    char worst[160];   /* case of the worst ratio */
    double apart;      /* worst |this tier - first tier| / bound */
    int64_t differing; /* elements whose bits differ from the first tier's */
    char failure[800]; /* empty: passed */
} k_result;

void k_init(void); /* maps the guarded buffers, installs the signal handlers */
/* Runs the check of one kernel on one tier; first: keep the results for comparison with the next
 * tiers. */
void k_check(const k_kernel *kernel, const sl_kernels *tier, uint64_t seed, int repeat, int first,
             k_result *out);
/* Places the buffers of a described call for timing (64-byte aligned) and fills them. */
void k_place_for_bench(k_case *c);

/* Breaks kernels on purpose and sees that each is caught; an exit code. (selftest.c) */
int k_selftest(uint64_t seed);

/* ---- benchmarks (bench.c) */
int k_bench(const k_kernel *const *list, const char *const *source, int n,
            const sl_kernels *const *tiers, int ntiers, uint64_t seed, int json);

#endif
