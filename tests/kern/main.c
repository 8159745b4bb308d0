#include "kern.h"

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SKIPPED = 77, MAX_KERNELS = 256 }; /* 77: meson's exit code of a skipped test */

static const struct {
    const char *source;
    const k_kernel *list;
} sources[] = {
#define SOURCE(name) {#name, k_##name},
#define KERNEL(...)
#define UNIT_KERNEL(...)
#include "simd/kernels.inc"
};

#ifdef HAVE_AMX_MODEL
extern const sl_kernels sl_kernels_amxmodel;
#endif

static const struct {
    const char *name;
    enum sl_isa isa;
    const sl_kernels *table; /* if not the library's own */
} all_tiers[] = {{"scalar", SL_ISA_SCALAR, NULL},
                 {"neon", SL_ISA_NEON, NULL},
                 {"neondot", SL_ISA_NEONDOT, NULL},
                 {"neonbf16", SL_ISA_NEONBF16, NULL},
                 {"avx2", SL_ISA_AVX2, NULL},
                 {"avx512", SL_ISA_AVX512, NULL},
                 {"avx512vnni", SL_ISA_AVX512VNNI, NULL},
                 {"avx512bf16", SL_ISA_AVX512BF16, NULL},
                 {"amx", SL_ISA_AMX, NULL},
#ifdef HAVE_AMX_MODEL
                 {"amxmodel", SL_ISA_AVX512, &sl_kernels_amxmodel}, /* simd/amx on amx_model.h */
#endif
};
enum { TIERS = sizeof all_tiers / sizeof *all_tiers };

struct options {
    const char *verb, *regex, *name, *isa;
    uint64_t seed;
    int repeat, json;
};

struct plan {
    const k_kernel *kernel[MAX_KERNELS];
    const char *source[MAX_KERNELS];
    int kernels;
    const sl_kernels *tier[TIERS];
    int tiers;
};

static const char usage[] =
    "usage: kern test  [NAME | -k REGEX] [--isa TIER] [--seed N] [--repeat N]\n"
    "       kern bench [NAME | -k REGEX] [--isa TIER] [--seed N] [--json]\n"
    "       kern list\n"
    "       kern selftest [--seed N]\n"
    "test compares every kernel of every tier of this machine with a reference in double; the seed it\n"
    "prints reproduces a run, also of one kernel alone. bench times them; selftest breaks some on purpose\n"
    "and sees that test would catch it. TIER: scalar neon neondot neonbf16 avx2 avx512 avx512vnni\n"
    "avx512bf16 amx amxmodel (amx's kernels on tiles in plain C).\n"
    "exit code: 0 all passed, 1 some failed, 2 usage, 77 --isa names a tier that is not here.\n";

static int usage_error(const char *what, const char *arg) {
    fprintf(stderr, "kern: %s '%s'; see kern --help\n", what, arg);
    return 2;
}

static int number(const char *s, uint64_t max, uint64_t *out) {
    char *end;
    unsigned long long n = strtoull(s, &end, 0);
    if (!*s || *s == '-' || *end || n > max)
        return usage_error("not a number or too large:", s);
    *out = n;
    return 0;
}

static int parse(int argc, char **argv, struct options *o) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *o = (struct options){.seed = (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 20, .repeat = 1};
    o->seed &= 0xffffffff;
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        fputs(usage, argc < 2 ? stderr : stdout);
        exit(argc < 2 ? 2 : 0);
    }
    o->verb = argv[1];
    for (int i = 2; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        uint64_t n;
        if (strcmp(a, "--json") == 0) {
            o->json = 1;
            continue;
        }
        if (*a != '-') {
            o->name = a;
            continue;
        }
        if (!value)
            return usage_error("unknown option, or one without its value:", a);
        i++;
        if (strcmp(a, "-k") == 0)
            o->regex = value;
        else if (strcmp(a, "--isa") == 0)
            o->isa = value;
        else if (strcmp(a, "--seed") == 0) {
            if (number(value, UINT64_MAX, &o->seed))
                return 2;
        } else if (strcmp(a, "--repeat") == 0) {
            if (number(value, 1000000, &n))
                return 2;
            o->repeat = (int)n;
        } else
            return usage_error("unknown option", a);
    }
    return 0;
}

/* Which kernels and tiers. 0, an exit code, or 77. */
static int choose(const struct options *o, struct plan *p) {
    regex_t re;
    if (o->regex && regcomp(&re, o->regex, REG_EXTENDED | REG_NOSUB))
        return usage_error("not a regular expression:", o->regex);
    for (size_t s = 0; s < sizeof sources / sizeof *sources; s++)
        for (const k_kernel *k = sources[s].list; k->name; k++) {
            if (o->name ? strcmp(k->name, o->name) != 0
                        : o->regex && regexec(&re, k->name, 0, NULL, 0) != 0)
                continue;
            if (p->kernels == MAX_KERNELS)
                return usage_error("raise MAX_KERNELS of tests/kern/main.c:", "there are more kernels");
            p->source[p->kernels] = sources[s].source;
            p->kernel[p->kernels++] = k;
        }
    if (o->regex)
        regfree(&re);
    if (p->kernels == 0)
        return usage_error("no kernel is called", o->name ? o->name : o->regex);
    int known = 0;
    for (int t = 0; t < TIERS; t++) {
        if (o->isa && strcmp(o->isa, all_tiers[t].name) != 0)
            continue;
        known = 1;
        const sl_kernels *tier = sl_kernels_tier(all_tiers[t].isa);
        if (tier)
            p->tier[p->tiers++] = all_tiers[t].table ? all_tiers[t].table : tier;
        else if (!o->json)
            printf("skipped: %s (not built, or not supported by this machine)\n",
                   all_tiers[t].name);
    }
    if (!known)
        return usage_error("no tier is called", o->isa);
    return p->tiers ? 0 : SKIPPED;
}

/* Every function of the table must be in a list above: one without a test is a failure. */
static int check_complete(void) {
    int missing = 0;
    for (size_t at = offsetof(sl_kernels, ffn); at < sizeof(sl_kernels);
         at += sizeof(void (*)(void))) {
        int found = 0;
        void *fn;
        memcpy(&fn, (const char *)sl_kernels_tier(SL_ISA_SCALAR) + at, sizeof fn);
        if (!fn) /* no tier has it: a kind of attention without a delta of its own */
            continue;
        for (size_t s = 0; s < sizeof sources / sizeof *sources; s++)
            for (const k_kernel *k = sources[s].list; k->name; k++)
                found |= k->member == at;
        if (!found) {
            printf("FAILED: the member of sl_kernels at byte %zu has no test in tests/kern\n", at);
            missing++;
        }
    }
    return missing;
}

static void print_result(const char *tier, const k_kernel *kernel, const k_result *r, int first,
                         const struct options *o) {
    if (r->failure[0]) {
        printf(
            "  %-14s %-7s FAILED  %s\n    again: kern test %s --isa %s --seed %llu --repeat %d\n",
            kernel->name, tier, r->failure, kernel->name, tier, (unsigned long long)o->seed,
            o->repeat);
        return;
    }
    printf("  %-14s %-7s ok %6lld calls", kernel->name, tier, (long long)r->calls);
    if (r->ratio > 0)
        printf("  %.3f of bound, %.2f ulp (%s)", r->ratio, r->ulp, r->worst);
    else
        printf("  exact");
    if (!first && kernel->across != K_BY_TILE) {
        if (r->differing == 0)
            printf("; bits as the first tier");
        else
            printf("; %.3f of bound from the first tier", r->apart);
    }
    printf("\n");
}

static int test(const struct options *o, const struct plan *p) {
    int passed = 0, failed = check_complete();
    const char *source = "";
    printf("kern: seed %llu, tiers", (unsigned long long)o->seed);
    for (int t = 0; t < p->tiers; t++)
        printf(" %s (vl %d)", p->tier[t]->tier, p->tier[t]->vl);
    printf("\n");
    for (int i = 0; i < p->kernels; i++) {
        if (strcmp(source, p->source[i]) != 0)
            printf("%s\n", source = p->source[i]);
        for (int t = 0; t < p->tiers; t++) {
            k_result r;
            k_check(p->kernel[i], p->tier[t], o->seed, o->repeat, t == 0, &r);
            print_result(p->tier[t]->tier, p->kernel[i], &r, t == 0, o);
            fflush(stdout);
            r.failure[0] ? failed++ : passed++;
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

static int list(const struct plan *p) {
    for (int i = 0; i < p->kernels; i++)
        printf("%-14s simd/%s.c\n", p->kernel[i]->name, p->source[i]);
    for (int t = 0; t < p->tiers; t++)
        printf("tier %s (vl %d, GEMM tile %d x %d)\n", p->tier[t]->tier, p->tier[t]->vl,
               p->tier[t]->gemm_mr, p->tier[t]->gemm_nr);
    return 0;
}

int main(int argc, char **argv) {
    struct options o;
    struct plan p = {0};
    int rc = parse(argc, argv, &o);
    if (rc)
        return rc;
    if (strcmp(o.verb, "selftest") == 0) {
        k_init();
        return k_selftest(o.seed);
    }
    int is_test = strcmp(o.verb, "test") == 0, is_bench = strcmp(o.verb, "bench") == 0;
    if (!is_test && !is_bench && strcmp(o.verb, "list") != 0)
        return usage_error("unknown verb", o.verb);
    if ((rc = choose(&o, &p)))
        return rc;
    k_init();
    if (is_test)
        return test(&o, &p);
    return is_bench ? k_bench(p.kernel, p.source, p.kernels, p.tier, p.tiers, o.seed, o.json)
                    : list(&p);
}
